"""Update records for measurements, created before the measurement."""

import random
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import orjson

from worker.codec.lines import Line, read
from worker.local.simulator.day import simulate
from worker.pipeline.partitioner import partition_of
from worker.tools.topics import send

UPDATES, SESSIONS = "session-updates", "customer-sessions"
PARTITIONS = 8


class Load(NamedTuple):
    """Records for the input topic: partition, key and value; the first records may only *create* the sessions."""

    records: list[tuple[int, bytes, bytes]]
    partitions: int = PARTITIONS
    create: int = 0

    async def send(self, kafka: str) -> None:
        """Send all records to the input topic in order, as fast as possible."""
        now = time.time_ns() // 1_000_000
        lines = (Line(0, partition, None, now, key, value, []) for partition, key, value in self.records)
        await send({"bootstrap_servers": kafka}, UPDATES, lines)


def carts(count: int, sessions: int = 20_000, profiles: int = 0, partitions: int = PARTITIONS) -> Load:
    """Return updates of about 600 bytes; each replaces a cart of 2 to 6 items.

    With *profiles*, every session has one: the first record of each has to ask for it.
    """
    chance = random.Random(7)
    made = []
    for number in range(count):
        session: dict[str, Any] = {"attributes": {"register": 5}, "cartItems": _items(chance, chance.randrange(2, 7))}
        if profiles:
            session["profileId"] = f"profile-{number % profiles:06d}"
        made.append(_at_home(f"ber-{number * 7919 % sessions:08d}", session, partitions))
    return Load(made, partitions, create=sessions)


def receipts(count: int) -> Load:
    """Return receipts of one message each: sessions that are created closed, 40 % with a profile."""
    chance = random.Random(7)
    made = []
    for number in range(count):
        session: dict[str, Any] = {"state": "closed", "cartItems": _items(chance, chance.randrange(1, 9))}
        if chance.random() < 0.4:
            session["profileId"] = f"profile-{chance.randrange(count):06d}"
        made.append(_at_home(f"ber-{number:08d}", session))
    return Load(made)


def simulated(count: int) -> Load:
    """Return the mix of the simulator, without records that lack a key or a value."""
    lines = read(orjson.dumps(line) for line in simulate(count, 1))
    return Load([(partition_of(it.key, PARTITIONS), it.key, it.value) for it in lines if it.key and it.value])


def big_carts(count: int) -> Load:
    """Return updates with carts of 1,000 items."""
    chance = random.Random(7)
    items = _items(chance, 1000)
    return Load([_at_home(f"ber-{number % 50:08d}", {"cartItems": items}) for number in range(count)])


def hot(count: int) -> Load:
    """Return updates of one session."""
    return carts(count, sessions=1)


def strays(count: int) -> Load:
    """Return the updates of `carts`, each in a partition that is not that of its session."""
    return Load([((at + 1) % PARTITIONS, key, value) for at, key, value in carts(count).records])


class Workload(NamedTuple):
    """A kind of load: its name, its generator, the number of records, its contestants, and the number of runs."""

    what: str
    make: Callable[[int], Load]
    records: int = 200_000
    contestants: tuple[str, ...] = ("worker", "worker, RocksDB", "Kafka Streams, RocksDB")
    rounds: int = 1


EVERYBODY = (
    "worker",
    "worker, RocksDB",
    "worker, 2 processes",
    "Kafka Streams, RocksDB",
    "Kafka Streams, memory",
    "Kafka Streams, RocksDB, 2 threads",
    "Quix Streams",
    "stock Faust",
    "bare pipe",
)
_NEEDS_RULES = ("worker", "worker, RocksDB")

WORKLOADS = {
    "carts": Workload("20,000 open sessions, updates of 600 bytes", carts, 300_000, EVERYBODY, rounds=3),
    "receipts": Workload("one message a session, created closed, 40 % with a profile", receipts),
    "mix": Workload("the simulator's mix", simulated, contestants=_NEEDS_RULES),
    "big": Workload("carts of 1,000 items", big_carts, 5_000),
    "hot": Workload("one session takes all records", hot),
    "strays": Workload("no record is at home", strays, contestants=_NEEDS_RULES),
    "sessions-200k": Workload("200,000 open sessions", partial(carts, sessions=200_000), 500_000),
    "sessions-1m": Workload("1,000,000 open sessions", partial(carts, sessions=1_000_000), 1_350_000),
    **{
        f"partitions-{number}": Workload(
            f"20,000 open sessions, partitions: {number}", partial(carts, partitions=number), contestants=("worker",)
        )
        for number in (1, 4, 16, 64)
    },
}


@lru_cache(maxsize=1)
def made(make: Callable[[], Load]) -> Load:
    """Return the records of a load; the last load is cached for the next contestant."""
    return make()


def _items(chance: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        {
            "sku": f"sku-{chance.randrange(5000):05d}",
            "name": f"An article of the shop {chance.randrange(5000)}",
            "quantity": chance.randrange(1, 5),
            "price": chance.randrange(1, 9999) / 100,
            "category": "groceries",
        }
        for _ in range(count)
    ]


def _at_home(key: str, session: dict[str, Any], partitions: int = PARTITIONS) -> tuple[int, bytes, bytes]:
    session = {"storeIntegrationId": "store-08", **session}
    value = {"type": "update", "integrationId": key, "customerSession": session}
    return partition_of(key.encode(), partitions), key.encode(), orjson.dumps(value)
