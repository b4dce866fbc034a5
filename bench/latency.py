"""Measure the latency from a producer to a read_committed consumer at a steady rate, and the share of a core."""

import asyncio
import time
from collections.abc import Callable
from statistics import quantiles
from typing import NamedTuple

from bench.contestants import Contestant
from bench.load import Load, made
from bench.measure import broker, topics
from bench.traffic import traffic

_WARM_SECONDS, _SECONDS = 5, 10


class Latency(NamedTuple):
    """A measured stretch."""

    p50_milliseconds: float
    p99_milliseconds: float
    p999_milliseconds: float
    cpu_share: float


async def latency(make: Callable[[], Load], rate: int, contestant: Contestant) -> Latency:
    """Measure one contestant after a warm-up."""
    load = made(make)
    with broker() as kafka:
        await topics(kafka, load.partitions)
        process = contestant.start(kafka)
        try:
            await process.started()
            async with traffic(kafka, load, rate) as receipts:
                await asyncio.sleep(_WARM_SECONDS)
                warm, began, cpu = time.time(), time.monotonic(), process.cpu_seconds()
                await asyncio.sleep(_SECONDS)
                share = (process.cpu_seconds() - cpu) / (time.monotonic() - began)
        finally:
            process.stop()
    took = quantiles([(it.received - it.sent) * 1000 for it in receipts if it.sent >= warm], n=1000)
    return Latency(took[499], took[989], took[998], share)
