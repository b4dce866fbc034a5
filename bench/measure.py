"""The tools of measurements: a broker for each, processes and their cost, progress by committed offsets.

The broker, the load and the contestant run on one machine, so figures are comparable only within one run. Each
measurement has its own broker, because topics of earlier measurements cost time.
"""

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from bench.load import PARTITIONS, UPDATES, Load
from worker.local.child import Child
from worker.local.kafka import LocalKafka
from worker.runtime.topics import prepare
from worker.settings.model import Settings
from worker.tools.topics import administration

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs retries while new topics elect leaders
_ROOT = Path(__file__).parents[1]
_STOP_SECONDS = 15
_PATIENCE_SECONDS = 120
_POLL_SECONDS = 0.1
_MEASURED = (0.2, 0.9)  # of all records

GROUP = "session-worker"
"""The worker's consumer group."""


class Process:
    """A measured process in its own folder; *ready* is the text in its log when it is ready."""

    def __init__(self, command: tuple[str, ...], env: Mapping[str, str], ready: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._ready = ready
        folder = Path(self._folder.name)
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), **env}
        self._start: Callable[[], Child] = lambda: Child(command, folder, folder / "process.log", environment)
        self._child = self._start()

    def cpu_seconds(self) -> float:
        """Return the processor time of all its threads since its last start."""
        return self._child.cpu_seconds()

    def told(self) -> str:
        """Return its output since its last start."""
        return self._child.said()

    def restart(self) -> None:
        """Stop it with SIGTERM, and start it again in the same folder."""
        self._child.stop(_STOP_SECONDS)
        self._child = self._start()

    def peak_mib(self) -> float:
        """Return the peak of its memory."""
        return self._memory_mib("VmHWM")

    def memory_mib(self) -> float:
        """Return its current memory."""
        return self._memory_mib("VmRSS")

    def _memory_mib(self, field: str) -> float:
        status = Path(f"/proc/{self._child.pid}/status").read_text(encoding="ascii")
        return int(status.partition(f"{field}:")[2].split()[0]) / 1024

    def is_ready(self) -> bool:
        """Return True if it is ready. Raise an error if it has ended."""
        if self._child.status is not None:
            raise SystemExit(self.told())
        return self._ready in self.told()

    async def started(self) -> None:
        """Wait until it is ready."""
        while not self.is_ready():  # noqa: ASYNC110 (a log gives no event)
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Send it SIGTERM, and kill it if it does not end."""
        self._child.stop(_STOP_SECONDS)
        self._folder.cleanup()

    def kill(self) -> None:
        """Kill it, like a crash."""
        self._child.kill()
        self._folder.cleanup()


def worker(kafka: str, store: str = "memory://") -> Process:
    """Start a worker like `session-worker run`."""
    settings = {"BROKERS": kafka, "STORE": store, "DATA_DIR": "."}
    env = {f"SESSION_WORKER_{name}": value for name, value in settings.items()}
    return Process((sys.executable, "-m", "worker", "run"), env, "Ready:")


class Run(NamedTuple):
    """A measured period, with the memory at its peak, at the end, and after the start."""

    records_a_second: float
    cpu_microseconds: float
    peak_mib: float
    mib: float
    empty_mib: float


@contextmanager
def broker() -> Iterator[str]:
    """Yield an empty broker."""
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        yield kafka.bootstrap_servers


async def topics(kafka: str, partitions: int = PARTITIONS) -> None:
    """Create all topics."""
    await prepare(Settings(brokers=kafka, partitions=partitions))


async def measured(kafka: str, group: str, load: Load, processes: list[Process]) -> Run:
    """Measure from a fifth to nine tenths of a *load* by the committed offsets of a *group*, after all are ready.

    The first fifth is for starting, and for a JIT compiler to warm up; in the last tenth one process may have done its
    part while another has not. Waits for the end of all; gives up when nothing moves for long.
    """
    total = len(load.records)
    points = max(total * _MEASURED[0], load.create), total * _MEASURED[1]
    async with administration({"bootstrap_servers": kafka}) as admin:
        marks: list[tuple[int, float, float]] = []
        last, moved, empty_mib = 0, time.monotonic(), 0.0
        while last < total:
            done, now = await committed(admin, group), time.monotonic()
            ready = [process.is_ready() for process in processes]
            if all(ready) and not empty_mib:
                empty_mib = max(process.memory_mib() for process in processes)
            if done > last:
                last, moved = done, now
                if len(marks) < len(points) and all(ready) and done >= points[len(marks)]:
                    marks.append((done, now, sum(process.cpu_seconds() for process in processes)))
            elif now - moved > _PATIENCE_SECONDS:
                raise SystemExit(f"{done} of {total} records, and no more:\n{processes[0].told()}")
            await asyncio.sleep(_POLL_SECONDS)
    if len(marks) < len(points):
        raise SystemExit("it was done before it could be measured: more records are needed")
    (first, began, cpu), (done, ended, cpu_after) = marks
    return Run(
        records_a_second=(done - first) / (ended - began),
        cpu_microseconds=(cpu_after - cpu) / (done - first) * 1e6,
        peak_mib=max(process.peak_mib() for process in processes),
        mib=max(process.memory_mib() for process in processes),
        empty_mib=empty_mib,
    )


async def committed(admin: AIOKafkaAdminClient, group: str) -> int:
    """Return the sum of the committed offsets of the input topic, without waiting for open transactions."""
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    except KafkaError:  # its coordinator is not available yet
        return 0
    return sum(it.offset for partition, it in offsets.items() if partition.topic == UPDATES)
