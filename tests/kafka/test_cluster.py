"""What the worker asks of the cluster is answered as the group and the log are, also while that takes a while."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType

from tests.kafka.faults import Wire, member
from tests.kafka.topics import Record, create, own, produce, send
from tests.kafka.waits import within
from worker.kafka.cluster import Membership
from worker.kafka.errors import BrokerError, NotMember


@asynccontextmanager
async def opened(kafka, partitions=1, **configs):
    """Yield a cluster and a new topic."""
    topic = own("asked")
    await create(kafka, topic, partitions=partitions, **configs)
    async with Wire(kafka) as cluster:
        yield cluster, topic


def test_offsets_come_back_with_their_metadata_and_without_a_commit_there_are_none(kafka):
    async def scenario():
        async with opened(kafka, partitions=3) as (cluster, topic), member(kafka, topic) as membership:
            first, second, third = (TopicPartition(topic, number) for number in range(3))
            assert await cluster.stable_offsets(topic, []) == {}
            assert await cluster.stable_offsets(topic, [first]) == {first: None}
            long = "é" * 2048
            await cluster.commit(membership, {first: (7, long), third: (1 << 40, "")})
            await cluster.commit(membership, {})
            assert await cluster.stable_offsets(topic, [first, second, third]) == {
                first: (7, long),
                second: None,
                third: (1 << 40, ""),
            }
            assert await cluster.members(topic) == {membership.member}
            assert await cluster.members(f"{topic}-not") == set()

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", [{"generation": 99}, {"generation": 0}, {"member": "stranger"}])
def test_who_is_no_member_of_this_generation_commits_nothing(kafka, wrong):
    async def scenario():
        async with opened(kafka) as (cluster, topic), member(kafka, topic) as membership:
            tp = TopicPartition(topic, 0)
            await cluster.commit(membership, {tp: (1, "")})
            with pytest.raises(NotMember, match=topic):
                await cluster.commit(membership._replace(**wrong), {tp: (2, "")})
            assert await cluster.stable_offsets(topic, [tp]) == {tp: (1, "")}

    asyncio.run(scenario())


NOBODY = [Membership("g", -1, "m"), Membership("g", 1, ""), Membership("g", -1, ""), Membership("", 1, "m")]


@pytest.mark.parametrize("nobody", NOBODY)
def test_a_membership_that_the_coordinator_would_let_pass_unchecked_is_never_sent(kafka, nobody):
    async def scenario():
        async with Wire(kafka) as cluster:
            with pytest.raises(ValueError, match="keep the membership"):
                async with within(5, "the refusal of a commit"):
                    await cluster.commit(nobody, {TopicPartition("t", 0): (2, "")})
            assert cluster.sent == []

    asyncio.run(scenario())


def test_offsets_with_too_much_metadata_are_refused_by_name(kafka):
    async def scenario():
        async with opened(kafka) as (cluster, topic), member(kafka, topic) as membership:
            with pytest.raises(BrokerError, match=rf"{topic}\[0\]: OFFSET_METADATA_TOO_LARGE"):
                await cluster.commit(membership, {TopicPartition(topic, 0): (1, "x" * 5000)})

    asyncio.run(scenario())


def test_the_high_watermark_is_beyond_an_open_transaction_and_the_last_stable_offset_is_not(kafka):
    async def scenario():
        async with opened(kafka, partitions=2) as (cluster, topic):
            first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
            await produce(kafka, topic, [Record(b"k", b"v", partition=0)] * 5)
            async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
                await producer.begin_transaction()
                await send(producer, topic, [Record(b"k", b"v", partition=0)] * 3)
                assert await cluster.watermarks([first, second]) == {first: (0, 8), second: (0, 0)}
                settings = {"bootstrap_servers": kafka, "isolation_level": "read_committed"}
                async with AIOKafkaConsumer(**settings) as consumer:
                    assert await consumer.end_offsets([first]) == {first: 5}
                await producer.commit_transaction()
            async with within(10, "the marker of the transaction"):
                while await cluster.watermarks([first]) != {first: (0, 9)}:  # noqa: ASYNC110 (the marker comes after the answer)
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_what_is_purged_moves_the_start_of_the_log(kafka):
    async def scenario():
        async with opened(kafka, partitions=2) as (cluster, topic):
            first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
            await produce(kafka, topic, [Record(b"k", b"v", partition=number % 2) for number in range(20)])
            await cluster.purge({first: 4, second: 10})
            await cluster.purge({first: 3})
            assert await cluster.watermarks([second, first]) == {second: (10, 10), first: (4, 10)}
            with pytest.raises(BrokerError, match=rf"{topic}\[1\]: OFFSET_OUT_OF_RANGE"):
                await cluster.purge({first: 5, second: 11})

    asyncio.run(scenario())


def test_a_compacted_topic_is_not_purged(kafka):
    async def scenario():
        async with opened(kafka, cleanup_policy="compact") as (cluster, topic):
            with pytest.raises(BrokerError, match="POLICY_VIOLATION"):
                await cluster.purge({TopicPartition(topic, 0): 0})

    asyncio.run(scenario())


def test_a_question_whose_answer_is_lost_is_asked_again(kafka):
    async def scenario():
        async with opened(kafka) as (cluster, topic), member(kafka, topic) as membership:
            tp = TopicPartition(topic, 0)
            cluster.lost = ["FindCoordinator", "OffsetCommit", "OffsetFetch", "DescribeGroups", "Offset"]
            await cluster.commit(membership, {tp: (1, "")})
            assert await cluster.stable_offsets(topic, [tp]) == {tp: (1, "")}
            assert await cluster.members(topic) == {membership.member}
            assert await cluster.watermarks([tp]) == {tp: (0, 0)}
            assert cluster.lost == []

    asyncio.run(scenario())


def test_a_coordinator_that_is_gone_is_looked_up_anew(kafka):
    async def scenario():
        async with opened(kafka) as (cluster, topic), member(kafka, topic) as membership:
            cluster._coordinators[CoordinationType.GROUP, topic] = 99
            async with within(10, "the members of the group"):
                assert await cluster.members(topic) == {membership.member}
            assert cluster.sent == ["DescribeGroups", "FindCoordinator", "DescribeGroups"]

    asyncio.run(scenario())


def test_the_operator_hears_of_a_question_that_has_no_answer_yet_and_it_can_be_given_up(kafka, caplog, monkeypatch):
    monkeypatch.setattr("worker.kafka.retry._REPORT_SECONDS", 0.5)

    async def scenario():
        async with opened(kafka) as (cluster, topic):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.3):
                    await cluster.watermarks([TopicPartition(topic, 99)])

    asyncio.run(scenario())
    lines = [record.message for record in caplog.records if record.name == "worker.kafka.retry"]
    assert len(lines) == 4  # two questions, two times each
    assert all("still waiting after " in line for line in lines)
