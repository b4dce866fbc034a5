"""The counts of a live run: when a record is due, what is still on its way, what is not as expected, how long it took."""

import random
from statistics import quantiles

import pytest

from worker.local.tally import Latencies, Pace, Reconciliation, outcomes, place_of


def test_a_record_is_due_when_the_pace_says_so_however_late_those_before_it_were():
    pace = Pace(rate=500, started=100.0)
    assert pace.wait(sent=0, now=100.0) == 0
    assert pace.wait(sent=1, now=100.0) == 0.002
    assert pace.wait(sent=1, now=100.0015) == 0.0005
    assert pace.wait(sent=1, now=100.5) == 0
    assert pace.wait(sent=500, now=100.5) == 0.5
    assert pace.wait(sent=500, now=101.0) == 0


@pytest.mark.parametrize("rate", [0.5, 3, 500, 7_777])
def test_so_many_records_are_sent_in_a_second_as_the_rate_says(rate):
    pace, now, sent = Pace(rate, 0.0), 0.0, 0
    draw = random.Random(1)
    while now < 20:
        sent += 1
        now += pace.wait(sent, now) * (1 + 0.3 * draw.random())  # a sleep is never too short, and often too long
        now += draw.random() / rate * 0.5  # and sending takes time
    assert abs(sent - 20 * rate) <= 2


def test_percentiles_are_those_of_all_durations():
    draw = random.Random(1)
    seconds = [draw.expovariate(20) for _ in range(10_000)]
    latencies = Latencies()
    for it in seconds:
        latencies.add(it)
    cuts = quantiles(seconds, n=100, method="inclusive")
    for percent in (1, 50, 90, 99):
        found = latencies.percentile(percent)
        assert found is not None
        assert abs(found - cuts[percent - 1] * 1000) < 1.5


def test_percentiles_of_few_durations_are_durations_that_were():
    latencies = Latencies()
    assert latencies.percentile(50) is None
    latencies.add(0.0271)
    assert [latencies.percentile(percent) for percent in (0, 50, 99, 100)] == [27.1] * 4
    latencies.add(0.0)
    latencies.add(2.0)
    assert [latencies.percentile(percent) for percent in (33, 34, 66, 67, 100)] == [0.0, 27.1, 27.1, 2000.0, 2000.0]


def test_recent_durations_forget_the_older_ones():
    latencies = Latencies(recent=10)
    for _ in range(100):
        latencies.add(9.0)
    for number in range(10):
        latencies.add(number / 1000)
    assert (latencies.percentile(50), latencies.percentile(100)) == (4.0, 9.0)


def reconciled(*words: tuple) -> Reconciliation:
    """Return the reconciliation of what is sent (">") and what comes ("<"), with the place and the outcome, a second after each other."""
    tally = Reconciliation()
    for at, (direction, offset, outcome) in enumerate(words):
        if direction == ">":
            tally.acknowledge((0, offset), outcome, at)
        else:
            tally.receive((0, offset), outcome, "updated" if outcome == "snapshot" else "", at)
    return tally


AS_EXPECTED = [
    [(">", 0, "snapshot"), ("<", 0, "snapshot")],
    [("<", 0, "snapshot"), (">", 0, "snapshot")],
    [
        (">", 0, "snapshot"),
        (">", 1, "rejected.unknown_field"),
        ("<", 1, "rejected.unknown_field"),
        ("<", 0, "snapshot"),
    ],
    [(">", 0, "snapshot"), (">", 1, "duplicate"), (">", 2, "dry_run"), ("<", 2, "dry_run"), ("<", 0, "snapshot")],
]


@pytest.mark.parametrize("words", AS_EXPECTED)
def test_what_comes_as_foretold_is_no_flaw_and_not_on_the_way(words):
    tally = reconciled(*words)
    assert (list(tally.flaws()), tally.on_the_way) == ([], 0)
    assert tally.came.total() == tally.sent.total() - tally.sent["duplicate"]


@pytest.mark.parametrize(
    ("words", "flaw"),
    [
        ([(">", 7, "snapshot")], "partition 0, offset 7: expected snapshot, but there is no output"),
        (
            [(">", 7, "snapshot"), ("<", 7, "snapshot"), ("<", 7, "snapshot")],
            "partition 0, offset 7: the outcome snapshot was not expected",
        ),
        (
            [(">", 7, "duplicate"), ("<", 7, "snapshot")],
            "partition 0, offset 7: the outcome snapshot was not expected",
        ),
        (
            [(">", 7, "snapshot"), ("<", 7, "rejected.invalid_state")],
            "partition 0, offset 7: expected snapshot, but the outcome is rejected.invalid_state",
        ),
        (
            [("<", 7, "rejected.unknown_item"), (">", 7, "rejected.invalid_state")],
            "partition 0, offset 7: expected rejected.invalid_state, but the outcome is rejected.unknown_item",
        ),
    ],
)
@pytest.mark.parametrize("others", AS_EXPECTED)
def test_one_record_too_few_too_many_or_other_is_a_flaw(words, flaw, others):
    assert list(reconciled(*others, *words).flaws()) == [flaw]


def test_latency_is_from_the_sending_of_a_record_to_the_reading_of_its_snapshot():
    tally = Reconciliation()
    tally.acknowledge((0, 0), "snapshot", 10.0)
    tally.acknowledge((0, 1), "rejected.unknown_field", 10.0)
    tally.receive((0, 1), "rejected.unknown_field", "", 19.0)
    tally.receive((0, 0), "snapshot", "created", 10.25)
    tally.receive((1, 0), "snapshot", "created", 30.5)  # read before its offset was acknowledged
    tally.acknowledge((1, 0), "snapshot", 30.0)
    assert [tally.latencies.percentile(percent) for percent in (0, 50, 100)] == [250.0, 250.0, 500.0]
    assert [tally.recent.percentile(percent) for percent in (0, 50, 100)] == [250.0, 250.0, 500.0]


def test_a_session_that_is_published_again_is_counted_by_what_happened_alone():
    tally = reconciled(*AS_EXPECTED[0])
    tally.receive(None, "snapshot", "reclassified", 3.0)
    assert (tally.events["reclassified"], tally.came["snapshot"], list(tally.flaws())) == (1, 1, [])


def test_places_are_read_from_the_end_of_an_event_id():
    assert place_of("a/b/12/345") == (12, 345)


def test_what_is_held_does_not_grow_with_the_run():
    tally = Reconciliation()
    for offset in range(20_000):
        tally.acknowledge((0, offset), "duplicate" if offset % 9 == 0 else "snapshot", offset)
        if offset % 9:
            tally.receive((0, offset), "snapshot", "updated", offset + offset % 5 / 1000)
    held = [len(it) for it in (tally._pending, tally._early, tally.wrong, tally.latencies._counts)]
    assert held == [0, 0, 0, 5]
    assert outcomes(tally.came) == "17,777 snapshots, 0 rejections, 0 dry runs"
