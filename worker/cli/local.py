"""Commands for this machine: local, kafka."""

import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from worker.cli.group import check_store, installed_extra, kafka_as_errors, main


@main.command()
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=500, show_default=True, help="Records per second."
)
@click.option("--count", type=click.IntRange(min=1), help="Number of records; by default until Ctrl-C.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed; equal seeds generate equal records.")
@click.option("--store", default="memory://", show_default=True, help="Where the worker keeps its tables.")
def local(rate: float, count: int | None, seed: int, store: str) -> None:
    """Run Kafka, a worker and a simulated shop here.

    The command shows the records in, the snapshots out and the latency. The worker has default settings. The data of
    Kafka is deleted at the end of the run. The exit status is 1 if an output differs from the expected one.
    """
    check_store("--store", store)
    with installed_extra("local"):
        from worker.local.kafka import KafkaFailed  # noqa: PLC0415
        from worker.local.live import LiveFailed, RunOptions, live  # noqa: PLC0415
    with kafka_as_errors():
        try:
            sys.exit(live(RunOptions(rate, count, seed, store), Console()))
        except (KafkaFailed, LiveFailed) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


@main.command()
@click.option(
    "--brokers",
    type=click.Choice(["1", "3"]),
    default="1",
    show_default=True,
    help="Number of brokers; three replicate topics.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65533),
    default=9092,
    show_default=True,
    help="Port of the first broker; 0: any free port.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Data folder; by default in the user's cache.")
def kafka(brokers: str, port: int, data: Path | None) -> None:
    """Run Apache Kafka here until Ctrl-C.

    The command needs neither Docker nor Java.
    """
    with installed_extra("local"):
        from worker.local.kafka import KafkaFailed, serve  # noqa: PLC0415
    try:
        serve(int(brokers), port, data, click.echo)
    except KafkaFailed as error:
        raise click.ClickException(str(error)) from error
