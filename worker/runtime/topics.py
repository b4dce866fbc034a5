"""Creates the topics that are missing, and refuses those that would lose or mix up what the worker writes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    LeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from worker.pipeline.topology import MAX_PARTITIONS, TOPICS, Topology
from worker.runtime.cluster import DENIED, GRANT
from worker.settings import PREFIX, Settings

log = logging.getLogger(__name__)

LEADERS_SECONDS: Final = 30

_POLL_SECONDS: Final = 0.1
_AT_LEAST: Final = {"max.message.bytes", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"}
_ADVICE: Final = {"segment.bytes"}
"""What a topic is created with, and what is no error where it is otherwise."""


class WrongTopics(Exception):
    """The topics cannot be used as they are; each line of the message tells what is wrong with one, and what mends it."""


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
async def _administration(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def _patience(names: Mapping[str, str]) -> AsyncIterator[None]:
    """Give up where a broker that leads, or the right to see what is there, does not come back soon."""
    try:
        async with asyncio.timeout(LEADERS_SECONDS):
            yield
    except TimeoutError as error:
        topics = ", ".join(names.values())
        raise LeaderNotAvailableError(f"not all partitions of {topics} have a leader that can be seen") from error


async def _found(admin: AIOKafkaAdminClient, names: Mapping[str, str]) -> dict[str, _Found]:
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
                configuration = {entry["config_names"]: entry["config_value"] for entry in it["config_entries"]}
                found[fields[name]] = _Found(len(led[name]), sum(led[name]), configuration)
    return found


async def _create(admin: AIOKafkaAdminClient, settings: Settings, missing: Mapping[str, str], partitions: int) -> None:
    """Create topics; that another worker was faster is as good."""
    if not missing:
        return
    factor = settings.replication_factor
    assignments: dict[int, list[int]] | None = {} if factor < 0 else None  # NewTopic wants the one or the other
    wanted = [
        NewTopic(name, partitions, factor, assignments, TOPICS[field].configuration(_largest(settings)))
        for field, name in missing.items()
    ]
    answer = await admin.create_topics(wanted)
    variables = {name: f"{PREFIX}{field.upper()}_TOPIC" for field, name in missing.items()}
    replicas = "the broker's default" if factor < 0 else factor
    for it in answer.to_object()["topic_errors"]:
        if not it["error_code"]:
            told = it["topic"], partitions, replicas, variables[it["topic"]]
            log.info("Topic %s created, because there was none: partitions=%s replication_factor=%s (%s)", *told)
        if it["error_code"] not in {0, TopicAlreadyExistsError.errno}:
            raise _refused("cannot be created", it["topic"], it)


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
    """Tell of each topic that is there what it has, what it should have, and what mends it."""
    if "updates" in found:
        partitions = found["updates"].partitions
        why = f"{names['updates']} has {partitions}"
    else:
        partitions = settings.partitions
        why = f"{names['updates']}, which has to be created, would have {partitions} ({PREFIX}PARTITIONS)"
    if partitions > MAX_PARTITIONS:
        yield f"{why} partitions, but {MAX_PARTITIONS} is the most that can be: take another topic"
    for field, name in names.items():
        if (topic := found.get(field)) is None:
            continue
        if topic.partitions != partitions:
            mended = f"name another topic ({PREFIX}{field.upper()}_TOPIC), or delete it if nothing in it is needed"
            told = f"has {topic.partitions} partitions, but {why}, and every topic needs as many"
            yield f"{name} {told}: {mended}: {_delete(settings, name)}"
        if wanted := dict(_misconfigured(settings, field, found)):
            has = ", ".join(f"{it}={topic.configuration[it]}" for it in wanted)
            needed = ", ".join(f"{it}{'>=' if it in _AT_LEAST else '='}{value}" for it, value in wanted.items())
            yield f"{name} has {has}, but needs {needed}: {_alter(settings, name, wanted)}"


def _misconfigured(settings: Settings, field: str, found: Mapping[str, _Found]) -> Iterator[tuple[str, str]]:
    """Give what a topic should have, where it has something else.

    Of the updates topic only the cleanup policy is ours to judge. Outputs need not take a time that cannot come in.
    """
    arriving = found["updates"].configuration if "updates" in found else {}
    for name, wanted in TOPICS[field].configuration(_largest(settings)).items():
        if name in _ADVICE or (field == "updates" and name != "cleanup.policy"):
            continue
        has = found[field].configuration.get(name, wanted)
        needed = arriving.get(name, has) if name == "message.timestamp.after.max.ms" else wanted
        if int(has) < int(needed) if name in _AT_LEAST else has != needed:
            yield name, needed


def _alter(settings: Settings, topic: str, configuration: Mapping[str, str]) -> str:
    added = ",".join(f"{name}={value}" for name, value in configuration.items())
    return f"kafka-configs.sh --bootstrap-server {settings.brokers} --alter --topic {topic} --add-config {added}"


def _delete(settings: Settings, topic: str) -> str:
    return f"kafka-topics.sh --bootstrap-server {settings.brokers} --delete --topic {topic}"
