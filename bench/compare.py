"""The same job side by side: how many records a second, at what cost.

Run it with `make bench`. Each run has a broker of its own with all records in it before the contestant starts; measured
is from the first fifth of the committed offsets to the last record. Contestants take turns, in several rounds; the table
has the median, the least and the most of them.
"""

import asyncio
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from bench.contestants import CONTESTANTS, Contestant
from bench.load import WORKLOADS, Load
from bench.measure import Run, broker, measured, topics

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
@click.option("--workload", type=click.Choice(list(WORKLOADS)), default="carts", show_default=True)
@click.option("--count", default=300_000, show_default=True, help="Records.")
@click.option("--rounds", default=3, show_default=True)
def main(only: tuple[str, ...], workload: str, count: int, rounds: int) -> None:
    """Let the contestants take turns over one workload."""
    what, make = WORKLOADS[workload]
    load = make(count)
    runs: dict[str, list[Run]] = {name: [] for name in only or CONTESTANTS}
    for _ in range(rounds):
        for name, done in runs.items():
            done.append(asyncio.run(run(CONTESTANTS[name], load)))
            console.print(f"{name}: {done[-1].records_a_second:,.0f} records/s")
    console.print(shown(runs, f"{what}, {len(load.records):,} records"))


if __name__ == "__main__":
    main()
