"""What bad records cost, and what bad neighbours cost the sessions beside them: `make bench-bad`.

A backlog of broken records with a good one behind it is held against the same backlog of good records; and carts among
bad neighbours against the same carts alone, before and after, so that a machine that changes its pace shows. The
neighbours are spread evenly among the carts.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import orjson

from bench.load import PARTITIONS, Load, carts
from bench.measure import GROUP, Process, broker, committed, topics, worker
from worker.local.console import administration
from worker.pipeline.partitioner import partition_of

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 300

Sent = list[tuple[int, bytes, bytes]]


class Drained(NamedTuple):
    """How long a backlog took a worker that was ready, and the memory before and after."""

    seconds: float
    empty_mib: float
    mib: float


async def drained(records: Sent) -> Drained:
    """Send a backlog to a worker of its own that works already, and wait until its last record is committed."""
    with broker() as kafka:
        await topics(kafka)
        process = worker(kafka)
        try:
            await process.started()
            return (await in_turn(kafka, process, [carts(1000).records, records]))[-1]
        finally:
            process.stop()


async def in_turn(kafka: str, process: Process, backlogs: Iterable[Sent]) -> list[Drained]:
    """Send one backlog after the other to a worker; sending is in the time, as it is for all of them."""
    given = []
    async with administration({"bootstrap_servers": kafka}) as admin:
        done = await committed(admin, GROUP)
    for records in backlogs:
        empty_mib, began = process.memory_mib(), time.monotonic()
        await Load(records).send(kafka)
        done += len(records)
        await _reached(kafka, done, process)
        given.append(Drained(time.monotonic() - began, empty_mib, process.memory_mib()))
    return given


async def _reached(kafka: str, count: int, process: Process) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS), administration({"bootstrap_servers": kafka}) as admin:
        while await committed(admin, GROUP) < count:
            process.is_ready()
            await asyncio.sleep(_POLL_SECONDS)


def broken(count: int) -> Sent:
    """Make records of one partition that no rule takes, of the size of a cart's update, and a good one behind them."""
    item = {"sku": "cup", "quantity": "2", "price": 1}
    value = _update("bad", {"cartItems": [item], "attributes": {"note": "x" * 450}})[2]
    good = _update("good", {"cartItems": []})
    at = good[0]
    return [*((at, b"bad", value) for _ in range(count)), good]


def whole(count: int) -> Sent:
    """Make as many good records of the same partition."""
    good = _update("good", {"cartItems": []})
    return [*((good[0], key, value) for _at, key, value in carts(count, partitions=1).records), good]


def _update(key: str, session: dict[str, object]) -> tuple[int, bytes, bytes]:
    raw = key.encode()
    return partition_of(raw, PARTITIONS), raw, orjson.dumps({"type": "update", "customerSession": session})


def a_mebibyte() -> Sent:
    """Make ten records of 1 MiB, the most that is taken."""
    frame = len(_update("big", {"attributes": {"note": ""}})[2])
    return [_update("big", {"attributes": {"note": "x" * ((1 << 20) - frame - 1000)}})] * 10


def _items(items: int, attributes: int) -> list[dict[str, object]]:
    given = {f"a{number}": number for number in range(attributes)}
    return [{"sku": f"s{number}", "quantity": 1, "price": 1, "attributes": given} for number in range(items)]


def a_cart_too_large() -> Sent:
    """Make the beginning of a cart of 1,000 items with 1,000 attributes each, 13 MB, that is one byte over the limit."""
    at, key, value = _update("cart", {"cartItems": _items(1000, 1000)})
    return [
        (at, key, value[: (1 << 20) + 1])
    ] * 10  # what is over the limit is never looked at, and brokers refuse 10 MB


def the_largest_cart() -> Sent:
    """Make a cart of 1,000 items with as many attributes each as 1 MiB takes."""
    return [_update("cart", {"cartItems": _items(1000, 90)})] * 10


def one_profile(count: int) -> Sent:
    """Make sessions that all claim one profile."""
    return [_update(f"of-one-{number}", {"profileId": "everybody"}) for number in range(count)]


def a_long_key() -> Sent:
    """Make updates of a session whose key is 1,000 characters of four bytes."""
    return [_update("\U0001f600" * 1000, {"cartItems": _items(1, 1)})] * 1000


NEIGHBOURS: Mapping[str, Callable[[], Sent]] = {
    "10 records of 1 MiB": a_mebibyte,
    "10 carts over max_record_bytes": a_cart_too_large,
    "10 carts of 1,000 items with 90 attributes each": the_largest_cart,
    "10,000 records that wait on one profile": lambda: one_profile(10_000),
    "100,000 sessions of one profile": lambda: one_profile(100_000),
    "1,000 records with a key of 1,000 four-byte characters": a_long_key,
}


def beside(neighbours: Sent, count: int) -> Sent:
    """Put neighbours evenly among carts, and carts behind the last of them."""
    mixed: Sent = []
    good = carts(count).records
    for number, record in enumerate(good):
        mixed.append(record)
        mixed += neighbours[number * len(neighbours) // len(good) : (number + 1) * len(neighbours) // len(good)]
    return mixed


async def main() -> None:
    """Measure everything, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--broken", type=int, default=100_000)
    options.add_argument("--carts", type=int, default=100_000)
    options.add_argument("--only", choices=["broken", "neighbours"])
    given = options.parse_args()
    if given.only != "neighbours":
        for what, made in (("good", whole), ("broken", broken), ("good", whole)):
            it = await drained(made(given.broken))
            print(
                f"{given.broken} {what}, then a good one: {it.seconds:.1f} s, {it.empty_mib:.0f} -> {it.mib:.0f} MiB",
                flush=True,
            )
    if given.only != "broken":
        await _neighbours(given.carts)


async def _neighbours(count: int) -> None:
    """Send carts alone, and among each kind of neighbour, by turns, to one worker."""
    alone = carts(count).records
    with broker() as kafka:
        await topics(kafka)
        process = worker(kafka)
        try:
            await process.started()
            await in_turn(kafka, process, [alone])  # the first makes the sessions: not measured
            for name, neighbours in NEIGHBOURS.items():
                mixed = beside(neighbours(), count)
                before, among, after = await in_turn(kafka, process, [alone, mixed, alone])
                ratio = (before.seconds + after.seconds) / 2 / among.seconds
                print(
                    f"{name}: carts at {ratio:.2f} of their pace alone ({before.seconds:.1f} s, "
                    f"{after.seconds:.1f} s alone, {among.seconds:.1f} s among {len(mixed) - count} records)",
                    flush=True,
                )
        finally:
            process.stop()


if __name__ == "__main__":
    asyncio.run(main())
