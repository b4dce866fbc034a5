"""Commands for records: replay, send, dump, tail, simulate."""

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
@click.option("--output", default="-", help="Output file; by default standard output.")
@click.option("--summary", is_flag=True, help="Print a summary to standard error.")
def replay(source: str, output: str, *, summary: bool) -> None:
    """Process a file of update records without Kafka.

    INPUT contains update records as JSON Lines (-: standard input), optionally compressed with gzip or zstd. The command
    runs the code of the worker and writes the same bytes. An invalid line ends the command with status 2: standard output
    then has the outputs of the lines before it, and an output file is unchanged.
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
@click.option("--topic", help="Topic; by default the input topic of the worker.")
@click.option("--split", is_flag=True, help="Send each element of a JSON array or of NDJSON as one record.")
@click.pass_obj
def send(ending: Ending, source: str, topic: str | None, *, split: bool) -> None:
    """Send a file of update records to a topic.

    FILE contains update records as JSON Lines (-: standard input), optionally compressed with gzip or zstd. An invalid
    line, or a record that the broker refuses, ends the command with status 2. The command sends no later record of the
    same partition.
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
@click.option("--out", default="-", help="Output file; by default standard output.")
@click.pass_obj
def dump(ending: Ending, topic: str, out: str) -> None:
    """Write the records of a topic as JSON Lines.

    The command writes the committed records from the beginning of TOPIC to its current end. The commands send and replay
    read this form.
    """
    settings = reachable_settings(ending)
    with files_as_errors(), kafka_as_errors(), opened_output(out) as file:
        open_at = run_watched(ending, settings, partial(console.dump, settings.connection(), topic, file))
    for partition, offset in open_at.items():
        click.echo(f"partition {partition}: the output ends at offset {offset}, where a transaction is open", err=True)


@main.command()
@click.option("--key", help="Only records of this integrationId.")
@click.option("--topic", help="Topic; by default the topic of snapshots.")
@click.option("--from-beginning", is_flag=True, help="Start at the first record, not at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the value of each record; null for a deleted session.")
@click.pass_obj
def tail(ending: Ending, key: str | None, topic: str | None, *, from_beginning: bool, as_json: bool) -> None:
    """Print snapshots as they arrive, until Ctrl-C.

    Each line has the time, the event, the integrationId, the state, the total and the updateCount.
    """
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
@click.option("--count", type=click.IntRange(min=1), required=True, help="Number of update records.")
@click.option("--seed", type=int, required=True, help="Seed; equal seeds generate equal records.")
@click.option("--out", default="-", help="Output file; by default standard output.")
def simulate(count: int, seed: int, out: str) -> None:
    """Write a simulated day of update records.

    The output is JSON Lines, which the commands send and replay read.
    """
    with files_as_errors(), opened_output(out) as file:
        file.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in simulated(count, seed))


def with_progress(source: Input, doing: str) -> Iterable[bytes]:
    """Return the lines; show a progress bar if standard error is a terminal and the size is known."""
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
