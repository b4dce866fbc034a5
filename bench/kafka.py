"""What the worker does on a real Kafka: throughput, restore, latency, and the cost of little to do.

Run it with `make bench-kafka`, or `python -m bench.kafka throughput` for one of the parts. Everything runs on this
machine: the broker, the load and the workers, so the figures are for comparison within one run. Each measurement has a
broker of its own, since topics that were left behind cost it time.

- throughput: 300,000 update records of about 600 bytes, 2 to 6 items, 5,000 sessions, 8 partitions, exactly once, which
  are there before the workers start. The time is from the first tenth of the committed offsets to the last of them, so
  start-up is not in it. The bare pipe takes the same records through aiokafka and orjson, in and out, in transactions,
  and keeps nothing.
- restore: a new worker over the output of that, as its log tells it.
- latency: from a producer's send to a read_committed consumer's receipt, at a steady rate; and the worker's share of a core.
  Then the same with records that all have to ask whether theirs is the profile's first session.
- idle: the share of a core that a worker takes with 200 empty partitions.
"""

import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console

from worker.local.kafka import LocalKafka
from worker.pipeline.partitioner import partition_of
from worker.runtime.cluster import Cluster
from worker.runtime.topics import prepare
from worker.settings import Settings

UPDATES, SESSIONS = "session-updates", "customer-sessions"
GROUP = "session-worker"
PARTITIONS = 8
_TICKS = os.sysconf("SC_CLK_TCK")
console = Console()


class Worker:
    """A worker in a process of its own."""

    def __init__(
        self, kafka: str, command: tuple[str, ...] = ("-m", "worker", "run"), *, store: str = "memory://"
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        settings = {"BROKERS": kafka, "STORE": store, "DATA_DIR": self.folder.name}
        env = os.environ | {f"SESSION_WORKER_{name}": value for name, value in settings.items()}
        self.log = (Path(self.folder.name) / "worker.log").open("w+")
        self.process = subprocess.Popen((sys.executable, *command), env=env, stderr=self.log)  # noqa: S603

    def cpu_seconds(self) -> float:
        """Count the processor time of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_mib(self) -> float:
        """Tell the most memory that it held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def check(self) -> None:
        """Give up when it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(self.told())

    def stop(self) -> None:
        """End it as an operator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()
        self.folder.cleanup()

    def told(self) -> str:
        """Read its log."""
        return Path(self.log.name).read_text()


class Load(NamedTuple):
    """Update records, made beforehand: what is measured is not the making."""

    records: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, count: int, sessions: int, profiles: int = 0) -> "Load":
        """Make records of the design's kind: carts of 2 to 6 items that are replaced.

        With *profiles*, every session has one: the first record of each has to ask for it.
        """
        chance = random.Random(7)
        made = []
        for number in range(count):
            key = f"ber-{number * 7919 % sessions:08d}"
            items = [
                {
                    "sku": f"sku-{chance.randrange(5000):05d}",
                    "name": f"An article of the shop {chance.randrange(5000)}",
                    "quantity": chance.randrange(1, 5),
                    "price": chance.randrange(1, 9999) / 100,
                    "category": "groceries",
                }
                for _ in range(chance.randrange(2, 7))
            ]
            cart = {"storeIntegrationId": "store-08", "attributes": {"register": 5}, "cartItems": items}
            if profiles:
                cart["profileId"] = f"profile-{number % profiles:06d}"
            made.append((key.encode(), orjson.dumps({"type": "update", "integrationId": key, "customerSession": cart})))
        return cls(made)

    async def send(self, kafka: str) -> None:
        """Put all records on the input topic, as fast as that goes."""
        async with AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20, max_batch_size=1 << 19) as producer:
            batches = {number: producer.create_batch() for number in range(PARTITIONS)}
            for key, value in self.records:
                number = partition_of(key, PARTITIONS)
                if batches[number].append(key=key, value=value, timestamp=int(time.time() * 1000)) is None:
                    await producer.send_batch(batches[number], UPDATES, partition=number)
                    batches[number] = producer.create_batch()
                    batches[number].append(key=key, value=value, timestamp=int(time.time() * 1000))
            for number, batch in batches.items():
                await producer.send_batch(batch, UPDATES, partition=number)


@contextmanager
def broker() -> Iterator[str]:
    """Run a broker with nothing in it."""
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder)) as kafka:
        yield kafka.bootstrap_servers


async def committed(cluster: Cluster, group: str = GROUP) -> int:
    """Sum up the committed offsets of the input topic."""
    offsets = await cluster.stable_offsets(group, [TopicPartition(UPDATES, number) for number in range(PARTITIONS)])
    return sum(offset[0] for offset in offsets.values() if offset is not None)


class Run(NamedTuple):
    """A measured stretch."""

    records_a_second: float
    cpu_microseconds: float
    peak_mib: float


async def measured(kafka: str, total: int, workers: list[Worker], group: str = GROUP) -> Run:
    """Watch the committed offsets from a tenth of *total* to the whole."""
    async with Cluster({"bootstrap_servers": kafka}) as cluster:
        began: tuple[int, float, float] | None = None
        while True:
            done = await committed(cluster, group)
            now, cpu = time.monotonic(), sum(worker.cpu_seconds() for worker in workers)
            if began is None and done >= total / 10:
                began = done, now, cpu
            if began is not None and done >= total:
                records = done - began[0]
                return Run(
                    records / (now - began[1]),
                    (cpu - began[2]) / records * 1e6,
                    max(worker.peak_mib() for worker in workers),
                )
            for worker in workers:
                worker.check()
            await asyncio.sleep(0.02)


async def topics(kafka: str, partitions: int = PARTITIONS) -> None:
    """Create all topics."""
    await prepare(Settings(brokers=kafka, partitions=partitions))


async def opened(workers: list[Worker]) -> None:
    """Wait until all workers have opened lanes."""
    while not all("Opened" in worker.told() for worker in workers):
        for worker in workers:
            worker.check()
        await asyncio.sleep(0.1)


async def throughput(count: int, sessions: int) -> None:
    """Compare one worker, two workers and the bare pipe."""
    load = Load.of(count, sessions)
    rates = {}
    for name, number, store in (
        ("one worker, memory", 1, "memory://"),
        ("one worker, RocksDB", 1, "rocksdb://"),
        ("two workers, memory", 2, "memory://"),
    ):
        with broker() as kafka:
            await topics(kafka)
            await load.send(kafka)
            workers = [Worker(kafka, store=store) for _ in range(number)]
            run = await measured(kafka, count, workers)
            rates[name] = run.records_a_second
            console.print(
                f"{name}: {run.records_a_second:,.0f} records/s, {run.cpu_microseconds:.1f} µs of CPU a record, {run.peak_mib:.0f} MiB"
            )
            for worker in workers:
                worker.stop()
            if number == 1:
                again = Worker(kafka, store=store)
                await opened([again])
                console.print(f"  restore: {restored(again.told())}")
                again.stop()
    with broker() as kafka:
        await topics(kafka)
        await load.send(kafka)
        pipe = Worker(kafka, command=("-m", "bench.pipe", kafka))
        run = await measured(kafka, count, [pipe], "bare-pipe")
        pipe.process.kill()
        console.print(
            f"bare pipe: {run.records_a_second:,.0f} records/s, {run.cpu_microseconds:.1f} µs of CPU a record"
        )
    one = rates["one worker, memory"]
    console.print(
        f"one worker against the bare pipe: {one / run.records_a_second:.2f}; two workers against one: {rates['two workers, memory'] / one:.2f}"
    )


def restored(log: str) -> str:
    """Find in a worker's log how it restored its tables."""
    return next(line.partition("Restored ")[2] for line in log.splitlines() if "Restored " in line)


async def latency(rate: int, seconds: int, *, with_profile: bool) -> None:
    """Send at a steady rate, and match what comes out by its ce_id; *with_profile*, all of it has to ask."""
    count = rate * seconds
    load = Load.of(count, count, 1_000) if with_profile else Load.of(count, 5_000)
    with broker() as kafka:
        await topics(kafka)
        worker = Worker(kafka)
        await opened([worker])
        sent: dict[str, float] = {}
        took: list[float] = []

        async def receive() -> None:
            options = {"isolation_level": "read_committed", "auto_offset_reset": "earliest", "fetch_max_wait_ms": 100}
            async with AIOKafkaConsumer(SESSIONS, bootstrap_servers=kafka, **options) as consumer:
                while len(took) < len(load.records):
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        now = time.monotonic()
                        took.extend(now - sent[dict(record.headers)["ce_id"].decode()] for record in records)

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(2)
        cpu, began = worker.cpu_seconds(), time.monotonic()
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for number, (key, value) in enumerate(load.records):
                if (wait := began + number / rate - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                partition, at = partition_of(key, PARTITIONS), time.monotonic()
                future = await producer.send(UPDATES, value, key, partition=partition)
                future.add_done_callback(
                    lambda f, at=at: sent.__setitem__(f"{UPDATES}/{f.result().partition}/{f.result().offset}", at)
                )
            await producer.flush()
            elapsed = time.monotonic() - began
            share = (worker.cpu_seconds() - cpu) / elapsed
            await asyncio.wait_for(receiving, 30)
        worker.stop()
        settled = took[rate * 2 :]
        p = statistics.quantiles(settled, n=1000)
        what = "records/s, each with a profile to ask for" if with_profile else "records/s"
        console.print(
            f"{rate} {what}: p50 {p[499] * 1000:.0f} ms, p99 {p[989] * 1000:.0f} ms, p99.9 {p[998] * 1000:.0f} ms; {share:.1%} of a core"
        )


async def idle(partitions: int, seconds: int) -> None:
    """Watch a worker that has nothing to do."""
    with broker() as kafka:
        await topics(kafka, partitions)
        worker = Worker(kafka)
        await opened([worker])
        await asyncio.sleep(5)
        cpu = worker.cpu_seconds()
        await asyncio.sleep(seconds)
        console.print(f"idle with {partitions} partitions: {(worker.cpu_seconds() - cpu) / seconds:.1%} of a core")
        worker.stop()


@click.command()
@click.argument("part", default="all")
@click.option("--count", default=300_000)
@click.option("--sessions", default=5_000)
@click.option("--rate", default=500)
@click.option("--seconds", default=20)
def main(part: str, count: int, sessions: int, rate: int, seconds: int) -> None:
    """Measure one part, or all."""
    if part in {"all", "throughput"}:
        asyncio.run(throughput(count, sessions))
    if part in {"all", "latency"}:
        asyncio.run(latency(rate, seconds, with_profile=False))
        asyncio.run(latency(rate, seconds, with_profile=True))
    if part in {"all", "idle"}:
        asyncio.run(idle(200, seconds))


if __name__ == "__main__":
    main()
