"""What a person sees of a live run, in a terminal and in a log, and the report at its end."""

from io import StringIO

import pytest
from rich.console import Console

from worker.local.tally import Reconciliation
from worker.local.view import Progress, View, report


def screen(*, is_terminal=False):
    return Console(file=StringIO(), force_terminal=is_terminal, width=100, color_system=None, legacy_windows=False)


def text_of(console):
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.fixture
def tally():
    found = Reconciliation()
    found.acknowledge((0, 0), "snapshot", 1.0)
    found.acknowledge((0, 1), "snapshot", 1.0)
    found.acknowledge((1, 0), "duplicate", 1.0)
    found.acknowledge((2, 0), "rejected.unknown_item", 1.0)
    found.receive((0, 0), "snapshot", "partially_returned", 1.0271)
    found.receive((2, 0), "rejected.unknown_item", "", 1.5)
    return found


def test_in_a_log_there_is_a_line_every_five_seconds(tally):
    console = screen()
    with View(console, "127.0.0.1:9") as view:
        for seconds in range(11):
            view.show(tally, Progress("running", seconds, lag=None if seconds < 5 else 1234))
    told = "4 records in: 1 snapshot, 1 rejection, 0 dry runs; lag {}; p50 27.1 ms, p99 27.1 ms"
    assert text_of(console).splitlines() == [
        f"{seconds} s, running: {told.format(lag)}" for seconds, lag in ((0, "?"), (5, "1,234"), (10, "1,234"))
    ]


def test_in_a_terminal_all_figures_are_seen(tally):
    console = screen(is_terminal=True)
    with View(console, "127.0.0.1:9") as view:
        view.show(tally, Progress("running", 7.4, lag=3))
    words = " ".join(text_of(console).replace("│", " ").split())
    for told in (
        *("running, 7 s Kafka at 127.0.0.1:9", "records in 4", "snapshots out 1", "rejections 1", "dry runs 0"),
        *("in flight 1", "lag 3", "p50 27.1 ms, p99 27.1 ms", "partially returned 1", "unknown_item 1"),
    ):
        assert told in words


def reported(tally, flaws=(), *, is_whole=True):
    console = screen()
    report(console, tally, 12.34, flaws, is_whole=is_whole)
    return text_of(console).splitlines()


def test_a_whole_run_ends_with_its_counts(tally):
    tally.receive((0, 1), "snapshot", "closed", 1.1)
    *_, latency, last = reported(tally)
    assert latency == "12.3 s, from send to receipt p50 27.1 ms, p99 100.0 ms"
    assert last == "4 records in: 2 snapshots, 1 rejection, 0 dry runs, 1 duplicate: as expected"


def test_a_run_that_was_broken_off_says_what_is_on_its_way(tally):
    assert reported(tally, is_whole=False)[-1].endswith("1 rejection, 0 dry runs; 1 in flight")


def test_flaws_are_named_but_not_all_of_many(tally):
    *_, head, one = reported(tally, ["it is wrong"])
    assert head == "4 records in: 1 snapshot, 1 rejection, 0 dry runs: NOT as expected"
    assert one == "it is wrong"
    lines = reported(tally, [f"flaw {number}" for number in range(1020)])
    assert lines[-2:] == ["flaw 19", "… and 1,000 more"]
