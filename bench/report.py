"""Turns bench/results into the README's table and a plot: `make bench-report`.

The table goes between the two marks of the README; the plot is bench/results/throughput.svg.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pygal
from pygal.style import LightStyle

from bench.contestants import CONTESTANTS, PIPE
from bench.load import WORKLOADS
from bench.measure import Run
from bench.results import RESULTS, load

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def tables(documents: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Write the lines of the README's tables: all contestants over the first workload, then the other workloads."""
    first, *others = documents.values()
    versions = first["versions"]
    java, kafka = versions["java"].split()[1], versions["kafka"]
    yield f"{first['date']}, commit {first['commit']}; {first['machine']}; Python {versions['python']}, Java {java}, Kafka {kafka}."
    yield f"{first['records']:,} records; {first['workload']}:"
    yield from ("", "| | records/s | least to most | µs of CPU a record | peak MiB | to the worker |")
    yield "| --- | --- | --- | --- | --- | --- |"
    base = _median(first["runs"]["worker"])
    for name, runs in first["runs"].items():
        rates = [run.records_a_second for run in runs]
        cpu, peak = median(run.cpu_microseconds for run in runs), max(run.peak_mib for run in runs)
        yield (
            f"| {name}{_notes(name)} | {_median(runs):,.0f} | {min(rates):,.0f} – {max(rates):,.0f}"
            f" | {cpu:.1f} | {peak:,.0f} | {_median(runs) / base:.2f} |"
        )
    names = list(dict.fromkeys(name for it in others for name in it["runs"]))
    yield from ("", f"| records/s | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}")
    for it in others:
        rates_of = [f"{_median(it['runs'][name]):,.0f}" if name in it["runs"] else "–" for name in names]
        yield f"| {it['workload']} | {' | '.join(rates_of)} |"


def plot(runs: dict[str, list[Run]]) -> bytes:
    """Draw the medians as bars."""
    chart = pygal.HorizontalBar(
        style=LightStyle, js=[], show_legend=False, print_values=True, height=60 + 40 * len(runs), no_prefix=True,
        title="records a second, exactly once where not said otherwise", value_formatter=lambda rate: f"{rate:,.0f}",
    )  # fmt: skip
    shown = [(name, done) for name, done in runs.items() if name != PIPE][::-1]
    chart.x_labels = [name for name, _ in shown]
    chart.add("", [round(_median(done)) for _, done in shown])
    drawn: bytes = chart.render()
    return drawn


def _median(runs: Sequence[Run]) -> float:
    return median(run.records_a_second for run in runs)


def _notes(name: str) -> str:
    contestant = CONTESTANTS[name]
    notes = [] if contestant.exactly_once else ["at least once"]
    if name == PIPE:
        notes.append("keeps and checks nothing")
    elif not name.startswith("worker"):
        notes.append("no validation, rejections, duplicates, firstSession")
    return f" ({'; '.join(notes)})" if notes else ""


def main() -> None:
    """Write both."""
    documents = {name: load(path) for name in WORKLOADS if (path := RESULTS / f"{name}.json").exists()}
    (RESULTS / "throughput.svg").write_bytes(plot(documents["carts"]["runs"]))
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text("\n".join((f"{before}{BEGIN}", "", *tables(documents), "", f"{END}{after}")), encoding="utf-8")


if __name__ == "__main__":
    main()
