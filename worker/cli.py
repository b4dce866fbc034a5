"""The command line: `session-worker`, the same as `python -m worker`.

Every command ends the same way (`_Commands`): what it cannot do is one line on standard error and a status that is not 0.

| status | when |
| --- | --- |
| 0 | all is done; `run`, `tail` and `kafka`: a signal has ended them |
| 1 | Kafka, an output or this machine failed |
| 2 | a setting, an option or an input is wrong; nothing that follows it was done |
| 128 + n | signal n has ended the command: 129 SIGHUP, 130 SIGINT, 143 SIGTERM; 141: the reader of its output has ended |
"""

import gc
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from worker.connection import OtherCluster
from worker.local import console
from worker.local import offsets as committed
from worker.local.console import NoSuchTopic, NotRead
from worker.local.files import BadFile, Input, opened_input, opened_output, write_files
from worker.local.offsets import NotAccepted
from worker.local.sender import NotSent
from worker.local.simulator import simulate as simulated
from worker.local.summary import summary as tables
from worker.pipeline.lines import BadLine, read, written
from worker.pipeline.replay import Replay
from worker.pipeline.schemas import documents
from worker.pipeline.topology import Topology
from worker.runtime.access import NotLetIn, Unreachable, check_brokers, watched
from worker.runtime.cluster import Cluster
from worker.runtime.unreadable import unreadable
from worker.settings import PREFIX, Settings, WrongSetting, example_file, in_force, load
from worker.signals import Ending, ending_signals

T = TypeVar("T")

_COLLECTED_EVERY = 50_000
"""Objects made and not freed before garbage is looked for: what records are made of has no cycles."""
_UNTIL_A_SIGNAL = {"run", "tail", "kafka"}
_NO_READER_STATUS = 128 + 13
"""The exit status of a command that SIGPIPE ends, as shells show it."""


class BadInput(click.ClickException):
    """What the user gave is wrong; one line says what."""

    exit_code = 2


class _Commands(click.Group):
    """The commands, of which none ends with a traceback because of a signal or because its output cannot be written."""

    def main(self, *arguments: Any, **keywords: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            status = super().main(*arguments, **{**keywords, "standalone_mode": False})
        except click.ClickException as error:
            status = _shown_error(error)
        except click.Abort:
            status = 128 + signal.SIGINT
        except SystemExit as end:  # click's own, where nobody reads the output
            status = _NO_READER_STATUS if isinstance(end.__context__, BrokenPipeError) else end.code
        except OSError as error:
            status = _shown_error(click.ClickException(_unwritten(error)))
        failures = [*filter(None, map(_flush_failure, (sys.stdout, sys.stderr)))]
        if failures and not status:
            is_unread = isinstance(failures[0], BrokenPipeError)
            status = _NO_READER_STATUS if is_unread else _shown_error(click.ClickException(_unwritten(failures[0])))
        sys.exit(status)

    def invoke(self, ctx: click.Context) -> Any:
        with ending_signals(ctx.obj) as ctx.obj:
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise click.exceptions.Exit(
                    0 if ctx.invoked_subcommand in _UNTIL_A_SIGNAL else ctx.obj.status
                ) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="session-worker")
@click.pass_obj
def main(ending: Ending) -> None:
    """Fold session-update records of shops into exact CustomerSessionV2 snapshots."""
    ending.begin()
    gc.set_threshold(_COLLECTED_EVERY)


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--output", default="-", help="Where to write; standard output by default.")
@click.option("--summary", is_flag=True, help="Print what came of it to standard error.")
def replay(source: str, output: str, *, summary: bool) -> None:
    """Fold INPUT, update records as JSON Lines (-: standard input), without Kafka: the same code, the same bytes.

    INPUT may be compressed with gzip or zstd. A line that is not in the form ends the command with status 2: standard
    output has what the lines before it publish, an output file stays as it was.
    """
    settings = _settings()
    run = Replay(settings.rules(), settings.v1_topic)
    rejections = run.topology.rejections
    started = time.perf_counter()
    with _files(), opened_input(source) as file, opened_output(output, file) as out:
        try:
            out.writelines(
                written(record, rejections)
                for published in run.lines(_shown(file, "replaying"))
                for record in published
            )
        except BadLine as error:
            out.flush()
            raise BadInput(f"{file.name}, {error}") from error
    if summary:
        Console(stderr=True).print(tables(run, time.perf_counter() - started))


@main.command()
@click.argument("source", metavar="FILE")
@click.option("--topic", help="Where to; by default where the worker reads update records.")
@click.option("--split", is_flag=True, help="Make a record of each element of a value that is a JSON array or NDJSON.")
@click.pass_obj
def send(ending: Ending, source: str, topic: str | None, *, split: bool) -> None:
    """Put FILE, update records as JSON Lines (-: standard input), on the input topic.

    FILE may be compressed with gzip or zstd. A line that is not in the form, or a record that the topic refuses, ends the
    command with status 2; nothing that follows it in its partition is sent.
    """
    with _files(), _kafkas_errors(), opened_input(source) as file:
        settings = _kafka_settings(ending)
        topic = topic or settings.updates_topic
        lines = read(_shown(file, "sending"), is_split=split)
        try:
            sent = _run_watched(ending, settings, partial(console.send, settings.connection(), topic, lines))
        except (NotRead, NotSent) as error:
            raise BadInput(f"{file.name}, {error}") from error
    click.echo(f"{sent:,} records sent to {topic}", err=True)


@main.command()
@click.argument("topic")
@click.option("--out", default="-", help="Where to write; standard output by default.")
@click.pass_obj
def dump(ending: Ending, topic: str, out: str) -> None:
    """Write what is committed on TOPIC, up to its end as it is now, as JSON Lines, for send and replay."""
    settings = _kafka_settings(ending)
    with _files(), _kafkas_errors(), opened_output(out) as file:
        open_at = _run_watched(ending, settings, partial(console.dump, settings.connection(), topic, file))
    for partition, offset in open_at.items():
        click.echo(f"partition {partition} ends at offset {offset}: there a transaction is open", err=True)


@main.command()
@click.option("--key", help="Of this integrationId alone.")
@click.option("--topic", help="Of which topic; by default that of the snapshots.")
@click.option("--from-beginning", is_flag=True, help="Begin with what is there, not with what comes.")
@click.option("--json", "as_json", is_flag=True, help="Print values as they are, a deleted session's as null.")
@click.pass_obj
def tail(ending: Ending, key: str | None, topic: str | None, *, from_beginning: bool, as_json: bool) -> None:
    """Print snapshots as they come, until Ctrl-C: time, what happened, integrationId, state, total, updateCount."""
    settings = _kafka_settings(ending)
    topic = topic or settings.sessions_topic

    def show(record: console.Fetched) -> None:
        click.echo((b"null" if record.value is None else record.value) if as_json else console.line_of(record))

    following = partial(
        console.tail,
        settings.connection(),
        topic,
        show,
        None if key is None else key.encode(),
        note=partial(click.echo, err=True),
        tool=settings.tool,
        is_keyed=console.is_keyed(settings.topology(None), topic),
        from_beginning=from_beginning,
    )
    with _kafkas_errors():
        _run_watched(ending, settings, following)


@main.command()
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many update records.")
@click.option("--seed", type=int, required=True, help="The same seed gives the same records.")
@click.option("--out", default="-", help="Where to write; standard output by default.")
def simulate(count: int, seed: int, out: str) -> None:
    """Write a retailer's day of update records as JSON Lines, for replay."""
    with _files(), opened_output(out) as file:
        file.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in simulated(count, seed))


@main.command()
@click.pass_obj
def run(ending: Ending) -> None:
    """Run a worker until Ctrl-C or SIGTERM: update records in, snapshots out, exactly once."""
    settings = _settings()
    _check_store(f"{PREFIX}STORE", settings.store)
    ending.stop_seconds = settings.stop_seconds
    ending.defer()
    try:
        from worker.runtime import process  # noqa: PLC0415 (Faust takes a second to import)

        process.configure_logging()
        process.run(settings, ending)
    except Exception as error:
        raise click.ClickException(str(error) or repr(error)) from error
    finally:
        ending.ignore()


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default="schemas", show_default=True)
def schemas(out: Path) -> None:
    """Write the JSON Schemas and the AsyncAPI document of every topic into a folder."""
    with _files():
        for file in write_files(out, documents()):
            click.echo(file)


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
    _check_store("--store", store)
    with _extra("local"):
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
@click.pass_obj
def accept(ending: Ending, *, yes: bool) -> None:
    """Show what the offsets that no worker committed would skip or fold again; with --yes, let workers go on from them.

    All workers must be stopped. To choose another offset use Kafka's kafka-consumer-groups.sh --reset-offsets before.
    """
    settings = _kafka_settings(ending)
    connection, group, topology = settings.connection(), settings.app_id, settings.topology(None)
    with _kafkas_errors():
        stream = _run_watched(ending, settings, partial(_stream, connection, topology))
        findings = _run_watched(ending, settings, partial(committed.review, connection, group, topology, stream))
        for line in committed.summary(group, findings):
            click.echo(line)
        due = [finding for finding in findings if finding.accepted is not None]
        if yes and due:
            _run_watched(ending, settings, partial(committed.accept, connection, group, due, stream))
            click.echo(f"{len(due)} offsets are accepted.")
    wrong = sum(finding.is_wrong for finding in findings)
    if wrong:
        raise click.ClickException(f"{wrong} offsets cannot be accepted: set other ones")
    if due and not yes:
        raise click.ClickException("nothing was changed; session-worker offsets accept --yes accepts these offsets")


@main.command()
@click.option("--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Three replicate.")
@click.option("--port", type=click.IntRange(0, 65533), default=9092, show_default=True, help="Of the first; 0: any.")
@click.option("--data", type=click.Path(path_type=Path), help="Its folder; the user's cache by default.")
def kafka(brokers: str, port: int, data: Path | None) -> None:
    """Run a real Apache Kafka on this machine until Ctrl-C; needs neither Docker nor Java."""
    with _extra("local"):
        from worker.local.kafka import KafkaFailed, serve  # noqa: PLC0415
    try:
        serve(int(brokers), port, data, click.echo)
    except KafkaFailed as error:
        raise click.ClickException(str(error)) from error


async def _stream(connection: Mapping[str, Any], topology: Topology) -> bytes:
    """Read which cluster and topics a worker's state is built from now (rule L7 of pipeline/ledger.py)."""
    async with Cluster(connection) as cluster:
        names = topology.state().values()
        return (await cluster.identity(names)).stream(names)


def _shown_error(error: click.ClickException) -> int:
    """Print an error, if standard error can be written, and return the exit status."""
    with suppress(OSError):
        error.show()
    return error.exit_code


def _unwritten(error: OSError) -> str:
    return f"{error.filename or 'standard output'}: cannot be written: {error.strerror}"


def _flush_failure(stream: Any) -> OSError | None:
    """Flush a stream at the end; what it cannot write goes nowhere, so that Python does not try again."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


@contextmanager
def _files() -> Iterator[None]:
    """Say in one line what keeps a file from being read or written."""
    try:
        yield
    except BadFile as error:
        raise (BadInput if error.is_input else click.ClickException)(str(error)) from error


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say how to get what is not installed with every worker."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise BadInput(f"the package {package} is missing: pip install 'session-worker[{name}]'") from error


def _check_store(option: str, store: str) -> None:
    """Refuse tables on disk, before anything is opened, if the package for them is not installed."""
    if store.startswith("rocksdb"):
        try:
            with _extra("rocksdb"):
                import_module("worker.runtime.disk")
        except BadInput as error:
            raise BadInput(f"{option}={store}: {error.message}") from error


def _kafka_settings(ending: Ending) -> Settings:
    """Read the settings; fail with one line that says what is wrong when their brokers cannot be reached."""
    settings = _settings()
    with _kafkas_errors():
        ending.run(partial(check_brokers, settings))
    return settings


def _run_watched(ending: Ending, settings: Settings, function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine that uses Kafka, until a signal, or until brokers have refused the login for a minute."""
    return ending.run(lambda: watched(function(), settings))


def _settings() -> Settings:
    try:
        return load()
    except WrongSetting as error:
        raise BadInput(str(error)) from error


@contextmanager
def _kafkas_errors() -> Iterator[None]:
    """Say in one line what keeps Kafka from being used; the client's log would say it in many."""
    for name in ("aiokafka", "worker.connection"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except (KafkaError, NoSuchTopic, NotAccepted, NotLetIn, NotSent, OtherCluster, Unreachable) as error:
        raise click.ClickException(str(unreadable(error) or error)) from error
    except Exception as error:
        if damage := unreadable(error):
            raise click.ClickException(str(damage)) from error
        raise


def _shown(source: Input, doing: str) -> Iterable[bytes]:
    """Read lines, with a progress bar on standard error when that is a terminal and the size is known."""
    size = source.size_bytes
    if size is None or sys.stderr is None or not sys.stderr.isatty():
        return source.lines()
    return _with_bar(source, size, doing)


def _with_bar(source: Input, size: int, doing: str) -> Iterator[bytes]:
    columns = TextColumn(doing), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(doing, total=size)
        for number, line in enumerate(source.lines()):
            yield line
            if number % 1024 == 0:
                progress.update(task, completed=source.read_bytes())
        progress.update(task, completed=size)
