"""Commands for this machine: local, kafka."""

import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from worker.cli.group import check_store, extra, kafka_as_errors, main


@main.command()
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=500, show_default=True, help="Records a second."
)
@click.option("--count", type=click.IntRange(min=1), help="How many records; without it, until Ctrl-C.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same records.")
@click.option("--store", default="memory://", show_default=True, help="Where the worker keeps its tables.")
def local(rate: float, count: int | None, seed: int, store: str) -> None:
    """Run the whole thing on this machine: a Kafka, a worker, and a shop that sends; show what comes of it.

    The worker has default settings, and the Kafka goes when the run ends. Exit status 1 when a record did not become
    what it should.
    """
    check_store("--store", store)
    with extra("local"):
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
@click.option("--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Three replicate.")
@click.option("--port", type=click.IntRange(0, 65533), default=9092, show_default=True, help="Of the first; 0: any.")
@click.option("--data", type=click.Path(path_type=Path), help="Its folder; the user's cache by default.")
def kafka(brokers: str, port: int, data: Path | None) -> None:
    """Run a real Apache Kafka on this machine until Ctrl-C; needs neither Docker nor Java."""
    with extra("local"):
        from worker.local.kafka import KafkaFailed, serve  # noqa: PLC0415
    try:
        serve(int(brokers), port, data, click.echo)
    except KafkaFailed as error:
        raise click.ClickException(str(error)) from error
