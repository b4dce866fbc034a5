"""Measure a restart: the restore of sessions into an empty folder, and the time without output."""

import asyncio
import re
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from bench.contestants import Contestant
from bench.load import Load, made
from bench.measure import Process, broker, committed, topics
from bench.traffic import traffic
from worker.tools.topics import administration

_RATE = 1_000
_ROUNDS = 2
_WARM_SECONDS, _AFTER_SECONDS = 5, 5
_PATIENCE_SECONDS = 120


class Restore(NamedTuple):
    """A start with a full restore: its speed, and the time from the start of the process to the first record."""

    restored_a_second: float
    first_record_seconds: float


class Gap(NamedTuple):
    """The longest time without output around an immediate restart: after SIGTERM, and after SIGKILL."""

    stopped_seconds: float
    killed_seconds: float


async def restore(make: Callable[[], Load], contestant: Contestant) -> Restore:
    """Return the medians of several starts with an empty folder, after a contestant has processed a load."""
    load, done = made(make), []
    with broker() as kafka:
        await topics(kafka, load.partitions)
        async with administration({"bootstrap_servers": kafka}) as admin:

            async def until(count: int, process: Process) -> None:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    while await committed(admin, contestant.group) < count:
                        process.is_ready()
                        await asyncio.sleep(0.02)

            await load.send(kafka)
            process = contestant.start(kafka)
            await until(len(load.records), process)
            for _ in range(_ROUNDS):
                process.stop()
                before = await committed(admin, contestant.group)
                await Load(load.records[-1:]).send(kafka)
                began = time.monotonic()
                process = contestant.start(kafka)
                await until(before + 1, process)
                first = time.monotonic() - began
                restored = re.findall(r"restored=(\d+) in=([\d.]+)s", process.told())[-1]
                done.append((int(restored[0]) / float(restored[1]), first))
            process.stop()
    return Restore(*map(median, zip(*done, strict=True)))


async def gap(make: Callable[[], Load], contestant: Contestant) -> Gap:
    """Measure both kinds of restart under a steady load."""
    load = made(make)
    return Gap(await _gap(load, contestant, Process.stop), await _gap(load, contestant, Process.kill))


async def _gap(load: Load, contestant: Contestant, end: Callable[[Process], None]) -> float:
    with broker() as kafka:
        await topics(kafka, load.partitions)
        process = contestant.start(kafka)
        try:
            await process.started()
            async with traffic(kafka, load, _RATE) as receipts:
                await asyncio.sleep(_WARM_SECONDS)
                at = time.time()
                await asyncio.to_thread(end, process)
                process = contestant.start(kafka)
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    while not receipts or receipts[-1].sent < at + 1:
                        process.is_ready()
                        await asyncio.sleep(0.05)
                await asyncio.sleep(_AFTER_SECONDS)
        finally:
            process.stop()
    times = [at, *(it.received for it in receipts if it.received > at)]
    return max(later - earlier for earlier, later in pairwise(times))
