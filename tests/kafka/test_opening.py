"""What stands between an assignment and the first cycle, on a real broker; O1 to O5 are opening.py's rules."""

import asyncio
import logging
from operator import attrgetter

import orjson
import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

from tests.kafka.faults import leave, member, wire_of
from tests.kafka.inside import (
    count_of,
    counts,
    crashed,
    opened,
    running,
    send,
    settings_for,
    source,
    transaction,
    until,
    update,
)
from tests.kafka.topics import Record, administration, create, produce, read
from tests.kafka.topics import send as send_by
from tests.kafka.waits import within
from tests.kafka.workers import is_done
from worker.kafka.cluster import Cluster
from worker.pipeline.lane import RecordsDeleted
from worker.pipeline.ledger import Ledger
from worker.runtime.opening import OffsetsMoved
from worker.runtime.topics import prepare
from worker.testing import StreamDriver, Update


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings of a worker with topics of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: settings_for(kafka, **given)


def test_an_opening_takes_as_long_as_it_takes(settings):
    """Faust gives each of its steps broker_request_timeout, and ends its recovery for good when one takes longer."""

    async def scenario():
        it = settings()
        await prepare(it)
        await send(it, update("s-1"))
        async with transaction(it) as open_one:
            await open_one.send_offsets_to_transaction({source(it): 0}, it.app_id)

            async with running(it, lambda app: setattr(app.conf, "broker_request_timeout", 6)) as app:
                await asyncio.sleep(9)
                assert not app.commit_loop.lanes
                await open_one.abort_transaction()
                await opened(app)

    asyncio.run(scenario())


def test_outputs_of_an_aborted_transaction_alone_are_no_outputs(settings):
    """A worker that died in its very first transaction left a changelog that is not empty, and no offset (O4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        async with running(it) as app:
            await opened(app)  # and is recorded as the owner
        async with transaction(it) as died:
            await send_by(died, it.sessions_topic, [Record(b"s-1", b"{}")])
            await died.abort_transaction()
        await send(it, update("s-1"))
        async with running(it) as app:
            await opened(app)

    asyncio.run(scenario())


def test_outputs_without_offsets_end_the_worker_with_a_message_that_says_what_to_do(settings):
    """Also the second time, when it is recorded as an owner (O4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await produce(it.brokers, it.sessions_topic, [Record(b"s-1", b"{}")])
        for _ in range(2):
            async with running(it) as app:
                reason = await crashed(app)
            assert isinstance(reason, OffsetsMoved)
            assert str(reason).startswith(
                f"{it.sessions_topic}/0 holds records, but no offset of {it.updates_topic}/0 is committed: "
            )
            assert "session-worker offsets accept --yes" in str(reason)
            assert "new output topics, with a new SESSION_WORKER_APP_ID" in str(reason)

    asyncio.run(scenario())


async def commit_beyond_the_end(it):
    await prepare(it)
    await send(it, update("s-1"))
    async with member(it.brokers, it.updates_topic, it.app_id) as membership, Cluster(it.connection()) as cluster:
        await cluster.commit(membership, {source(it): (5, "")})


def test_an_offset_beyond_the_end_ends_the_worker(settings):
    """The topic was created again: a reader would wait until it has as many records as the old one (O4)."""

    async def scenario():
        it = settings()
        await commit_beyond_the_end(it)
        async with running(it) as app:
            reason = await crashed(app)
        assert isinstance(reason, RecordsDeleted)
        assert f"{it.updates_topic}/0: committed offset 5 is beyond the end 1, so the topic was created again" in str(
            reason
        )

    asyncio.run(scenario())


def test_an_offset_beyond_the_end_is_followed_by_the_beginning_where_that_is_set(settings):
    async def scenario():
        it = settings(on_data_loss="earliest")
        await commit_beyond_the_end(it)
        async with running(it):
            await count_of(it, "s-1", 1)

    asyncio.run(scenario())


def test_who_lost_its_assignment_between_two_questions_takes_nothing_for_lost(settings):
    """Another worker has moved on meanwhile, and deleted what is done (O4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await send(it, update("s-1"))
        async with Cluster(it.connection()) as cluster, administration(it.brokers) as admin:

            async def commit(offset):
                async with member(it.brokers, it.updates_topic, it.app_id) as membership:
                    await cluster.commit(membership, dict.fromkeys(sources(it), (0, "")) | {source(it): (offset, "")})

            def change(app):
                unchanged = app.dependencies.cluster.watermarks

                async def watermarks(tps):
                    app.dependencies.cluster.watermarks = unchanged
                    await leave(cluster, it.app_id, app.consumer.membership.member)
                    await commit(1)
                    await admin.delete_records({source(it): RecordsToDelete(before_offset=1)})
                    return await unchanged(tps)

                app.dependencies.cluster.watermarks = watermarks

            await commit(0)
            async with running(it, change) as app:
                await opened(app)
                await send(it, update("s-2"))
                await count_of(it, "s-2", 1)
            assert set(await counts(it)) == {"s-2"}

    asyncio.run(scenario())


def test_offsets_that_went_back_are_not_read_on_from(settings, caplog):
    """A coordinator may have lost some of what it confirmed; what was done from there on would be done twice (O5)."""
    caplog.set_level(logging.DEBUG, "worker.kafka.retry")

    async def scenario():
        it = settings()
        async with running(it) as app, Cluster(it.connection()) as cluster:
            await opened(app)
            await send(it, update("s-1"))
            await until(lambda: is_done(app.commit_loop.committed[source(it)], 1))
            await cluster.commit(app.consumer.membership, {source(it): Ledger(0, stream=app.upkeep.stream).commit()})
            app.commit_loop.lose("so that the offsets are read")
            await until(
                lambda: (
                    f"{it.app_id}: 1 was committed, but the coordinator returned 0: OFFSET_NOT_AVAILABLE" in caplog.text
                )
            )
            assert not app.commit_loop.lanes
            await cluster.commit(app.consumer.membership, {source(it): Ledger(1, stream=app.upkeep.stream).commit()})
            await send(it, update("s-1"))
            await count_of(it, "s-1", 2)
            assert len(await read(it.brokers, it.sessions_topic)) == 2

    asyncio.run(scenario())


def test_offset_set_back_by_another_client_while_the_worker_runs_ends_it(settings):
    """It is not what a coordinator has forgotten (O5): no wait brings the offset back."""

    async def scenario():
        it = settings()
        async with running(it) as app, Cluster(it.connection()) as cluster:
            await opened(app)
            await send(it, update("s-1"))
            await until(lambda: is_done(app.commit_loop.committed[source(it)], 1))
            await cluster.commit(app.consumer.membership, {source(it): (0, "")})
            app.commit_loop.lose("so that the offsets are read")
            reason = await crashed(app)
        assert isinstance(reason, OffsetsMoved)
        assert f"{it.updates_topic}/0: offset 0 of the group {it.app_id} was not committed by a worker" in str(reason)

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["rekeyed", "claims", "verdicts"])
def test_offset_of_an_internal_topic_with_records_ends_the_worker_also_in_a_new_lane(settings, field):
    """What a worker sent there is not an operator's to skip, although nothing is published yet (O4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await produce(it.brokers, getattr(it, f"{field}_topic"), [Record(b"s-1", b"{}")])
        async with member(it.brokers, it.updates_topic, it.app_id) as membership, Cluster(it.connection()) as cluster:
            await cluster.commit(membership, {source(it, field): (1, "")})
        async with running(it) as app:
            reason = await crashed(app)
        assert isinstance(reason, OffsetsMoved)
        assert f"but {source(it, field).topic}/0 holds records" in str(reason)

    asyncio.run(scenario())


def test_owners_without_a_name_are_passed_over(settings):
    """kafka-consumer-groups --reset-offsets --all-topics leaves commits without metadata."""

    async def scenario():
        it = settings()
        await prepare(it)
        changelogs = [source(it, "sessions"), source(it, "first_sessions")]
        async with member(it.brokers, it.updates_topic, it.app_id) as membership, Cluster(it.connection()) as cluster:
            await cluster.commit(membership, dict.fromkeys(changelogs, (3, "")))
        async with running(it) as app:
            await opened(app)

    asyncio.run(scenario())


def snapshot_of(*updates):
    """Give what a worker would publish for these update records of s-1, last."""
    driver = StreamDriver(partitions=1)
    driver.feed(Update(orjson.loads(it.value), key=it.key) for it in updates)
    last = driver.published("customer-sessions")[-1]
    return Record(last.key, last.value, tuple(last.headers), timestamp_ms=last.timestamp)


def test_what_an_open_transaction_has_read_is_not_read_again(settings):
    """A dead owner's commit is still on its way: without require_stable its offsets would be missed (O1)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await send(it, update("s-1"), update("s-2"))
        async with transaction(it) as dead:
            await send_by(dead, it.sessions_topic, [snapshot_of(update("s-1"))])
            done = dict.fromkeys(sources(it), Ledger()) | {source(it): Ledger(1)}
            marked = {tp: OffsetAndMetadata(*ledger.commit()) for tp, ledger in done.items()}
            await dead.send_offsets_to_transaction(marked, it.app_id)
            async with running(it) as app:
                await asyncio.sleep(2.5)
                assert not app.commit_loop.lanes
                await dead.commit_transaction()
                await count_of(it, "s-2", 1)
                assert (await counts(it))["s-1"] == 1

    asyncio.run(scenario())


def test_a_table_is_restored_to_the_high_watermark_not_to_the_last_stable_offset(settings):
    """Markers land one by one: the offsets may be stable while the changelog's end is not yet (O1)."""

    async def scenario():
        it = settings()
        await prepare(it)
        async with transaction(it) as late:
            await send_by(late, it.sessions_topic, [snapshot_of(update("s-1"))])
            await send(it, update("s-0"))
            async with (
                member(it.brokers, it.updates_topic, it.app_id) as membership,
                Cluster(it.connection()) as cluster,
            ):
                await cluster.commit(membership, dict.fromkeys(sources(it), Ledger().commit()))
            async with running(it) as app:
                await asyncio.sleep(2.5)
                assert not app.commit_loop.lanes
                await late.commit_transaction()
                await opened(app)
                await send(it, update("s-1"))
                await count_of(it, "s-1", 2)

    asyncio.run(scenario())


def sources(settings):
    return [source(settings, field) for field in ("updates", "rekeyed", "claims", "verdicts")]


def test_owners_are_recorded_and_fenced_only_when_they_are_gone(settings):
    """Who is a member is alive, and would do the same to us for ever (O2)."""

    async def scenario():
        it = settings(partitions=2)
        async with Cluster(it.connection()) as cluster:
            changelogs = [source(it, field, number) for field in ("sessions", "first_sessions") for number in range(2)]

            async def owners():
                recorded = await cluster.stable_offsets(it.app_id, changelogs)
                return {tp: (recorded[tp] or (0, ""))[1].split()[0] for tp in changelogs}

            async with running(it) as first:
                await opened(first, 4)
                assert set((await owners()).values()) == {first.dependencies.producer.transactional_id}
                taps = []
                async with running(it, lambda app: taps.append(wire_of(app))) as second:
                    await until(lambda: len(first.commit_loop.lanes) == len(second.commit_loop.lanes) == 2)
                    assert set((await owners()).values()) == {
                        app.dependencies.producer.transactional_id for app in (first, second)
                    }
                    assert taps[0].sent.count("InitProducerId") == taps[0].sent.count("TxnOffsetCommit") + 2
            taps.clear()
            async with running(it, lambda app: taps.append(wire_of(app))) as third:
                await opened(third, 4)
                assert (
                    taps[0].sent.count("InitProducerId") == 3
                )  # its own, twice, which the first had; and the second's

    asyncio.run(scenario())


def test_what_a_dead_owner_left_open_is_ended_at_once(settings):
    """Not after the transaction timeout, half a minute here (step 4)."""

    async def scenario():
        it = settings(transaction_timeout_seconds=30)
        async with running(it) as first:
            await opened(first)
            wire = wire_of(first)
            wire.held = "EndTxn"
            await send(it, update("s-1"))
            await wire.reached.wait()
        async with running(it) as second:
            await opened(second, seconds=10)
            await count_of(it, "s-1", 1, seconds=10)

    asyncio.run(scenario())


def test_a_lane_whose_topics_are_not_all_assigned_stays_closed(settings, caplog):
    async def scenario():
        it = settings(partitions=2)
        short = {it.claims_topic}
        await create(it.brokers, *short, partitions=1)
        await create(it.brokers, *({*it.topology(2).named().values()} - short), partitions=2)

        async def unchecked():
            pass

        async with running(it, lambda app: setattr(app.upkeep, "check_topics", unchecked), it.topology(2)) as app:
            await until(lambda: app.commit_loop.lanes)
            assert sorted((lane.stage.reads[0], lane.partition) for lane in app.commit_loop.lanes) == sorted(
                [(it.verdicts_topic, 0), (it.verdicts_topic, 1), (it.claims_topic, 0)]
            )
        assert f"{it.first_sessions_topic}/1 is not opened" in caplog.text

    asyncio.run(scenario())


@pytest.mark.parametrize("step", ["on_rebalance_complete.send", "consumer.seek_wait"])
def test_lanes_of_an_assignment_that_is_over_stay_closed(settings, step):
    """A rebalance may come during the last steps; the next assignment opens what it is given (O3)."""

    async def scenario():
        it = settings()
        done = asyncio.Event()

        def change(app):
            opening = app.tables.recovery
            complete = opening.on_recovery_completed

            async def completed(generation_id):
                part, name = attrgetter(step.split(".")[0])(app), step.split(".")[1]
                taken = getattr(part, name)

                async def overtaken(*given):
                    await taken(*given)
                    app.consumer_generation_id += 1

                setattr(part, name, overtaken)
                await complete(generation_id)
                done.set()

            opening.on_recovery_completed = completed

        async with running(it, change) as app:
            async with within(20, "the opening"):
                await done.wait()
            assert not app.commit_loop.lanes

    asyncio.run(scenario())


def test_a_worker_that_is_told_to_stop_while_it_waits_for_a_transaction_stops(settings):
    async def scenario():
        it = settings()
        await prepare(it)
        async with transaction(it) as open_one:
            await open_one.send_offsets_to_transaction({source(it): 0}, it.app_id)
            async with running(it) as app:
                await until(lambda: app.in_recovery)
                await asyncio.sleep(0.3)
                async with within(3, "the stop of the app"):
                    await app.stop()

    asyncio.run(scenario())
