"""Runs a schedule of faults over a crew at work, has the verifier judge, and draws up the table."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from statistics import median
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from tests.chaos.crew import run_verifier
from tests.chaos.faults import BROKER_PROPERTIES, TRANSACTION_TIMEOUT_SECONDS, Fault, Ground
from tests.chaos.feed import endless
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, Crew
from worker.local.kafka import LocalKafka

PARTITIONS = 12
BROKERS = 3
RECOVERED_SECONDS = 180
HELD_SECONDS = 60
"""When an operator would look why workers wait for a transaction: it is over time after six."""
SETTLED_SECONDS = 240

_A_LOT = 1_000_000


class Report(NamedTuple):
    """What a run came to."""

    seed: int
    seconds: float
    gaps: dict[str, list[float]]
    """By fault: how long, each time, a partition had no output at most."""
    found: dict[str, int]
    """What the verifier counts."""
    ended: dict[str, int]
    """What workers said last that ended by themselves, with how often."""
    restarted: int
    """How often the group coordinator was restarted, since it held offsets of transactions that had ended long before."""

    @property
    def is_good(self) -> bool:
        return not any(count for name, count in self.found.items() if name not in {"records", "outputs"})

    def table(self) -> str:
        rows = [
            f"| {name} | {len(gaps)} | {median(gaps):.1f} | {max(gaps):.1f} |"
            for name, gaps in sorted(self.gaps.items())
        ]
        total = sum(map(len, self.gaps.values()))
        every = [gap for gaps in self.gaps.values() for gap in gaps]
        counts = ", ".join(f"{count:,} {name}" for name, count in self.found.items())
        ended = [f"ended by itself {times} times, {said}" for said, times in self.ended.items()]
        if self.restarted:
            ended.append(
                f"group coordinator restarted {self.restarted} times, which held offsets of ended transactions"
            )
        return "\n".join(
            [
                f"seed {self.seed}, {total} faults in {self.seconds / 60:.0f} minutes: {counts}",
                *ended,
                "",
                "| fault | times | s without output, p50 | max |",
                "| --- | --- | --- | --- |",
                *rows,
                f"| **all** | {total} | {median(every):.1f} | {max(every):.1f} |",
            ]
        )


class _Watch:
    """A reader of the snapshots, who looks at nothing but when they come, in each partition."""

    def __init__(self, crew: Crew) -> None:
        self.latest = dict.fromkeys(range(PARTITIONS), time.monotonic())
        self._crew = crew
        self._longest = 0.0

    async def run(self) -> None:
        names = [self._crew.topology.sessions]
        settings = {"bootstrap_servers": self._crew.kafka, "isolation_level": "read_committed"}
        while True:
            with suppress(KafkaError):
                async with AIOKafkaConsumer(*names, **settings) as consumer:
                    while True:
                        self._note(tp.partition for tp in await consumer.getmany(timeout_ms=100))
            await asyncio.sleep(0.2)

    def _note(self, partitions: Iterable[int]) -> None:
        now = time.monotonic()
        for number in partitions:
            self._longest = max(self._longest, now - self.latest[number])
            self.latest[number] = now

    def longest(self) -> float:
        """Give the longest time in which a partition had no output since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest


async def run(faults: Sequence[Fault], seed: int, rate: float, folder: Path) -> Report:
    """Let the faults strike, one after another, while update records come at a steady rate; then judge."""
    began = time.monotonic()
    gaps: dict[str, list[float]] = defaultdict(list)
    over = asyncio.Event()
    with (
        LocalKafka(folder / "kafka", BROKERS, properties=BROKER_PROPERTIES) as kafka,
        _quiet(_crew(kafka, folder)) as crew,
    ):
        async with Ground(kafka, crew, folder, seed) as ground:
            watch = _Watch(crew)
            watching = asyncio.ensure_future(watch.run())
            sending = asyncio.ensure_future(crew.send(endless(_A_LOT, seed, PARTITIONS, over.is_set), rate))
            restarted = int(await _recovered(watch, sending, ground))
            watch.longest()
            for number, fault in enumerate(faults, 1):
                name = fault.__name__.replace("_", " ")
                await ground.opened()
                await fault(ground)
                await ground.opened()
                restarted += await _recovered(watch, sending, ground)
                gaps[name].append(watch.longest())
                print(f"{number:4} {name}: {gaps[name][-1]:.1f} s without output", flush=True)
            over.set()
            await sending
            await ground.mend()
            await crew.settle(SETTLED_SECONDS)
            watching.cancel()
            found = await run_verifier(crew)
        return Report(seed, time.monotonic() - began, dict(gaps), found, dict(ground.ended), restarted)


def _crew(kafka: LocalKafka, folder: Path) -> Crew:
    return Crew(
        kafka.bootstrap_servers,
        folder,
        PARTITIONS,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
        transaction_timeout_seconds=TRANSACTION_TIMEOUT_SECONDS,
    )


@contextmanager
def _quiet(crew: Crew) -> Iterator[Crew]:
    """Run a crew without its logs at the end: they are long, and in its folder."""
    crew.__enter__()
    try:
        yield crew
    finally:
        with redirect_stdout(StringIO()):
            crew.__exit__()


async def _recovered(watch: _Watch, sending: asyncio.Future[None], ground: Ground) -> bool:
    """Wait until snapshots come out again, in every partition; tell whether the group coordinator had to be restarted.

    A broker that loses and regains a partition of offsets while it loads it may take transactions for open that its own
    log has ended (Kafka 4.4). Workers wait and say so. A restart lets it load the log once more: it helps if it was the
    broker's error, and does not if a transaction is open indeed.
    """
    began = time.monotonic()
    is_restarted = False
    try:
        async with asyncio.timeout(RECOVERED_SECONDS):
            while min(watch.latest.values()) < began:
                if sending.done():
                    sending.result()
                    raise AssertionError("nothing is sent any more")
                if not is_restarted and time.monotonic() > began + HELD_SECONDS and ground.is_held_up():
                    is_restarted = True
                    await ground.restart_group_coordinator()
                await asyncio.sleep(0.05)
    except TimeoutError:
        silent = sorted(number for number, latest in watch.latest.items() if latest < began)
        raise AssertionError(f"no output for {RECOVERED_SECONDS} s in the partitions {silent}") from None
    return is_restarted
