"""Offsets that no worker committed: the worker refuses them, `session-worker offsets accept` judges and accepts them."""

import asyncio
from itertools import count

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String
from aiokafka.structs import OffsetAndMetadata

from tests.kafka.account import flaws, found
from tests.kafka.topics import Record, administration, own, send
from tests.kafka.waits import within
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, is_done, update
from worker.pipeline.ledger import Ledger
from worker.pipeline.partitioner import partition_of

NOTHING_CHANGED = "Error: no offset was changed; to accept these offsets run session-worker offsets accept --yes\n"


class OffsetDeleteResponse_v0(Response):  # noqa: N801 (aiokafka's form)
    API_KEY = 47
    API_VERSION = 0
    SCHEMA = Schema(
        ("error_code", Int16),
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(("topic", String("utf-8")), ("partitions", Array(("partition", Int32), ("error_code", Int16)))),
        ),
    )


class OffsetDeleteRequest_v0(RequestStruct):  # noqa: N801
    API_KEY = 47
    API_VERSION = 0
    RESPONSE_TYPE = OffsetDeleteResponse_v0
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))),
    )


class OffsetDeleteRequest(Request[OffsetDeleteRequest_v0]):
    API_KEY = 47

    def __init__(self, group, topics):
        self._given = group, topics

    def build(self, request_struct_class):
        return request_struct_class(*self._given)


async def move(crew, topic, offset, metadata="", partition=0):
    """Commit as another client of the group's name does, while no worker runs."""
    async with AIOKafkaConsumer(bootstrap_servers=crew.kafka, group_id=crew.name, enable_auto_commit=False) as other:
        tp = TopicPartition(topic, partition)
        other.assign([tp])
        await other.commit({tp: OffsetAndMetadata(offset, metadata)})


async def delete_offsets(crew, *partitions):
    """kafka-consumer-groups.sh --delete-offsets."""
    async with administration(crew.kafka) as admin:
        coordinator = await admin.find_coordinator(crew.name)
        wanted = [(topic, [partition]) for topic, partition in partitions]
        answer = await admin._client.send(coordinator, OffsetDeleteRequest(crew.name, wanted))
        assert answer.error_code == 0
        assert {code for _topic, rows in answer.topics for _partition, code in rows} == {0}


async def offset_of(crew, topic, partition=0):
    tp = TopicPartition(topic, partition)
    async with administration(crew.kafka) as admin:
        return (await admin.list_consumer_group_offsets(crew.name, partitions=[tp]))[tp]


async def worked(crew, *updates, **settings):
    """Let a worker process update records, and end."""
    worker = await crew.open(**settings)
    await crew.send(updates)
    await crew.settle()
    assert await worker.stop() == 0


async def refusal(crew, **settings):
    worker = crew.start(**settings)
    assert await worker.ends() == 1
    return worker.said()[-1]


def remedies_in(told):
    return "`session-worker offsets accept`" in told and "new output topics, with a new SESSION_WORKER_APP_ID" in told


def test_offset_moved_forward_ends_the_worker_until_it_is_accepted(crew):
    async def scenario():
        it = crew(1)
        updates = it.topology.updates
        await worked(it, update("s-1"), update("s-1"))
        await it.send([update("s-2"), update("s-3"), update("s-4")])
        await move(it, updates, 4)
        for _ in range(2):  # a refusal leaves nothing behind that a second start takes for a worker's
            told = await refusal(it)
            assert told.startswith(f"Error: {updates}/0: offset 4 of the group {it.name} was not committed by a worker")
            assert remedies_in(told)
        status, said, failed = await it.run("offsets", "accept")
        assert (status, failed) == (1, NOTHING_CHANGED)
        assert said == (
            f"{updates}/0: no worker committed offset 4; skipped: up to 2 records (2 to 3); processed again: none.\n"
            f"3 partitions of the group {it.name} have an offset that a worker committed.\n"
        )
        assert await offset_of(it, updates) == (4, "")
        status, said, failed = await it.run("offsets", "accept", "--yes")
        assert (status, failed) == (0, "")
        assert said.endswith("1 offsets accepted.\n")
        assert is_done(await offset_of(it, updates), 4)
        await it.open()
        await it.settle()
        assert (await found(it)).snapshots == {b"s-1": [(0, 0), (0, 1)], b"s-4": [(0, 4)]}
        return it

    asyncio.run(scenario())


@pytest.mark.parametrize(("to", "again"), [(2, "up to 1 record (2)"), (0, "up to 3 records (0 to 2)")])
def test_offset_moved_back_ends_the_worker_until_it_is_accepted(crew, to, again):
    async def scenario():
        it = crew(1)
        updates = it.topology.updates
        await worked(it, update("s-1"), update("s-2", state="nonsense"), update("s-3"))
        await move(it, updates, to)
        assert f"{updates}/0: offset {to} of the group {it.name} was not committed by a worker" in await refusal(it)
        status, said, _failed = await it.run("offsets", "accept")
        assert status == 1
        assert f"no worker committed offset {to}; skipped: none; processed again: {again}." in said
        assert (await it.run("offsets", "accept", "--yes"))[0] == 0
        await it.open()
        await it.settle()
        return await found(it)

    given = asyncio.run(scenario())
    assert given.snapshots[b"s-3"] == [(0, 2), (0, 2)]
    assert given.snapshots[b"s-1"] == [(0, 0)] * (2 if to == 0 else 1)
    assert sum(given.rejections.values()) == (2 if to == 0 else 1)


def test_deleted_offsets_end_the_worker_until_those_behind_the_outputs_are_accepted(crew):
    async def scenario():
        it = crew(2)
        names = it.topology
        await worked(it, *(update(f"s-{number}", partition=number % 2, profileId="p") for number in range(8)))
        await delete_offsets(it, *it.partitions_of(names.updates, names.rekeyed, names.claims, names.verdicts))
        told = await refusal(it)
        assert f"holds records, but no offset of {names.updates}/" in told
        assert "the offset was deleted or has expired" in told
        assert remedies_in(told)
        status, said, _failed = await it.run("offsets", "accept")
        assert status == 1
        assert (
            f"{names.updates}/0: no offset is committed; the last record with an output is 3. The offset would be 4.\n"
            in said
        )
        status, said, _failed = await it.run("offsets", "accept", "--yes")
        assert (status, said.splitlines()[-1]) == (0, "8 offsets accepted.")
        assert (await it.run("offsets", "accept"))[0] == 0
        await it.open()
        await it.send([update("s-1", profileId="p")])
        assert await flaws(it) == []

    asyncio.run(scenario())


def test_deleted_offsets_of_a_partition_whose_records_were_all_sent_home_end_the_worker(crew):
    """No output of that partition holds a record; a worker is recorded as its owner."""

    async def scenario():
        it = crew(2)
        stray = next(session for session in map("s-{}".format, range(9)) if it.topology.home(session.encode(), 0) == 1)
        await worked(it, update(stray, partition=0))
        await delete_offsets(it, TopicPartition(it.topology.updates, 0))
        told = await refusal(it)
        assert told.startswith("Error: a worker has read this partition (")
        assert f"but no offset of {it.topology.updates}/0 is committed" in told
        status, said, _failed = await it.run("offsets", "accept")
        assert status == 1
        assert (
            f"{it.topology.updates}/0: no offset is committed; the last record with an output is 0. The offset would be 1."
            in said
        )
        assert (await it.run("offsets", "accept", "--yes"))[0] == 0
        await it.open()
        assert await flaws(it) == []

    asyncio.run(scenario())


def at_home(name):
    """Return an id that begins with a name and is at home in the first of two partitions."""
    return next(key for key in (f"{name}-{number}" for number in count()) if partition_of(key.encode(), 2) == 0)


@pytest.mark.parametrize("field", ["rekeyed", "claims", "verdicts"])
def test_offset_of_an_internal_topic_that_no_worker_committed_ends_the_worker(crew, field):
    async def scenario():
        it = crew(2)
        topic = getattr(it.topology, field)
        await worked(it, update(at_home("s"), profileId=at_home("p")), update(at_home("stray"), partition=1))
        await move(it, topic, 0)
        assert f"{topic}/0: offset 0 of the group {it.name} was not committed by a worker" in await refusal(it)
        _status, said, _failed = await it.run("offsets", "accept")
        assert said.startswith(f"{topic}/0: no worker committed offset 0; ")
        if field == "rekeyed":
            assert "skipped: none; processed again: up to 1 record (0)." in said
        assert (await it.run("offsets", "accept", "--yes"))[0] == 0
        await it.open()
        await it.settle()
        return await flaws(it)

    told = asyncio.run(scenario())
    assert bool(told) is (field == "rekeyed"), (
        told
    )  # to answer claims again, and to take answers again, changes nothing


def test_mark_copied_to_another_offset_is_no_mark(crew):
    async def scenario():
        it = crew(1)
        await worked(it, update("s-1"))
        _offset, metadata = await offset_of(it, it.topology.updates)
        await it.send([update("s-2"), update("s-3")])
        await move(it, it.topology.updates, 3, metadata)
        return await refusal(it)

    assert "offset 3 of the group" in asyncio.run(scenario())


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_offset_set_back_with_its_mark_ends_the_worker_and_cannot_be_accepted(crew, tmp_path, store):
    """A restored backup of a group's offsets; a worker without tables on disk restores the snapshots."""

    async def scenario():
        it = crew(1, store=store)
        updates, sessions = it.topology.updates, it.topology.sessions
        await worked(it, update("s-1"), update("s-2"))
        await move(it, updates, *Ledger(1).commit())
        told = await refusal(it, data_dir=tmp_path / "empty")
        assert told.startswith(
            f"Error: {updates}/0: offset 1 of the group {it.name} was set back, but {sessions}/0 holds a snapshot of offset 1: "
        )
        assert remedies_in(told)
        return updates, *(await it.run("offsets", "accept", "--yes"))

    updates, status, said, failed = asyncio.run(scenario())
    assert (status, failed) == (
        1,
        "Error: 1 offsets cannot be accepted: set other offsets with kafka-consumer-groups.sh --reset-offsets\n",
    )
    assert f"{updates}/0: a worker committed offset 1, and it was set back later" in said
    assert "processed again: up to 1 record (1). Set offset 2 with kafka-consumer-groups.sh" in said


def test_restart_in_the_middle_of_what_is_folded_again_is_not_refused(crew):
    async def scenario():
        it = crew(1)
        await worked(it, update("s-1"), update("s-2"), update("s-3"))
        await move(it, it.topology.updates, 0)
        assert (await it.run("offsets", "accept", "--yes"))[0] == 0
        ledger = Ledger.restore(*await offset_of(it, it.topology.updates))
        assert ledger.commit() == Ledger(0, redo=3, stream=ledger.stream).commit()
        await move(it, it.topology.updates, *Ledger(1, redo=3).commit())  # a worker got so far
        assert (await it.run("offsets", "accept"))[0] == 0
        await it.open()
        await it.settle()
        return await found(it)

    given = asyncio.run(scenario())
    assert {key: len(places) for key, places in given.snapshots.items()} == {b"s-1": 1, b"s-2": 2, b"s-3": 2}


def test_offset_outside_of_the_topic_cannot_be_accepted(crew):
    async def scenario():
        it = crew(1)
        await worked(it, update("s-1"))
        await move(it, it.topology.updates, 9)
        status, said, failed = await it.run("offsets", "accept", "--yes")
        assert (status, failed) == (
            1,
            "Error: 1 offsets cannot be accepted: set other offsets with kafka-consumer-groups.sh --reset-offsets\n",
        )
        assert "The partition has the offsets 0 to 1: set one with kafka-consumer-groups.sh --reset-offsets." in said
        assert await offset_of(it, it.topology.updates) == (9, "")

    asyncio.run(scenario())


@pytest.mark.parametrize("start", [None, 0, 2])
def test_new_group_with_empty_outputs_starts_where_the_operator_chose(crew, start):
    async def scenario():
        it = crew(2)
        worker = await it.open(app_id=f"{it.name}-creates-the-topics")
        assert await worker.stop() == 0
        await it.send([update(f"s-{number}", partition=0, keyed=False) for number in range(4)])
        if start is not None:
            await move(it, it.topology.updates, start)
        await it.open()
        await it.settle()
        return await found(it)

    given = asyncio.run(scenario())
    places = {place for snapshots in given.snapshots.values() for place in snapshots}
    assert places == {(0, offset) for offset in range(start or 0, 4)}


def test_accept_refuses_while_the_group_has_members(crew):
    async def scenario():
        it = crew(1)
        await it.open()
        status, said, failed = await it.run("offsets", "accept", "--yes")
        assert (status, said) == (1, "")
        assert failed == (
            f"Error: the group {it.name} has members: stop all workers and all other clients of this group, then "
            "try again\n"
        )

    asyncio.run(scenario())


def test_accept_refuses_while_a_transaction_is_open_on_an_output(crew):
    async def scenario():
        it = crew(1)
        await worked(it, update("s-1"))
        async with AIOKafkaProducer(bootstrap_servers=it.kafka, transactional_id=own("other")) as other:
            await other.begin_transaction()
            await send(other, it.topology.sessions, [Record(b"s-1", b"{}", partition=0)])
            status, _said, failed = await it.run("offsets", "accept")
            await other.abort_transaction()
        assert status == 1
        assert f"a transaction is open on {it.topology.sessions}/0" in failed
        assert (await it.run("offsets", "accept"))[0] == 0

    asyncio.run(scenario())


def test_new_input_topic_is_accepted_from_its_start(crew):
    """The remedy for an input that was grown."""

    async def scenario():
        it = crew(1)
        await worked(it, update("s-1"))
        topic = f"{it.name}-again"
        told = await refusal(it, updates_topic=topic)
        assert told.startswith(f"Error: {topic} is not the topic that the state of the group {it.name} was built from")
        assert (
            "If it is a new input with a new name: accept its start with `session-worker offsets accept --yes`" in told
        )
        status, said, _failed = await it.run("offsets", "accept", "--yes", updates_topic=topic)
        assert status == 0
        assert f"{topic}/0: no offset is committed; no output has its origin here. The offset would be 0." in said
        worker = await it.open(updates_topic=topic)
        assert await worker.stop() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["updates", "sessions", "claims"])
def test_offsets_of_a_replaced_topic_end_the_worker_and_are_not_accepted(crew, field):
    """What the old topic held is not in the new one, whatever its offsets."""

    async def scenario():
        it = crew(1)
        await worked(it, update("s-1", profileId="p"), update("s-2"))
        topic = getattr(it.topology, field)
        async with administration(it.kafka) as admin:
            await admin.delete_topics([topic])
        told = await refusal(it)
        assert told.startswith(
            f"Error: {topic} is not the topic that the state of the group {it.name} was built from: "
        )
        assert "set SESSION_WORKER_APP_ID and the SESSION_WORKER_…_TOPIC of every topic but the input" in told
        status, said, failed = await it.run("offsets", "accept", "--yes")
        assert (status, said) == (1, "")
        assert failed.startswith(f"Error: the offsets of the group {it.name} do not belong to {topic}: ")

    asyncio.run(scenario())


@pytest.mark.parametrize("is_killed", [False, True])
def test_restarts_with_parked_records_are_never_refused(crew, is_killed):
    """Verdicts cannot be read while another's transaction is open on their topic."""

    async def scenario():
        it = crew(2, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        worker = await it.open()
        async with AIOKafkaProducer(
            bootstrap_servers=it.kafka, transactional_id=own("other"), transaction_timeout_ms=120_000
        ) as other:
            await other.begin_transaction()
            for partition in range(2):
                await send(other, it.topology.verdicts, [Record(b"nobody", b"{}", partition=partition)])
            await it.send([update(f"s-{number}", profileId=f"p-{number % 3}") for number in range(12)])
            async with within(30, "a commit that says that records are not done"):
                while is_done(found := await offset_of(it, it.topology.updates), found.offset):  # noqa: ASYNC110 (the broker gives no event)
                    await asyncio.sleep(0.05)
            for _ in range(2):
                if is_killed:
                    worker.kill()
                else:
                    assert await worker.stop() == 0
                worker = await it.open()
            second = it.start()  # a rebalance
            await second.says("Ready:")
            await other.abort_transaction()
        assert await flaws(it) == []

    asyncio.run(scenario())
