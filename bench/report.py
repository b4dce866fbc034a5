"""Render bench/results as the tables and the plot of docs/internals/performance.md: `make bench-report`.

The tables go between the two marks of that page; the plot is docs/internals/throughput.svg.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pygal
from pygal.style import LightStyle

from bench.contestants import CONTESTANTS, PIPE
from bench.load import WORKLOADS
from bench.results import RESULTS, load

PAGE = Path(__file__).parents[1] / "docs" / "internals" / "performance.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
Runs = Mapping[str, Sequence[Mapping[str, float]]]

_FIELDS = {
    "records_a_second": ("records/s", "{:,.0f}"),
    "cpu_microseconds": ("µs of CPU a record", "{:.1f}"),
    "peak_mib": ("peak MiB", "{:,.0f}"),
    "mib": ("MiB", "{:,.0f}"),
    "empty_mib": ("MiB at its start", "{:,.0f}"),
    "restored_a_second": ("records restored a second", "{:,.0f}"),
    "first_record_seconds": ("s from its start to the first record", "{:.1f}"),
    "stopped_seconds": ("s without output after SIGTERM", "{:.1f}"),
    "killed_seconds": ("s without output after SIGKILL", "{:.1f}"),
    "p50_milliseconds": ("p50 ms", "{:,.0f}"),
    "p99_milliseconds": ("p99 ms", "{:,.0f}"),
    "p999_milliseconds": ("p99.9 ms", "{:,.0f}"),
    "cpu_share": ("of a core", "{:.1%}"),
}
"""The name and the format of each figure."""


def rows(what: str, runs: Runs) -> Iterator[str]:
    """Return the table of one measurement: the medians of all figures, and the extremes of the first of several runs."""
    fields = list(next(iter(runs.values()))[0])
    leading = fields[0]
    spread = [leading] if any(len(done) > 1 for done in runs.values()) else []
    head = [_FIELDS[leading][0], *("least to most" for _ in spread), *(_FIELDS[field][0] for field in fields[1:])]
    if leading == "records_a_second" and "worker" in runs:
        head.append("to the worker")
    yield from ("", f"**{what}**", "", f"| | {' | '.join(head)} |", f"| --- |{' --- |' * len(head)}")
    for name, done in runs.items():
        cells = [written(field, _median(done, field)) for field in fields]
        cells[1:1] = [" – ".join(written(field, end(_all(done, field))) for end in (min, max)) for field in spread]
        if len(cells) < len(head):
            cells.append(f"{_median(done, leading) / _median(runs['worker'], leading):.2f}")
        yield f"| {_named(name)} | {' | '.join(cells)} |"


def crossed(head: str, of: Mapping[str, Runs], *fields: str) -> Iterator[str]:
    """Return a table of several measurements, one line each, with the figures of *fields* in a cell."""
    names = list(dict.fromkeys(name for runs in of.values() for name in runs))
    yield from ("", f"| {head} | {' | '.join(map(_named, names))} |", f"| --- |{' --- |' * len(names)}")
    for what, runs in of.items():
        cells = [
            " / ".join(written(field, _median(runs[name], field)) for field in fields) if name in runs else "–"
            for name in names
        ]
        yield f"| {what} | {' | '.join(cells)} |"


def written(field: str, figure: float) -> str:
    """Return a figure in the format of its kind."""
    return _FIELDS[field][1].format(figure)


def tables(documents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Return all tables."""
    first, *others = WORKLOADS
    versions, taken = documents[first]["versions"], {document["date"] for document in documents.values()}
    java, kafka = versions["java"].split()[1], versions["kafka"]
    commits = ", ".join(sorted({document["commit"] for document in documents.values()}))
    yield (
        f"{', '.join(sorted(taken))}, commit {commits}; {documents[first]['machine']};"
        f" Python {versions['python']}, Java {java}, Kafka {kafka}."
    )
    yield from rows(documents[first]["what"], documents[first]["runs"])
    yield from ("", "¹ without validation, rejections, duplicates and `firstSession`.")
    yield from crossed("records/s", {documents[it]["what"]: documents[it]["runs"] for it in others}, "records_a_second")
    latencies = {documents[name]["what"]: documents[name]["runs"] for name in documents if name.startswith("latency-")}
    yield from crossed(
        "ms from send to receipt: p50 / p99 / p99.9, CPU", latencies,
        "p50_milliseconds", "p99_milliseconds", "p999_milliseconds", "cpu_share",
    )  # fmt: skip
    for name in [it for it in ("restore", "gap", "idle") if it in documents]:
        yield from rows(documents[name]["what"], documents[name]["runs"])


def plot(runs: Runs) -> bytes:
    """Return a bar chart of the medians."""
    chart = pygal.HorizontalBar(
        style=LightStyle, js=[], show_legend=False, print_values=True, height=60 + 40 * len(runs), no_prefix=True,
        title="records a second, exactly once unless noted", value_formatter=lambda rate: f"{rate:,.0f}",
    )  # fmt: skip
    shown = [(name, done) for name, done in runs.items() if name != PIPE][::-1]
    chart.x_labels = [name for name, _ in shown]
    chart.add("", [round(_median(done, "records_a_second")) for _, done in shown])
    drawn: bytes = chart.render()
    return drawn


def _all(runs: Sequence[Mapping[str, float]], field: str) -> list[float]:
    return [run[field] for run in runs]


def _median(runs: Sequence[Mapping[str, float]], field: str) -> float:
    return median(_all(runs, field))


def _named(name: str) -> str:
    if name == PIPE:
        return f"{name} (keeps and checks nothing)"
    skips = "" if name.startswith("worker") else "¹"
    return f"{name}{skips}{'' if CONTESTANTS[name].exactly_once else ' (at least once)'}"


def main() -> None:
    """Write the tables and the plot."""
    names = [*WORKLOADS, *sorted(it.stem for it in RESULTS.glob("*.json") if it.stem not in WORKLOADS)]
    documents = {name: load(name) for name in names}
    (PAGE.parent / "throughput.svg").write_bytes(plot(documents["carts"]["runs"]))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join((f"{before}{BEGIN}", "", *tables(documents), "", f"{END}{after}")), encoding="utf-8")


if __name__ == "__main__":
    main()
