"""Puts records on a topic: in the order of each partition, once each, a batch at a time.

aiokafka's `send` makes a future a record, 81,000 records a second (of 600 bytes, over 8 partitions) where batches reach
200,000, and refuses a record that has neither key nor value.
"""

import asyncio
from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from worker.pipeline.lines import Line
from worker.pipeline.partitioner import partition_of

_BATCH_BYTES = 1 << 17

Landed = Callable[[Any, int, int], None]
"""What is told of a record that the broker has: the mark it was given, its partition, its offset."""


class NoSuchPartition(Exception):
    """A line names a partition that the topic does not have; the message has the line's number."""


class _Batch(NamedTuple):
    builder: BatchBuilder
    marks: list[Any]


def producer(connection: dict[str, Any]) -> AIOKafkaProducer:
    """Make the idempotent producer that a Sender needs."""
    return AIOKafkaProducer(**connection, enable_idempotence=True, max_batch_size=_BATCH_BYTES)


class Sender:
    """Fills a batch for each partition, and hands it over when it is full or *flush* asks for it.

    A batch waits until the one before it is on its way, so no more than two a partition are in memory. Records whose
    line names no partition go where Kafka's default partitioner puts their key, those without a key around in turns.
    """

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, partitions: int, landed: Landed = lambda *_: None
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._landed = landed
        self._turns = cycle(range(partitions))
        self._open: dict[int, _Batch] = {}
        self._under_way: set[asyncio.Future[RecordMetadata]] = set()
        self._failure: BaseException | None = None

    async def put(self, line: Line, mark: Any = None) -> None:
        """Add a record to the batch of its partition. Raises what became of batches before, or NoSuchPartition."""
        partition = self._partition(line)
        batch = self._open.get(partition) or self._opened(partition)
        while (
            batch.builder.append(timestamp=line.timestamp, key=line.key, value=line.value, headers=line.headers) is None
        ):
            await self._submit(partition)
            batch = self._opened(partition)
        batch.marks.append(mark)

    async def flush(self) -> None:
        """Hand over all batches as they are."""
        for partition in tuple(self._open):
            await self._submit(partition)

    async def finish(self) -> None:
        """Hand over all batches, and wait until the broker has them. Raises when it refuses one."""
        await self.flush()
        await asyncio.gather(*self._under_way)
        self._raise_failure()

    def _partition(self, line: Line) -> int:
        if line.partition is None:
            return next(self._turns) if line.key is None else partition_of(line.key, self._partitions)
        if line.partition >= self._partitions:
            told = f"line {line.number}: partition {line.partition}, but {self._topic} has {self._partitions}"
            raise NoSuchPartition(told)
        return line.partition

    def _opened(self, partition: int) -> _Batch:
        batch = self._open[partition] = _Batch(self._producer.create_batch(), [])
        return batch

    async def _submit(self, partition: int) -> None:
        self._raise_failure()
        builder, marks = self._open.pop(partition)
        builder.close()
        future = await self._producer.send_batch(builder, self._topic, partition=partition)
        self._under_way.add(future)
        future.add_done_callback(lambda done: self._settle(done, marks))

    def _settle(self, future: asyncio.Future[RecordMetadata], marks: list[Any]) -> None:
        self._under_way.discard(future)
        if future.cancelled():
            return
        if error := future.exception():
            self._failure = self._failure or error
            return
        written = future.result()
        for offset, mark in enumerate(marks, written.offset):
            self._landed(mark, written.partition, offset)

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure
