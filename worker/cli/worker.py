"""Commands for a worker: run, settings, schemas, reference, offsets."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from worker.cli.group import (
    STATUSES,
    check_store,
    files_as_errors,
    kafka_as_errors,
    loaded_settings,
    main,
    reachable_settings,
    run_watched,
)
from worker.kafka.cluster import Cluster
from worker.pipeline.topology import Topology
from worker.reference.pages import pages
from worker.reference.schemas import documents
from worker.runtime.topics import stream_of
from worker.settings.report import example_file, in_force
from worker.signals import Ending
from worker.tools import offsets as committed
from worker.tools.files import write_files


@main.command()
@click.pass_obj
def run(ending: Ending) -> None:
    """Run a worker until Ctrl-C or SIGTERM.

    The worker reads update records and writes snapshots, exactly once.
    """
    settings = loaded_settings()
    check_store("SESSION_WORKER_STORE", settings.store)
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
    """Write the JSON Schemas and the AsyncAPI document."""
    with files_as_errors():
        for file in write_files(out, documents()):
            click.echo(file)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default="docs/reference", show_default=True)
def reference(out: Path) -> None:
    """Write the reference pages of the documentation into a folder."""
    with files_as_errors():
        for file in write_files(out, pages(main, STATUSES)):
            click.echo(file)


@main.command()
@click.option("--example", is_flag=True, help="Print an example TOML file instead.")
def settings(*, example: bool) -> None:
    """Print each setting, its value and its source.

    Secrets are masked.
    """
    if example:
        click.echo(example_file())
        return
    rows = [*in_force(loaded_settings())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@main.group()
def offsets() -> None:
    """Check the committed offsets of the worker's group."""


@offsets.command()
@click.option(
    "--yes", is_flag=True, help="Accept the offsets; by default the command changes nothing, and the exit status is 1."
)
@click.pass_obj
def accept(ending: Ending, *, yes: bool) -> None:
    """Accept offsets that no worker committed.

    The command shows the records that these offsets would skip or process again. With --yes, workers continue at these
    offsets. Stop all workers first. To choose other offsets, run Kafka's kafka-consumer-groups.sh --reset-offsets first.
    """
    settings = reachable_settings(ending)
    connection, group, topology = settings.connection(), settings.app_id, settings.topology(None)
    with kafka_as_errors():
        stream = run_watched(ending, settings, partial(_stream, connection, topology))
        findings = run_watched(ending, settings, partial(committed.review, connection, group, topology, stream))
        for line in committed.summary(group, findings):
            click.echo(line)
        due = [finding for finding in findings if finding.accepted is not None]
        if yes and due:
            run_watched(ending, settings, partial(committed.accept, connection, group, due, stream))
            click.echo(f"{len(due)} offsets accepted.")
    wrong = sum(finding.is_wrong for finding in findings)
    if wrong:
        raise click.ClickException(
            f"{wrong} offsets cannot be accepted: set other offsets with kafka-consumer-groups.sh --reset-offsets"
        )
    if due and not yes:
        raise click.ClickException(
            "no offset was changed; to accept these offsets run session-worker offsets accept --yes"
        )


async def _stream(connection: Mapping[str, Any], topology: Topology) -> bytes:
    """Return the identity of the cluster and topics of the worker's state (rule L7 of pipeline/ledger.py)."""
    async with Cluster(connection) as cluster:
        names = topology.state().values()
        return stream_of(await cluster.identity(names), names)
