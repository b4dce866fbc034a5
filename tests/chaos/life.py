"""The life of a stream: its topics, from the first update record until the verifier judges what came of them."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from tests.chaos.crew import run_verifier
from tests.chaos.feed import endless
from tests.kafka.workers import Crew

PARTITIONS = 12
SETTLED_SECONDS = 240

_A_LOT = 1_000_000


class Watch:
    """A reader of the snapshots, who looks at nothing but when they come, in each partition."""

    def __init__(self, crew: Crew) -> None:
        self.latest = dict.fromkeys(range(PARTITIONS), time.monotonic())
        self._where = crew.kafka, crew.topology.sessions
        self._longest = 0.0

    async def run(self) -> None:
        """Read until cancelled."""
        kafka, topic = self._where
        while True:
            with suppress(KafkaError):
                async with AIOKafkaConsumer(
                    topic, bootstrap_servers=kafka, isolation_level="read_committed"
                ) as consumer:
                    while True:
                        self._note(tp.partition for tp in await consumer.getmany(timeout_ms=100))
            await asyncio.sleep(0.2)

    def _note(self, partitions: Iterable[int]) -> None:
        now = time.monotonic()
        for number in partitions:
            self._longest = max(self._longest, now - self.latest[number])
            self.latest[number] = now

    def longest(self) -> float:
        """Return the longest time in which a partition had no output since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest


class Life:
    """Sends update records of a crew's stream at a steady rate, and watches what comes out, from now on."""

    def __init__(self, crew: Crew, seed: int, rate: float) -> None:
        self.watch = Watch(crew)
        self._crew = crew
        self._is_over = asyncio.Event()
        self._sending = asyncio.ensure_future(crew.send(endless(_A_LOT, seed, PARTITIONS, self._is_over.is_set), rate))
        self._watching = asyncio.ensure_future(self.watch.run())

    def check(self) -> None:
        """Raise what has ended the feed, if it has ended."""
        if self._sending.done():
            self._sending.result()
            raise AssertionError("nothing is sent any more")

    async def stop(self) -> None:
        """Send nothing more."""
        self._is_over.set()
        await self._sending

    async def judge(self) -> dict[str, int]:
        """Wait until all that was sent is processed, and return what the verifier counts."""
        await self._crew.settle(SETTLED_SECONDS)
        self._watching.cancel()
        return await run_verifier(self._crew)
