"""What the suite sends, the simulator's mix, of which some sessions are never at home; and what a driver in memory took."""

import time
from collections.abc import Callable, Iterable, Iterator
from zlib import crc32

import orjson
from msgspec import structs

from tests.chaos.verifier import Published
from tests.oracle import Record
from worker.codec.lines import Line, read
from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.local.simulator.day import simulate_with_outcomes
from worker.testing import StreamDriver

_ONE_IN = 12


def astray(lines: Iterable[Line], partitions: int) -> Iterator[Line]:
    """Send all update records of one session in twelve through a partition that is, mostly, not its own."""
    for line in lines:
        drawn = crc32(line.key or b"")
        goes_astray = line.key is not None and drawn % _ONE_IN == 0
        yield structs.replace(line, partition=drawn // _ONE_IN % partitions) if goes_astray else line


def endless(count: int, seed: int, partitions: int, is_over: Callable[[], bool]) -> Iterator[Line]:
    """Give a day of *count* update records as if they came just now, until it is over."""
    records = simulate_with_outcomes(count, seed, lambda: time.time_ns() // 1_000_000)
    for line in astray(read(orjson.dumps(record) for record, _outcome in records), partitions):
        if is_over():
            return
        yield line


def topics_of(driver: StreamDriver) -> tuple[list[Record], Published]:
    """Give the update records a driver has and what it published, as the verifier reads topics."""
    updates = [
        {"topic": driver.topology.updates, "partition": number, **_as_read(record)}
        for number in range(driver.topology.partitions or 1)
        for record in driver.records(driver.topology.updates, number)
    ]
    outputs = [
        sorted(map(_as_read, driver.published(name)), key=lambda record: record["partition"])
        for name in (driver.topology.sessions, driver.topology.rejections, driver.topology.dry_runs)
    ]
    return updates, Published(*outputs)


def consumed(update: Record) -> ConsumerRecord:
    """Give an update record of topics_of as a consumer does."""
    return ConsumerRecord(*(update[name] for name in ConsumerRecord.__struct_fields__))


def _as_read(record: ConsumerRecord | ProducerRecord) -> Record:
    return {**structs.asdict(record), "headers": list(record.headers)}
