"""Send files, dump topics, and follow topics: the work of the commands send, dump and tail."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

import aiokafka
import orjson
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import ClusterAuthorizationFailedError

from worker.codec.headers import TYPES
from worker.codec.lines import BadLine, Line, dumped
from worker.codec.records import ConsumerRecord
from worker.domain.instants import instant
from worker.kafka.connection import AdminClient, Consumer
from worker.pipeline.partitioner import partition_of
from worker.pipeline.topology import TOPICS, Topology
from worker.runtime.stalls import REPEAT_SECONDS, STALL_SECONDS
from worker.tools.sender import BATCH_BYTES, NOT_PERMITTED, Limits, NoSuchPartition, Sender, SendFailed, producer

PATIENCE_SECONDS = 5

_ANSWER_MS = 5_000
"""A broker holds a fetch for 500 ms at most."""

_POLL_MS = 200
_FETCH_BYTES = 4 << 20
_IDS = {"integrationId", "profileId"}

Fetched = aiokafka.ConsumerRecord[bytes, bytes]

Connection = dict[str, Any]
"""The keyword arguments with which aiokafka's clients connect to the brokers."""


class NoSuchTopic(Exception):
    """A topic does not exist; the message has its name."""


class NotRead(Exception):
    """A line cannot be sent; the message has the line and the number of records on the topic."""


async def send(connection: Connection, topic: str, lines: Iterable[Line]) -> int:
    """Send the records of a file to a topic and return their number.

    Raise SendFailed. Raise NotRead for an error in *lines*, after the records before the error are on the topic.
    """
    partitions = await partitions_of(connection, topic)
    limits = await limits_of(connection, topic)
    async with _permitted(topic), producer(connection, min(BATCH_BYTES, limits.max_bytes)) as opened:
        sender = Sender(opened, topic, len(partitions), limits=limits)
        try:
            for line in lines:
                await sender.put(line)
        except (BadLine, NoSuchPartition) as error:
            await sender.finish()
            raise NotRead(f"{error}; {sender.sent:,} records before it are on {topic}") from error
        await sender.finish()
        return sender.sent


@asynccontextmanager
async def _permitted(topic: str) -> AsyncIterator[None]:
    """Convert a refused producer id to SendFailed: the broker refuses it to a principal without Write on any topic."""
    try:
        yield
    except ClusterAuthorizationFailedError as error:
        raise SendFailed(f"no record was sent to {topic}: {NOT_PERMITTED}") from error


async def dump(connection: Connection, topic: str, out: BinaryIO) -> dict[int, int]:
    """Write a topic's committed records, up to its current end, as lines.

    The end is the high watermark, not the last stable offset: the markers of the last transactions may not be written
    yet. Records after a transaction that stays open for PATIENCE_SECONDS are not written. Return the partitions with
    such a transaction, and its offset.
    """
    partitions = await partitions_of(connection, topic)
    async with reader(connection) as consumer:
        ends = await high_watermarks(connection, partitions)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        positions: dict[TopicPartition, int] = {}
        moved = time.monotonic()
        while True:
            before, positions = positions, {tp: await consumer.position(tp) for tp in partitions}
            unfinished = [tp for tp in partitions if positions[tp] < ends[tp]]
            if not unfinished:
                return {}
            if positions != before:
                moved = time.monotonic()
            elif time.monotonic() - moved > PATIENCE_SECONDS:
                stable = await consumer.end_offsets(unfinished)
                if all(positions[tp] >= stable[tp] for tp in unfinished):
                    return {tp.partition: positions[tp] for tp in unfinished}
            for partition, records in (await consumer.getmany(*unfinished, timeout_ms=_POLL_MS)).items():
                out.writelines(_line(record) for record in records if record.offset < ends[partition])


async def tail(
    connection: Connection,
    topic: str,
    show: Callable[[Fetched], None],
    key: bytes | None = None,
    *,
    note: Callable[[str], None],
    tool: str,
    is_keyed: bool = False,
    from_beginning: bool = False,
) -> None:
    """Call *show* with a topic's committed records forever; with a *key* only with records of this key.

    Records of a key are in one partition if the topic *is_keyed*, else in any.
    *note* is called with a line if a partition stands still behind an open transaction, or if no broker answers, for
    STALL_SECONDS, and again every REPEAT_SECONDS. *tool* holds the options with which Kafka's tools connect.
    """
    partitions = await partitions_of(connection, topic)
    if key is not None and is_keyed:
        partitions = [partitions[partition_of(key, len(partitions))]]
    async with reader(connection) as consumer:
        consumer.assign(partitions)
        if from_beginning:
            await consumer.seek_to_beginning(*partitions)
        else:
            await consumer.seek_to_end(*partitions)
        waiting: dict[str, float] = {}
        while True:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    if key is None or record.key == key:
                        show(record)
            now = time.monotonic()
            waiting = {why: waiting.get(why, now) for why in [it async for it in _waits(consumer, partitions, tool)]}
            for why, since in waiting.items():
                if now - since >= STALL_SECONDS:
                    waiting[why] = now + REPEAT_SECONDS - STALL_SECONDS
                    note(why)


async def _waits(consumer: Consumer, partitions: Iterable[TopicPartition], tool: str) -> AsyncIterator[str]:
    """Yield why nothing comes although there may be more."""
    answers = [polled for tp in partitions if (polled := consumer.last_poll_timestamp(tp)) is not None]
    if answers and time.time() * 1000 - max(answers) > _ANSWER_MS:
        yield "no broker answers; trying again"
    for tp in partitions:
        offset, stable, high = await consumer.position(tp), consumer.last_stable_offset(tp), consumer.highwater(tp)
        if stable is not None and high is not None and stable <= offset < high:
            where = f"--topic {tp.topic} --partition {tp.partition}"
            yield (
                f"partition {tp.partition} waits at offset {offset}: a transaction is open there. To see its producer run: "
                f"kafka-transactions.sh {tool} describe-producers {where}"
            )


def is_keyed(topology: Topology, topic: str) -> bool:
    """Return True if the worker writes all records of a topic to the partitions of their keys."""
    return any(name == topic and TOPICS[field].key in _IDS for field, name in topology.named().items())


def line_of(record: Fetched) -> str:
    """Return a record of an output topic as one line of text.

    The line has the time, the event, the integrationId, the state, the total and the updateCount, or the rejection.
    """
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    key = (record.key or b"").decode(errors="replace")
    if "rejection-code" in headers:
        place = f"{headers['rejection-code']} {headers.get('rejection-pointer', '')}  "
        return _plain(f"{_start(record, 'rejected', key)}{place}{headers.get('rejection-message', '')}")
    happened = headers.get("ce_type", "").removeprefix("v1.").removeprefix(TYPES) or "–"
    if record.value is None:
        return _plain(f"{_start(record, happened, key)}deleted")
    try:
        session = orjson.loads(record.value)
        state, total = session["state"], session["total"]
    except (ValueError, LookupError, TypeError):
        return _plain(f"{_start(record, happened, key)}{record.value[:200].decode(errors='replace')}")
    return _plain(f"{_start(record, happened, key)}{state:<18}  {total:>12}  {session.get('updateCount', ''):>4}")


def _start(record: Fetched, happened: str, key: str) -> str:
    return f"{instant(record.timestamp)}  {happened:<18}  {key:<24}  "


def _plain(text: str) -> str:
    """Return text without control characters of terminals; an id can contain any character."""
    return "".join(character if character.isprintable() else "�" for character in text).rstrip()


def _line(record: Fetched) -> bytes:
    consumed = ConsumerRecord(record.offset, record.timestamp, record.key, record.value, record.headers)
    return dumped(record.partition, consumed)


# ------------------------------------------------------------------------------------------------------ reading


@asynccontextmanager
async def reader(connection: Connection, *, is_committed: bool = True) -> AsyncIterator[Consumer]:
    """Yield a consumer without a group; it reads records of aborted transactions only if *is_committed* is False."""
    async with (
        Consumer(
            **connection,
            isolation_level="read_committed" if is_committed else "read_uncommitted",
            auto_offset_reset="earliest",  # if retention deletes records before they are read, continue at the log start offset
            enable_auto_commit=False,
            max_partition_fetch_bytes=_FETCH_BYTES,
        ) as consumer
    ):
        yield consumer


@asynccontextmanager
async def administration(connection: Connection) -> AsyncIterator[AdminClient]:
    """Yield an admin client; aiokafka's is not a context manager."""
    admin = AdminClient(**connection)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def partitions_of(connection: Connection, topic: str) -> list[TopicPartition]:
    """Return a topic's partitions. Raise NoSuchTopic.

    The request is for the metadata of all topics: a request for one topic by name can create the topic.
    """
    async with administration(connection) as admin:
        described = {found["topic"]: found["partitions"] for found in await admin.describe_topics()}
    if topic not in described:
        raise NoSuchTopic(f"the topic {topic} does not exist at {connection['bootstrap_servers']}")
    return [
        TopicPartition(topic, number) for number in sorted(partition["partition"] for partition in described[topic])
    ]


async def limits_of(connection: Connection, topic: str) -> Limits:
    """Return the limits of a topic; a limit that the principal may not see is unlimited."""
    async with administration(connection) as admin:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    (described,) = answer.to_object()["resources"]
    known = {entry["config_names"]: entry["config_value"] for entry in described["config_entries"]}
    now, unlimited = time.time_ns() // 1_000_000, Limits()
    before, after = (known.get(f"message.timestamp.{side}.max.ms") for side in ("before", "after"))
    is_checked = known.get("message.timestamp.type") == "CreateTime"
    return Limits(
        now - int(before) if before and is_checked else unlimited.earliest,
        now + int(after) if after and is_checked else unlimited.latest,
        int(known.get("max.message.bytes", unlimited.max_bytes)),
        "compact" in known.get("cleanup.policy", ""),
        known,
    )


async def high_watermarks(connection: Connection, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the high watermarks of partitions; markers and open transactions are below them."""
    async with reader(connection, is_committed=False) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return ends
