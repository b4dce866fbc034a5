"""Lanes and overlays: the invariants N1 to N6 of their theory of operation, and a ledger that runs full."""

import tracemalloc

import pytest
from msgspec import structs

from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.pipeline.lane import FEW_PARKED, Batch, Lane, MemoryTable, Overlay, RecordsDeleted, TableOverlay
from worker.pipeline.ledger import Ledger
from worker.pipeline.partitioner import partition_of
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology
from worker.testing import Fault, StreamDriver, Update

UPDATES = "session-updates"
ANONYMOUS = b'{"customerSession": {}}'
WITH_PROFILE = b'{"customerSession": {"profileId": "p-1"}}'


def record(offset: int, value: bytes = ANONYMOUS, key: bytes = b"s-1") -> ConsumerRecord:
    return ConsumerRecord(offset, 1_795_372_800_000, key, value)


def lane(ledger: Ledger | None = None) -> Lane:
    return Lane(Sessions(Rules(), Topology(1)), 0, MemoryTable(), {UPDATES: ledger or Ledger()})


def batch(start: int, end: int, *records: ConsumerRecord) -> Batch:
    return Batch(UPDATES, start, end, records)


def cycle(of: Lane, limit: int = 100) -> Overlay:
    overlay = Overlay(of)
    overlay.run(limit)
    overlay.adopt()
    return overlay


class TestLayer:
    def test_it_reads_through_to_its_base_and_leaves_it_as_it_is(self):
        base = MemoryTable({"a": 1, "b": 2, "d": 4})
        layer = TableOverlay(base)
        layer.put("a", 9)
        layer.put("b", None)
        above = TableOverlay(layer)
        above.put("a", 10)
        assert [layer.get(key) for key in "abcd"] == [9, None, None, 4]
        assert [above.get(key) for key in "abcd"] == [10, None, None, 4]
        assert base == {"a": 1, "b": 2, "d": 4}

    def test_it_goes_on_over_the_table_that_took_up_the_layer_below(self):
        base = MemoryTable({"a": 1, "b": 2})
        layer = TableOverlay(base)
        above = TableOverlay(layer)
        layer.put("b", None)
        base.apply(layer.changes, 7)
        above.rebase(base)
        layer.put("a", 9)
        assert (above.get("a"), above.get("b"), base.checkpoint) == (1, None, 7)


class TestQueue:
    def test_a_batch_that_starts_beyond_the_position_is_refused(self):
        stale = lane()
        assert not stale.queue(batch(5, 6, record(5)))
        assert stale.position(UPDATES) == 0
        assert not stale.has_work()

    def test_records_that_were_queued_before_are_dropped(self):
        twice = lane()
        assert twice.queue(batch(0, 2, record(0), record(1)))
        assert twice.queue(batch(0, 3, record(0), record(1), record(2)))
        assert [queued.offset for queued in twice.queued[UPDATES]] == [0, 1, 2]
        assert twice.queue(batch(0, 1, record(0)))
        assert twice.position(UPDATES) == 3

    def test_a_batch_of_markers_alone_moves_the_position_and_what_the_next_cycle_commits(self):
        marked = lane()
        assert marked.queue(batch(0, 1, record(0)))
        assert marked.queue(batch(1, 4))
        assert cycle(marked).offsets()[UPDATES] == Ledger(4).commit()

    def test_records_below_next_are_dropped_after_a_seek_back(self):
        sought = lane(Ledger(next=3))
        assert sought.queue(batch(0, 4, record(0), record(1), record(2), record(3)))
        assert [queued.offset for queued in sought.queued[UPDATES]] == [3]


class TestOpening:
    def test_no_cycle_starts_before_all_records_that_are_not_done_were_read_again(self):
        opened = lane(Ledger(next=9, not_done={4: True, 7: False}))
        assert opened.position(UPDATES) == 4
        assert opened.queue(batch(4, 6, record(4, WITH_PROFILE), record(5)))
        assert not opened.is_complete
        assert not opened.has_work()
        assert opened.queue(batch(6, 10, record(6), record(7), record(8), record(9, key=b"s-2")))
        assert opened.is_complete
        assert sorted(opened.again) == [(UPDATES, 4), (UPDATES, 7)]
        assert [queued.offset for queued in opened.queued[UPDATES]] == [9]

    def test_a_head_read_again_waits_without_asking_again_and_its_follower_behind_it(self):
        opened = lane(Ledger(next=9, not_done={4: True, 7: False}))
        opened.queue(batch(4, 9, record(4, WITH_PROFILE), record(7)))
        overlay = cycle(opened)
        assert overlay.out == []
        assert opened.awaiting_verdict[b"s-1"].offset == 4
        assert [update.offset for update in opened.queued_behind[b"s-1"]] == [7]
        assert overlay.offsets()[UPDATES][0] == 4

    def test_a_follower_is_read_again_behind_its_head_even_when_it_comes_from_another_topic_before_it(self):
        rekeyed = "session-updates-rekeyed"
        stage = Sessions(Rules(), Topology(1))
        ledgers = {UPDATES: Ledger(2, {1: True}), rekeyed: Ledger(1, {0: False})}
        opened = Lane(stage, 0, MemoryTable(), ledgers)
        origin = [("worker-origin", b"session-updates/3/17/1795372800000"), ("worker-origin-key", b"s-1")]
        stray = structs.replace(record(0), headers=origin)
        opened.queue(Batch(rekeyed, 0, 1, [stray]))
        opened.queue(batch(1, 2, record(1, WITH_PROFILE)))
        cycle(opened)
        assert opened.awaiting_verdict[b"s-1"].topic == UPDATES
        assert [update.topic for update in opened.queued_behind[b"s-1"]] == [rekeyed]

    def test_a_record_that_is_not_done_and_gone_is_fatal(self):
        opened = lane(Ledger(next=9, not_done={4: True}))
        with pytest.raises(RecordsDeleted, match="session-updates/0 no longer holds 1 records, first 4"):
            opened.queue(batch(4, 10, record(5)))


class TestOverlay:
    def test_one_that_is_dropped_leaves_no_trace(self):
        kept = lane()
        kept.queue(batch(0, 3, record(0, WITH_PROFILE), record(1), record(2, key=b"s-2")))
        dropped = Overlay(kept)
        assert dropped.run(100) == 3
        assert dropped.out
        assert not any((kept.table, kept.awaiting_verdict, kept.queued_behind, kept.ledgers[UPDATES].not_done))
        again = Overlay(kept)
        again.run(100)
        assert (again.out, again.offsets()) == (dropped.out, dropped.offsets())

    def test_a_cycle_takes_no_more_than_its_limit(self):
        limited = lane()
        limited.queue(batch(0, 5, *(record(offset) for offset in range(5))))
        assert cycle(limited, limit=2).offsets()[UPDATES] == Ledger(2).commit()
        assert cycle(limited, limit=9).offsets()[UPDATES] == Ledger(5).commit()
        assert not limited.has_work()

    def test_what_was_not_done_is_folded_in_portions_too_and_before_anything_new(self):
        """N4"""
        opened = lane(Ledger(3, {0: True, 1: False, 2: False}))
        values = [record(0, WITH_PROFILE), *(record(offset) for offset in range(1, 4))]
        opened.queue(batch(0, 4, *values))
        for _portion in range(3):
            assert cycle(opened, limit=1).ledgers[UPDATES].next == 3
        assert cycle(opened, limit=1).ledgers[UPDATES].next == 4
        assert not opened.has_work()

    def test_a_topic_read_over_markers_alone_has_moved_until_that_is_committed(self):
        moved = lane()
        assert not moved.has_moved()
        moved.queue(batch(0, 2))
        assert (moved.has_work(), moved.has_moved()) == (False, True)
        assert cycle(moved).offsets()[UPDATES] == Ledger(2).commit()
        assert not moved.has_moved()


class TestOverAnother:
    """N6: a cycle is folded over one whose commit is not answered yet."""

    def filled(self) -> Lane:
        full = lane()
        values = [b'{"customerSession": {"attributes": {"n": %d}}}' % number for number in range(6)]
        full.queue(batch(0, 6, *(record(offset, value) for offset, value in enumerate(values))))
        return full

    def test_both_adopted_in_order_come_to_the_same_as_one_after_the_other(self):
        plain, overlaid = self.filled(), self.filled()
        first, second = cycle(plain, 2), cycle(plain, 3)
        below = Overlay(overlaid)
        assert below.run(2) == 2
        above = Overlay(overlaid, below)
        assert above.run(2) == 2
        below.adopt(7)
        assert above.run(1) == 1  # it goes on where it was, though what lay below is taken from the queue
        above.adopt(9)
        assert (below.out, above.out) == (first.out, second.out)
        assert above.offsets() == second.offsets()
        assert (overlaid.table, [it.offset for it in overlaid.queued[UPDATES]]) == (plain.table, [5])

    def test_once_that_is_adopted_it_lies_over_the_lane_alone(self):
        """Else each would keep the one below it, and that the one below, for ever."""
        kept = self.filled()
        below = Overlay(kept)
        below.run(2)
        above = Overlay(kept, below)
        below.adopt()
        kept.table.apply({b"s-1": None})
        assert above.table.get(b"s-1") is None

    def test_dropped_with_the_one_below_it_leaves_no_trace(self):
        kept = self.filled()
        below = Overlay(kept)
        below.run(2)
        above = Overlay(kept, below)
        above.run(2)
        assert cycle(kept).out == cycle(self.filled()).out

    def test_dropped_alone_it_is_folded_again_over_what_was_adopted(self):
        kept, plain = self.filled(), self.filled()
        below = Overlay(kept)
        below.run(2)
        Overlay(kept, below).run(2)
        below.adopt()
        cycle(plain, 2)
        assert cycle(kept).out == cycle(plain).out

    def test_what_was_not_done_is_not_taken_twice(self):
        again = lane(Ledger(2, {0: True, 1: False}))
        again.queue(batch(0, 3, record(0, WITH_PROFILE), record(1), record(2)))
        below = Overlay(again)
        assert below.run(1) == 1
        above = Overlay(again, below)
        assert above.run(9) == 2
        below.adopt()
        above.adopt()
        assert (again.ledgers[UPDATES].next, again.again, again.has_work()) == (3, {}, False)


class TestFullLedger:
    """So many sessions claim one profile that the ledger of their lane has no more room."""

    PARTITIONS = 2

    def keys(self, count: int) -> list[str]:
        """Name sessions that are at home in partition 0."""
        names = (f"s-{number}" for number in range(10 * count))
        return [name for name in names if partition_of(name.encode(), self.PARTITIONS) == 0][:count]

    def updates(self, count: int) -> list[Update]:
        return [Update({"customerSession": {"profileId": "p-1"}}, key) for key in self.keys(count)]

    def test_new_records_wait_while_it_is_full_and_all_of_them_get_their_verdict(self):
        driver = StreamDriver(self.PARTITIONS)
        driver.feed(self.updates(7_000))
        sessions = driver.sessions()
        assert len(sessions) == 7_000
        assert [key for key, session in sessions.items() if session["firstSession"]] == [min(sessions)]

    @pytest.mark.parametrize("fault", [Fault.CRASH, Fault.REVOKE, Fault.ABORT, Fault.SEEK_BACK])
    def test_it_gets_going_again_after_a_fault_at_any_step(self, fault, monkeypatch):
        monkeypatch.setattr("worker.pipeline.ledger._MAX_ENCODED", 250)
        undisturbed = StreamDriver(self.PARTITIONS)
        undisturbed.feed(self.updates(300))
        assert undisturbed.steps >= 20, "12 when it is never full"
        for step in range(1, undisturbed.steps + 1):
            driver = StreamDriver(self.PARTITIONS)
            for update in self.updates(300):
                driver.send(update)
            driver.run({step: fault})
            assert driver.sessions() == undisturbed.sessions()

    def test_a_cycle_leaves_what_does_not_fit_in_the_queue(self):
        full = lane()
        full.queue(batch(0, 4_000, *(record(offset, WITH_PROFILE, b"s-%d" % offset) for offset in range(4_000))))
        parked = Overlay(full).run(5_000)
        assert 3_000 < parked < 4_000


class TestCrowd:
    def test_crowded_worker_parks_few_records_of_each_lane(self):
        crowded = lane()
        records = [record(at, b'{"customerSession": {"profileId": "p-%d"}}' % at, b"s-%d" % at) for at in range(200)]
        crowded.queue(batch(0, 200, *records))
        overlay = Overlay(crowded)
        assert overlay.run(200, is_crowded=True) == overlay.parked == FEW_PARKED
        assert overlay.run(200, is_crowded=True) == 0
        assert overlay.run(200) == 200 - FEW_PARKED

    def test_parked_record_keeps_its_snapshot_and_little_more(self):
        note = b"x" * 5000
        value = b'{"customerSession": {"profileId": "p-1", "attributes": {"note": "%s"}}}' % note
        parking = lane()
        parking.queue(batch(0, 500, *(record(at, bytes(bytearray(value)), b"s-%d" % at) for at in range(500))))
        overlay = Overlay(parking)
        tracemalloc.start()
        try:
            overlay.run(500)
            parking.queued.clear()
            overlay.out.clear()
            each = tracemalloc.get_traced_memory()[0] / 500
        finally:
            tracemalloc.stop()
        assert overlay.parked == 500
        assert 5000 < each < 5000 + 1500
