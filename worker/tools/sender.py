"""Send records to a topic: in the order of each partition, once each, in batches.

1. Each partition has one batch in flight, one that waits and one that is being filled. A batch is sent after the broker
   has acknowledged the batch before, so no record follows a record that the broker refuses.
2. A broker refuses a batch as a whole. The sender then sends the batch in halves until it finds the refused record; the
   records before are on the topic.
3. A record that breaks the limits of the topic is sent alone, after the broker has all records before it. The broker
   decides, because its clock counts. The sender refuses only records that are too large.
4. After the first refusal the sender reads no further line. It sends the lines that it has read for other partitions.

aiokafka's `send` creates a future for each record and reaches 81,000 records a second (600 bytes, 8 partitions); batches
reach 200,000. It also refuses a record without key and value.
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
_UNDER_WAY = 2  # batches of a partition, without the batch that is being filled
_OF_A_RECORD = InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError, UnknownError
"""Errors of a broker for a batch because of one record; aiokafka has no name for INVALID_RECORD."""

Landed = Callable[[Any, int, int], None]
"""Delivery callback of a record: its mark, its partition, its offset."""

_Record = tuple[Line, Any]


class NoSuchPartition(Exception):
    """A line names a partition that the topic does not have; the message has the line's number."""


class SendFailed(Exception):
    """A record cannot be sent; the message has its line, its partition, the limit, and the records on the topic."""


class Limits(NamedTuple):
    """The known limits of a topic; times are in milliseconds."""

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
    """Yield the idempotent producer that a Sender needs.

    The producer retries forever if no broker accepts a batch. So an exception in the `with` drops the unsent batches.
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
    """Fill a batch for each partition, and send the batch when it is full or *flush* is called.

    A record whose line has no partition goes to the partition of Kafka's default partitioner. Records without a key go to
    all partitions in turn.
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
        """Add a record to the batch of its partition. Raise SendFailed, also for an earlier record, or NoSuchPartition."""
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
        """Send all batches, also those that are not full."""
        for partition in tuple(self._open):
            await self._submit(partition)

    async def finish(self) -> None:
        """Send all batches and wait for the broker. Raise SendFailed if the broker refuses a record."""
        await self.flush()
        await asyncio.gather(*(task for tasks in self._under_way.values() for task in tasks))
        if self._failures:
            raise SendFailed(self._account())

    def _partition(self, line: Line) -> int:
        if line.partition is None:
            return next(self._turns) if line.key is None else partition_of(line.key, self._partitions)
        if line.partition >= self._partitions:
            why = f"partition {line.partition} does not exist: {self._topic} has {self._partitions} partitions"
            raise NoSuchPartition(f"line {line.number}: {why}")
        return line.partition

    def _opened(self, partition: int) -> _Batch:
        batch = self._open[partition] = _Batch(self._producer.create_batch(), [])
        return batch

    async def _submit(self, partition: int) -> None:
        """Start the delivery of a batch after the batches before it; wait while too many are in flight."""
        tasks = self._under_way[partition]
        while len(tasks) >= _UNDER_WAY:
            await tasks.pop(0)
        batch, before = self._open.pop(partition), tasks[-1] if tasks else None
        tasks.append(asyncio.create_task(self._deliver_after(before, partition, batch)))

    async def _put_alone(self, partition: int, line: Line, mark: Any) -> None:
        """Send a record that the broker may refuse, after all records before it."""
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
        """Deliver a batch after the batch before it is on the topic; drop it if that batch was refused."""
        if before is not None:
            await before
        if partition not in self._failures:
            await self._deliver(partition, batch)

    async def _deliver(self, partition: int, batch: _Batch) -> None:
        """Deliver a batch; deliver its halves if the broker refuses it because of one record."""
        batch.builder.close()
        try:
            future = await self._producer.send_batch(batch.builder, self._topic, partition=partition)
            written = await self._outcome(future)
        except KafkaError as error:
            sequences = self._producer._txn_manager._sequence_numbers  # noqa: SLF001
            refused = TopicPartition(self._topic, partition)
            sequences[refused] = max(
                0, sequences[refused] - len(batch.records)
            )  # the broker counts only records that it has written
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
        """Return the metadata of a delivered batch. Raise UnknownTopicOrPartitionError if the topic was deleted."""
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
        """Return the message about the first refused record and the records on the topic."""
        failures = sorted((failure.line.number, partition) for partition, failure in self._failures.items())
        number, first = failures[0]
        missing = ", ".join(f"of partition {partition} from line {line:,}" for line, partition in failures[:_SHOWN])
        more = f" and of {len(failures) - _SHOWN:,} more partitions" if len(failures) > _SHOWN else ""
        which = (
            "all before this line"
            if number == self._last
            else f"all up to line {self._last:,}, but none {missing}{more}"
        )
        on_topic = f"{self.sent:,} {'record is' if self.sent == 1 else 'records are'} on the topic"
        return f"line {number}: not sent to partition {first} of {self._topic}: {self._failures[first].why}; {on_topic}: {which}"

    def _why(self, error: KafkaError, batch: _Batch) -> str:
        """Return why the broker refuses the first record of a batch, with the limit of the topic."""
        line, limits = batch.records[0][0], self._limits
        known, names = limits.configuration, tuple[str, ...]()
        match error:
            case InvalidTimestampError():
                names = tuple(ANY_TIME | BEFORE_KAFKA_3_6)
                why = f"its timestamp {line.timestamp} ({instant(line.timestamp)}) is too far from the broker's clock"
            case MessageSizeTooLargeError() | RecordListTooLargeError():
                names = ("max.message.bytes",)
                why = f"the record is too large: {batch.builder.size():,} bytes"
            case UnknownError() if line.key is None:
                names = ("cleanup.policy",)
                why = "the record has no key, and a compacted topic requires keys"
            case TopicAuthorizationFailedError():
                return NOT_PERMITTED
            case UnknownTopicOrPartitionError():
                return "the topic was deleted"
            case _:
                return f"the broker returned {error}"
        there = ", ".join(f"{name}={known[name]}" for name in names if name in known)
        return f"{why} ({there or f'{names[0]}, which cannot be read without DescribeConfigs'})"


def _appended(batch: _Batch, line: Line) -> bool:
    """Add a record to a batch. Return False if the batch is full, or if records with and without timestamps would mix.

    The builder would set the timestamp of the next record on a first record without a timestamp.
    """
    if batch.records and (batch.records[0][0].timestamp == NO_TIMESTAMP) != (line.timestamp == NO_TIMESTAMP):
        return False
    return (
        batch.builder.append(timestamp=line.timestamp, key=line.key, value=line.value, headers=line.headers) is not None
    )
