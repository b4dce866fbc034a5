"""Puts records on a topic: in the order of each partition, once each, a batch at a time.

1. Of a partition one batch is on its way, one waits and one is being filled. A batch is handed over when the broker has
   the one before it, so nothing follows a record that the broker refuses.
2. A broker refuses a batch as a whole. The batch is then sent again in halves, which leads to the record that the broker
   refuses; what precedes this record is on the topic.
3. A record that the topic's limits forbid is tried alone, when the broker has all records before it. The broker decides,
   because its clock counts; only a record that is too large is refused here.
4. After the first refusal no line is read. What was read before it, for other partitions, is sent.

aiokafka's `send` makes a future a record, 81,000 records a second (of 600 bytes, over 8 partitions) where batches reach
200,000, and refuses a record that has neither key nor value.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from typing import Any, Final, NamedTuple

from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition

from worker.codec.lines import Line
from worker.domain.instants import instant
from worker.kafka.connection import Producer
from worker.kafka.protocol import NO_TIMESTAMP
from worker.pipeline.partitioner import partition_of
from worker.pipeline.topology import ANY_TIME, BEFORE_KAFKA_3_6

BATCH_BYTES: Final = 1 << 17
NOT_PERMITTED: Final = "the broker does not permit it: grant the principal Write on the topic"

_CLOSE_SECONDS = 5
_LOOK_SECONDS = 3
_SHOWN = 3
_UNDER_WAY = 2  # batches of a partition, besides the one that is being filled
_OF_A_RECORD = InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError, UnknownError
"""What a broker says of a batch because of one of its records; aiokafka has no name for INVALID_RECORD."""

Landed = Callable[[Any, int, int], None]
"""What is told of a record that the broker has: the mark it was given, its partition, its offset."""

_Record = tuple[Line, Any]


class NoSuchPartition(Exception):
    """A line names a partition that the topic does not have; the message has the line's number."""


class SendFailed(Exception):
    """A record cannot be put on the topic; the message has its line, its partition, the limit, and what is on the topic."""


class Limits(NamedTuple):
    """What a topic takes, as far as it is known; times are milliseconds."""

    earliest: int = -(1 << 63)
    latest: int = (1 << 63) - 1
    max_bytes: int = 1 << 30
    needs_key: bool = False
    configuration: dict[str, str] = {}


class _Batch(NamedTuple):
    builder: BatchBuilder
    records: list[_Record]


class _Failure(NamedTuple):
    line: Line
    why: str


@asynccontextmanager
async def producer(connection: dict[str, Any], batch_bytes: int = BATCH_BYTES) -> AsyncIterator[Producer]:
    """Open the idempotent producer that a Sender needs.

    It tries for ever to send what no broker takes. So an exception in the `with` drops what is not sent.
    """
    opened = Producer(**connection, enable_idempotence=True, max_batch_size=batch_bytes)
    try:
        await opened.start()
        yield opened
        await opened.stop()
    except BaseException:
        if sending := opened._sender and opened._sender.sender_task:  # noqa: SLF001 (stop waits for it)
            sending.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await opened.stop()
        raise


class Sender:
    """Fills a batch for each partition, and hands it over when it is full or *flush* asks for it.

    Records whose line names no partition go where Kafka's default partitioner puts their key, those without a key around
    in turns.
    """

    def __init__(
        self,
        producer: Producer,
        topic: str,
        partitions: int,
        landed: Landed = lambda *_: None,
        limits: Limits | None = None,
    ) -> None:
        self.sent = 0
        """The number of records that are on the topic."""
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._landed = landed
        self._limits = limits or Limits()
        self._turns = cycle(range(partitions))
        self._open: dict[int, _Batch] = {}
        self._under_way: dict[int, list[asyncio.Task[None]]] = {number: [] for number in range(partitions)}
        self._failures: dict[int, _Failure] = {}
        self._last = 0

    async def put(self, line: Line, mark: Any = None) -> None:
        """Add a record to the batch of its partition. Raises SendFailed, also for a record before it, or NoSuchPartition."""
        if self._failures:
            await self.finish()
        limits, partition = self._limits, self._partition(line)
        self._last = line.number
        if not limits.earliest <= line.timestamp <= limits.latest or (limits.needs_key and line.key is None):
            await self._put_alone(partition, line, mark)
            return
        batch = self._open.get(partition) or self._opened(partition)
        while not _appended(batch, line):
            await self._submit(partition)
            batch = self._opened(partition)
        if not batch.records and batch.builder.size() > limits.max_bytes:
            del self._open[partition]
            await self._put_alone(partition, line, mark)
            return
        batch.records.append((line, mark))

    async def flush(self) -> None:
        """Hand over all batches as they are."""
        for partition in tuple(self._open):
            await self._submit(partition)

    async def finish(self) -> None:
        """Hand over all batches, and wait until the broker has them. Raises SendFailed when it refuses a record."""
        await self.flush()
        await asyncio.gather(*(task for tasks in self._under_way.values() for task in tasks))
        if self._failures:
            raise SendFailed(self._account())

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
        """Have a batch delivered after those before it; wait while there are too many of them."""
        tasks = self._under_way[partition]
        while len(tasks) >= _UNDER_WAY:
            await tasks.pop(0)
        batch, before = self._open.pop(partition), tasks[-1] if tasks else None
        tasks.append(asyncio.create_task(self._deliver_after(before, partition, batch)))

    async def _put_alone(self, partition: int, line: Line, mark: Any) -> None:
        """Send a record that the broker may refuse, after all that comes before it."""
        await self.finish()
        batch = self._opened(partition)
        _appended(batch, line)
        batch.records.append((line, mark))
        if batch.builder.size() > self._limits.max_bytes:
            del self._open[partition]
            self._failures[partition] = _Failure(line, self._why(MessageSizeTooLargeError(), batch))
        await self.finish()

    # ------------------------------------------------------------------------------------------------- delivering

    async def _deliver_after(self, before: asyncio.Task[None] | None, partition: int, batch: _Batch) -> None:
        """Deliver a batch when the one before it is on the topic; drop it when that was refused."""
        if before is not None:
            await before
        if partition not in self._failures:
            await self._deliver(partition, batch)

    async def _deliver(self, partition: int, batch: _Batch) -> None:
        """Have a batch written; halve it when the broker refuses it for one of its records."""
        batch.builder.close()
        try:
            future = await self._producer.send_batch(batch.builder, self._topic, partition=partition)
            written = await self._outcome(future)
        except KafkaError as error:
            sequences = self._producer._txn_manager._sequence_numbers  # noqa: SLF001
            refused = TopicPartition(self._topic, partition)
            sequences[refused] = max(
                0, sequences[refused] - len(batch.records)
            )  # the broker counts what it has written
            if len(batch.records) == 1 or not isinstance(error, _OF_A_RECORD):
                self._failures[partition] = _Failure(batch.records[0][0], self._why(error, batch))
                return
            middle = len(batch.records) // 2
            for half in (batch.records[:middle], batch.records[middle:]):
                if partition not in self._failures:
                    await self._deliver(partition, self._filled(half))
            return
        self.sent += len(batch.records)
        for offset, (_line, mark) in enumerate(batch.records, written.offset):
            self._landed(mark, written.partition, offset)

    async def _outcome(self, future: asyncio.Future[RecordMetadata]) -> RecordMetadata:
        """Wait for what becomes of a batch; the producer itself would wait for ever for a topic that is deleted."""
        while not (await asyncio.wait({future}, timeout=_LOOK_SECONDS))[0]:
            if await self._is_deleted():
                raise UnknownTopicOrPartitionError
        return future.result()

    async def _is_deleted(self) -> bool:
        try:
            return self._topic not in (await self._producer.client.fetch_all_metadata()).topics()
        except KafkaError:
            return False

    def _filled(self, records: list[_Record]) -> _Batch:
        batch = _Batch(self._producer.create_batch(), records)
        for line, _mark in records:
            _appended(batch, line)
        return batch

    # -------------------------------------------------------------------------------------------------- messages

    def _account(self) -> str:
        """Name the first record that is refused, and say what is on the topic."""
        failures = sorted((failure.line.number, partition) for partition, failure in self._failures.items())
        number, first = failures[0]
        missing = ", ".join(f"of partition {partition} from line {line:,} on" for line, partition in failures[:_SHOWN])
        more = f" and of {len(failures) - _SHOWN:,} more partitions" if len(failures) > _SHOWN else ""
        which = (
            "all before this line"
            if number == self._last
            else f"all up to line {self._last:,}, but none {missing}{more}"
        )
        on_topic = f"{self.sent:,} {'record is' if self.sent == 1 else 'records are'} on the topic"
        return f"line {number}: not sent to partition {first} of {self._topic}: {self._failures[first].why}; {on_topic}: {which}"

    def _why(self, error: KafkaError, batch: _Batch) -> str:
        """Say why the first record of a batch is refused, with the limit of the topic."""
        line, limits = batch.records[0][0], self._limits
        known, names = limits.configuration, tuple[str, ...]()
        match error:
            case InvalidTimestampError():
                names = tuple(ANY_TIME | BEFORE_KAFKA_3_6)
                said = f"its timestamp {line.timestamp} ({instant(line.timestamp)}) is too far from the broker's clock"
            case MessageSizeTooLargeError() | RecordListTooLargeError():
                names = ("max.message.bytes",)
                said = f"it is too large, {batch.builder.size():,} bytes"
            case UnknownError() if line.key is None:
                names = ("cleanup.policy",)
                said = "it has no key, and a compacted topic takes no such record"
            case TopicAuthorizationFailedError():
                return NOT_PERMITTED
            case UnknownTopicOrPartitionError():
                return "the topic was deleted meanwhile"
            case _:
                return f"the broker answers {error}"
        there = ", ".join(f"{name}={known[name]}" for name in names if name in known)
        return f"{said} ({there or f'{names[0]}, which cannot be read without DescribeConfigs'})"


def _appended(batch: _Batch, line: Line) -> bool:
    """Add a record to a batch; return False if the batch is full, or holds records that differ in having a timestamp.

    The builder would give a first record without a timestamp that of the next record.
    """
    if batch.records and (batch.records[0][0].timestamp == NO_TIMESTAMP) != (line.timestamp == NO_TIMESTAMP):
        return False
    return (
        batch.builder.append(timestamp=line.timestamp, key=line.key, value=line.value, headers=line.headers) is not None
    )
