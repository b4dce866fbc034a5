"""The same job side by side: how many records a second, at what cost.

Run it with `make bench`. Each run has a broker of its own with all records in it before the contestant starts; measured
is from the first fifth of the committed offsets to the last tenth. Contestants take turns, in several rounds; the table
has the median, the least and the most of them.
"""

import asyncio
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from bench.contestants import ALL_WORKLOADS, CONTESTANTS, Contestant
from bench.load import WORKLOADS, Load
from bench.measure import Run, broker, measured, topics
from bench.results import save

console = Console()


async def run(contestant: Contestant, load: Load) -> Run:
    """Let one contestant process all records, or the first of them where all would take an hour."""
    load = Load(load.records[: round(len(load.records) * contestant.share)])
    with broker() as kafka:
        await topics(kafka)
        await load.send(kafka)
        processes = [contestant.start(kafka) for _ in range(contestant.processes)]
        try:
            return await measured(kafka, contestant.group, len(load.records), processes)
        finally:
            for process in processes:
                process.stop()


def shown(runs: dict[str, list[Run]], title: str) -> Table:
    """Make the table: the median, with the least and the most, and the ratio of the medians to the worker's."""
    table = Table(title=title, title_justify="left")
    for column in ("", "records/s", "least", "most", "µs of CPU a record", "MiB", "to the worker"):
        table.add_column(column, justify="left" if not column else "right")
    base = median(run.records_a_second for run in runs["worker"]) if "worker" in runs else None
    for name, measured_runs in runs.items():
        rates = [run.records_a_second for run in measured_runs]
        table.add_row(
            name,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            f"{median(run.cpu_microseconds for run in measured_runs):.1f}",
            f"{max(run.peak_mib for run in measured_runs):,.0f}",
            "" if base is None else f"{median(rates) / base:.2f}",
        )
    return table


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice(list(CONTESTANTS)), help="Of the contestants; may be repeated."
)
@click.option("--workload", type=click.Choice(list(WORKLOADS)), help="Without it: all, the first one with everybody.")
@click.option("--count", type=int, help="Records; by default as many as the workload takes.")
@click.option("--rounds", default=3, show_default=True, help="Of the first workload; the others have one.")
@click.option("--save", "is_saved", is_flag=True, help="Keep the figures in bench/results.")
def main(*, only: tuple[str, ...], workload: str | None, count: int | None, rounds: int, is_saved: bool) -> None:
    """Let the contestants take turns."""
    for place, name in enumerate([workload] if workload else WORKLOADS):
        kind = WORKLOADS[name]
        load = kind.make(count or kind.records)
        others = ALL_WORKLOADS if kind.is_for_all else [it for it in ALL_WORKLOADS if it.startswith("worker")]
        chosen = only or (list(CONTESTANTS) if place == 0 and not workload else others)
        runs: dict[str, list[Run]] = {it: [] for it in chosen}
        for _ in range(rounds if place == 0 else 1):
            for contestant, done in runs.items():
                done.append(asyncio.run(run(CONTESTANTS[contestant], load)))
                console.print(f"{contestant}: {done[-1].records_a_second:,.0f} records/s")
        console.print(shown(runs, f"{kind.what}, {len(load.records):,} records"))
        if is_saved:
            console.print(f"kept in {save(name, kind.what, len(load.records), runs)}")


if __name__ == "__main__":
    main()
