"""Show a live run: as a changing view in a terminal, else as a line at intervals; at its end the result."""

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.local.tally import Latencies, Reconciliation, numbered, outcomes
from worker.pipeline import outcomes as names
from worker.tools.summary import blank_table, rejections

LINE_SECONDS = 5
FLAWS_SHOWN = 20


class Progress(NamedTuple):
    """The state of a live run, without its counts."""

    doing: str
    seconds: float
    lag: int | None
    """Number of records from the committed offsets of the worker's group to the end of the input topic; None: unknown."""


class View:
    """The view of a live run; it is visible during the `with`."""

    def __init__(self, screen: Console, address: str) -> None:
        self._screen = screen
        self._address = address
        self._live = Live(console=screen, auto_refresh=False, transient=True) if screen.is_terminal else None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, tally: Reconciliation, now: Progress) -> None:
        """Show the progress of the run."""
        if self._live is not None:
            self._live.update(_picture(tally, now, self._address), refresh=True)
        elif now.seconds >= self._next_line:
            self._next_line = now.seconds + LINE_SECONDS
            self._screen.print(_line(tally, now), highlight=False, soft_wrap=True)


def report(screen: Console, tally: Reconciliation, seconds: float, flaws: Sequence[str], *, is_whole: bool) -> None:
    """Print the result of a run; in an interrupted run, records without an output are not flaws."""
    screen.print(_tables(tally))
    screen.print(f"{seconds:.1f} s, from send to receipt {_latency(tally.latencies)}", highlight=False)
    counts = f"{numbered(tally.sent.total(), 'record')} in: {outcomes(tally.came)}"
    if flaws:
        more = [f"… and {len(flaws) - FLAWS_SHOWN:,} more"] if len(flaws) > FLAWS_SHOWN else []
        verdict = Text("\n".join([f"{counts}: NOT as expected", *flaws[:FLAWS_SHOWN], *more]), style="red")
    elif is_whole:
        verdict = Text(f"{counts}, {numbered(tally.sent[names.DUPLICATE], 'duplicate')}: as expected", style="green")
    else:
        verdict = Text(f"{counts}; {tally.on_the_way:,} in flight")
    screen.print(verdict, soft_wrap=True)


def _line(tally: Reconciliation, now: Progress) -> str:
    lag = "?" if now.lag is None else f"{now.lag:,}"
    flow = f"{numbered(tally.sent.total(), 'record')} in: {outcomes(tally.came)}"
    return f"{now.seconds:.0f} s, {now.doing}: {flow}; lag {lag}; {_latency(tally.recent)}"


def _picture(tally: Reconciliation, now: Progress, address: str) -> RenderableType:
    figures = Table.grid(padding=(0, 3))
    figures.add_row("records in", f"{tally.sent.total():,}")
    figures.add_row("snapshots out", f"{tally.came[names.SNAPSHOT]:,}")
    figures.add_row("rejections", f"{names.rejections(tally.came).total():,}")
    figures.add_row("dry runs", f"{tally.came[names.DRY_RUN]:,}")
    figures.add_row("in flight", f"{tally.on_the_way:,}")
    figures.add_row("lag", "?" if now.lag is None else f"{now.lag:,}")
    figures.add_row("from send to receipt", _latency(tally.recent))
    title = Text.assemble((f"{now.doing}, {now.seconds:.0f} s", "bold"), f"   Kafka at {address}   Ctrl-C ends the run")
    return Group(title, "", figures, "", _tables(tally))


def _tables(tally: Reconciliation) -> RenderableType:
    events = blank_table("Snapshots", "event", "snapshots")
    for event, number in tally.events.most_common():
        events.add_row(event.replace("_", " "), f"{number:,}")
    beside = Table.grid(padding=(0, 4))
    beside.add_row(events, rejections(tally.came))
    return beside


def _latency(latencies: Latencies) -> str:
    p50, p99 = latencies.percentile(50), latencies.percentile(99)
    return "p50 –, p99 –" if p50 is None else f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
