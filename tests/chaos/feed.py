"""What the suite sends: the simulator's mix, of which some sessions are never at home."""

import time
from collections.abc import Callable, Iterable, Iterator
from zlib import crc32

import orjson
from msgspec import structs

from worker.local.simulator import foretell
from worker.pipeline.lines import Line, read

_ONE_IN = 12


def astray(lines: Iterable[Line], partitions: int) -> Iterator[Line]:
    """Send all update records of one session in twelve through a partition that is, mostly, not its own."""
    for line in lines:
        drawn = crc32(line.key or b"")
        goes_astray = line.key is not None and drawn % _ONE_IN == 0
        yield structs.replace(line, partition=drawn // _ONE_IN % partitions) if goes_astray else line


def endless(count: int, seed: int, partitions: int, is_over: Callable[[], bool]) -> Iterator[Line]:
    """Give a day of *count* update records as if they came just now, until it is over."""
    records = foretell(count, seed, lambda: time.time_ns() // 1_000_000)
    for line in astray(read(orjson.dumps(record) for record, _outcome in records), partitions):
        if is_over():
            return
        yield line
