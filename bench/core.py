"""Measure microseconds per record for each part of the pure core, and in total, at three sizes of cart.

Run `make bench-core`. Each figure is the best of several repetitions on one core: the cost of the code on an idle machine.
"whole" is the path from a consumer record to a producer record, for an open session whose cart is replaced: read, look
up, decode, fold, encode, write the headers.
"""

import timeit
from collections.abc import Callable
from typing import Any

import orjson
from msgspec.json import Decoder
from rich.console import Console
from rich.table import Table

from worker.codec.records import ConsumerRecord
from worker.codec.snapshot import decode_session, encode_json
from worker.codec.structs import struct_of
from worker.codec.update import read
from worker.domain.limits import Rules
from worker.domain.model import Request, UpdateRecord
from worker.domain.rejections import Rejection
from worker.domain.session import fold
from worker.pipeline.lane import Lane, MemoryTable, Overlay
from worker.pipeline.partitioner import partition_of
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology

TIMESTAMP = 1_795_372_800_000
PARTITIONS = 8
KEY = b"ber-3-000123"


def update(items: int) -> dict[str, Any]:
    """Return an update record of a shop with *items* items in the cart: about 600 bytes with five."""
    return {
        "type": "update",
        "integrationId": KEY.decode(),
        "occurredAt": "2026-11-22T18:39:26.842Z",
        "customerSession": {
            "storeIntegrationId": "store-08",
            "attributes": {"channel": "till", "register": 5},
            "cartItems": [
                {
                    "sku": f"tea-{place:04}",
                    "name": "Earl Grey",
                    "quantity": 1 + place % 3,
                    "price": 4.99,
                    "category": "tea",
                }
                for place in range(items)
            ],
        },
    }


def microseconds(work: Callable[[], object]) -> float:
    """Return the best of seven times of *work*."""
    timer = timeit.Timer(work)
    number = max(1, round(0.1 / max(timer.timeit(3) / 3, 1e-7)))
    return min(timer.repeat(7, number)) / number * 1e6


def measure(items: int) -> dict[str, float]:
    """Measure the parts for carts of *items* items."""
    rules = Rules()
    value = orjson.dumps(update(items))
    types = Decoder(struct_of(UpdateRecord))
    request = read(value, KEY, TIMESTAMP, rules)
    if not isinstance(request, Request):
        raise TypeError(request)
    created = fold(None, request, 1, rules)
    if isinstance(created, Rejection):
        raise TypeError(created)
    snapshot = encode_json(created.session)

    sessions = Sessions(rules, Topology(PARTITIONS))
    table = MemoryTable[bytes, bytes]()
    table.apply({KEY: snapshot}, None)
    lane = Lane(sessions, partition_of(KEY, PARTITIONS), table, {})
    overlay = Overlay(lane)
    record = ConsumerRecord(7, TIMESTAMP, KEY, value)
    topic = sessions.topology.updates

    def whole() -> None:
        sessions.fold(overlay, topic, record)
        overlay.out.clear()

    return {
        "bytes": len(value),
        "validate": microseconds(lambda: types.decode(value)),
        "read": microseconds(lambda: read(value, KEY, TIMESTAMP, rules)),
        "decode": microseconds(lambda: decode_session(snapshot)),
        "fold": microseconds(lambda: fold(created.session, request, 1, rules)),
        "encode": microseconds(lambda: encode_json(created.session)),
        "whole": microseconds(whole),
    }


def main() -> None:
    """Print the table."""
    sizes = [1, 5, 1000]
    measured = [measure(items) for items in sizes]
    table = Table(title="µs a record (read includes validate; whole includes all)", title_justify="left")
    table.add_column("part")
    for items in sizes:
        table.add_column(f"{items:,} item{'s' if items > 1 else ''}", justify="right")
    for part in measured[0]:
        digits = 0 if part == "bytes" else 1
        table.add_row(part, *(f"{figures[part]:,.{digits}f}" for figures in measured))
    table.add_row("records/s", *(f"{1e6 / figures['whole']:,.0f}" for figures in measured))
    Console().print(table)


if __name__ == "__main__":
    main()
