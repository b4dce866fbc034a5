"""The command line: `session-worker`, the same as `python -m worker`."""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

import click
import orjson
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from worker.local import console
from worker.local import offsets as committed
from worker.local.console import NoSuchTopic
from worker.local.offsets import NotAccepted
from worker.local.sender import NoSuchPartition
from worker.local.simulator import simulate as simulated
from worker.local.summary import summary as tables
from worker.pipeline.lines import BadLine, read, written
from worker.pipeline.replay import Replay
from worker.pipeline.schemas import documents
from worker.runtime.access import NotLetIn, Unreachable, check_brokers
from worker.runtime.signals import StopRequest
from worker.runtime.unreadable import unreadable
from worker.settings import Settings, WrongSetting, example_file, in_force, load

_COLLECTED_EVERY = 50_000
"""Objects made and not freed before garbage is looked for: what records are made of has no cycles."""


class BadInput(click.ClickException):
    """What the user gave is wrong; one line says what."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="session-worker")
def main() -> None:
    """Fold session-update records of shops into exact CustomerSessionV2 snapshots."""
    gc.set_threshold(_COLLECTED_EVERY)


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
            written(record, rejections) for published in run.lines(_shown(source, "replaying")) for record in published
        )
        output.flush()
    except BadLine as error:
        output.flush()
        raise BadInput(f"{_name(source)}, {error}") from error
    if summary:
        Console(stderr=True).print(tables(run, time.perf_counter() - started))


@main.command()
@click.argument("source", metavar="FILE", type=click.File("rb"))
@click.option("--topic", help="Where to; by default where the worker reads update records.")
def send(source: BinaryIO, topic: str | None) -> None:
    """Put FILE, update records as JSON Lines (-: standard input), on the input topic."""
    settings = _kafka_settings()
    topic = topic or settings.updates_topic
    with _kafkas_errors():
        try:
            sent = asyncio.run(console.send(settings.connection(), topic, read(_shown(source, "sending"))))
        except (BadLine, NoSuchPartition) as error:
            raise BadInput(f"{_name(source)}, {error}; what is before it was sent") from error
    click.echo(f"{sent:,} records sent to {topic}", err=True)


@main.command()
@click.argument("topic")
@click.option("--out", type=click.File("wb"), default="-", help="Where to write; standard output by default.")
def dump(topic: str, out: BinaryIO) -> None:
    """Write what is committed on TOPIC, up to its end as it is now, as JSON Lines, for send and replay."""
    settings = _kafka_settings()
    with _kafkas_errors():
        open_at = asyncio.run(console.dump(settings.connection(), topic, out))
    out.flush()
    for partition, offset in open_at.items():
        click.echo(f"partition {partition} ends at offset {offset}: there a transaction is open", err=True)


@main.command()
@click.option("--key", help="Of this integrationId alone.")
@click.option("--topic", help="Of which topic; by default that of the snapshots.")
@click.option("--from-beginning", is_flag=True, help="Begin with what is there, not with what comes.")
@click.option("--json", "as_json", is_flag=True, help="Print values as they are, a deleted session's as null.")
def tail(key: str | None, topic: str | None, *, from_beginning: bool, as_json: bool) -> None:
    """Print snapshots as they come, until Ctrl-C: time, what happened, integrationId, state, total, updateCount."""
    settings = _kafka_settings()

    def show(record: console.Fetched) -> None:
        click.echo((b"null" if record.value is None else record.value) if as_json else console.line_of(record))

    following = console.tail(
        settings.connection(),
        topic or settings.sessions_topic,
        show,
        None if key is None else key.encode(),
        from_beginning=from_beginning,
    )
    with _kafkas_errors(), suppress(KeyboardInterrupt):
        asyncio.run(following)


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
    settings = _settings()
    stop = StopRequest()
    stop.catch()
    try:
        from worker.runtime import process  # noqa: PLC0415 (Faust takes a second to import)

        process.configure_logging()
        process.run(settings, stop)
    except Exception as error:
        raise click.ClickException(str(error) or repr(error)) from error
    finally:
        stop.ignore()


@main.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="schemas", show_default=True)
def schemas(out: Path) -> None:
    """Write the JSON Schemas and the AsyncAPI document of every topic into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (out / name).write_text(text, encoding="utf-8")
        click.echo(out / name)


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
    with _extra():
        from worker.local.kafka import KafkaFailed  # noqa: PLC0415
        from worker.local.live import LiveFailed, Wish, live  # noqa: PLC0415
    with _kafkas_errors():
        try:
            sys.exit(live(Wish(rate, count, seed, store), Console()))
        except (KafkaFailed, LiveFailed) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


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


@main.group()
def offsets() -> None:
    """Judge the offsets that the workers' group has committed."""


@offsets.command()
@click.option("--yes", is_flag=True, help="Accept them; without it nothing is changed, and the exit status is 1.")
def accept(*, yes: bool) -> None:
    """Show what the offsets that no worker committed would skip or fold again; with --yes, let workers go on from them.

    All workers must be stopped. To choose another offset use Kafka's kafka-consumer-groups.sh --reset-offsets before.
    """
    settings = _kafka_settings()
    connection, group = settings.connection(), settings.app_id
    with _kafkas_errors():
        findings = asyncio.run(committed.review(connection, group, settings.topology(None)))
        for line in committed.summary(group, findings):
            click.echo(line)
        due = [finding for finding in findings if finding.accepted is not None]
        if yes and due:
            asyncio.run(committed.accept(connection, group, due))
            click.echo(f"{len(due)} offsets are accepted.")
    wrong = sum(finding.is_wrong for finding in findings)
    if wrong:
        raise click.ClickException(f"{wrong} offsets cannot be accepted: set other ones")
    if due and not yes:
        raise click.ClickException("nothing was changed; session-worker offsets accept --yes accepts these offsets")


@main.command()
@click.option("--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Three replicate.")
@click.option("--port", type=click.IntRange(0, 65533), default=9092, show_default=True, help="Of the first; 0: any.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Its folder; the user's cache by default."
)
def kafka(brokers: str, port: int, data: Path | None) -> None:
    """Run a real Apache Kafka on this machine until Ctrl-C; needs neither Docker nor Java."""
    with _extra():
        from worker.local.kafka import KafkaFailed, serve  # noqa: PLC0415
    try:
        serve(int(brokers), port, data, click.echo)
    except KafkaFailed as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _extra() -> Iterator[None]:
    """Say how to get what a local Kafka needs; it is not installed with a worker."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'session-worker[local]'") from error


def _kafka_settings() -> Settings:
    """Read the settings; fail with one line that says what is wrong when their brokers cannot be reached."""
    settings = _settings()
    with _kafkas_errors():
        asyncio.run(check_brokers(settings))
    return settings


def _settings() -> Settings:
    try:
        return load()
    except WrongSetting as error:
        raise BadInput(str(error)) from error


@contextmanager
def _kafkas_errors() -> Iterator[None]:
    """Say in one line what keeps Kafka from being used; aiokafka's log would say it in many."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        yield
    except (KafkaError, NoSuchTopic, NotAccepted, NotLetIn, Unreachable) as error:
        raise click.ClickException(str(unreadable(error) or error)) from error
    except Exception as error:
        if damage := unreadable(error):
            raise click.ClickException(str(damage)) from error
        raise


def _name(source: BinaryIO) -> str:
    return getattr(source, "name", "<stdin>")


def _shown(source: BinaryIO, doing: str) -> Iterable[bytes]:
    """Read lines, with a progress bar on standard error when that is a terminal and the size is known."""
    if not sys.stderr.isatty() or not source.seekable():
        return source
    size = source.seek(0, 2)
    source.seek(0)
    return _with_bar(source, size, doing)


def _with_bar(source: IO[bytes], size: int, doing: str) -> Iterator[bytes]:
    columns = TextColumn(doing), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(doing, total=size)
        read = 0
        for number, line in enumerate(source):
            yield line
            read += len(line)
            if number % 1024 == 0:
                progress.update(task, completed=read)
        progress.update(task, completed=size)
