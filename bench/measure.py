"""What measures: a broker for each measurement, processes and their cost, progress by committed offsets.

Everything runs on this machine: the broker, the load and what is measured, so the figures are for comparison within one
run. Each measurement has a broker of its own, since topics that were left behind cost it time.
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

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells that it tries again while new topics find leaders
_ROOT = Path(__file__).parents[1]
_STOP_SECONDS = 15
_PATIENCE_SECONDS = 120
_POLL_SECONDS = 0.1
_MEASURED = (0.2, 0.9)  # of all records

GROUP = "session-worker"
"""The worker's consumer group."""


class Process:
    """A process that is measured, in a folder of its own that it may fill; *ready* is what it writes when it works."""

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
        """Return what it has written since its last start."""
        return self._child.said()

    def restart(self) -> None:
        """Stop it as an operator does, and start it again in the same folder."""
        self._child.stop(_STOP_SECONDS)
        self._child = self._start()

    def peak_mib(self) -> float:
        """Tell the most memory that it held."""
        return self._memory_mib("VmHWM")

    def memory_mib(self) -> float:
        """Tell the memory that it holds."""
        return self._memory_mib("VmRSS")

    def _memory_mib(self, field: str) -> float:
        status = Path(f"/proc/{self._child.pid}/status").read_text(encoding="ascii")
        return int(status.partition(f"{field}:")[2].split()[0]) / 1024

    def is_ready(self) -> bool:
        """Tell whether it works; give up when it has ended."""
        if self._child.status is not None:
            raise SystemExit(self.told())
        return self._ready in self.told()

    async def started(self) -> None:
        """Wait until it works."""
        while not self.is_ready():  # noqa: ASYNC110 (a log gives no event)
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """End it as an operator does, and kill it when it does not end."""
        self._child.stop(_STOP_SECONDS)
        self._folder.cleanup()

    def kill(self) -> None:
        """End it as a crash does."""
        self._child.kill()
        self._folder.cleanup()


def worker(kafka: str, store: str = "memory://") -> Process:
    """Start a worker as `session-worker run` does."""
    settings = {"BROKERS": kafka, "STORE": store, "DATA_DIR": "."}
    env = {f"SESSION_WORKER_{name}": value for name, value in settings.items()}
    return Process((sys.executable, "-m", "worker", "run"), env, "Ready:")


class Run(NamedTuple):
    """A measured stretch; memory at its most, at the end, and when it had just started."""

    records_a_second: float
    cpu_microseconds: float
    peak_mib: float
    mib: float
    empty_mib: float


@contextmanager
def broker() -> Iterator[str]:
    """Run a broker with nothing in it."""
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        yield kafka.bootstrap_servers


async def topics(kafka: str, partitions: int = PARTITIONS) -> None:
    """Create all topics."""
    await prepare(Settings(brokers=kafka, partitions=partitions))


async def measured(kafka: str, group: str, load: Load, processes: list[Process]) -> Run:
    """Watch the committed offsets of a *group* from a fifth to nine tenths of a *load*, once all processes work.

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
    """Sum up the committed offsets of the input topic; without waiting for the end of open transactions."""
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    except KafkaError:  # its coordinator is not up yet
        return 0
    return sum(it.offset for partition, it in offsets.items() if partition.topic == UPDATES)
