"""Workers that are killed, frozen, added and stopped, and brokers that go and come back: nothing lost, nothing doubled."""

import asyncio

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from msgspec import structs

from tests.kafka.account import differences, flaws, foretold, found
from tests.kafka.topics import Record, own, read, send
from tests.kafka.waits import within
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, Crew, simulated, update
from worker.local.kafka import LocalKafka


async def freeze_in_a_transaction(crew, worker):
    """Freeze a worker in the middle of a transaction: one is open on the outputs, and stays open where it is."""
    outputs = crew.partitions_of(crew.topology.sessions)
    async with (
        AIOKafkaConsumer(bootstrap_servers=crew.kafka, isolation_level="read_committed") as committed,
        AIOKafkaConsumer(bootstrap_servers=crew.kafka, isolation_level="read_uncommitted") as every,
        within(30, "a transaction that is open"),
    ):

        async def _open():
            stable, high = await committed.end_offsets(outputs), await every.end_offsets(outputs)
            return {(tp, end) for tp, end in stable.items() if end < high[tp]}

        while True:
            worker.freeze()
            if first := await _open():
                await asyncio.sleep(0.5)
                if first & await _open():
                    return
            worker.wake()
            await asyncio.sleep(0.03)


async def aborted(crew):
    """Count the records of the outputs that no reader of what is committed sees."""
    topic = crew.topology.sessions
    every = await read(crew.kafka, topic, isolation_level="read_uncommitted")
    return len(every) - len(await read(crew.kafka, topic))


def test_three_workers_of_which_one_is_killed_one_frozen_and_one_added_lose_and_double_nothing(crew):
    async def _disturb(it, killed, frozen):
        await asyncio.sleep(2)
        await freeze_in_a_transaction(it, frozen)
        killed.kill()
        await asyncio.sleep(SESSION_TIMEOUT_SECONDS + 1)
        before = len(await read(it.kafka, it.topology.sessions))
        frozen.wake()
        await it.start().says("Ready:")
        return before

    async def scenario():
        it = crew(8, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        await it.open()
        killed, frozen = it.start(), it.start()
        await killed.says("Ready:")
        await frozen.says("Ready:")
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(it.send(simulated(20_000, seed=5), rate=650))
            before = await _disturb(it, killed, frozen)
            assert not sending.done()
        await it.settle()
        expected, given = await foretold(it), await found(it)
        assert differences(expected, given) == []
        assert sum(map(len, given.snapshots.values())) > max(18_000, before)
        assert await aborted(it) > 0
        assert [worker.status for worker in it.workers] == [None, -9, None, None]

    asyncio.run(scenario())


@pytest.mark.smoke
def test_the_other_worker_goes_on_from_its_standby_copy_when_one_is_killed(crew):
    async def scenario():
        it = crew(standby_replicas=1, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        other, killed = await it.open(), it.start()
        await killed.says("Ready:")
        await other.says("Ready:", times=2)
        day = simulated(4_000, seed=6)
        await it.send(day[:3_000])
        await it.settle()
        published = sum(map(len, (await foretold(it)).snapshots.values()))
        killed.kill()
        await it.send(day[3_000:])
        await other.says("Ready: partitions=8 ", times=2, within_seconds=SESSION_TIMEOUT_SECONDS + 10)
        assert await other.restored() < published / 20
        assert await flaws(it) == []

    asyncio.run(scenario())


def test_sigterm_under_load_ends_a_worker_within_ten_seconds_and_the_next_one_goes_on(crew):
    async def scenario():
        it = crew()
        first = await it.open()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(it.send(simulated(10_000, seed=7), rate=3_000))
            await asyncio.sleep(1.5)
            assert await first.stop() == 0
            assert not sending.done()
            published = len(await read(it.kafka, it.topology.sessions))
            await it.open()
        await it.settle()
        return published, await foretold(it), await found(it)

    published, expected, given = asyncio.run(scenario())
    assert 0 < published < sum(map(len, given.snapshots.values()))
    assert differences(expected, given) == []


# ---------------------------------------------------------------------------------------------------- brokers that go


@pytest.fixture
def frail(tmp_path):
    """Run a Kafka that a test may kill."""
    with LocalKafka(tmp_path / "kafka") as kafka:
        yield kafka


def test_a_worker_waits_for_a_broker_at_its_start_and_goes_on_when_one_goes_and_comes_back(frail, tmp_path):
    """With nothing in flight: a lone broker may forget the markers of a transaction that it was ending (Kafka 4.4)."""

    async def scenario():
        with Crew(frail.bootstrap_servers, tmp_path, transaction_timeout_seconds=1) as it:
            frail.kill(0)
            worker = it.start()
            await worker.says("refuses the connection: nothing listens there")
            said = worker.said()
            await asyncio.sleep(3)
            assert worker.said() == said
            await asyncio.to_thread(frail.start)
            await worker.says("Ready:")
            updates = list(simulated(4_000, seed=8))
            await it.send(updates[:2_000])
            await it.settle()
            await asyncio.to_thread(frail.stop)
            await asyncio.to_thread(frail.start)
            await it.send(updates[2_000:])
            assert await flaws(it) == []
            assert worker.status is None

    asyncio.run(scenario())


# ---------------------------------------------------------------------------------------------------- what is fatal


def test_what_is_fatal_ends_a_worker_with_status_1_and_the_cause_in_the_last_line(crew):
    async def scenario():
        it = crew(1)
        worker = await it.open()
        await it.configure(it.topology.rejections, max_message_bytes="1000")
        await it.send([update("s-1", state="nonsense", attributes={"long": "x" * 2_000})])
        return it.topology.rejections, await worker.ends(), worker.said()[-1]

    rejections, status, last = asyncio.run(scenario())
    assert status == 1
    assert last.startswith(f"Error: {rejections}[0], ")
    assert last.endswith("raise the topic's max.message.bytes")


# ---------------------------------------------------------------------------------------------------- what is too large


def large(session, size=5_000, **fields):
    return update(session, attributes={"long": "x" * size}, **fields)


async def outcomes(crew):
    """Give the keys of what was published, and of each rejection its key, code and message."""
    snapshots = await read(crew.kafka, crew.topology.sessions)
    rejections = await read(crew.kafka, crew.topology.rejections)
    told = [dict(it.headers) for it in rejections]
    return [it.key for it in snapshots], [
        (it.key, headers["rejection-code"], headers["rejection-message"].decode())
        for it, headers in zip(rejections, told, strict=True)
    ]


def test_a_snapshot_larger_than_its_topic_takes_is_a_rejection_and_stops_nothing(crew):
    """Many small ones that are folded with it must come in batches that the topic takes, too."""

    async def scenario():
        it = crew(1)
        worker = await it.open()
        await it.send([update("s-1"), update("s-2", profileId="p-1")])
        await it.settle()
        await it.configure(it.topology.sessions, max_message_bytes="3000")
        small = [update(f"t-{number}") for number in range(20)]
        await it.send([large("s-1"), large("s-2"), large("s-3", profileId="p-2"), *small])
        await it.send([update("s-1"), update("s-4", profileId="p-2")])
        await it.settle()
        snapshots, rejections = await outcomes(it)
        (last,) = [one for one in await read(it.kafka, it.topology.sessions) if one.key == b"s-4"]
        assert await worker.stop() == 0
        await it.configure(it.topology.sessions)
        await it.open()
        await it.send([large("s-1")])
        await it.settle()
        again, _ = await outcomes(it)
        return it.topology.sessions, snapshots, rejections, orjson.loads(last.value or b""), again[len(snapshots) :]

    topic, snapshots, rejections, last, again = asyncio.run(scenario())
    assert sorted(snapshots) == sorted([b"s-1", b"s-1", b"s-2", b"s-4", *(b"t-%d" % number for number in range(20))])
    assert sorted(key for key, _code, _message in rejections) == [b"s-1", b"s-2", b"s-3"]
    assert {code for _key, code, _message in rejections} == {b"record_too_large"}
    assert all(f"at most 3000 bytes (max.message.bytes of {topic})" in message for _key, _code, message in rejections)
    assert last["firstSession"], "s-3 was refused, so it claimed nothing"
    assert again == [b"s-1"]


def test_a_snapshot_that_waits_for_its_verdict_while_its_topic_is_lowered_is_a_rejection(crew):
    """Its claim is made already; those that follow it are folded without it."""

    async def scenario():
        it = crew(1)
        worker = await it.open()
        async with AIOKafkaProducer(bootstrap_servers=it.kafka, transactional_id=own("other")) as other:
            await other.begin_transaction()  # keeps the verdicts behind it from being read
            await send(other, it.topology.verdicts, [Record(b"nobody", b"{}", partition=0)])
            await it.send([large("s-1", profileId="p-1"), update("s-1"), update("s-2")])
            await published(it, b"s-2")
            await it.configure(it.topology.sessions, max_message_bytes="3000")
            await other.abort_transaction()
        await it.settle()
        assert worker.status is None
        return await outcomes(it)

    snapshots, rejections = asyncio.run(scenario())
    assert snapshots == [b"s-2", b"s-1"]
    assert [(key, code) for key, code, _message in rejections] == [(b"s-1", b"record_too_large")]


def test_a_session_that_has_become_too_large_to_be_demoted_ends_the_worker(crew):
    """No record asks for that, so there is none to refuse; it is told rather than left out."""

    async def scenario():
        it = crew(1)
        worker = await it.open()
        await it.send([large("s-1", profileId="p-1")])
        await it.settle()
        await it.configure(it.topology.sessions, max_message_bytes="3000")
        earlier = orjson.dumps({"customerSession": {"profileId": "p-1"}, "occurredAt": "2020-01-01T00:00:00Z"})
        await it.send([structs.replace(update("s-2"), value=earlier)])
        status, last = await worker.ends(), worker.said()[-1]
        await it.configure(it.topology.sessions)
        await it.open()
        await it.settle()
        snapshots, rejections = await outcomes(it)
        return status, last, snapshots, rejections

    status, last, snapshots, rejections = asyncio.run(scenario())
    assert status == 1
    assert last.endswith("raise the topic's max.message.bytes")
    assert sorted(snapshots) == [b"s-1", b"s-1", b"s-2"]
    assert rejections == []


async def published(crew, key):
    """Wait until a session has been published."""
    async with within(30, f"a snapshot of {key!r}"):
        while key not in {it.key for it in await read(crew.kafka, crew.topology.sessions)}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
