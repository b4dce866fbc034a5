"""The command line: `session-worker`, the same as `python -m worker`."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from worker.local.simulator import simulate as simulated
from worker.local.summary import summary as tables
from worker.pipeline.lines import BadLine, written
from worker.pipeline.replay import Replay
from worker.pipeline.schemas import documents
from worker.settings import Settings, WrongSetting, example_file, in_force, load


class BadInput(click.ClickException):
    """What the user gave is wrong; one line says what."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="session-worker")
def main() -> None:
    """Fold session-update records of shops into exact CustomerSessionV2 snapshots."""


@main.command()
@click.argument("source", metavar="INPUT", type=click.File("rb"))
@click.option("--output", type=click.File("wb"), default="-", help="Where to write; standard output by default.")
@click.option("--summary", is_flag=True, help="Print what came of it to standard error.")
def replay(source: BinaryIO, output: BinaryIO, *, summary: bool) -> None:
    """Fold INPUT, update records as JSON Lines (-: standard input), without Kafka: the same code, the same bytes."""
    settings = _settings()
    run = Replay(settings.rules(), settings.v1_topic)
    rejections = run.topology.rejections
    started = time.perf_counter()
    try:
        output.writelines(
            written(record, rejections) for published in run.lines(_shown(source)) for record in published
        )
        output.flush()
    except BadLine as error:
        output.flush()
        raise BadInput(f"{getattr(source, 'name', '<stdin>')}, {error}") from error
    if summary:
        Console(stderr=True).print(tables(run, time.perf_counter() - started))


@main.command()
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many update records.")
@click.option("--seed", type=int, required=True, help="The same seed gives the same records.")
@click.option("--out", type=click.File("wb"), default="-", help="Where to write; standard output by default.")
def simulate(count: int, seed: int, out: BinaryIO) -> None:
    """Write a retailer's day of update records as JSON Lines, for replay."""
    out.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in simulated(count, seed))


@main.command()
def run() -> None:
    """Run a worker until Ctrl-C or SIGTERM: update records in, snapshots out, exactly once."""
    from worker.runtime import process  # noqa: PLC0415 (Faust takes a second to import)

    process.configure_logging()
    try:
        process.run(_settings())
    except process.FATAL as error:
        raise click.ClickException(str(error) or repr(error)) from error


@main.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="schemas", show_default=True)
def schemas(out: Path) -> None:
    """Write the JSON Schemas and the AsyncAPI document of every topic into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (out / name).write_text(text, encoding="utf-8")
        click.echo(out / name)


@main.command()
@click.option("--example", is_flag=True, help="Print a TOML file to start from instead.")
def settings(*, example: bool) -> None:
    """Print the settings in force and where each comes from; secrets are masked."""
    if example:
        click.echo(example_file())
        return
    rows = [*in_force(_settings())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@main.command()
@click.option("--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Three replicate.")
@click.option("--port", type=click.IntRange(0, 65533), default=9092, show_default=True, help="Of the first; 0: any.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Its folder; the user's cache by default."
)
def kafka(brokers: str, port: int, data: Path | None) -> None:
    """Run a real Apache Kafka on this machine until Ctrl-C; needs neither Docker nor Java."""
    try:
        from worker.local.kafka import KafkaFailed, serve  # noqa: PLC0415 (what it needs is an extra)
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'session-worker[local]'") from error
    try:
        serve(int(brokers), port, data, click.echo)
    except KafkaFailed as error:
        raise click.ClickException(str(error)) from error


def _settings() -> Settings:
    try:
        return load()
    except WrongSetting as error:
        raise BadInput(str(error)) from error


def _shown(source: BinaryIO) -> Iterable[bytes]:
    """Read lines, with a progress bar on standard error when that is a terminal and the size is known."""
    if not sys.stderr.isatty() or not source.seekable():
        return source
    size = source.seek(0, 2)
    source.seek(0)
    return _with_bar(source, size)


def _with_bar(source: IO[bytes], size: int) -> Iterator[bytes]:
    columns = TextColumn("replaying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("replay", total=size)
        read = 0
        for number, line in enumerate(source):
            yield line
            read += len(line)
            if number % 1024 == 0:
                progress.update(task, completed=read)
        progress.update(task, completed=size)
