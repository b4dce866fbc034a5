"""Prove that a contestant does the job: `python -m bench.peers.same worker`, or any other of bench/contestants.py.

It gets the bench's records and a few that use what those leave out, in two halves; between them it is stopped, and
started anew in an empty folder, so that it has to restore its sessions. The second half waits for it already, except
where that is known to lose records: there it comes once the contestant is ready. What it published last for each key is compared,
field by field, with a plain fold that counts in Decimal. Exit status 1, and the first difference, if there is one.
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
    """Make records with all that the bench's own leave out: costs, a merge, a removal, a cart that is kept, a close."""
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
    """Fold them as simply as that can be said."""
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
    """Read the committed snapshots: the last of each key, and how many there are."""
    dumped = BytesIO()
    await dump({"bootstrap_servers": kafka}, SESSIONS, dumped)
    dumped.seek(0)
    lines = [(line["key"], line["value"]) for line in (json.loads(text, parse_float=Decimal) for text in dumped)]
    return dict(lines), Counter(key for key, _ in lines)


async def run(name: str, kafka: str, records: list[tuple[int, bytes, bytes]]) -> None:
    """Let the contestant do a half, lose all it has on disk and in memory, and do the other half."""
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
    """Find the first session that is not as it should be."""
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
    """Check contestants, one after the other."""
    for name in names:
        if (found := asyncio.run(same(name, count, sessions))) is not None:
            sys.exit(f"{name} differs: {found}")
        click.echo(f"{name}: the same, after {count:,} records and more, and a restore between")


if __name__ == "__main__":
    main()
