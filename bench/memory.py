"""Measure the memory of a session and of a profile: `make bench-memory`. The last two columns: after the fill, after the restart.

A worker processes a number of records, each the first of a session, with its own profile or without one. Then the worker
starts again from the topics (with RocksDB: from its folder). The figure is the resident memory (VmRSS) less that before
the first record. The formula in the docs uses these figures.
"""

import argparse
import asyncio
import time
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.bad import Bench
from bench.load import PARTITIONS, SESSIONS, carts
from bench.measure import broker, topics, worker

COUNTS = (100_000, 300_000, 1_000_000)
STORES = ("memory://", "rocksdb://")
_SETTLE_SECONDS = 3
_MIB = 1 << 20


class Memory(NamedTuple):
    """Resident MiB of a worker with *sessions* sessions; *entry_bytes* is the size of a snapshot and its private header."""

    sessions: int
    empty_mib: float
    full_mib: float
    restored_mib: float
    entry_bytes: float


async def measure(store: str, sessions: int, *, with_profiles: bool) -> Memory:
    """Measure a worker with this number of sessions before and after a restart."""
    load = carts(sessions, sessions=sessions, profiles=sessions if with_profiles else 0)
    with broker() as kafka:
        await topics(kafka)
        process = worker(kafka, store)
        try:
            await process.started()
            empty_mib = process.memory_mib()
            await Bench(kafka, process).drain(load.records)
            await asyncio.sleep(_SETTLE_SECONDS)
            full_mib = process.memory_mib()
            entry_bytes = await _entry_bytes(kafka, sessions)
            await asyncio.to_thread(process.restart)
            await process.started()
            await asyncio.sleep(_SETTLE_SECONDS)
            return Memory(sessions, empty_mib, full_mib, process.memory_mib(), entry_bytes)
        finally:
            process.stop()


async def _entry_bytes(kafka: str, sessions: int) -> float:
    """Return the mean size in bytes of a session in the worker's table, from the topic of snapshots."""
    total = count = 0
    began = time.monotonic()
    async with AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed") as consumer:
        partitions = [TopicPartition(SESSIONS, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while count < sessions:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                count += len(records)
                total += sum(
                    len(it.value or b"") + sum(len(value) for name, value in it.headers if name == "worker-events")
                    for it in records
                )
            if time.monotonic() - began > 300:
                raise SystemExit(f"{count} of {sessions} snapshots were read")
    return total / count


async def main() -> None:
    """Print a row for each store and number of sessions."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    options.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    given = options.parse_args()
    print(
        "| store | sessions | profiles | MiB at its start | MiB | MiB after a restart | bytes an entry | bytes a session | "
        "bytes a profile |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for store in given.stores:
        for sessions in given.counts:
            without = None
            for profiles in (0, sessions):
                it = await measure(store, sessions, with_profiles=bool(profiles))
                each = tuple(round((mib - it.empty_mib) * _MIB / sessions) for mib in (it.full_mib, it.restored_mib))
                sums = [str(own) for own in each] if without is None else ["", ""]
                more = (
                    ["", ""] if without is None else [str(own - base) for own, base in zip(each, without, strict=True)]
                )
                without = each
                print(
                    f"| {store} | {sessions:,} | {profiles:,} | {it.empty_mib:.0f} | {it.full_mib:.0f} | "
                    f"{it.restored_mib:.0f} | {it.entry_bytes:.0f} | {', '.join(filter(None, sums))} | "
                    f"{', '.join(filter(None, more))} |",
                    flush=True,
                )


if __name__ == "__main__":
    asyncio.run(main())
