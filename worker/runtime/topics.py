"""Creates the topics that are missing, and refuses those that would lose or mix up what the worker writes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    LeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from worker.kafka.cluster import Identity
from worker.kafka.connection import AdminClient
from worker.kafka.errors import DENIED, GRANT
from worker.pipeline.ledger import differing, digests
from worker.pipeline.topology import ANY_TIME, BEFORE_KAFKA_3_6, MAX_PARTITIONS, TOPICS, Topology
from worker.settings.model import Settings

log = logging.getLogger(__name__)

LEADERS_SECONDS: Final = 30

_POLL_SECONDS: Final = 0.1
_AT_LEAST: Final = {
    "max.message.bytes",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    *BEFORE_KAFKA_3_6,
}
_ADVICE: Final = {"segment.bytes"}
"""What a topic is created with, and what is no error where it is otherwise."""
_REPROCESS: Final = (
    "process the input again into new output topics: set SESSION_WORKER_APP_ID and the SESSION_WORKER_…_TOPIC of every topic but the "
    "input to new names"
)
"""The remedy that is always possible."""


class WrongTopics(Exception):
    """The topics cannot be used as they are; each line of the message has one fault and its remedy."""


class _Found(NamedTuple):
    """A topic that is there: its partitions, how many of them have a leader, and its configuration."""

    partitions: int
    led: int
    configuration: Mapping[str, str]


async def prepare(settings: Settings) -> Topology:
    """Create what is missing, check what is there, and wait until each partition has a leader.

    Nothing is created beside a topic that is wrong. Several workers may do this at once. Raises WrongTopics; or a
    retriable error of aiokafka's, such as KafkaConnectionError, when it is worth another try.
    """
    names = settings.topology(None).named()
    async with _administration(settings) as admin, _patience(names):
        while True:
            found = await _found(admin, names)
            partitions = found["updates"].partitions if "updates" in found else settings.partitions
            if wrong := [*_wrong(settings, names, found)]:
                raise WrongTopics("\n".join(wrong))
            if sum(topic.led for topic in found.values()) == partitions * len(names):
                return settings.topology(partitions)
            missing = {field: name for field, name in names.items() if field not in found}
            await _create(admin, settings, missing, partitions)
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def _administration(settings: Settings) -> AsyncIterator[AdminClient]:
    admin = AdminClient(**settings.connection())
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def _patience(names: Mapping[str, str]) -> AsyncIterator[None]:
    """Raise if a broker that leads, or the right to see what is there, does not come back soon."""
    try:
        async with asyncio.timeout(LEADERS_SECONDS):
            yield
    except TimeoutError as error:
        topics = ", ".join(names.values())
        raise LeaderNotAvailableError(f"not all partitions of {topics} have a leader that can be seen") from error


async def _found(admin: AdminClient, names: Mapping[str, str]) -> dict[str, _Found]:
    """Describe those of the topics that are there.

    Metadata are asked for all topics of the cluster: who asks for one by its name may create it.
    """
    fields = {name: field for field, name in names.items()}
    led = {
        it["topic"]: [partition["leader"] >= 0 for partition in it["partitions"]]
        for it in await admin.describe_topics()
        if it["topic"] in fields
    }
    found = {}
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in led]):
        for it in answer.to_object()["resources"]:
            name = it["resource_name"]
            if it["error_code"] not in {0, UnknownTopicOrPartitionError.errno}:  # another broker may not know it yet
                raise _refused("its configuration cannot be read", name, it)
            if not it["error_code"]:
                configuration = {
                    entry["config_names"]: entry["config_value"]
                    for entry in it["config_entries"]
                    if entry["config_value"] is not None  # of a configuration that this broker does not know
                }
                found[fields[name]] = _Found(len(led[name]), sum(led[name]), configuration)
    return found


async def _create(admin: AdminClient, settings: Settings, missing: Mapping[str, str], partitions: int) -> None:
    """Create topics; that another worker was faster is as good.

    A topic that the broker refuses because it does not know a configuration is created with the older one.
    """
    if not missing:
        return
    largest = _largest(settings)
    wanted = {name: TOPICS[field].configuration(largest) for field, name in missing.items()}
    answers = await _answers(admin, settings, partitions, wanted)
    older = {
        name: TOPICS[field].configuration(largest, BEFORE_KAFKA_3_6)
        for field, name in missing.items()
        if any(unknown in (answers[name]["error_message"] or "") for unknown in wanted[name].keys() & ANY_TIME)
    }
    answers |= await _answers(admin, settings, partitions, older)
    variables = {name: f"SESSION_WORKER_{field.upper()}_TOPIC" for field, name in missing.items()}
    replicas = "the broker's default" if settings.replication_factor < 0 else settings.replication_factor
    for it in answers.values():
        if not it["error_code"]:
            told = it["topic"], partitions, replicas, variables[it["topic"]]
            log.info("Topic %s created, because there was none: partitions=%s replication_factor=%s (%s)", *told)
        if it["error_code"] not in {0, TopicAlreadyExistsError.errno}:
            raise _refused("cannot be created", it["topic"], it)


async def _answers(
    admin: AdminClient, settings: Settings, partitions: int, wanted: Mapping[str, Mapping[str, str]]
) -> dict[str, Mapping[str, Any]]:
    """Ask for topics with these configurations; return the broker's answer about each."""
    if not wanted:
        return {}
    factor = settings.replication_factor
    assignments: dict[int, list[int]] | None = {} if factor < 0 else None  # NewTopic wants the one or the other
    topics = [NewTopic(name, partitions, factor, assignments, configs) for name, configs in wanted.items()]
    answer = await admin.create_topics(topics)
    return {it["topic"]: it for it in answer.to_object()["topic_errors"]}


def _refused(what: str, topic: str, answer: Mapping[str, Any]) -> Exception:
    """Make the error of a broker's answer: aiokafka's when it may pass, else ours."""
    error = for_code(answer["error_code"])
    told = f"{topic}: {what}: {error.__name__}: {answer['error_message']}"
    if answer["error_code"] in DENIED:
        told = f"{told} If it is there, {GRANT}; else create it"
    return error(told) if error.retriable else WrongTopics(told)


# --------------------------------------------------------------------------------------------- what is wrong


def _largest(settings: Settings) -> int:
    return max(settings.max_record_bytes, settings.max_snapshot_bytes)


def _wrong(settings: Settings, names: Mapping[str, str], found: Mapping[str, _Found]) -> Iterator[str]:
    """Yield what is wrong with the topics that are there: what they have, what they should have, and what to do."""
    yield from _miscounted(settings, names, {field: topic.partitions for field, topic in found.items()})
    for field, name in names.items():
        if (topic := found.get(field)) is None:
            continue
        if wanted := dict(_misconfigured(settings, field, found)):
            has = ", ".join(f"{it}={topic.configuration[it]}" for it in wanted)
            needed = ", ".join(f"{it}{'>=' if it in _AT_LEAST else '='}{value}" for it, value in wanted.items())
            yield f"{name} has {has}, but needs {needed}: {_alter(settings, name, wanted)}"


def _miscounted(settings: Settings, names: Mapping[str, str], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield which topics have another number of partitions than the rest, the likely cause, and what to do.

    The worker's topics were created with one number. If most of them differ from the input, the input was changed.
    """
    updates, ours = names["updates"], [count for field, count in counts.items() if field != "updates"]
    needed = counts.get("updates", settings.partitions)
    if needed > MAX_PARTITIONS:
        has = "has" if "updates" in counts else "has to be created and, by SESSION_WORKER_PARTITIONS, would have"
        yield f"{updates} {has} {needed} partitions, but {MAX_PARTITIONS} is the most that can be: take another topic"
    usual = max(ours, key=lambda count: (ours.count(count), count == needed), default=needed)
    if usual != needed:
        same = ", ".join(name for field, name in names.items() if field != "updates" and counts.get(field) == usual)
        if "updates" in counts:
            yield _input_changed(updates, usual, needed, same)
        else:
            yield (
                f"{same}: created with {usual} partitions, but {updates}, which has to be created, would have {needed} "
                f"(SESSION_WORKER_PARTITIONS), and every topic needs as many. Set SESSION_WORKER_PARTITIONS={usual}, "
                f"SESSION_WORKER_UPDATES_TOPIC to the input that these topics belong to, or {_REPROCESS}"
            )
    for field, name in names.items():
        count = counts.get(field, needed)
        if count not in {usual, needed}:
            why = f"{'grown from' if count > usual else 'created with fewer than'} {usual}"
            todo = _recount(field, name, count, usual, settings.brokers)
            yield f"{name} has {count} partitions, {why}, and every topic needs {usual}. {todo}"


def _input_changed(name: str, before: int, now: int, outputs: str) -> str:
    if now > before:
        cause = f"the input was grown from {before} to {now} after the outputs were created (or they were created with too few)"
    else:
        cause = (
            f"the input was created again with {now} after the outputs were created, or they belong to another input"
        )
    return (
        f"{name} has {now} partitions, but {outputs} have {before}: {cause}. A topic's partitions cannot be removed. Take "
        f"a new input of {before} partitions (SESSION_WORKER_UPDATES_TOPIC) and accept its start with `session-worker offsets "
        f"accept --yes`; or {_REPROCESS}"
    )


def _recount(field: str, name: str, has: int, needed: int, brokers: str = "") -> str:
    """Return what to do about a topic of the worker that has another number of partitions than it needs."""
    add = f"kafka-topics.sh --bootstrap-server {brokers} --alter --topic {name} --partitions {needed}"
    if not TOPICS[field].is_read:
        if has < needed:
            return f"Add partitions: {add}"
        return f"Name another topic, which the worker creates (SESSION_WORKER_{field.upper()}_TOPIC); {name} keeps its records"
    kept = f"Do not delete it: it holds {TOPICS[field].holds}. Instead, {_REPROCESS}"
    return f"If it never held a record, add partitions: {add}. Otherwise: {kept}" if has < needed else kept


def _lost(field: str, name: str) -> str:
    """Return what to do when a topic was deleted, or deleted and created again."""
    if not TOPICS[field].is_read:
        return f"Start the worker again: it goes on with a new topic, without what {name} held"
    if field == "updates":
        return f"The worker's state belongs to the old topic. When the new one holds what is needed, {_REPROCESS}"
    return f"It held {TOPICS[field].holds}. Do not go on with an empty one: {_REPROCESS}"


def changes(topology: Topology, before: Identity, now: Identity) -> Iterator[str]:
    """Yield how the topics of a running worker differ from those that it started with, and what to do."""
    if now.cluster_id != before.cluster_id:
        yield (
            f"the brokers belong to the cluster {now.cluster_id}, and the worker started on {before.cluster_id}: set "
            f"SESSION_WORKER_BROKERS to the cluster that holds its topics"
        )
        return
    needed = topology.partitions or 0
    for field, name in topology.named().items():
        is_now, lost = now.topics.get(name), _lost(field, name)
        if is_now is None:
            yield f"{name} was deleted, or the worker may not see it any more (then {GRANT}). {lost}"
        elif is_now.id != before.topics[name].id and is_now.id and before.topics[name].id:
            yield f"{name} was deleted and created again, with {is_now.partitions} partitions, while the worker ran. {lost}"
        elif is_now.partitions < needed:
            yield f"{name} had {needed} partitions and has {is_now.partitions} now: it was deleted and created again. {lost}"
        elif is_now.partitions > needed and field == "updates":
            yield _input_changed(name, needed, is_now.partitions, "the other topics")
        elif is_now.partitions > needed:
            grown = f"{name} was grown from {needed} to {is_now.partitions} partitions, and every topic needs {needed}"
            yield f"{grown}. {_recount(field, name, is_now.partitions, needed)}"


def stream_of(identity: Identity, names: Iterable[str]) -> bytes:
    """Return a digest of the cluster's id, and one of each topic's name and id (rule L7 of pipeline/ledger.py)."""
    ids = {name: topic.id for name, topic in identity.topics.items()}
    return digests([identity.cluster_id, *(ids.get(name, "") and f"{name}/{ids[name]}" for name in names)])


def replaced(topology: Topology, group: str, stream: bytes, now: Identity) -> Iterator[str]:
    """Yield which of the cluster and the topics are not those whose digests *stream* has, and what to do."""
    places = differing(stream, stream_of(now, topology.state().values()))
    if 0 in places:
        yield (
            f"the offsets of the group {group} were committed on another cluster than {now.cluster_id}: set SESSION_WORKER_BROKERS "
            f"to the cluster that the worker's state was built from; or {_REPROCESS}"
        )
        return
    for place, (field, name) in enumerate(topology.state().items(), 1):
        if place in places:
            new = "If it is a new input with a new name: accept its start with `session-worker offsets accept --yes`. "
            yield (
                f"{name} is not the topic that the state of the group {group} was built from: it was deleted and created "
                f"again, or SESSION_WORKER_{field.upper()}_TOPIC was changed. {new if field == 'updates' else ''}{_lost(field, name)}"
            )


def _misconfigured(settings: Settings, field: str, found: Mapping[str, _Found]) -> Iterator[tuple[str, str]]:
    """Yield what a topic should have, where it has something else.

    A broker has the older limit of timestamps, the newer two, or all three: what the broker does not have is not judged.
    Of the updates topic only the cleanup policy is ours to judge. Outputs need not take a time that cannot come in.
    """
    arriving = found["updates"].configuration if "updates" in found else {}
    largest = _largest(settings)
    judged = TOPICS[field].configuration(largest) | TOPICS[field].configuration(largest, BEFORE_KAFKA_3_6)
    for name, wanted in judged.items():
        if name in _ADVICE or (field == "updates" and name != "cleanup.policy"):
            continue
        has = found[field].configuration.get(name, wanted)
        needed = arriving.get(name, has) if name == "message.timestamp.after.max.ms" else wanted
        if int(has) < int(needed) if name in _AT_LEAST else has != needed:
            yield name, needed


def _alter(settings: Settings, topic: str, configuration: Mapping[str, str]) -> str:
    added = ",".join(f"{name}={value}" for name, value in configuration.items())
    return f"kafka-configs.sh --bootstrap-server {settings.brokers} --alter --topic {topic} --add-config {added}"
