"""How many records a second, at what cost.

The broker has all records in it before the contestant starts; measured is from the first fifth of the committed offsets
to the last tenth, and not before all sessions are there.
"""

from collections.abc import Callable

from bench.contestants import Contestant
from bench.load import Load, made
from bench.measure import Run, broker, measured, topics


async def throughput(make: Callable[[], Load], contestant: Contestant) -> Run:
    """Let one contestant process all records, or the first of them where all would take an hour."""
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
