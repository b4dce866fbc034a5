"""The command line: `session-worker`, the same as `python -m worker`.

Every command ends the same way (`_Commands`): a failure is one line on standard error and a status other than 0.

| status | when |
| --- | --- |
| 0 | All is done. A signal ends `run`, `tail`, `kafka`, and `local` without `--count`, with this status too. |
| 1 | Kafka, an output or this machine has failed; `local`: a record did not become what it should. |
| 2 | A setting, an option or an input is wrong. |
| 129, 130, 143 | SIGHUP, SIGINT or SIGTERM has ended the command (`local --count`: 130 for each of them). |
| 141 | The reader of the output has ended, for example `head`. |
"""

import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import click
from aiokafka.errors import KafkaError

from worker.kafka.connection import OtherCluster
from worker.kafka.unreadable import unreadable
from worker.runtime.access import AccessDenied, Unreachable, check_brokers, watched
from worker.settings.model import Settings
from worker.settings.report import WrongSetting, load
from worker.signals import Ending, ending_signals
from worker.tools.files import BadFile
from worker.tools.offsets import NotAccepted
from worker.tools.sender import SendFailed
from worker.tools.topics import NoSuchTopic

T = TypeVar("T")
STATUSES = __doc__ or ""
"""The table of exit statuses, for the reference."""
_COLLECTED_EVERY = 50_000
"""Number of live new objects that starts a garbage collection; records contain no reference cycles."""
_UNTIL_A_SIGNAL = {"run", "tail", "kafka"}
_NO_READER_STATUS = 128 + 13
"""The exit status of a command that SIGPIPE ends, as shells show it."""


class BadInput(click.ClickException):
    """A setting, an option or an input is invalid; the message is one line."""

    exit_code = 2


class _Commands(click.Group):
    """The commands. A signal or an unwritable output ends a command without a traceback."""

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
        except SystemExit as end:  # click raises this if nobody reads the output
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


def _shown_error(error: click.ClickException) -> int:
    """Print an error, if standard error can be written, and return the exit status."""
    with suppress(OSError):
        error.show()
    return error.exit_code


def _unwritten(error: OSError) -> str:
    return f"{error.filename or 'standard output'}: cannot be written: {error.strerror}"


def _flush_failure(stream: Any) -> OSError | None:
    """Flush a stream and return the error; redirect the stream to /dev/null then, so that Python does not retry."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


@contextmanager
def files_as_errors() -> Iterator[None]:
    """Convert errors of files to errors of one line."""
    try:
        yield
    except BadFile as error:
        raise (BadInput if error.is_input else click.ClickException)(str(error)) from error


@contextmanager
def installed_extra(name: str) -> Iterator[None]:
    """Convert a missing optional package to an error with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise BadInput(f"the package {package} is missing: pip install 'session-worker[{name}]'") from error


def check_store(option: str, store: str) -> None:
    """Raise BadInput if the package for tables on disk is not installed."""
    if store.startswith("rocksdb"):
        try:
            with installed_extra("rocksdb"):
                import_module("worker.runtime.stores.rocksdb")
        except BadInput as error:
            raise BadInput(f"{option}={store}: {error.message}") from error


def reachable_settings(ending: Ending) -> Settings:
    """Return the settings. Raise ClickException with the cause if the brokers are unreachable."""
    settings = loaded_settings()
    with kafka_as_errors():
        ending.run(partial(check_brokers, settings))
    return settings


def run_watched(ending: Ending, settings: Settings, function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine that uses Kafka until it ends, a signal arrives, or brokers refuse the login for a minute."""
    return ending.run(lambda: watched(function(), settings))


def loaded_settings() -> Settings:
    try:
        return load()
    except WrongSetting as error:
        raise BadInput(str(error)) from error


@contextmanager
def kafka_as_errors() -> Iterator[None]:
    """Convert errors of Kafka to errors of one line, and silence the log of the client."""
    for name in ("aiokafka", "worker.kafka.connection"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except (KafkaError, NoSuchTopic, NotAccepted, AccessDenied, SendFailed, OtherCluster, Unreachable) as error:
        raise click.ClickException(str(unreadable(error) or error)) from error
    except Exception as error:
        if damage := unreadable(error):
            raise click.ClickException(str(damage)) from error
        raise
