"""Runs a worker as a process: from connecting to the exit status."""

import asyncio
import ctypes
import logging
import time
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaConnectionError, KafkaError

from worker.kafka.connection import REFUSED_SECONDS
from worker.pipeline.topology import Topology
from worker.runtime.access import AccessDenied, Unreachable, check_brokers, explained, watched
from worker.runtime.faust.app import App, build_app
from worker.runtime.topics import prepare
from worker.settings.model import Settings
from worker.signals import Ending

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 128 << 20}
_RETURN_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_REPEAT_SECONDS = 60.0
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CHATTY = ("faust", "mode", "aiokafka", "aiohttp", "rocksdict")


class RepeatFilter(logging.Filter):
    """Passes a message that repeats while a broker is unreachable once a minute.

    What a library says is the same when it only names another node or another partition; what we say is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the message did not appear in the last minute."""
        is_ours = record.name.partition(".")[0] == __package__.partition(".")[0]
        kind = record.name, record.getMessage() if is_ours else record.msg
        is_new = record.created - self._said.get(kind, float("-inf")) > _REPEAT_SECONDS
        if is_new:
            self._said[kind] = record.created
        return is_new


def configure_logging() -> None:
    """Write what an operator wants to know to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def run(settings: Settings, ending: Ending) -> None:
    """Run a worker until it is asked to stop; raise what ends it otherwise."""
    _keep_freed_memory()
    try:
        asyncio.run(_run(settings, ending))
    except Exception as error:
        raise explained(error) from error


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next fetch: to return it and get it again is a fifth of a restore's time."""
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in _KEPT_BYTES.items():
            mallopt(parameter, size)


async def _return_freed_memory(app: App) -> None:
    """Return to the system what is free, while the worker keeps up with its input: 2 ms each time, in a thread.

    The first backlog and each restore leave tens of MiB of free memory between what is kept.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _kept_bytes: None)  # glibc's alone
    while True:
        await asyncio.sleep(_RETURN_SECONDS)
        if not app.commit_loop.is_behind:
            await asyncio.to_thread(malloc_trim, 0)


async def _run(settings: Settings, ending: Ending) -> None:
    waiting = asyncio.ensure_future(ending.requested())
    patience_seconds = 0.0
    while not waiting.done():
        preparing = asyncio.ensure_future(_prepared(settings, patience_seconds))
        await asyncio.wait([waiting, preparing], return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():
            preparing.cancel()
            return
        try:
            await _live(build_app(settings, preparing.result()), waiting, settings, ending)
        except KafkaConnectionError:
            log.warning("Kafka at %s is unreachable again", settings.brokers)
            patience_seconds = REFUSED_SECONDS
        else:
            return


async def _live(app: App, waiting: asyncio.Future[Any], settings: Settings, ending: Ending) -> None:
    """Run an app until a signal arrives; raise what kept it from starting, or ended it."""
    starting = asyncio.ensure_future(app.start())
    crashing = asyncio.ensure_future(watched(app.wait_until_stopped(), settings))
    returning = asyncio.ensure_future(_return_freed_memory(app))
    done, _ = await asyncio.wait([waiting, crashing, starting], return_when=asyncio.FIRST_COMPLETED)
    if done == {starting} and starting.exception() is None:
        await asyncio.wait([waiting, crashing], return_when=asyncio.FIRST_COMPLETED)
    returning.cancel()
    log.info("Stopping")
    refused = crashing.exception() if crashing.done() else None
    failure = refused or app.crash_reason or (starting.exception() if starting.done() else None)
    if isinstance(failure, Exception) and not isinstance(failure, KafkaConnectionError):  # which is tried again
        ending.start_limit(explained(failure))
    await app.stop()
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    crashing.cancel()
    if refused or app.crash_reason:
        raise refused or app.crash_reason


async def _prepared(settings: Settings, patience_seconds: float) -> Topology:
    """Prepare the topics as soon as a broker can be reached.

    The log shows at once, and then every minute, what is wrong until then. A login may be refused for *patience_seconds*:
    none at the start of the worker, and later as long as it takes to replace a password or a certificate.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            await check_brokers(settings)
            return await prepare(settings)
        except (Unreachable, AccessDenied) as error:
            if isinstance(error, AccessDenied) and time.monotonic() >= deadline:
                raise
            log.warning("%s. Trying again", error)
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("Kafka at %s does not answer, trying again: %s", settings.brokers, error)
        await asyncio.sleep(_RETRY_SECONDS)
