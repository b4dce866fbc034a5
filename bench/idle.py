"""Measure an idle contestant: its share of a core, and its memory."""

import asyncio
import time
from typing import NamedTuple

from bench.contestants import Contestant
from bench.measure import broker, topics

_SETTLE_SECONDS, _SECONDS = 5, 15


class Idle(NamedTuple):
    """A measured stretch."""

    cpu_share: float
    mib: float


async def idle(partitions: int, contestant: Contestant) -> Idle:
    """Measure a contestant with empty partitions."""
    with broker() as kafka:
        await topics(kafka, partitions)
        process = contestant.start(kafka)
        try:
            await process.started()
            await asyncio.sleep(_SETTLE_SECONDS)
            began, cpu = time.monotonic(), process.cpu_seconds()
            await asyncio.sleep(_SECONDS)
            share = (process.cpu_seconds() - cpu) / (time.monotonic() - began)
            return Idle(share, process.memory_mib())
        finally:
            process.stop()
