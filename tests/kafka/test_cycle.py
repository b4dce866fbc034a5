"""The cycle over real transactions, held up, cut and refused; C1 to C8 are cycle.py's rules."""

import asyncio
import time

import orjson
import pytest
from aiokafka.admin import NewPartitions, NewTopic, RecordsToDelete
from faust.types import TP

from tests.kafka.faults import leave, member, wire_of
from tests.kafka.inside import (
    count_of,
    counts,
    crashed,
    lane_of,
    opened,
    running,
    send,
    send_at_once,
    settings_for,
    source,
    transaction,
    until,
    update,
)
from tests.kafka.topics import Record, administration, own, produce, read
from tests.kafka.topics import send as send_by
from tests.kafka.waits import within
from tests.kafka.workers import is_done
from worker.codec.claims import ClaimMessage, encode_claim
from worker.codec.headers import Cause
from worker.codec.records import ConsumerRecord
from worker.domain.profile import Claim
from worker.kafka.cluster import Cluster, TopicIdentity
from worker.kafka.producer import TransactionalProducer
from worker.kafka.protocol import TopicsRequest
from worker.local.kafka import LocalKafka
from worker.pipeline.lane import Batch, RecordsDeleted
from worker.pipeline.ledger import Ledger
from worker.pipeline.topology import TOPICS
from worker.runtime.faust.driver import Consumer
from worker.runtime.stores.memory import MemoryPartition
from worker.runtime.topics import prepare
from worker.runtime.upkeep import TooManyRejections, TopicsChanged


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings of a worker with topics of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: settings_for(kafka, **given)


async def commit_ledger(settings, tp, ledger):
    """Commit for the worker's group, while no worker runs."""
    async with (
        member(settings.brokers, tp.topic, settings.app_id) as membership,
        Cluster(settings.connection()) as cluster,
    ):
        await cluster.commit(membership, {tp: ledger.commit()})


def test_a_record_that_has_to_be_read_again_and_is_gone_ends_the_worker(settings):
    """It is found in Faust's agent, which would log it and go on as if nothing was (N4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await send_at_once(it, update("s-0"))  # and a marker
        await send(it, update("s-2"))
        await commit_ledger(it, source(it), Ledger(next=2, not_done={1: False}))
        async with running(it) as app:
            reason = await crashed(app)
        assert isinstance(reason, RecordsDeleted)
        assert "no longer holds 1 records, first 1" in str(reason)

    asyncio.run(scenario())


def test_too_large_a_share_of_rejections_ends_the_worker_before_they_are_committed(settings):
    async def scenario():
        it = settings(max_rejection_ratio=0.2)
        await prepare(it)
        broken = Record(b"s-0", b"{")
        await send(it, *[update(f"s-{n}") for n in range(400)], *[broken] * 90)
        async with running(it) as app:  # too few to judge
            await opened(app)
            await until(lambda: lane_of(app, it.updates_topic).ledgers[it.updates_topic].next == 490)
            await send(it, *[broken] * 1000)
            reason = await crashed(app)
        assert isinstance(reason, TooManyRejections)
        assert "SESSION_WORKER_MAX_REJECTION_RATIO=0.2" in str(reason)
        rejected = len(await read(it.brokers, it.rejections_topic))
        assert 90 <= rejected < 1090
        async with running(it.model_copy(update={"max_rejection_ratio": None})) as app:
            await opened(app)
            await until(lambda: lane_of(app, it.updates_topic).ledgers[it.updates_topic].next == 1490)
        assert len(await read(it.brokers, it.rejections_topic)) == 1090

    asyncio.run(scenario())


def test_with_earliest_it_keeps_what_is_parked_and_still_there(settings, caplog):
    async def scenario():
        it = settings(on_data_loss="earliest")
        await prepare(it)
        await send(it, *(update(f"s-{n}") for n in range(4)))
        await commit_ledger(it, source(it), Ledger(next=3, not_done={0: False, 2: False}))
        async with administration(it.brokers) as admin:
            await admin.delete_records({source(it): RecordsToDelete(before_offset=1)})
        async with running(it) as app:
            await opened(app)
            await until(lambda: is_done(lane_of(app, it.updates_topic).ledgers[it.updates_topic].commit(), 4))
        return [record.key for record in await read(it.brokers, it.sessions_topic)]

    assert asyncio.run(scenario()) == [b"s-2", b"s-3"]
    assert "Going on from 1 without 1 records" in caplog.text


def test_a_full_ledger_holds_back_new_records_only_and_gets_going_again(settings):
    """Claims that cannot be read yet, since a transaction of another is open on their topic, park all sessions (C5)."""

    async def scenario():
        it = settings()
        await prepare(it)
        async with running(it) as app, transaction(it) as other:
            await opened(app)
            wire = wire_of(app)
            await send_by(other, it.claims_topic, [Record(b"p", None)])
            await send(it, *(update(f"s-{n}", profileId=f"p-{n}", attributes={"a": "x" * 1000}) for n in range(9_000)))
            lane = lane_of(app, it.updates_topic)
            await until(lambda: len(lane.ledgers[it.updates_topic].not_done) > 2_500)
            await until(lambda: source(it) in app.consumer._paused_partitions)
            await asyncio.sleep(1)
            wire.sent.clear()
            await asyncio.sleep(1)
            assert {*wire.sent} <= {
                "Topics",
                "Offset",
            }  # the watch and the marks ask  # nothing to do, and nothing done
            assert app.consumer._paused_partitions == {source(it, t) for t in ("updates", "sessions", "first_sessions")}
            assert len(lane.queued[it.updates_topic]) < 6_000
            await other.abort_transaction()
            await until(lambda: len(lane.table) == 9_000)
            assert source(it) not in app.consumer._paused_partitions

    asyncio.run(scenario())


def test_claims_that_come_faster_than_they_are_folded_are_held_back_and_not_for_ever(settings, monkeypatch):
    """What a long stop has left may be more than memory holds (C5)."""
    monkeypatch.setattr("worker.runtime.flow._QUEUED_BYTES", 0)
    held, pause = [], Consumer.pause_partitions

    def holding(consumer, tps):
        held.append(tps)
        pause(consumer, tps)

    monkeypatch.setattr(Consumer, "pause_partitions", holding)

    async def scenario():
        it = settings()
        await prepare(it)
        what = Cause("u/0/1", "2026-11-22T18:40:00.000Z", 1_795_372_800_000, None)
        claims = (ClaimMessage(f"p-{n}", Claim(what.time, f"s-{n}"), False, what) for n in range(20_000))
        records = [encode_claim(it.claims_topic, 0, claim) for claim in claims]
        await produce(
            it.brokers, it.claims_topic, (Record(record.key, record.value, tuple(record.headers)) for record in records)
        )
        async with running(it) as app:
            await opened(app)
            lane = lane_of(app, it.claims_topic)
            await until(lambda: len(lane.table) == len(records))
            assert {source(it, "claims")} in held
            assert source(it, "claims") not in app.consumer._paused_partitions

    asyncio.run(scenario())


class Failing(MemoryPartition):
    """A partition of a table on a slow disk, which is gone as soon as a test says so."""

    def __init__(self):
        super().__init__()
        self.is_gone = lambda: False

    def get(self, key, /):  # type: ignore[override]
        time.sleep(0.0001)
        if self.is_gone():
            raise OSError("the disk is gone")
        return super().get(key)

    def apply(self, changes, end=None):
        if self.is_gone() and changes:
            raise OSError("the disk is gone")
        super().apply(changes, end)


def kept_in(opener):
    """Keep the sessions of a worker that has not started in another way."""

    def change(app):
        app.tables["sessions"].data._opener = opener

    return change


def test_a_fold_that_fails_while_a_commit_is_under_way_ends_the_worker(settings):
    """The disk is slow enough for the first cycle to leave records to the next."""

    async def scenario():
        it, table = settings(), Failing()
        await prepare(it)
        await send(it, *(update(f"s-{n}") for n in range(20_000)))
        async with running(it, kept_in(lambda _number: table)) as app:
            table.is_gone = lambda: app.commit_loop.is_committing
            wire_of(app).held = "AddPartitionsToTxn"
            assert isinstance(await crashed(app), OSError)
            async with within(8, "the stop of the app"):
                await app.stop()

    asyncio.run(scenario())


def test_a_table_that_cannot_be_restored_ends_the_worker(settings):
    """Faust logs what goes wrong while it reads changelogs, and goes on (T2)."""

    async def scenario():
        it, table = settings(), Failing()
        async with running(it) as app:
            await opened(app)
            await send(it, update("s-1"))
            await count_of(it, "s-1", 1)
        table.is_gone = lambda: True
        async with running(it, kept_in(lambda _number: table)) as app:
            assert isinstance(await crashed(app, 8), OSError)

    asyncio.run(scenario())


def test_after_a_lost_answer_lanes_are_opened_again_and_nothing_is_lost_or_doubled(settings):
    """Whether the commit was done is for the opening to find out (C2)."""

    async def scenario():
        it = settings()
        async with running(it) as app:
            await opened(app)
            wire = wire_of(app)
            for number, lost in enumerate(["EndTxn", "TxnOffsetCommit"], 1):
                lanes = set(app.commit_loop.lanes)
                wire.lost = [lost]
                await send(it, update("s-1"))
                await count_of(it, "s-1", number)
                await opened(app)
                assert not lanes & set(app.commit_loop.lanes)
        found = await read(it.brokers, it.sessions_topic)
        assert [orjson.loads(record.value or b"")["updateCount"] for record in found] == [1, 2]

    asyncio.run(scenario())


def test_after_an_abort_the_same_records_are_folded_again_without_an_opening(settings):
    """A broker without enough replicas refuses what is written, until it has them (C2)."""

    async def scenario():
        it = settings(transaction_timeout_seconds=2)
        async with running(it) as app:
            await opened(app)
            lanes, wire = set(app.commit_loop.lanes), wire_of(app)
            wire.refused = "Produce"
            await send(it, update("s-1"), update("s-1"))
            await until(lambda: wire.sent.count("EndTxn") == 2)
            wire.refused = None
            await count_of(it, "s-1", 2)
            assert lanes == set(app.commit_loop.lanes)
        found = await read(it.brokers, it.sessions_topic)
        assert [orjson.loads(record.value or b"")["updateCount"] for record in found] == [1, 2]

    asyncio.run(scenario())


def test_a_worker_that_is_fenced_although_it_is_a_member_opens_again(settings):
    async def scenario():
        it = settings()
        async with running(it) as app, Cluster(it.connection()) as cluster:
            await opened(app)
            await TransactionalProducer(cluster, own("other")).fence(app.dependencies.producer.transactional_id)
            await send(it, update("s-1"))
            await count_of(it, "s-1", 1)
            await send(it, update("s-1"))
            await count_of(it, "s-1", 2)

    asyncio.run(scenario())


def test_a_commit_of_a_worker_that_woke_from_a_freeze_is_refused(settings):
    """It has no generation for a moment, which the coordinator would let pass (D5, O1)."""

    async def scenario():
        it = settings()
        async with running(it) as app, Cluster(it.connection()) as cluster:
            await opened(app)
            wire, pinned = wire_of(app), app.consumer.membership
            wire.held = "TxnOffsetCommit"
            await send(it, update("s-1"))
            await wire.reached.wait()
            await leave(cluster, it.app_id, pinned.member)
            coordinator = app.consumer._thread._consumer._coordinator
            await until(lambda: coordinator.generation == -1)
            wire.held = None
            wire.release.set()
            await count_of(it, "s-1", 1)
            await opened(app)
            assert app.consumer.membership.generation > pinned.generation
            assert app.consumer.membership.member != pinned.member
            assert wire.sent.count("Produce") >= 2  # the first came to nothing
            assert await counts(it) == {"s-1": 1}

    asyncio.run(scenario())


def test_the_generation_is_the_one_of_the_opening_whatever_the_client_has_by_now(settings):
    """A commit with -1 and no member id is one that no coordinator refuses, and Membership no more sends (D5)."""

    async def scenario():
        it = settings()
        async with running(it) as app:
            await opened(app)
            coordinator = app.consumer._thread._consumer._coordinator
            had = coordinator.generation, coordinator.member_id
            coordinator.generation, coordinator.member_id = -1, ""
            await send(it, update("s-1"))
            await until(lambda: len(lane_of(app, it.updates_topic).table) == 1, 5)
            coordinator.generation, coordinator.member_id = had

    asyncio.run(scenario())


def test_a_transaction_that_hangs_is_given_up_and_does_not_hold_up_a_rebalance(settings):
    """Until then other members wait, and none of them works (C3)."""

    async def scenario():
        it = settings(partitions=2)
        async with running(it) as first:
            await opened(first, 4)
            wire = wire_of(first)
            wire.held = "EndTxn"
            await send(it, update("s-1"))
            await wire.reached.wait()
            wire.held = None  # what follows goes through
            async with running(it) as second:
                await opened(second, seconds=15)
                await until(lambda: len(first.commit_loop.lanes) == 2)
                await count_of(it, "s-1", 1)
                await send(it, update("s-1"))
                await count_of(it, "s-1", 2)

    asyncio.run(scenario())


def test_a_batch_beyond_the_position_is_dropped_and_fetched_again(settings):
    """It was fetched ahead of a seek; taken, it would lose what is between (N3)."""

    async def scenario():
        it = settings()
        async with running(it) as app:
            await opened(app)
            tp = TP(it.updates_topic, 0)
            app.consumer.pause_partitions({tp})
            await send(it, *(update(f"s-{n}") for n in range(10)))
            app.consumer.go_to(tp, 5)
            app.consumer.resume_partitions({tp})
            await until(lambda: len(lane_of(app, it.updates_topic).table) == 10)
        assert await counts(it) == {f"s-{n}": 1 for n in range(10)}

    asyncio.run(scenario())


def test_batches_that_come_while_lanes_are_closed_are_dropped(settings):
    """They were fetched under an earlier assignment, or before the restore (step 8)."""

    async def scenario():
        it = settings()
        async with running(it) as app:
            await opened(app)
            tp, lane = source(it), lane_of(app, it.updates_topic)
            await send(it, update("s-1"))
            await until(lambda: len(lane.table) == 1)
            await app.commit_loop.close()
            app.commit_loop.queue(tp, Batch(tp.topic, lane.position(tp.topic), lane.position(tp.topic) + 1, [old(tp)]))
            assert not any(lane.queued.values())
            app.tables.recovery.again()
            await opened(app)
            await send(it, update("s-1"))
            await count_of(it, "s-1", 2)
        assert await counts(it) == {"s-1": 2}

    asyncio.run(scenario())


def old(tp):
    it = update("s-old")
    return ConsumerRecord(1, 1_795_372_800_000, it.key, it.value, ())


PLAIN = {"rejections", "dry_runs", "v1"}
"""Outputs that the worker never reads."""


async def ended(settings, change):
    """Return what a worker said of each topic, by field, after *change* was done to its topics while it ran."""
    names = {name: field for field, name in settings.topology(1).named().items()}
    async with running(settings) as app, administration(settings.brokers) as admin:
        await opened(app)
        await change(admin, list(names))
        reason = await crashed(app)
    assert isinstance(reason, TopicsChanged)
    return {names[told.partition(" ")[0]]: told for told in str(reason).splitlines()}


async def delete(admin, names):
    await admin.delete_topics(names)


async def grow(admin, names):
    await admin.create_partitions({name: NewPartitions(3) for name in names})


async def replace(admin, names):
    await admin.delete_topics(names)
    left = names
    while left:
        answer = await admin.create_topics([NewTopic(name, 1, 1) for name in left])
        left = [name for name, code, *_ in answer.topic_errors if code]
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("field", ["updates", "sessions", "rejections"])
def test_topic_deleted_while_the_worker_runs_ends_it(settings, field):
    it = settings()
    topic = getattr(it, f"{field}_topic")
    told = asyncio.run(ended(it, lambda admin, _: delete(admin, [topic])))
    assert set(told) == {field}
    assert told[field].startswith(f"{topic} was deleted, or the worker may not see it any more")
    remedy = "Start the worker again" if field in PLAIN else "set SESSION_WORKER_APP_ID and the SESSION_WORKER_…_TOPIC"
    assert remedy in told[field]


@pytest.mark.parametrize("field", ["updates", "rejections"])
def test_topic_grown_while_the_worker_runs_ends_it(settings, field):
    it = settings()
    topic = getattr(it, f"{field}_topic")
    assert set(asyncio.run(ended(it, lambda admin, _: grow(admin, [topic])))) == {field}


def test_each_grown_topic_is_named_with_both_counts_and_a_remedy(settings):
    it = settings(v1_topic=own("v1"))
    told = asyncio.run(ended(it, grow))
    assert set(told) == set(TOPICS)
    updates = told.pop("updates")
    assert "has 3 partitions, but the other topics have 1: the input was grown from 1 to 3" in updates
    assert "Take a new input of 1 partitions (SESSION_WORKER_UPDATES_TOPIC)" in updates
    for field, line in told.items():
        assert "was grown from 1 to 3 partitions, and every topic needs 1. " in line
        assert (f"SESSION_WORKER_{field.upper()}_TOPIC" if field in PLAIN else "Do not delete it: ") in line


def test_replaced_topic_is_seen_by_its_id_and_named(settings):
    """Its name and its number of partitions are the same."""
    it = settings(v1_topic=own("v1"))
    told = asyncio.run(ended(it, replace))
    assert set(told) == set(TOPICS)
    for line in told.values():
        assert "was deleted and created again, with 1 partitions, while the worker ran. " in line


def test_one_replaced_topic_ends_the_worker(settings):
    it = settings()
    told = asyncio.run(ended(it, lambda admin, _: replace(admin, [it.claims_topic])))
    assert "was deleted and created again" in told["claims"]


def test_topic_grown_before_the_lanes_open_ends_the_worker(settings):
    """Between the check at the start and the first opening."""

    async def scenario():
        it = settings()
        topology = await prepare(it)
        async with administration(it.brokers) as admin:
            await admin.create_partitions({it.updates_topic: NewPartitions(2)})
        async with running(it, topology=topology) as app:
            reason = await crashed(app)
            assert not app.commit_loop.lanes
        assert "the input was grown from 1 to 2" in str(reason)

    asyncio.run(scenario())


def test_topics_of_brokers_without_topic_ids_are_compared_by_their_counts(settings, monkeypatch):
    """Brokers before Kafka 2.8 know no later version of Metadata than 9."""
    monkeypatch.setattr(TopicsRequest, "_CLASSES", TopicsRequest._CLASSES[:1])

    async def scenario():
        it = settings()
        await prepare(it)
        async with Cluster(it.connection()) as cluster:
            found = await cluster.identity([it.updates_topic, own("missing")])
            assert found.topics == {it.updates_topic: TopicIdentity("", 1)}
        return await ended(it, lambda admin, _: grow(admin, [it.updates_topic]))

    assert "has 3 partitions" in asyncio.run(scenario())["updates"]


def test_asking_for_topics_creates_none(tmp_path):
    """Where brokers create topics that a client asks for."""

    async def scenario(brokers):
        async with Cluster({"bootstrap_servers": brokers}) as cluster, administration(brokers) as admin:
            found = await cluster.identity(["missing"])
            assert (found.topics, len(found.cluster_id)) == ({}, 22)
            assert await admin.list_topics() == []

    with LocalKafka(tmp_path, properties={"auto.create.topics.enable": "true"}) as kafka:
        asyncio.run(scenario(kafka.bootstrap_servers))
