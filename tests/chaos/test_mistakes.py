"""A worker of which one rule is taken out: the verifier finds it, where the fault happens that the rule is for.

Each fault is made to strike for certain, and happens to the sound worker, too, of which the verifier finds nothing.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from tests.chaos.crew import judge, launched
from tests.kafka.topics import Record, administration, high_watermarks, own, read, send
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, update
from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.pipeline.ledger import Ledger
from worker.pipeline.replay import Replay


@asynccontextmanager
async def transaction(crew):
    """Open a transaction of a producer that is no worker of ours, or not any more."""
    async with AIOKafkaProducer(
        bootstrap_servers=crew.kafka, transactional_id=own("other"), transaction_timeout_ms=120_000
    ) as producer:
        await producer.begin_transaction()
        yield producer


async def committed(crew, topic, done, within_seconds=30):
    """Wait until the committed offset of a topic's partition 0, with its metadata, is what it should be."""
    tp = TopicPartition(topic, 0)
    async with administration(crew.kafka) as admin, asyncio.timeout(within_seconds):
        while not done((await admin.list_consumer_group_offsets(crew.name, partitions=[tp]))[tp]):  # noqa: ASYNC110 (the broker gives no event)
            await asyncio.sleep(0.05)


def flaws_of(crew, mistakes, scenario):
    """Run a scenario with workers of which some rules are taken out, or none; return what the verifier finds."""

    async def whole():
        it = crew(1, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        await scenario(it, launched(*mistakes.split()))
        await it.settle()
        return await judge(it)

    return asyncio.run(whole())


def test_a_commit_without_its_sends_checked_loses_records(crew):
    async def scenario(it, command):
        worker = await it.open(command=command)
        await it.configure(it.topology.rejections, max_message_bytes="1000")
        await it.send([update("s-1", state="nonsense", attributes={"long": "x" * 2_000})])
        if command == launched():
            assert await worker.ends() == 1
        else:
            await it.settle()
            assert await worker.stop() == 0
        await it.configure(it.topology.rejections)
        await it.open(command=command)
        await it.send([update("s-2")])

    assert flaws_of(crew, "", scenario) == {}
    assert flaws_of(crew, "sends_unchecked", scenario) == {"lost": 1}


def test_a_position_that_does_not_run_within_a_cycle_doubles_records(crew):
    async def scenario(it, command):
        worker = await it.open(command=command)
        assert await worker.stop() == 0
        await it.send([update(f"s-{number % 7}") for number in range(400)])
        await it.open(command=command)

    assert flaws_of(crew, "", scenario) == {}
    found = flaws_of(crew, "position_standing", scenario)
    assert found["doubled"] > 100
    assert "lost" not in found


def test_a_parked_record_that_is_not_in_the_commit_is_lost(crew):
    async def scenario(it, command):
        names = it.topology
        worker = await it.open(command=command)
        async with transaction(it) as other:  # keeps the verdicts behind it from being read
            await send(other, names.verdicts, [Record(b"nobody", b"{}", partition=0)])
            await it.send([update("s-1", profileId="p-1"), update("s-1"), update("s-2")])
            if command == launched():
                await committed(it, names.updates, lambda found: found != Ledger(found.offset).commit())
            else:
                await committed(it, names.updates, lambda found: found.offset == 3)
            assert await worker.stop() == 0
            await other.abort_transaction()
        await it.open(command=command)

    assert flaws_of(crew, "", scenario) == {}
    assert flaws_of(crew, "parked_lost", scenario) == {"lost": 2, "final": 1}


def test_a_table_restored_to_the_last_stable_offset_only_folds_on_from_too_early_a_state(crew):
    async def scenario(it, command):
        worker = await it.open(command=command)
        await it.send([update("s-1", attributes={"a": 1})])
        await it.settle()
        async with transaction(it) as other:
            await send(other, it.topology.sessions, [Record(b"nobody", b"{}", partition=0)])
            await it.send([update("s-1", attributes={"b": 2})])
            await it.settle()
            assert await worker.stop() == 0
            next_one = it.start(command=command)
            if command != launched():
                await next_one.says("Ready:")
            await other.abort_transaction()
        await next_one.says("Ready:")
        await it.send([update("s-1", attributes={"c": 3})])

    assert flaws_of(crew, "", scenario) == {}
    assert flaws_of(crew, "restored_to_the_stable_offset", scenario) == {"wrong": 1, "final": 1}


def test_offsets_that_an_open_transaction_may_change_double_records(crew):
    """The one who is about to commit is played by the test: a worker that hangs before EndTxn, without an owner to fence."""

    async def scenario(it, command):
        names = it.topology
        worker = await it.open(command=command)
        await it.send([update("s-1", attributes={"a": 1})])
        await it.settle()
        assert await worker.stop() == 0
        await it.send([update("s-1", attributes={"b": 2})])
        replay = Replay(Rules())
        records = [
            replay.fold(0, ConsumerRecord(one.offset, one.timestamp, one.key, one.value, one.headers))[0]
            for one in await read(it.kafka, names.updates)
        ]
        # ce_id names the topic by its default: the verifier looks at the numbers alone, but at all other bytes
        due = [
            Record(one.key, one.value, tuple(renamed(one.headers, names.updates)), 0, one.timestamp)
            for one in records[1:]
        ]
        async with transaction(it) as dying:
            await send(dying, names.sessions, due)
            done = {TopicPartition(names.updates, 0): OffsetAndMetadata(*Ledger(2).commit())}
            await dying.send_offsets_to_transaction(done, it.name)
            next_one = it.start(command=command)
            if command != launched():
                await owned_by_another(it)
            else:
                await next_one.says("still waiting")
            await dying.commit_transaction()
        await next_one.says("Ready:")

    async def owned_by_another(it):
        changelog = it.topology.sessions
        found = await owner(it, changelog)
        await committed(it, changelog, lambda now: now.metadata != found)

    async def owner(it, changelog):
        tp = TopicPartition(changelog, 0)
        async with administration(it.kafka) as admin:
            return (await admin.list_consumer_group_offsets(it.name, partitions=[tp]))[tp].metadata

    assert flaws_of(crew, "", scenario) == {}
    found = flaws_of(crew, "offsets_unstable origins_unchecked", scenario)
    assert found["doubled"] == 1


def renamed(headers, topic):
    """Let a record's origin be on the topic as it is named here."""
    return [
        (name, value.replace(b"session-updates/", f"{topic}/".encode()) if name == "ce_id" else value)
        for name, value in headers
    ]


@pytest.mark.parametrize("mistakes", [(), ("generation_live",)])
def test_a_generation_read_live_doubles_what_a_frozen_worker_commits_when_it_wakes(crew, tmp_path, mistakes):
    """Nobody is fenced here: that only makes it fast, and must not be what safety rests on."""
    hold = tmp_path / "hold"

    async def scenario():
        it = crew(1, session_timeout_seconds=SESSION_TIMEOUT_SECONDS, transaction_timeout_seconds=60)
        frozen = it.start(command=launched("unfenced", "held_until_expelled", *mistakes, hold=hold))
        await frozen.says("Ready:")
        hold.touch()
        await it.send([update("s-1"), update("s-1"), update("s-2")])
        await frozen.says("Held")
        frozen.freeze()
        other = it.start(command=launched("unfenced"))
        await other.says("Ready:")
        await it.settle()
        hold.unlink()
        frozen.wake()
        await other.says("Ready:", times=2)
        await it.settle()
        assert await high_watermarks(it.kafka, it.topology.sessions)
        return await judge(it)

    found = asyncio.run(scenario())
    assert ("doubled" in found) is bool(mistakes), found
    assert bool(found) is bool(mistakes)
