"""Send update records at a steady rate, and measure the time until each committed snapshot is read."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.load import SESSIONS, UPDATES, Load

_MARK = re.compile(rb'"register":(\d+)')  # an attribute that every contestant copies
_PATIENCE_SECONDS = 90


class Receipt(NamedTuple):
    """A snapshot: the times at which its update was sent and the snapshot was read, in seconds since 1970."""

    sent: float
    received: float


@asynccontextmanager
async def traffic(kafka: str, load: Load, rate: int) -> AsyncIterator[list[Receipt]]:
    """Send the records of a load repeatedly and collect the outputs; at the end wait for the last output."""
    receipts: list[Receipt] = []
    ending = asyncio.Event()
    async with (
        AIOKafkaProducer(bootstrap_servers=kafka) as producer,
        AIOKafkaConsumer(
            SESSIONS,
            bootstrap_servers=kafka,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        ) as consumer,
        asyncio.TaskGroup() as tasks,
    ):
        sending = tasks.create_task(_send(producer, load, rate, ending))
        receiving = tasks.create_task(_receive(consumer, receipts))
        try:
            yield receipts
            ending.set()
            count = await sending
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while len(receipts) < count:  # noqa: ASYNC110 (an at-least-once contestant may write an output twice)
                    await asyncio.sleep(0.05)
        finally:
            ending.set()
            receiving.cancel()


async def _send(producer: AIOKafkaProducer, load: Load, rate: int, ending: asyncio.Event) -> int:
    began, number = time.monotonic(), 0
    while not ending.is_set():
        due = int((time.monotonic() - began) * rate)
        while number < due:
            partition, key, value = load.records[number % len(load.records)]
            now = time.time_ns() // 1000
            await producer.send(UPDATES, _MARK.sub(b'"register":%d' % now, value, 1), key, partition=partition)
            number += 1
        await asyncio.sleep(0.001)
    await producer.flush()
    return number


async def _receive(consumer: AIOKafkaConsumer, receipts: list[Receipt]) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            now = time.time()
            for record in records:
                (mark,) = _MARK.findall(record.value or b"")
                receipts.append(Receipt(int(mark) / 1e6, now))
