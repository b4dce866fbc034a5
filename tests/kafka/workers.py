"""Workers as processes, started as in production: an application's crew of them, with topics of its own."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from tests.kafka.topics import administration, own
from tests.kafka.waits import within
from worker.codec.lines import Line, read
from worker.local.child import Child
from worker.local.live import WORKER
from worker.local.simulator.day import simulate_with_outcomes
from worker.pipeline.ledger import Ledger
from worker.pipeline.topology import TOPICS, Topology
from worker.settings.model import Settings
from worker.settings.sources import PREFIX
from worker.tools.sender import Sender, producer

STOP_SECONDS = 10
"""What a worker may take to end after SIGTERM."""
SESSION_TIMEOUT_SECONDS = 3
"""For tests that wait for it to pass: short, but a worker on a busy machine sends a heartbeat in time."""

_POLL_SECONDS = 0.05


class Worker:
    """A worker in a process of its own."""

    def __init__(self, child: Child) -> None:
        self._child = child

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._child.status

    def said(self) -> list[str]:
        """Give the lines that it has written so far."""
        return self._child.said().splitlines()

    async def says(self, text: str, times: int = 1, within_seconds: float = 30) -> str:
        """Wait until it has written a text so many times, and give the last line that has it."""
        async with within(within_seconds, f"the worker to write {text!r} {times} times"):
            while len(lines := [line for line in self.said() if text in line]) < times:
                assert self.status is None, f"it ended before it said {text!r}"
                await asyncio.sleep(_POLL_SECONDS)
        return lines[-1]

    async def ends(self, within_seconds: float = 30) -> int:
        """Wait until it has ended, and give its exit status."""
        async with within(within_seconds, "the end of the worker"):
            while self.status is None:  # noqa: ASYNC110 (a process gives no event)
                await asyncio.sleep(_POLL_SECONDS)
        return self.status

    async def restored(self) -> int:
        """Give how many records it restored before it opened its lanes last."""
        match = re.search(r"restored=(\d+)", await self.says("Ready:"))
        assert match
        return int(match[1])

    async def stop(self) -> int | None:
        """Stop it as an operator does, and give its exit status; that of SIGKILL when it took too long."""
        await asyncio.to_thread(self._child.stop, STOP_SECONDS)
        return self.status

    def kill(self) -> None:
        """End it as a crash does."""
        self._child.kill()

    def freeze(self) -> None:
        """Let it do nothing, as on a machine that swaps or a host that moves, if it has not ended."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on as if nothing had been."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.status is None:
            os.kill(self._child.pid, number)

    @property
    def root(self) -> Path:
        """The file system as it alone may see it; Linux shows it."""
        return Path(f"/proc/{self._child.pid}/root")

    def listening(self) -> set[int]:
        """Give the TCP ports of IPv4 at which it listens; Linux tells them."""
        opened = {str(file.readlink()) for file in Path(f"/proc/{self._child.pid}/fd").iterdir()}
        rows = [row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in opened}

    def cpu_seconds(self) -> float:
        """Give the processor time of all its threads."""
        return self._child.cpu_seconds()


class Crew:
    """The workers of one application. At the end of `with` all are killed, and what they said is printed.

    *settings* are those of `SESSION_WORKER_…`, for all of them.
    """

    def __init__(self, kafka: str, folder: Path, partitions: int = 4, *, v1: bool = False, **settings: object) -> None:
        self.kafka = kafka
        self.workers: list[Worker] = []
        self._partitions = partitions
        self._folder = folder
        self._fields = [field for field in TOPICS if v1 or field != "v1"]
        self._given = {"brokers": kafka, "partitions": partitions, "data_dir": folder / "tables"}, settings
        self._children: list[tuple[Path, Child]] = []
        self.rename()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for log, child in self._children:
            child.kill()
            print(f"{'-' * 30} {log.name}", child.said(), sep="\n")  # noqa: T201 (pytest shows it when a test fails)

    def rename(self, **topics: str) -> None:
        """Take a new app id, and new names for all topics but these, as an operator who processes the input again."""
        self.name = own("app")
        self.topology = Topology(self._partitions, **{field: f"{self.name}-{field}" for field in self._fields} | topics)
        ours, given = self._given
        self._settings = {**ours, "app_id": self.name, **self._topics(), **given}

    def _topics(self) -> dict[str, str]:
        return {f"{field}_topic": topic for field, topic in self.topology.named().items()}

    def administrative(self) -> Settings:
        """Return settings with the same topics for the address of the tests."""
        names: dict[str, Any] = self._topics()
        return Settings(brokers=self.kafka, app_id=self.name, partitions=self._partitions, **names)

    def start(self, *, command: Sequence[str] = WORKER, **settings: object) -> Worker:
        """Start one more worker; *settings* go over those of the others."""
        log = self._folder / f"{self.name}-{len(self.workers)}.log"
        child = Child(command, self._folder, log, self._environment(settings))
        self._children.append((log, child))
        self.workers.append(Worker(child))
        return self.workers[-1]

    async def open(self, *, command: Sequence[str] = WORKER, **settings: object) -> Worker:
        """Start a worker, the only one, and wait until it has opened its lanes."""
        worker = self.start(command=command, **settings)
        await worker.says("Ready:")
        return worker

    async def run(self, *arguments: str, **settings: object) -> tuple[int, str, str]:
        """Run a command with the workers' settings, and return its exit status, standard output and standard error."""
        command = sys.executable, "-m", "worker", *arguments
        pipe, environment = asyncio.subprocess.PIPE, self._environment(settings)
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self._folder, env=environment, stdout=pipe, stderr=pipe
        )
        async with within(60, f"the end of the command {' '.join(arguments)}"):
            said, failed = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode(), failed.decode()

    def settings(self) -> Settings:
        """Return the workers' settings, for a worker in the process of the test."""
        given: dict[str, Any] = self._settings
        return Settings(**given)

    def _environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return others | {PREFIX + name.upper(): str(value) for name, value in {**self._settings, **settings}.items()}

    async def configure(self, topic: str, **configs: str) -> None:
        """Give a topic other settings than those with which the workers create it; without any, those again."""
        (field,) = [field for field, name in self.topology.named().items() if name == topic]
        named = {name.replace("_", "."): value for name, value in configs.items()}
        wanted = TOPICS[field].configuration(1 << 20) | named
        async with administration(self.kafka) as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])

    def partitions_of(self, *topics: str) -> list[TopicPartition]:
        """Give the partitions of topics."""
        return [TopicPartition(topic, number) for topic in topics for number in range(self._partitions)]

    async def send(self, lines: Iterable[Line], rate: float | None = None) -> None:
        """Put update records on the input topic, where the default partitioner puts them unless they name a partition.

        With a *rate*, not more than so many a second.
        """
        async with producer({"bootstrap_servers": self.kafka}) as opened:
            sender = Sender(opened, self.topology.updates, self._partitions)
            began = time.monotonic()
            for number, line in enumerate(lines):
                await sender.put(line)
                if rate and number % 10 == 0:
                    await sender.flush()
                    await asyncio.sleep(began + number / rate - time.monotonic())
            await sender.finish()

    async def settle(self, within_seconds: float = 60) -> None:
        """Wait until all that was sent is processed: every source is committed up to its end, and nothing is parked."""
        topology = self.topology
        sources = self.partitions_of(topology.updates, topology.rekeyed, topology.claims, topology.verdicts)
        left: object = "no answer from the coordinator"
        async with (
            administration(self.kafka) as admin,
            AIOKafkaConsumer(bootstrap_servers=self.kafka, isolation_level="read_uncommitted") as consumer,
        ):
            deadline = time.monotonic() + within_seconds
            while left:
                assert time.monotonic() < deadline, f"not processed within {within_seconds} s: {left}"
                assert None in {worker.status for worker in self.workers}, "no worker runs any more"
                await asyncio.sleep(_POLL_SECONDS)
                with suppress(KafkaError, KeyError):  # aiokafka leaves out partitions when the coordinator has moved
                    # Offsets before ends: where they are the same, nothing came between the two.
                    committed = await admin.list_consumer_group_offsets(self.name, partitions=sources)
                    ends = await consumer.end_offsets(sources)
                    left = {
                        tp: (committed[tp], end)
                        for tp, end in ends.items()
                        if not is_done(committed[tp], end) and (committed[tp].offset, end) != (-1, 0)
                    }


def is_done(committed: tuple[int, str], end: int) -> bool:
    """Return True if a worker committed that everything up to *end* is done, and nothing behind it."""
    with suppress(ValueError):
        return committed == Ledger(end, stream=Ledger.restore(*committed).stream).commit()
    return False


def simulated(count: int, seed: int) -> list[Line]:
    """Give a simulated day's update records, as if they came just now: no broker's retention takes them away."""
    records = simulate_with_outcomes(count, seed, lambda: time.time_ns() // 1_000_000)
    return list(read(orjson.dumps(record) for record, _outcome in records))


def update(session: str, partition: int | None = None, *, keyed: bool = True, **fields: object) -> Line:
    """Write an update record of now; *fields* are the session's. Without a key its value alone names the session."""
    value = orjson.dumps({"integrationId": session, "customerSession": fields})
    return Line(0, partition, None, time.time_ns() // 1_000_000, session.encode() if keyed else None, value, [])
