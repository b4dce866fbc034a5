"""Commands on update records: replay, send, dump, tail, simulate."""

import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from worker.cli.group import (
    BadInput,
    files_as_errors,
    kafka_as_errors,
    loaded_settings,
    main,
    reachable_settings,
    run_watched,
)
from worker.codec.lines import BadLine, read, written
from worker.local.simulator.day import simulate as simulated
from worker.pipeline.replay import Replay
from worker.signals import Ending
from worker.tools import topics as console
from worker.tools.files import Input, opened_input, opened_output
from worker.tools.sender import SendFailed
from worker.tools.summary import summary as tables
from worker.tools.topics import NotRead


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--output", default="-", help="Where to write; standard output by default.")
@click.option("--summary", is_flag=True, help="Print what came of it to standard error.")
def replay(source: str, output: str, *, summary: bool) -> None:
    """Fold INPUT, update records as JSON Lines (-: standard input), without Kafka: the same code, the same bytes.

    INPUT may be compressed with gzip or zstd. A line that is not in the form ends the command with status 2: standard
    output has what the lines before it publish, an output file stays as it was.
    """
    settings = loaded_settings()
    run = Replay(settings.rules(), settings.v1_topic)
    rejections = run.topology.rejections
    started = time.perf_counter()
    with files_as_errors(), opened_input(source) as file, opened_output(output, file) as out:
        try:
            out.writelines(
                written(record, rejections)
                for published in run.lines(with_progress(file, "replaying"))
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
    with files_as_errors(), kafka_as_errors(), opened_input(source) as file:
        settings = reachable_settings(ending)
        topic = topic or settings.updates_topic
        lines = read(with_progress(file, "sending"), is_split=split)
        try:
            sent = run_watched(ending, settings, partial(console.send, settings.connection(), topic, lines))
        except (NotRead, SendFailed) as error:
            raise BadInput(f"{file.name}, {error}") from error
    click.echo(f"{sent:,} records sent to {topic}", err=True)


@main.command()
@click.argument("topic")
@click.option("--out", default="-", help="Where to write; standard output by default.")
@click.pass_obj
def dump(ending: Ending, topic: str, out: str) -> None:
    """Write what is committed on TOPIC, up to its end as it is now, as JSON Lines, for send and replay."""
    settings = reachable_settings(ending)
    with files_as_errors(), kafka_as_errors(), opened_output(out) as file:
        open_at = run_watched(ending, settings, partial(console.dump, settings.connection(), topic, file))
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
    settings = reachable_settings(ending)
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
    with kafka_as_errors():
        run_watched(ending, settings, following)


@main.command()
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many update records.")
@click.option("--seed", type=int, required=True, help="The same seed gives the same records.")
@click.option("--out", default="-", help="Where to write; standard output by default.")
def simulate(count: int, seed: int, out: str) -> None:
    """Write a retailer's day of update records as JSON Lines, for replay."""
    with files_as_errors(), opened_output(out) as file:
        file.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in simulated(count, seed))


def with_progress(source: Input, doing: str) -> Iterable[bytes]:
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
