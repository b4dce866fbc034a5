"""Measure records per second and their cost.

The broker has all records before the contestant starts. The measurement begins at a fifth of the committed offsets, after
all sessions are created, and ends at nine tenths.
"""

from collections.abc import Callable

from bench.contestants import Contestant
from bench.load import Load, made
from bench.measure import Run, broker, measured, topics


async def throughput(make: Callable[[], Load], contestant: Contestant) -> Run:
    """Measure one contestant with all records, or with its share of them."""
    load = made(make)
    count = round(len(load.records) * contestant.share)
    load = load._replace(records=load.records[:count], create=round(load.create * contestant.share))
    with broker() as kafka:
        await topics(kafka, load.partitions)
        await load.send(kafka)
        processes = [contestant.start(kafka) for _ in range(contestant.processes)]
        try:
            return await measured(kafka, contestant.group, load, processes)
        finally:
            for process in processes:
                process.stop()
