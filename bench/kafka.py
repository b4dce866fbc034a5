"""What the worker does on a real Kafka: restore, latency, and the cost of little to do.

Run it with `make bench-kafka`, or `python -m bench.kafka restore` for one of the parts; how fast it is beside others is
bench.compare's to say.

- restore: a worker that finds 300,000 snapshots of 5,000 sessions and has no table, as its log tells it.
- latency: from a producer's send to a read_committed consumer's receipt, at a steady rate; and the worker's share of a core.
  Then the same with records that all have to ask whether theirs is the profile's first session.
- idle: the share of a core that a worker takes with 200 empty partitions.
"""

import asyncio
import statistics
import time

import click
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.console import Console

from bench.load import SESSIONS, UPDATES, carts
from bench.measure import GROUP, broker, measured, topics, worker

_WARM_SECONDS = 2
console = Console()


async def restore(count: int) -> None:
    """Start workers without tables, in memory and on disk."""
    with broker() as kafka:
        await topics(kafka)
        await carts(count, sessions=5_000).send(kafka)
        first = worker(kafka)
        await measured(kafka, GROUP, count, [first])
        first.stop()
        for store in ("memory://", "rocksdb://"):
            again = worker(kafka, store)
            await again.started()
            told = next(line for line in again.told().splitlines() if "Restored " in line)
            console.print(f"{store} {told.partition('Restored ')[2]}")
            again.stop()


async def latency(rate: int, seconds: int, *, with_profile: bool) -> None:
    """Send at a steady rate, and match what comes out by its ce_id; *with_profile*, all of it has to ask."""
    count = rate * seconds
    load = carts(count, sessions=count, profiles=1_000) if with_profile else carts(count, sessions=5_000)
    with broker() as kafka:
        await topics(kafka)
        process = worker(kafka)
        await process.started()
        sent: dict[str, float] = {}
        took: list[float] = []

        async def receive() -> None:
            options = {"isolation_level": "read_committed", "auto_offset_reset": "earliest", "fetch_max_wait_ms": 100}
            async with AIOKafkaConsumer(SESSIONS, bootstrap_servers=kafka, **options) as consumer:
                while len(took) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        now = time.monotonic()
                        took.extend(now - sent[dict(record.headers)["ce_id"].decode()] for record in records)

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(_WARM_SECONDS)
        cpu, began = process.cpu_seconds(), time.monotonic()
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for number, (partition, key, value) in enumerate(load.records):
                if (wait := began + number / rate - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                at = time.monotonic()
                future = await producer.send(UPDATES, value, key, partition=partition)
                future.add_done_callback(
                    lambda f, at=at: sent.__setitem__(f"{UPDATES}/{f.result().partition}/{f.result().offset}", at)
                )
            await producer.flush()
            share = (process.cpu_seconds() - cpu) / (time.monotonic() - began)
            await asyncio.wait_for(receiving, 30)
        process.stop()
        p50, p99, p999 = (
            statistics.quantiles(took[rate * _WARM_SECONDS :], n=1000)[at] * 1000 for at in (499, 989, 998)
        )
        what = "records/s, each with a profile to ask for" if with_profile else "records/s"
        console.print(f"{rate} {what}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, p99.9 {p999:.0f} ms; {share:.1%} of a core")


async def idle(partitions: int, seconds: int) -> None:
    """Watch a worker that has nothing to do."""
    with broker() as kafka:
        await topics(kafka, partitions)
        process = worker(kafka)
        await process.started()
        await asyncio.sleep(5)
        cpu = process.cpu_seconds()
        await asyncio.sleep(seconds)
        console.print(f"idle with {partitions} partitions: {(process.cpu_seconds() - cpu) / seconds:.1%} of a core")
        process.stop()


@click.command()
@click.argument("part", type=click.Choice(["all", "restore", "latency", "idle"]), default="all")
@click.option("--count", default=300_000)
@click.option("--rate", default=500)
@click.option("--seconds", default=20)
def main(part: str, count: int, rate: int, seconds: int) -> None:
    """Measure one part, or all."""
    if part in {"all", "restore"}:
        asyncio.run(restore(count))
    if part in {"all", "latency"}:
        asyncio.run(latency(rate, seconds, with_profile=False))
        asyncio.run(latency(rate, seconds, with_profile=True))
    if part in {"all", "idle"}:
        asyncio.run(idle(200, seconds))


if __name__ == "__main__":
    main()
