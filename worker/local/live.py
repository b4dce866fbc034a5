"""Runs the whole thing on this machine: a Kafka, a worker, a shop that sends, and a reader that checks what comes out.

Each run has a Kafka of its own, empty, in a folder that goes when the run ends. The worker is a process as in
production, with default settings: neither the environment's nor those of a file in the working directory count. What
should come of each record is foretold by the simulator, and every one is accounted for by its place: one snapshot too
few or too many is a flaw.

1. The worker creates the topics. The first record is sent, and only when it has come through does the pace begin.
2. All is sent, and the end of the input topic is committed: no record waits, for a verdict or otherwise.
3. What is on the output topics now is all there will be. It is read to the high watermarks, then judged.
4. The worker is stopped, then the Kafka. Both are children that end when we do, however that is.
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
"""A run of many hours fills no disk: the broker drops what was read long ago."""


class LiveFailed(Exception):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a person asks for: *rate* records a second, *count* of them or a day's, of the day that *seed* names."""

    rate: float
    count: int | None
    seed: int
    store: str


def live(wish: RunOptions, screen: Console, worker: Sequence[str] = WORKER) -> int:
    """Run until all that was asked for is sent and accounted for, or until Ctrl-C or SIGTERM; give the exit status.

    It is 1 when something was not as foretold, and 130 when a run with a count was broken off. Raises LiveFailed, or
    KafkaFailed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with TemporaryDirectory(prefix="session-worker-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        screen.print("Starting a Kafka", highlight=False)
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
                flaws.append(f"the worker did not end as it should; {_last_words(child)}")
    report(screen, run.tally, seconds, flaws, is_whole=is_whole)
    return 1 if flaws else 0 if is_whole or wish.count is None else 128 + signal.SIGINT


@contextmanager
def _started(command: Sequence[str], folder: Path, address: str, store: str) -> Iterator[Child]:
    """Start a worker in a folder where no file has settings for it, and stop it in the end."""
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
    return "\n".join([f"its status is {worker.status}, and its last words are:", *lines])


def word_of(topology: Topology, record: Fetched) -> tuple[Place | None, str, str]:
    """Tell what a record of an output topic is about: the update record's place, the outcome, and what happened.

    A session that is published again, because another one turned out to be first, is no record's outcome: no place.
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
    """One run, from the worker's start until all is accounted for."""

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
        """How long it has run."""
        return time.monotonic() - self._started

    async def run(self) -> None:
        """Send and read until all is accounted for."""
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
        """Send what the simulator makes, at the pace that was asked for; the first record alone."""
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
            if wait or sent % 100 == 0:  # behind the pace, too, others have their turn
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
        """Wait until the worker has created the topics; tell how many partitions they have."""
        while True:
            led = {
                it["topic"]: all(partition["leader"] >= 0 for partition in it["partitions"]) and len(it["partitions"])
                for it in await admin.describe_topics()
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
        """Wait until all is sent and its offsets are committed."""
        while True:
            is_sent = sending.done()
            self._lag = await _lag(admin, ends, inputs)
            self._watch()
            if is_sent and self._lag == 0:
                return
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _until_read(self, outputs: AIOKafkaConsumer, ends: AIOKafkaConsumer) -> None:
        """Wait until the output topics are read to their ends as they are now."""
        high = await ends.end_offsets(outputs.assignment())
        while any([await outputs.position(partition) < end for partition, end in high.items()]):
            self._watch()
            await asyncio.sleep(_POLL_SECONDS)

    def _watch(self) -> None:
        """Show how it goes; raise when something has failed, or nothing has come for long."""
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
            raise LiveFailed(f"nothing has come from the worker for {QUIET_SECONDS} s ({self._doing})")


class _Sign(NamedTuple):
    """The last sign of life: how much had come out, what the lag was, and when."""

    came: int
    lag: int | None
    at: float


async def _lag(admin: AIOKafkaAdminClient, ends: AIOKafkaConsumer, inputs: Sequence[TopicPartition]) -> int | None:
    """Count the records that the worker's group has not committed; None while its coordinator is not up."""
    try:
        committed = await admin.list_consumer_group_offsets(_GROUP, partitions=list(inputs))
    except KafkaError:
        return None
    high = await ends.end_offsets(inputs)
    done = {partition: max(0, it.offset) for partition, it in committed.items()}  # -1: nothing is committed
    return sum(int(end) - done.get(partition, 0) for partition, end in high.items())


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
