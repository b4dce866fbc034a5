"""Measure the cost of bad records, and the cost of bad sessions for other sessions: `make bench-bad`.

A backlog of invalid records with a valid one after it is compared with the same number of valid records. Carts among bad
neighbours are compared with the same carts alone, before and after, so that a change of the machine's speed shows. The
neighbours are spread evenly among the carts.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import orjson

from bench.load import PARTITIONS, Load, carts
from bench.measure import GROUP, Process, broker, committed, topics, worker
from worker.pipeline.partitioner import partition_of
from worker.tools.topics import administration

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 300
_SLOWEST = 2000  # records a second

Sent = list[tuple[int, bytes, bytes]]


class Drained(NamedTuple):
    """The time of a ready worker for a backlog, and its memory before and after."""

    seconds: float
    empty_mib: float
    mib: float


class Bench:
    """A broker and a worker, which processes backlogs in sequence; the first creates the sessions."""

    def __init__(self, kafka: str, process: Process) -> None:
        self._kafka = kafka
        self._process = process
        self._done = 0

    async def drain(self, records: Sent) -> Drained:
        """Send a backlog and wait until its last record is committed; the time includes sending."""
        process = self._process
        empty_mib, began = process.memory_mib(), time.monotonic()
        await Load(records).send(self._kafka)
        self._done += len(records)
        patience_seconds = _PATIENCE_SECONDS + len(records) / _SLOWEST
        async with asyncio.timeout(patience_seconds), administration({"bootstrap_servers": self._kafka}) as admin:
            while await committed(admin, GROUP) < self._done:
                process.is_ready()
                await asyncio.sleep(_POLL_SECONDS)
        return Drained(time.monotonic() - began, empty_mib, process.memory_mib())


@asynccontextmanager
async def bench(first: Sent) -> AsyncIterator[Bench]:
    """Yield a worker with its own broker that has processed a first backlog."""
    with broker() as kafka:
        await topics(kafka)
        process = worker(kafka)
        try:
            await process.started()
            it = Bench(kafka, process)
            await it.drain(first)
            yield it
        finally:
            process.stop()


def broken(count: int) -> Sent:
    """Return invalid records of one partition with the size of a cart's update, and a valid one after them."""
    item = {"sku": "cup", "quantity": "2", "price": 1}
    value = _update("bad", {"cartItems": [item], "attributes": {"note": "x" * 450}})[2]
    good = _update("good", {"cartItems": []})
    at = good[0]
    return [*((at, b"bad", value) for _ in range(count)), good]


def whole(count: int) -> Sent:
    """Return the same number of valid records of the same partition."""
    good = _update("good", {"cartItems": []})
    return [*((good[0], key, value) for _at, key, value in carts(count, partitions=1).records), good]


def _update(key: str, session: dict[str, object]) -> tuple[int, bytes, bytes]:
    raw = key.encode()
    return partition_of(raw, PARTITIONS), raw, orjson.dumps({"type": "update", "customerSession": session})


def a_mebibyte() -> Sent:
    """Return ten records of 1 MiB, the upper bound."""
    frame = len(_update("big", {"attributes": {"note": ""}})[2])
    return [_update("big", {"attributes": {"note": "x" * ((1 << 20) - frame - 1000)}})] * 10


def _items(items: int, attributes: int) -> list[dict[str, object]]:
    given = {f"a{number}": number for number in range(attributes)}
    return [{"sku": f"s{number}", "quantity": 1, "price": 1, "attributes": given} for number in range(items)]


def a_cart_too_large() -> Sent:
    """Return the beginning of a cart of 1,000 items with 1,000 attributes each (13 MB), one byte over the limit."""
    at, key, value = _update("cart", {"cartItems": _items(1000, 1000)})
    return [
        (at, key, value[: (1 << 20) + 1])
    ] * 10  # brokers refuse 13 MB; the worker does not read a value over the limit


def the_largest_cart() -> Sent:
    """Return a cart of 1,000 items with as many attributes as fit 1 MiB."""
    return [_update("cart", {"cartItems": _items(1000, 90)})] * 10


def claiming(sessions: int, profiles: int) -> Sent:
    """Return sessions that claim this number of profiles in turn."""
    kind = f"{sessions}-{profiles}"
    return [_update(f"{kind}-{it}", {"profileId": f"{kind}-{it % profiles}"}) for it in range(sessions)]


def a_long_key() -> Sent:
    """Return updates of a session whose key is 1,000 characters of four bytes."""
    return [_update("\U0001f600" * 1000, {"cartItems": _items(1, 1)})] * 1000


NEIGHBOURS: Mapping[str, Callable[[], Sent]] = {
    "10 records of 1 MiB": a_mebibyte,
    "10 carts over max_record_bytes": a_cart_too_large,
    "10 carts of 1,000 items with 90 attributes each": the_largest_cart,
    "10,000 sessions of one profile": lambda: claiming(10_000, 1),
    "100,000 sessions of 100,000 profiles": lambda: claiming(100_000, 100_000),
    "100,000 sessions of one profile": lambda: claiming(100_000, 1),
    "1,000 records with a key of 1,000 four-byte characters": a_long_key,
}


def beside(neighbours: Sent, count: int) -> Sent:
    """Return carts with bad neighbours spread evenly, and carts after the last neighbour."""
    mixed: Sent = []
    good = carts(count).records
    for number, record in enumerate(good):
        mixed.append(record)
        mixed += neighbours[number * len(neighbours) // len(good) : (number + 1) * len(neighbours) // len(good)]
    return mixed


async def main() -> None:
    """Run all measurements and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--broken", type=int, default=100_000)
    options.add_argument("--carts", type=int, default=100_000)
    options.add_argument("--only", choices=["broken", "neighbours"])
    given = options.parse_args()
    if given.only != "neighbours":
        await _backlogs(given.broken)
    if given.only != "broken":
        await _neighbours(given.carts)


async def _backlogs(count: int) -> None:
    """Measure invalid records, and the same number of valid ones before and after, each with a new worker."""
    for what, made in (("good", whole), ("broken", broken), ("good", whole)):
        async with bench(carts(1000).records) as it:
            seconds, empty_mib, mib = await it.drain(made(count))
        print(f"{count} {what}, then a good one: {seconds:.1f} s, {empty_mib:.0f} -> {mib:.0f} MiB", flush=True)


async def _neighbours(count: int) -> None:
    """Measure carts alone and among each kind of neighbour, in turn, with one worker."""
    alone = carts(count).records
    async with bench(alone) as it:
        for name, neighbours in NEIGHBOURS.items():
            mixed = beside(neighbours(), count)
            before, among, after = [(await it.drain(records)).seconds for records in (alone, mixed, alone)]
            print(
                f"{name}: carts at {(before + after) / 2 / among:.2f} of their pace alone ({before:.1f} s, "
                f"{after:.1f} s alone, {among:.1f} s among {len(mixed) - count} records)",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
