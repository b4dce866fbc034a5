"""Compare contestants on the same job: `make bench`, or `python -m bench` with measurements and contestants.

Each measurement has its own broker. In measurements of several rounds the contestants alternate.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

import click

from bench.contestants import CONTESTANTS, Contestant
from bench.idle import idle
from bench.latency import latency
from bench.load import WORKLOADS, carts
from bench.report import rows
from bench.restarts import gap, restore
from bench.results import Measured, save
from bench.throughput import throughput


class Part(NamedTuple):
    """A measurement: its name, its contestants, its function, and the number of runs."""

    what: str
    contestants: tuple[str, ...]
    measure: Callable[[Contestant], Coroutine[Any, Any, Measured]]
    rounds: int = 1


_STEADY = partial(carts, 50_000, sessions=5_000)
_QUICK = (
    "worker",
    "Kafka Streams, RocksDB",
    "Kafka Streams, RocksDB, commits each 10 ms",
    "Quix Streams, commits each 5 s",
    "Quix Streams, commits each 0.1 s",
)
_OURS_AND_THEIRS = ("worker", "Kafka Streams, RocksDB")

PARTS = {
    **{
        name: Part(
            f"{it.records:,} records; {it.what}",
            it.contestants,
            partial(throughput, partial(it.make, it.records)),
            it.rounds,
        )
        for name, it in WORKLOADS.items()
    },
    "restore": Part(
        "300,000 snapshots of 5,000 sessions, into an empty folder",
        ("worker", "worker, RocksDB", "Kafka Streams, memory", "Kafka Streams, RocksDB"),
        partial(restore, partial(carts, 300_000, sessions=5_000)),
    ),
    "gap": Part("1,000 records/s, and a restart", _OURS_AND_THEIRS, partial(gap, _STEADY)),
    **{
        f"latency-{rate}": Part(f"{rate:,} records/s", _QUICK, partial(latency, _STEADY, rate))
        for rate in (100, 1_000, 10_000)
    },
    "latency-asking": Part(
        "500 records/s, each asks whether it is its profile's first session",
        ("worker",),
        partial(latency, partial(carts, 50_000, sessions=50_000, profiles=1_000), 500),
    ),
    "idle": Part("200 empty partitions", _OURS_AND_THEIRS, partial(idle, 200)),
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--only", multiple=True, type=click.Choice(list(CONTESTANTS)), help="Of the contestants.")
@click.option("--rounds", type=int, help="By default as many as the part needs.")
@click.option("--save", "is_saved", is_flag=True, help="Keep the figures in bench/results.")
def main(*, parts: tuple[str, ...], only: tuple[str, ...], rounds: int | None, is_saved: bool) -> None:
    """Run the contestants in turn; without PARTS, all measurements."""
    for name in parts or PARTS:
        part, began = PARTS[name], time.monotonic()
        runs: dict[str, list[Measured]] = {it: [] for it in only or part.contestants}
        for _ in range(rounds or part.rounds):
            for contestant, done in runs.items():
                done.append(asyncio.run(part.measure(CONTESTANTS[contestant])))
                click.echo(f"{name}, {contestant}: {done[-1]}")
        for line in rows(part.what, {it: [run._asdict() for run in done] for it, done in runs.items()}):
            click.echo(line)
        click.echo(f"({time.monotonic() - began:.0f} s)")
        if is_saved:
            save(name, part.what, runs)


if __name__ == "__main__":
    main()
