"""Run Kafka, a worker and a simulated shop on this machine, and check every output.

Each run has its own empty Kafka in a folder that is deleted at the end. The worker is a process as in production with
default settings: the settings of the environment and of files in the working directory are ignored. The simulator knows
the expected outcome of each record. The run matches outcomes and records by place: a missing or an excess snapshot is a
flaw.

1. The worker creates the topics. The run sends one record; after its output has arrived, it sends at the given pace.
2. All records are sent, and the end of the input topic is committed: no record waits, also not for a verdict.
3. The output topics are complete now. The run reads them to their high watermarks, then compares.
4. The worker is stopped, then Kafka. Both are children, which end when this process ends.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.console import Console

from worker.codec.headers import TYPES
from worker.codec.lines import read
from worker.local.child import Child
from worker.local.kafka import LocalKafka
from worker.local.simulator.day import simulate_with_outcomes
from worker.local.tally import Pace, Place, Reconciliation, place_of
from worker.local.view import Progress, View, report
from worker.pipeline import outcomes
from worker.pipeline.topology import Topology
from worker.settings.sources import PREFIX
from worker.tools.sender import Sender, producer
from worker.tools.topics import Connection, Fetched, administration, reader

WORKER = (sys.executable, "-m", "worker", "run")
QUIET_SECONDS = 60
STOP_SECONDS = 12

_A_DAY_SECONDS = 16 * 3600
_REFRESH_SECONDS = 0.25
_POLL_SECONDS = 0.05
_GROUP = "session-worker"
_LAST_WORDS = 20
_MODEST = {"log.segment.bytes": str(16 << 20), "log.retention.bytes": str(64 << 20)}
"""Settings of the broker that keep the disk from filling up in a run of many hours."""


class LiveFailed(Exception):
    """The run cannot continue; the message has the cause."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run: *rate* records per second, *count* records or a whole day, of the day of *seed*."""

    rate: float
    count: int | None
    seed: int
    store: str


def live(wish: RunOptions, screen: Console, worker: Sequence[str] = WORKER) -> int:
    """Run until all records are sent and checked, or until Ctrl-C or SIGTERM; return the exit status.

    The status is 1 if an outcome was not expected, and 130 if a run with a count was interrupted. Raise LiveFailed or
    KafkaFailed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with TemporaryDirectory(prefix="session-worker-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        screen.print("Starting Kafka", highlight=False)
        with LocalKafka(folder / "kafka", properties=_MODEST) as kafka:
            address = kafka.bootstrap_servers
            with _started(worker, folder, address, wish.store) as child, View(screen, address) as view:
                run = _Run(wish, {"bootstrap_servers": address}, lambda: _check(kafka, child), view)
                try:
                    asyncio.run(run.run())
                    is_whole = True
                except KeyboardInterrupt:
                    is_whole = False
                seconds = run.seconds
            flaws = [*(run.tally.flaws() if is_whole else run.tally.wrong)]
            if child.status:
                flaws.append(f"the worker did not end with status 0; {_last_words(child)}")
    report(screen, run.tally, seconds, flaws, is_whole=is_whole)
    return 1 if flaws else 0 if is_whole or wish.count is None else 128 + signal.SIGINT


@contextmanager
def _started(command: Sequence[str], folder: Path, address: str, store: str) -> Iterator[Child]:
    """Yield a worker that runs in a folder without settings; stop the worker at the end."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {"BROKERS": address, "APP_ID": _GROUP, "STORE": store, "DATA_DIR": str(folder / "tables")}
    environment = others | {PREFIX + name: value for name, value in ours.items()}
    child = Child(command, folder, folder / "worker.log", environment)
    try:
        yield child
    finally:
        child.stop(STOP_SECONDS)


def _check(kafka: LocalKafka, worker: Child) -> None:
    kafka.check()
    if worker.status is not None:
        raise LiveFailed(f"the worker ended; {_last_words(worker)}")


def _last_words(worker: Child) -> str:
    lines = worker.said().splitlines()[-_LAST_WORDS:]
    return "\n".join([f"its status is {worker.status}, and its last lines are:", *lines])


def word_of(topology: Topology, record: Fetched) -> tuple[Place | None, str, str]:
    """Return the place of the update record behind an output, its outcome, and its event.

    A reclassified snapshot is not the outcome of a record, so its place is None.
    """
    headers = {name: value.decode() for name, value in record.headers}
    if record.topic == topology.rejections:
        place = int(headers["__streams.errors.partition"]), int(headers["__streams.errors.offset"])
        return place, outcomes.REJECTED[headers["rejection-code"]], ""
    event = headers["ce_type"].removeprefix(TYPES)
    if record.topic == topology.dry_runs:
        return place_of(headers["ce_id"]), outcomes.DRY_RUN, ""
    return None if event == outcomes.RECLASSIFIED else place_of(headers["ce_id"]), outcomes.SNAPSHOT, event


class _Run:
    """One run, from the start of the worker until all records are checked."""

    def __init__(self, wish: RunOptions, connection: Connection, check: Callable[[], None], view: View) -> None:
        self.tally = Reconciliation()
        self._wish = wish
        self._connection = connection
        self._check = check
        self._view = view
        self._topology = Topology(partitions=None)
        self._outputs = self._topology.sessions, self._topology.rejections, self._topology.dry_runs
        self._tasks: list[asyncio.Task[None]] = []
        self._is_up = asyncio.Event()
        self._doing = "starting the worker"
        self._lag: int | None = None
        self._started = time.monotonic()
        self._last = _Sign(0, None, self._started)

    @property
    def seconds(self) -> float:
        """The duration of the run until now."""
        return time.monotonic() - self._started

    async def run(self) -> None:
        """Send and read until all records are checked."""
        async with administration(self._connection) as admin:
            numbers = range(await self._partitions(admin))
            async with (
                reader(self._connection) as outputs,
                reader(self._connection, is_committed=False) as ends,
                producer(self._connection) as opened,
            ):
                outputs.assign([TopicPartition(name, number) for name in self._outputs for number in numbers])
                sender = Sender(opened, self._topology.updates, len(numbers), self._landed)
                sending = asyncio.create_task(self._send(sender))
                self._tasks = [sending, asyncio.create_task(self._receive(outputs))]
                try:
                    inputs = [TopicPartition(self._topology.updates, number) for number in numbers]
                    await self._until_settled(admin, ends, inputs, sending)
                    await self._until_read(outputs, ends)
                finally:
                    for task in self._tasks:
                        task.cancel()
                    await asyncio.gather(*self._tasks, return_exceptions=True)

    # -------------------------------------------------------------------------------------------- sending, reading

    async def _send(self, sender: Sender) -> None:
        """Send the records of the simulator at the given pace; the first record alone."""
        rate, count = self._wish.rate, self._wish.count or int(self._wish.rate * _A_DAY_SECONDS)
        pace = Pace(rate, self._started)
        for sent, (record, outcome) in enumerate(simulate_with_outcomes(count, self._wish.seed, _milliseconds), 1):
            (line,) = read([orjson.dumps(record)])
            await sender.put(line, (outcome, time.monotonic()))
            if sent == 1:
                await sender.flush()
                await self._is_up.wait()
                pace = Pace(rate, time.monotonic() - 1 / rate)
                self._doing = "running"
            wait = pace.wait(sent, time.monotonic())
            if wait:
                await sender.flush()
            if wait or sent % 100 == 0:  # yield to other tasks also if the run is behind its pace
                await asyncio.sleep(wait)
        await sender.finish()
        self._doing = "finishing"

    def _landed(self, mark: tuple[str, float], partition: int, offset: int) -> None:
        outcome, at = mark
        self.tally.acknowledge((partition, offset), outcome, at)

    async def _receive(self, outputs: AIOKafkaConsumer) -> None:
        while True:
            fetched = await outputs.getmany(timeout_ms=1000)
            at = time.monotonic()
            for records in fetched.values():
                for record in records:
                    self.tally.receive(*word_of(self._topology, record), at)
                self._is_up.set()

    # ---------------------------------------------------------------------------------------------------- waiting

    async def _partitions(self, admin: AIOKafkaAdminClient) -> int:
        """Wait until the worker has created the topics; return their number of partitions."""
        while True:
            led = {
                found["topic"]: all(partition["leader"] >= 0 for partition in found["partitions"])
                and len(found["partitions"])
                for found in await admin.describe_topics()
            }
            if all(led.get(name) for name in (self._topology.updates, *self._outputs)):
                return int(led[self._topology.updates])
            self._watch()
            await asyncio.sleep(_POLL_SECONDS)

    async def _until_settled(
        self,
        admin: AIOKafkaAdminClient,
        ends: AIOKafkaConsumer,
        inputs: Sequence[TopicPartition],
        sending: asyncio.Task[None],
    ) -> None:
        """Wait until all records are sent and their offsets are committed."""
        while True:
            is_sent = sending.done()
            self._lag = await _lag(admin, ends, inputs)
            self._watch()
            if is_sent and self._lag == 0:
                return
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _until_read(self, outputs: AIOKafkaConsumer, ends: AIOKafkaConsumer) -> None:
        """Wait until the output topics are read to their current ends."""
        high = await ends.end_offsets(outputs.assignment())
        while any([await outputs.position(partition) < end for partition, end in high.items()]):
            self._watch()
            await asyncio.sleep(_POLL_SECONDS)

    def _watch(self) -> None:
        """Show the progress. Raise LiveFailed if the worker failed or wrote nothing for QUIET_SECONDS."""
        self._check()
        for task in self._tasks:
            if task.done():
                task.result()
        self._view.show(self.tally, Progress(self._doing, self.seconds, self._lag))
        came, now = self.tally.came.total(), time.monotonic()
        is_idle = self._doing == "running" and not self.tally.on_the_way
        if is_idle or (came, self._lag) != (self._last.came, self._last.lag):
            self._last = _Sign(came, self._lag, now)
        elif now - self._last.at > QUIET_SECONDS:
            raise LiveFailed(f"the worker wrote nothing for {QUIET_SECONDS} s ({self._doing})")


class _Sign(NamedTuple):
    """The last progress: the number of outputs, the lag, and the time."""

    came: int
    lag: int | None
    at: float


async def _lag(admin: AIOKafkaAdminClient, ends: AIOKafkaConsumer, inputs: Sequence[TopicPartition]) -> int | None:
    """Return the number of records that the worker's group has not committed; None if no coordinator is available."""
    try:
        committed = await admin.list_consumer_group_offsets(_GROUP, partitions=list(inputs))
    except KafkaError:
        return None
    high = await ends.end_offsets(inputs)
    done = {partition: max(0, found.offset) for partition, found in committed.items()}  # -1: no offset is committed
    return sum(int(end) - done.get(partition, 0) for partition, end in high.items())


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
