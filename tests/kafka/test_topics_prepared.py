"""The topics that a worker makes or finds at its start, on a real Kafka."""

import asyncio
import logging
import re
import shlex
import socket
from contextlib import suppress
from typing import Any

import pytest
from aiokafka.admin import NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, LeaderNotAvailableError, NodeNotReadyError

from tests.kafka.topics import Record, administration, configuration, create, high_watermarks, own, produce, read
from tests.kafka.waits import within
from worker.local.kafka import LocalKafka
from worker.pipeline.topology import TOPICS
from worker.runtime import topics
from worker.runtime.topics import WrongTopics, prepare
from worker.settings.model import Settings

EVER = str((1 << 63) - 1)
ROOM = str((1 << 20) + (128 << 10))
HOUR, DAY = 3_600_000, 86_400_000
NAMED = {field: f"{field}_topic" for field in TOPICS}
OURS = set(TOPICS) - {"updates"}


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings with topics that no other test has."""
    monkeypatch.chdir(tmp_path)
    names = {setting: own(field) for field, setting in NAMED.items()}
    return lambda **given: Settings(**{"brokers": kafka, "partitions": 3, **names, **given})


def prepared(settings):
    return asyncio.run(prepare(settings))


def complaints(settings):
    """Give what is wrong with each topic, by the field that names it."""
    fields = {name: field for field, name in settings.topology(None).named().items()}
    with pytest.raises(WrongTopics) as told:
        prepared(settings)
    lines = str(told.value).splitlines()
    found = {fields[line.partition(" ")[0].rstrip(":")]: line for line in lines}
    assert len(found) == len(lines)
    return found


def configurations(settings):
    async def _all():
        return {
            field: await configuration(settings.brokers, name)
            for field, name in settings.topology(None).named().items()
        }

    return asyncio.run(_all())


def having(settings, name, value):
    """Name the topics whose configuration has this value."""
    return {field for field, found in configurations(settings).items() if found[name] == value}


async def there(settings):
    async with administration(settings.brokers) as admin:
        return set(settings.topology(None).named().values()) & set(await admin.list_topics())


def apply_command(settings, command):
    """Do what a command of Kafka's tools would do, through aiokafka."""
    _program, *words = shlex.split(command)
    words.remove("--alter")
    options = dict(zip(words[::2], words[1::2], strict=True))
    topic, changes = options["--topic"], options.get("--add-config", "")
    wanted = dict(change.split("=") for change in changes.split(",") if change)
    assert options["--bootstrap-server"] == settings.brokers

    async def _mend():
        async with administration(settings.brokers) as admin:  # unlike the tools it replaces all
            kept = {"cleanup.policy": (await configuration(settings.brokers, topic))["cleanup.policy"]}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, kept | wanted)])

    asyncio.run(_mend())


async def grow_to(brokers, topic, partitions):
    async with administration(brokers) as admin:
        await admin.create_partitions({topic: NewPartitions(partitions)})
        while len(await high_watermarks(brokers, topic)) != partitions:  # noqa: ASYNC110 (the broker gives no event)
            await asyncio.sleep(0.05)


# -------------------------------------------------------------------------------------------------- missing topics


def test_what_is_missing_is_created_with_the_configuration_it_needs(settings):
    topology = prepared(settings())
    assert topology == settings().topology(3)
    assert having(settings(), "cleanup.policy", "compact") == {"sessions", "first_sessions", "v1"}
    assert having(settings(), "cleanup.policy", "delete") == set(TOPICS) - {"sessions", "first_sessions", "v1"}
    assert having(settings(), "message.timestamp.type", "CreateTime") == set(TOPICS)
    assert having(settings(), "message.timestamp.before.max.ms", EVER) == set(TOPICS)
    assert having(settings(), "message.timestamp.after.max.ms", EVER) == OURS
    assert having(settings(), "max.message.bytes", ROOM) == set(TOPICS) - {"claims", "verdicts", "first_sessions"}
    internal = {"claims", "verdicts", "rekeyed"}
    for name in ("retention.ms", "retention.bytes"):
        assert having(settings(), name, "-1") >= internal
    assert having(settings(), "retention.ms", "-1") == internal
    assert having(settings(), "segment.bytes", str(50 << 20)) == internal
    counts = {
        field: len(asyncio.run(high_watermarks(settings().brokers, name))) for field, name in topology.named().items()
    }
    assert counts == dict.fromkeys(TOPICS, 3)


@pytest.mark.parametrize(("factor", "replicas"), [(-1, "the broker's default"), (1, "1")])
def test_each_topic_that_is_created_is_logged_with_the_setting_that_names_it(settings, caplog, factor, replicas):
    caplog.set_level(logging.INFO)
    names = prepared(settings(replication_factor=factor)).named()
    facts = f"partitions=3 replication_factor={replicas}"
    assert sorted(caplog.messages) == sorted(
        f"Topic {name} created, because there was none: {facts} (SESSION_WORKER_{field.upper()}_TOPIC)"
        for field, name in names.items()
    )
    caplog.clear()
    prepared(settings())
    assert caplog.messages == []


def test_without_a_v1_topic_none_is_created(settings):
    names = set(settings().topology(None).named().values())
    topology = prepared(settings(v1_topic=None))
    assert topology.v1 is None
    assert asyncio.run(there(settings())) == names - {settings().v1_topic}


def test_there_is_room_for_the_larger_of_record_and_snapshot(settings):
    prepared(settings(max_record_bytes=1_000, max_snapshot_bytes=2_000))
    assert having(settings(), "max.message.bytes", str(2_000 + (128 << 10))) >= {"sessions", "rejections"}
    prepared(settings(max_record_bytes=2_000, max_snapshot_bytes=1_000))
    assert set(complaints(settings(max_record_bytes=2_001, max_snapshot_bytes=1))) == {
        "rekeyed",
        "sessions",
        "rejections",
        "dry_runs",
        "v1",
    }


def test_what_is_there_is_found_as_it_was_made(settings):
    assert prepared(settings()) == prepared(settings()) == settings().topology(3)


def test_the_updates_topic_tells_how_many_partitions_the_others_get(settings):
    wanted = settings(partitions=7)
    asyncio.run(create(wanted.brokers, wanted.updates_topic, partitions=2))
    assert prepared(wanted) == wanted.topology(2)
    assert len(asyncio.run(high_watermarks(wanted.brokers, wanted.sessions_topic))) == 2


def test_workers_that_start_at_once_do_not_hinder_each_other(settings):
    async def _all():
        return await asyncio.gather(*(prepare(settings()) for _ in range(5)))

    assert asyncio.run(_all()) == [settings().topology(3)] * 5


def test_outputs_take_the_largest_record_and_a_time_that_is_days_ahead(settings):
    """The input topic of an older cluster takes any time, and what comes of it has the same."""
    name = prepared(settings()).sessions
    ahead = 4_102_444_800_000
    largest = Record(b"k", b"x" * (1 << 20), (("h", b"y" * (127 << 10)),), 0, ahead)
    asyncio.run(produce(settings().brokers, name, [largest], max_request_size=2 << 20))
    (record,) = asyncio.run(read(settings().brokers, name))
    assert (record.timestamp, record.value) == (ahead, largest.value)


# ---------------------------------------------------------------------------------------------------- wrong topics


def test_all_that_is_wrong_is_told_at_once_with_the_command_that_mends_it_and_nothing_is_created(settings):
    wanted = settings()

    async def _wrong():
        await create(wanted.brokers, wanted.updates_topic, partitions=3, cleanup_policy="compact")
        await create(wanted.brokers, wanted.sessions_topic, partitions=3, cleanup_policy="compact")
        await create(wanted.brokers, wanted.claims_topic, partitions=3, retention_bytes="1000")
        await create(wanted.brokers, wanted.first_sessions_topic, partitions=2, cleanup_policy="compact,delete")
        await create(wanted.brokers, wanted.v1_topic, partitions=4, cleanup_policy="compact", max_message_bytes=ROOM)
        return await there(wanted)

    made = asyncio.run(_wrong())
    with pytest.raises(WrongTopics) as wrong:
        prepared(wanted)
    told = [line.rpartition(": ")[::2] for line in str(wrong.value).splitlines()]
    names, tool = wanted.topology(3), f"--bootstrap-server {wanted.brokers}"
    alter = f"kafka-configs.sh {tool} --alter --topic"
    lost = "retention.ms=604800000, retention.bytes=1000"
    kept = "retention.ms=-1, retention.bytes=-1"
    first = names.first_sessions
    v1 = f"{names.v1} has 4 partitions, grown from 3, and every topic needs 3. "
    few = f"{first} has 2 partitions, created with fewer than 3, and every topic needs 3. "
    lines = str(wrong.value).splitlines()
    assert [line for line in lines if line.startswith(v1)] == [
        f"{v1}Name another topic, which the worker creates (SESSION_WORKER_V1_TOPIC); {names.v1} keeps its records"
    ]
    (grow,) = [line for line in lines if line.startswith(few)]
    add = f"kafka-topics.sh {tool} --alter --topic {first} --partitions 3"
    assert grow.startswith(f"{few}If it never held a record, add partitions: {add}. Otherwise: Do not delete it: ")
    assert "set SESSION_WORKER_APP_ID" in grow
    told = [line for line in told if ", but needs " in line[0]]
    assert told == [
        (
            f"{names.updates} has cleanup.policy=compact, but needs cleanup.policy=delete",
            f"{alter} {names.updates} --add-config cleanup.policy=delete",
        ),
        (
            f"{names.sessions} has max.message.bytes=1048588, but needs max.message.bytes>={ROOM}",
            f"{alter} {names.sessions} --add-config max.message.bytes={ROOM}",
        ),
        (
            f"{names.claims} has {lost}, but needs {kept}",
            f"{alter} {names.claims} --add-config retention.ms=-1,retention.bytes=-1",
        ),
        (
            f"{first} has cleanup.policy=compact,delete, but needs cleanup.policy=compact",
            f"{alter} {first} --add-config cleanup.policy=compact",
        ),
    ]
    assert asyncio.run(there(wanted)) == made
    for _what, command in told:
        apply_command(wanted, command)
    asyncio.run(grow_to(wanted.brokers, first, 3))
    another = wanted.model_copy(update={"v1_topic": own("v1")})
    assert prepared(another) == another.topology(3)


def test_partitions_are_compared_with_the_setting_where_the_updates_topic_has_to_be_created(settings):
    wanted = settings()
    asyncio.run(create(wanted.brokers, wanted.sessions_topic, partitions=5, cleanup_policy="compact"))
    told = complaints(settings(max_record_bytes=1, max_snapshot_bytes=1))["sessions"]
    assert f"created with 5 partitions, but {wanted.updates_topic}, which has to be created, would have 3 " in told
    assert "Set SESSION_WORKER_PARTITIONS=5, " in told
    assert prepared(settings(partitions=5, max_record_bytes=1, max_snapshot_bytes=1)).partitions == 5


def test_no_more_partitions_than_an_id_has_room_for(settings):
    """A topic that has so many takes too long to make."""
    wanted, names = settings(), settings().topology(None).named()
    cleanup = {"cleanup.policy": "delete"}
    most = {"updates": topics._Found(8192, 8192, cleanup)}
    assert list(topics._wrong(wanted, names, most)) == []
    more = {"updates": topics._Found(8193, 8193, cleanup)}
    told = f"{wanted.updates_topic} has 8193 partitions, but 8192 is the most that can be: take another topic"
    assert list(topics._wrong(wanted, names, more)) == [told]


def test_times_in_outputs_are_to_be_the_sources_and_no_broker_may_refuse_them(settings):
    wanted = settings(max_record_bytes=1, max_snapshot_bytes=1)

    async def _wrong():
        older: dict[str, Any] = {"message_timestamp_after_max_ms": str(DAY), "message_timestamp_type": "LogAppendTime"}
        await create(wanted.brokers, wanted.updates_topic, partitions=3, **older)
        await create(wanted.brokers, wanted.rejections_topic, partitions=3, message_timestamp_after_max_ms=str(DAY))
        await create(wanted.brokers, wanted.dry_runs_topic, partitions=3, message_timestamp_after_max_ms=str(HOUR))
        await create(wanted.brokers, wanted.v1_topic, partitions=3, cleanup_policy="compact", **older)
        await create(
            wanted.brokers,
            wanted.sessions_topic,
            partitions=3,
            cleanup_policy="compact",
            message_timestamp_before_max_ms=str(DAY),
            message_timestamp_after_max_ms=EVER,
        )

    asyncio.run(_wrong())
    told = complaints(wanted)
    assert {field: line.partition(":")[0].partition(" ")[2] for field, line in told.items()} == {
        "dry_runs": f"has message.timestamp.after.max.ms={HOUR}, but needs message.timestamp.after.max.ms>={DAY}",
        "sessions": f"has message.timestamp.before.max.ms={DAY}, but needs message.timestamp.before.max.ms>={EVER}",
        "v1": "has message.timestamp.type=LogAppendTime, but needs message.timestamp.type=CreateTime",
    }


def test_of_the_updates_topic_only_the_cleanup_policy_is_judged_and_advice_is_no_rule(settings):
    wanted = settings()

    async def _others():
        lax: dict[str, Any] = {
            "max_message_bytes": "1000",
            "retention_ms": "60000",
            "message_timestamp_type": "LogAppendTime",
        }
        await create(wanted.brokers, wanted.updates_topic, partitions=3, **lax)
        await create(wanted.brokers, wanted.claims_topic, partitions=3, retention_ms="-1")
        await create(wanted.brokers, wanted.dry_runs_topic, partitions=3, max_message_bytes="9000000")

    asyncio.run(_others())
    assert prepared(wanted) == wanted.topology(3)


def test_what_the_broker_refuses_to_create_is_told_in_its_words(settings):
    told = complaints(settings(replication_factor=3, v1_topic=None))
    assert re.search(r"cannot be created: InvalidReplicationFactorError: .*replication factor", told["updates"])
    assert asyncio.run(there(settings())) == set()


# --------------------------------------------------------------------------------------- other numbers of partitions


def test_grown_input_names_the_cause_and_both_remedies(settings):
    wanted = settings()
    names = prepared(wanted)
    asyncio.run(grow_to(wanted.brokers, names.updates, 5))
    told = complaints(wanted)
    assert set(told) == {"updates"}
    ours = ", ".join(name for field, name in names.named().items() if field != "updates")
    assert told["updates"].startswith(
        f"{names.updates} has 5 partitions, but {ours} have 3: the input was grown from 3 to 5 after the outputs were created"
    )
    assert "Take a new input of 3 partitions (SESSION_WORKER_UPDATES_TOPIC)" in told["updates"]
    assert "process the input again into new output topics" in told["updates"]
    assert "delete" not in told["updates"]
    renamed = {f"{field}_topic": own(field) for field in OURS}
    assert prepared(wanted.model_copy(update=renamed)).partitions == 5


@pytest.mark.parametrize("field", sorted(OURS))
def test_grown_output_is_named_and_no_state_is_offered_for_deletion(settings, field):
    wanted = settings()
    name = getattr(prepared(wanted), field)
    asyncio.run(grow_to(wanted.brokers, name, 4))
    told = complaints(wanted)
    assert set(told) == {field}
    assert told[field].startswith(f"{name} has 4 partitions, grown from 3, and every topic needs 3. ")
    is_plain = field in {"rejections", "dry_runs", "v1"}
    assert (f"({NAMED[field].upper()})".replace("(", "(SESSION_WORKER_") in told[field]) is is_plain
    assert ("Do not delete it" in told[field]) is not is_plain
    assert "--delete" not in told[field]


def test_grown_input_and_grown_output_are_both_named(settings):
    wanted = settings()
    names = prepared(wanted)
    asyncio.run(grow_to(wanted.brokers, names.updates, 5))
    asyncio.run(grow_to(wanted.brokers, names.claims, 4))
    told = complaints(wanted)
    assert set(told) == {"updates", "claims"}
    assert f"{names.claims} has 4 partitions, grown from 3" in told["claims"]


def test_smaller_input_is_named_as_another_input(settings):
    wanted = settings(max_record_bytes=1, max_snapshot_bytes=1)
    names = prepared(wanted)

    async def replace():
        async with administration(wanted.brokers) as admin:
            await admin.delete_topics([names.updates])
        while names.updates in await there(wanted):  # noqa: ASYNC110 (the broker gives no event)
            await asyncio.sleep(0.05)
        await create(wanted.brokers, names.updates, partitions=2)

    asyncio.run(replace())
    told = complaints(wanted)
    assert set(told) == {"updates"}
    assert "the input was created again with 2 after the outputs were created" in told["updates"]


# ------------------------------------------------------------------------------------------------- absent brokers


def test_a_broker_that_is_away_is_a_connection_error(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(KafkaConnectionError):
        prepared(settings(brokers=f"127.0.0.1:{port}"))


async def a_loss(settings):
    """Wait until Kafka has seen that a broker is gone."""
    async with administration(settings.brokers) as admin, within(30, "a partition without a leader"):
        leaders = {0}
        while -1 not in leaders:
            await asyncio.sleep(0.1)
            with suppress(NodeNotReadyError):
                leaders = {part["leader"] for it in await admin.describe_topics() for part in it["partitions"]}


def test_it_waits_until_every_partition_has_a_leader(settings, tmp_path, monkeypatch):
    with LocalKafka(tmp_path / "three", brokers=3) as cluster:
        wanted = settings(brokers=cluster.bootstrap_servers, replication_factor=1)
        prepared(wanted)
        cluster.kill(1)
        asyncio.run(a_loss(wanted))
        monkeypatch.setattr(topics, "LEADERS_SECONDS", 3)
        with pytest.raises(LeaderNotAvailableError, match=wanted.updates_topic):
            prepared(wanted)
        monkeypatch.setattr(topics, "LEADERS_SECONDS", 30)

        async def _meanwhile():
            waiting = asyncio.create_task(prepare(wanted))
            await asyncio.to_thread(cluster.start, 1)
            return await waiting

        assert asyncio.run(_meanwhile()) == wanted.topology(3)
