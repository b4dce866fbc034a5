"""Check that a contestant is correct: `python -m bench.peers.same worker`, or any other of bench/contestants.py.

The contestant gets the records of the bench and a few with further features, in two halves. Between them it is stopped and
started again in an empty folder, so that it must restore its sessions. The second half is on the topic before this start;
a contestant that would lose these records gets them after it is ready. The last snapshot of each key is compared, field
by field, with a plain fold in Decimal. At a difference the check prints the first one and exits with status 1.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from decimal import Decimal
from io import BytesIO
from typing import Any

import click

from bench.contestants import CONTESTANTS, PIPE
from bench.load import PARTITIONS, SESSIONS, Load, carts
from bench.measure import broker, committed, topics
from worker.pipeline.partitioner import partition_of
from worker.tools.topics import administration, dump

PATIENCE_SECONDS = 60
Json = dict[str, Any]


def more() -> Load:
    """Return records with features that the bench lacks: costs, a merge, a removal, an unchanged cart, a close."""
    made = []
    for number in range(40):
        key = f"more-{number:03d}"
        item = {"sku": "mug", "quantity": 3, "price": 0.1, "additionalCosts": {"wrap": {"price": 0.07}}}
        for session in (
            {"cartItems": [item, item], "attributes": {"a": 1, "b": {"c": None}}, "profileId": ""},
            {"additionalCosts": {"shipping": {"price": 4.9}, "less": {"price": -0.01}}, "attributes": {"d": [0.5]}},
            {"attributes": {"a": None, "b": 2}, "couponCodes": ["X"], "cartItems": None},
            {"additionalCosts": {"shipping": {"price": 1234567.89}}, "state": "closed"},
        ):
            value = json.dumps({"type": "update", "integrationId": key, "customerSession": session})
            made.append((partition_of(key.encode(), PARTITIONS), key.encode(), value.encode()))
    return Load(made)


def expected(records: list[tuple[int, bytes, bytes]]) -> dict[str, Json]:
    """Return the expected sessions by a simple fold."""
    sessions: dict[str, Json] = {}
    for _, key, value in records:
        given = json.loads(value, parse_float=Decimal)["customerSession"]
        new = {"integrationId": key.decode(), "state": "open", "cartItems": [], "attributes": {}, "updateCount": 0}
        session = sessions.setdefault(key.decode(), new)
        for name, new in given.items():
            if name == "attributes":
                session[name] = {k: v for k, v in {**session[name], **new}.items() if v is not None}
            elif name == "cartItems" and new is not None:
                session[name] = [
                    {**item, "returnedQuantity": 0, "remainingQuantity": item["quantity"], "position": position}
                    for position, item in enumerate(new)
                ]
            elif new is not None:
                session[name] = new
        session["updateCount"] += 1
    for session in sessions.values():
        cart = session["cartItems"]
        session["cartItemTotal"] = sum(item["price"] * item["quantity"] for item in cart)
        session["additionalCostTotal"] = _prices(session)
        session["cartItemAdditionalCostTotal"] = sum(_prices(item) * item["quantity"] for item in cart)
        parts = ("cartItemTotal", "additionalCostTotal", "cartItemAdditionalCostTotal")
        session["total"] = sum(session[part] for part in parts)
    return sessions


def _prices(priced: Json) -> Decimal:
    return sum((cost["price"] for cost in priced.get("additionalCosts", {}).values()), Decimal())


async def published(kafka: str) -> tuple[dict[str, Json], Counter[str]]:
    """Return the last committed snapshot of each key, and the number of snapshots."""
    dumped = BytesIO()
    await dump({"bootstrap_servers": kafka}, SESSIONS, dumped)
    dumped.seek(0)
    lines = [(line["key"], line["value"]) for line in (json.loads(text, parse_float=Decimal) for text in dumped)]
    return dict(lines), Counter(key for key, _ in lines)


async def run(name: str, kafka: str, records: list[tuple[int, bytes, bytes]]) -> None:
    """Run the contestant on one half, delete its state on disk and in memory, and run it on the other half."""
    contestant = CONTESTANTS[name]
    half = len(records) // 2
    async with administration({"bootstrap_servers": kafka}) as admin:
        for part, end in ((records[:half], half), (records[half:], len(records))):
            late = contestant.skips_backlog and end > half
            if not late:
                await Load(part).send(kafka)
            process, began = contestant.start(kafka), time.monotonic()
            try:
                if late:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await process.started()
                    await Load(part).send(kafka)
                while (done := await committed(admin, contestant.group)) < end:
                    process.is_ready()
                    if time.monotonic() - began > PATIENCE_SECONDS:
                        raise SystemExit(f"{process.told()}\n{name}: {done} of {end} committed, and no more")
                    await asyncio.sleep(0.1)
            finally:
                process.stop()


def difference(wanted: dict[str, Json], got: dict[str, Json], count: Counter[str], *, exactly_once: bool) -> str | None:
    """Return the first session that differs from the expected one."""
    for key in sorted(wanted.keys() | got.keys()):
        if key not in wanted or key not in got:
            return f"{key}: {'not published' if key in wanted else 'not sent'}"
        for field, value in wanted[key].items():
            if got[key].get(field) != value:
                return f"{key}: {field} is {got[key].get(field)}, not {value}"
        snapshots, updates = count[key], wanted[key]["updateCount"]
        if snapshots != updates and (exactly_once or snapshots < updates):
            return f"{key}: {snapshots} snapshots of {updates} updates"
    return None


async def same(name: str, count: int, sessions: int) -> str | None:
    records = carts(count, sessions).records + more().records
    with broker() as kafka:
        await topics(kafka)
        await run(name, kafka, records)
        got, snapshots = await published(kafka)
    return difference(expected(records), got, snapshots, exactly_once=CONTESTANTS[name].exactly_once)


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice([name for name in CONTESTANTS if name != PIPE]))
@click.option("--count", default=5_000)
@click.option("--sessions", default=500)
def main(names: tuple[str, ...], count: int, sessions: int) -> None:
    """Check contestants in sequence."""
    for name in names:
        if (found := asyncio.run(same(name, count, sessions))) is not None:
            sys.exit(f"{name} differs: {found}")
        click.echo(f"{name}: the same, after {count:,} records and more, and a restore between")


if __name__ == "__main__":
    main()
