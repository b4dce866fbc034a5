"""What a transaction writes is visible all or not at all, whatever happens to it; numbers are transaction.py's rules."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition

from tests.kafka.faults import Wire, member
from tests.kafka.test_cluster import NOBODY
from tests.kafka.topics import create, own, read
from worker.codec.records import ProducerRecord
from worker.kafka.cluster import Membership
from worker.kafka.producer import OutcomeUnknown, TransactionAborted, TransactionalProducer, TransactionRejected
from worker.local.kafka import LocalKafka

LOST = ["AddPartitionsToTxn", "AddOffsetsToTxn", "Produce", "TxnOffsetCommit", "EndTxn"]


class Shop:
    """A topic that is read by a group of one member, a topic to be written, and a producer that is open."""

    def __init__(self, kafka, cluster, source, output, membership, producer):
        self.kafka = kafka
        self.cluster = cluster
        self.source = TopicPartition(source, 0)
        self.output = output
        self.membership = membership
        self.producer = producer

    async def commit(self, values, offset=None, metadata=""):
        """Write values, in turn to all three partitions, and the source's offset."""
        records = [self.record(value, number % 3) for number, value in enumerate(values)]
        return await self.producer.commit(
            records, {} if offset is None else {self.source: (offset, metadata)}, self.membership
        )

    def record(self, value, partition=0, key=b"k"):
        return ProducerRecord(self.output, partition, key, value, 1_795_372_800_000, [])

    async def visible(self):
        return sorted(record.value for record in await read(self.kafka, self.output))

    async def offset(self):
        return (await self.cluster.stable_offsets(self.membership.group, [self.source]))[self.source]


@asynccontextmanager
async def shop(kafka, timeout_seconds=10, **configs):
    source, output = own("source"), own("output")
    await create(kafka, source)
    await create(kafka, output, partitions=3, **configs)
    async with Wire(kafka) as cluster, member(kafka, source) as membership:
        producer = TransactionalProducer(cluster, source, timeout_seconds)
        await producer.init()
        yield Shop(kafka, cluster, source, output, membership, producer)


def test_committed_records_are_read_byte_for_byte_in_order_and_the_ends_are_true(kafka):
    async def scenario():
        async with shop(kafka) as it:
            written = [
                ProducerRecord(
                    it.output,
                    number % 3,
                    None if number == 7 else b"key-%d" % number,
                    None if number % 5 == 0 else bytes(range(256)),  # tombstones
                    1_795_372_800_000 - number * 1000,
                    () if number % 2 else [("n", b"%d" % number), ("é", b""), ("n", b"again")],
                )
                for number in range(300)
            ]
            for half in (written[:150], written[150:]):
                ends = await it.producer.commit(half, {it.source: (150, "ledger")}, it.membership)
                found = await read(kafka, it.output)
                assert ends == true_ends(found)
            assert await it.offset() == (150, "ledger")
            return written, found

    written, found = asyncio.run(scenario())
    for partition in range(3):
        assert [
            (record.key, record.value, record.timestamp, record.headers)
            for record in found
            if record.partition == partition
        ] == [
            (record.key, record.value, record.timestamp, tuple(record.headers))
            for record in written
            if record.partition == partition
        ]


@pytest.mark.parametrize("none", [{0}, {0, 1}, {1}, {2}, {0, 2, 4}, {0, 1, 2, 3, 4}])
def test_records_without_timestamp_keep_none_beside_others(kafka, none):
    """The builder of batches gives a first record without a timestamp that of its neighbour (contract, section 2)."""

    async def scenario():
        async with shop(kafka) as it:
            times = [-1 if number in none else 1_795_372_800_000 + number for number in range(5)]
            for _ in range(2):
                records = [ProducerRecord(it.output, 0, b"k", b"v", time, []) for time in times]
                ends = await it.producer.commit(records, {}, it.membership)
                found = await read(kafka, it.output)
                assert ends == true_ends(found)
            assert [record.timestamp for record in found] == times * 2
            assert {record.timestamp_type for record in found} == {0}

    asyncio.run(scenario())


def test_offsets_alone_or_records_alone_are_a_transaction_and_nothing_is_none(kafka):
    async def scenario():
        async with shop(kafka) as it:
            assert await it.commit([], 5, "alone") == {}
            assert await it.offset() == (5, "alone")
            assert await it.commit([b"a"]) == {TopicPartition(it.output, 0): 1}
            assert await it.offset() == (5, "alone")
            it.cluster.sent.clear()
            assert await it.producer.commit([], {}, Membership("", -1, "")) == {}
            assert it.cluster.sent == []
            assert await it.visible() == [b"a"]

    asyncio.run(scenario())


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_partition_takes_more_than_one_batch_and_a_request_no_more_than_it_holds(kafka, compression, monkeypatch):
    monkeypatch.setattr("worker.kafka.producer.MAX_BATCH_BYTES", 10_000)
    monkeypatch.setattr("worker.kafka.producer.MAX_REQUEST_BYTES", 15_000)

    async def scenario():
        async with shop(kafka) as it:
            producer = TransactionalProducer(it.cluster, f"{it.output}-2", compression=compression)
            await producer.init()
            values = [b"%d" % number + bytes(number % 7 * 700) for number in range(100)]
            for _ in range(2):
                it.cluster.sent.clear()
                ends = await producer.commit(
                    [it.record(value, number % 3) for number, value in enumerate(values)], {}, it.membership
                )
                assert it.cluster.sent.count("Produce") > 7
            found = await read(kafka, it.output)
            assert ends == true_ends(found)
            for partition in range(3):
                of_partition = [record.value for record in found if record.partition == partition]
                assert of_partition == values[partition::3] * 2

    asyncio.run(scenario())


def test_records_of_more_than_a_batch_go_each_in_a_batch_of_their_own(kafka):
    async def scenario():
        async with shop(kafka, max_message_bytes="1300000") as it:
            values = [bytes([number]) * 1_200_000 for number in range(4)] + [b"small"]
            assert await it.commit(values, 1) == {
                TopicPartition(it.output, 0): 2,
                TopicPartition(it.output, 1): 2,
                TopicPartition(it.output, 2): 1,
            }
            assert await it.visible() == sorted(values)

    asyncio.run(scenario())


def test_sequence_numbers_go_on_from_zero_after_the_last_one(kafka):
    async def scenario():
        async with shop(kafka) as it:
            it.producer._sequences = {TopicPartition(it.output, 0): (1 << 31) - 4}
            for count in (2, 5, 3):  # up to the edge, over it, and beyond it
                await it.producer.commit([it.record(b"a")] * count, {}, it.membership)
            assert len(await it.visible()) == 10

    asyncio.run(scenario())


def test_a_record_too_large_for_the_topic_is_unwritable_and_nothing_of_the_transaction_is_visible(kafka):
    async def scenario():
        async with shop(kafka, max_message_bytes="1000") as it:
            with pytest.raises(
                TransactionRejected, match=rf"{it.output}\[1\], 2\d\d\d bytes: MESSAGE_TOO_LARGE: raise .*max"
            ):
                await it.commit([b"a", bytes(2000), b"b"], 1)
            assert await it.offset() is None
            assert await it.visible() == []

    asyncio.run(scenario())


def test_a_timeout_that_the_brokers_do_not_allow_is_unwritable(kafka):
    async def scenario():
        async with Wire(kafka) as cluster:
            with pytest.raises(TransactionRejected, match="INVALID_TRANSACTION_TIMEOUT: shorten"):
                await TransactionalProducer(cluster, own("slow"), timeout_seconds=86_400).init()

    asyncio.run(scenario())


@pytest.mark.parametrize("nobody", NOBODY)
def test_7_a_membership_that_the_coordinator_would_let_pass_is_never_sent(kafka, nobody):
    async def scenario():
        async with Wire(kafka) as cluster:
            producer = TransactionalProducer(cluster, own("nobody"))
            await producer.init()
            cluster.sent.clear()
            with pytest.raises(ValueError, match="keep the membership"):
                await producer.commit([], {TopicPartition("t", 0): (2, "")}, nobody)
            assert cluster.sent == []

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", [{"generation": 99}, {"member": "stranger"}])
def test_who_is_no_member_any_more_writes_nothing_and_has_to_open_again(kafka, wrong):
    async def scenario():
        async with shop(kafka) as it:
            await it.commit([b"a"], 1)
            membership, it.membership = it.membership, it.membership._replace(**wrong)
            with pytest.raises(OutcomeUnknown, match="lost its membership"):
                await it.commit([b"b"], 2)
            assert it.cluster.sent[-1] == "EndTxn"  # at once: the new owner waits for it
            it.membership = membership
            with pytest.raises(OutcomeUnknown, match="call init before commit"):
                await it.commit([b"c"], 3)
            assert (await it.offset(), await it.visible()) == ((1, ""), [b"a"])

    asyncio.run(scenario())


def test_5_an_aborted_transaction_leaves_no_trace_and_the_next_one_goes_on(kafka):
    async def scenario():
        async with shop(kafka, timeout_seconds=1.5) as it:
            await it.commit([b"a", b"b"], 1)
            nowhere = {TopicPartition(f"{it.output}-not", 0): (1, "")}
            with pytest.raises(TransactionAborted, match="UNKNOWN_TOPIC_OR_PARTITION"):
                await it.producer.commit([it.record(b"c")], nowhere, it.membership)
            assert (await it.offset(), await it.visible()) == ((1, ""), [b"a", b"b"])
            await it.commit([b"c"], 2)
            assert (await it.offset(), await it.visible()) == ((2, ""), [b"a", b"b", b"c"])

    asyncio.run(scenario())


def test_offsets_are_not_stable_while_a_transaction_holds_them(kafka):
    async def scenario():
        async with shop(kafka) as it, Wire(kafka) as other:
            await it.commit([b"a"], 1)
            it.cluster.held = "EndTxn"
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(it.commit([b"b"], 2))
                await it.cluster.reached.wait()
                asking = tasks.create_task(other.stable_offsets(it.membership.group, [it.source]))
                await asyncio.sleep(0.3)
                assert not asking.done()
                it.cluster.release.set()
            assert committing.done()
            assert asking.result() == {it.source: (2, "")}

    asyncio.run(scenario())


@pytest.mark.parametrize("held", LOST)
def test_a_fenced_producer_writes_nothing_whatever_it_was_about_to_do(kafka, held):
    async def scenario():
        async with shop(kafka) as it, Wire(kafka) as elsewhere:
            await it.commit([b"a"], 1)
            it.cluster.held = held
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(failing(it.commit([b"b"], 2)))
                await it.cluster.reached.wait()
                await TransactionalProducer(elsewhere, own("new")).fence(it.membership.group)
                it.cluster.release.set()
            assert isinstance(committing.result(), OutcomeUnknown)
            assert (await it.offset(), await it.visible()) == ((1, ""), [b"a"])
            await it.producer.init()
            await it.commit([b"c"], 3)
            assert (await it.offset(), await it.visible()) == ((3, ""), [b"a", b"c"])

    asyncio.run(scenario())


@pytest.mark.parametrize("held", LOST)
def test_6_a_commit_that_is_cancelled_needs_init_and_is_not_seen(kafka, held):
    async def scenario():
        async with shop(kafka) as it:
            it.cluster.held = held
            committing = asyncio.create_task(it.commit([b"a"], 1))
            await it.cluster.reached.wait()
            await asyncio.sleep(0.05)
            committing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await committing
            it.cluster.held = None
            with pytest.raises(OutcomeUnknown, match="call init before commit"):
                await it.commit([b"b"], 2)
            await it.producer.init()
            assert await it.offset() is None
            await it.commit([b"c"], 3)
            assert (await it.offset(), await it.visible()) == ((3, ""), [b"c"])

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", ["AddPartitionsToTxn", "AddOffsetsToTxn", "Produce"])
def test_4_what_may_be_repeated_is_and_counts_once(kafka, lost):
    async def scenario():
        async with shop(kafka) as it:
            await it.commit([b"a"], 1)
            it.cluster.lost = [lost, lost]
            ends = await it.commit([b"b", b"c", b"d", b"e"], 2)
            assert it.cluster.lost == []
            assert {tp.partition: end for tp, end in ends.items()} == {0: 4, 1: 1, 2: 1}  # 2 records, a marker, 2 more
            assert (await it.offset(), await it.visible()) == ((2, ""), [b"a", b"b", b"c", b"d", b"e"])

    asyncio.run(scenario())


@pytest.mark.parametrize(("lost", "outcome"), [("TxnOffsetCommit", (1, [b"a"])), ("EndTxn", (2, [b"a", b"b"]))])
def test_4_what_may_not_be_repeated_is_sent_once_and_its_outcome_is_unknown(kafka, lost, outcome):
    async def scenario():
        async with shop(kafka) as it:
            await it.commit([b"a"], 1)
            it.cluster.sent.clear()
            it.cluster.lost = [lost]
            with pytest.raises(OutcomeUnknown, match="lost on purpose"):
                await it.commit([b"b"], 2)
            assert it.cluster.sent.count(lost) == 1
            assert it.cluster.sent[-1] == lost or lost != "EndTxn"
            assert it.cluster.sent.count("EndTxn") == (lost == "EndTxn")  # (3) no abort in this epoch
            with pytest.raises(OutcomeUnknown, match="call init before commit"):
                await it.commit([b"c"], 3)
            await it.producer.init()
            assert ((await it.offset())[0], await it.visible()) == outcome

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", [{"lost": ["Produce"] * 1000}, {"doubted": "Produce"}])
def test_3_a_batch_that_may_have_been_written_is_not_aborted_in_its_epoch(kafka, wrong):
    async def scenario():
        async with shop(kafka, timeout_seconds=1) as it:
            vars(it.cluster).update(wrong)
            with pytest.raises(OutcomeUnknown, match=r"lost on purpose|NOT_ENOUGH_REPLICAS_AFTER_APPEND"):
                await it.commit([b"a"], 1)
            assert "EndTxn" not in it.cluster.sent
            it.cluster.lost, it.cluster.doubted = [], None
            await it.producer.init()
            await it.commit([b"b"], 2)
            assert (await it.offset(), await it.visible()) == ((2, ""), [b"b"])

    asyncio.run(scenario())


def test_1_a_transaction_is_not_ended_while_a_request_of_it_is_under_way(kafka):
    async def scenario():
        async with shop(kafka) as it:
            it.membership = it.membership._replace(generation=99)
            it.cluster.held = "Produce"
            committing = asyncio.create_task(failing(it.commit([b"a"], 1)))
            await it.cluster.reached.wait()
            await asyncio.sleep(0.3)
            assert "TxnOffsetCommit" in it.cluster.sent
            assert "EndTxn" not in it.cluster.sent
            it.cluster.release.set()
            assert isinstance(await committing, OutcomeUnknown)
            assert it.cluster.sent[-1] == "EndTxn"
            assert await it.visible() == []

    asyncio.run(scenario())


def test_passing_moments_are_no_news_for_the_operator(kafka, caplog):
    async def scenario():
        async with shop(kafka) as it:
            for number in range(30):
                await it.commit([b"a", b"b", b"c"], number)

    with caplog.at_level("INFO", logger="worker"):
        asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.name.startswith("worker")] == []


def test_a_broker_that_is_killed_leaves_each_transaction_whole_or_unseen(tmp_path):
    outcomes = {}

    async def scenario(broker):
        async with shop(broker.bootstrap_servers) as it:
            killing = asyncio.create_task(kill_and_start(broker))
            is_open, number = True, 0
            while not killing.done():
                number += 1
                try:
                    if not is_open:
                        await it.producer.init()
                        is_open = True
                    await it.commit([b"%06d" % number + bytes(5_000)] * 30, number)
                    outcomes[number] = "committed"
                except TransactionAborted:
                    outcomes[number] = "aborted"
                except OutcomeUnknown:
                    outcomes[number] = "unknown"
                    is_open = False
            await killing
            await it.producer.init()
            return await it.offset(), await read(broker.bootstrap_servers, it.output)

    with LocalKafka(tmp_path) as broker:
        offset, records = asyncio.run(scenario(broker))
    found = [(int(record.value[:6]), record.partition) for record in records]
    seen = {number for number, _partition in found}
    assert found == [(number, partition) for partition in range(3) for number in sorted(seen) for _ in range(10)]
    assert {number for number, outcome in outcomes.items() if outcome == "committed"} <= seen
    assert not {number for number, outcome in outcomes.items() if outcome == "aborted"} & seen
    assert offset == (max(seen), "")
    assert len(seen) > 5


def true_ends(records):
    return {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}


async def kill_and_start(broker):
    await asyncio.sleep(1)
    await asyncio.to_thread(broker.kill, 0)
    await asyncio.to_thread(broker.start, 0)
    await asyncio.sleep(0.5)


async def failing(commit):
    """Give the exception that ends a commit."""
    try:
        return await commit
    except (TransactionAborted, OutcomeUnknown, TransactionRejected) as error:
        return error
