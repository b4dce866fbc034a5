"""Render the summary of a replay as tables."""

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table

from worker.pipeline import outcomes
from worker.pipeline.replay import Replay


def summary(replay: Replay, seconds: float) -> RenderableType:
    """Return tables of sessions by state with their turnover, of the outcomes of records, and the records per second.

    Turnover is the sum of the sessions' totals. Each total is exact; their sum is a double.
    """
    counts = replay.counts()
    return Group(_sessions(replay), _outcomes(counts), rejections(counts), _speed(replay.records, seconds))


def blank_table(title: str, first: str, *numbers: str) -> Table:
    """Return an empty table with a column of names and columns of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", min_width=46)
    table.add_column(first)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _sessions(replay: Replay) -> Table:
    states: Counter[str] = Counter()
    turnover: Counter[str] = Counter()
    for session in replay.sessions():
        states[session["state"]] += 1
        turnover[session["state"]] += session["total"]
    table = blank_table("Sessions", "state", "sessions", "turnover")
    for state, number in states.most_common():
        table.add_row(state, f"{number:,}", f"{turnover[state]:,.2f}")
    table.add_section()
    table.add_row("all", f"{states.total():,}", f"{sum(turnover.values()):,.2f}")
    return table


def _outcomes(counts: Counter[str]) -> Table:
    table = blank_table("Outcomes of the update records", "outcome", "records")
    for outcome, number in counts.most_common():
        if outcome not in outcomes.REJECTED.values():
            table.add_row(outcome.replace("_", " "), f"{number:,}")
    table.add_row("rejected", f"{outcomes.rejections(counts).total():,}")
    return table


def rejections(counts: Counter[str]) -> Table:
    """Return the numbers of rejections by code."""
    table = blank_table("Rejections", "code", "records")
    for code, number in outcomes.rejections(counts).most_common():
        table.add_row(code, f"{number:,}")
    return table


def _speed(records: int, seconds: float) -> str:
    return f"\n{records:,} records in {seconds:.1f} s: {records / seconds:,.0f} records per second on one core"
