"""What tests do to the topics of a real Kafka: create them, fill them, read them to the end."""

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from tests.kafka.waits import within
from worker.tools import topics as console


class Record(NamedTuple):
    """What is sent: to the partition of its key, unless one is named."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


def own(name: str) -> str:
    """Give a topic a name that no other test has."""
    return f"{name}-{uuid4().hex[:8]}"


async def create(kafka: str, *topics: str, partitions: int = 1, replicas: int = 1, **configs: str) -> None:
    """Create topics, and wait until each partition has a leader; `cleanup_policy="compact"` is cleanup.policy."""
    named = {name.replace("_", "."): value for name, value in configs.items()}
    async with administration(kafka) as admin:
        answer = await admin.create_topics([NewTopic(it, partitions, replicas, topic_configs=named) for it in topics])
        for error in answer.to_object()["topic_errors"]:
            if error["error_code"]:
                raise for_code(error["error_code"])(f"{error['topic']}: {error['error_message']}")
        async with within(30, "a leader of each partition"):
            while not all([len(await _led(admin, topic)) == partitions for topic in topics]):  # noqa: ASYNC110 (the broker gives no event)
                await asyncio.sleep(0.05)


async def produce(kafka: str, topic: str, records: Iterable[Record], **settings: Any) -> None:
    """Send all records, idempotently, and wait until all are written; *settings* are the producer's."""
    settings = {"enable_idempotence": True, "linger_ms": 5, **settings}
    async with AIOKafkaProducer(bootstrap_servers=kafka, **settings) as producer:
        await send(producer, topic, records)


async def send(producer: AIOKafkaProducer, topic: str, records: Iterable[Record]) -> None:
    """Send all records through a producer that is there, for instance in a transaction, and wait for each."""
    sent = [
        await producer.send(
            topic, it.value, it.key, partition=it.partition, timestamp_ms=it.timestamp_ms, headers=list(it.headers)
        )
        for it in records
    ]
    await asyncio.gather(*sent)


async def read(
    kafka: str, topic: str, *, isolation_level: str = "read_committed", within_seconds: float = 60, **settings: Any
) -> list[ConsumerRecord]:
    """Read a topic from its start to its end, as that is now; by partition in order.

    The end is the high watermark, not the last stable offset: the markers of the last transactions may be on their
    way. So an open transaction makes this a TimeoutError.
    """
    async with within(within_seconds, f"the end of topic {topic}, as it was at the start of the read"):
        ends = await high_watermarks(kafka, topic)
        settings = {"isolation_level": isolation_level, "enable_auto_commit": False, **settings}
        async with AIOKafkaConsumer(bootstrap_servers=kafka, **settings) as consumer:
            consumer.assign(list(ends))
            await consumer.seek_to_beginning(*ends)
            records: list[ConsumerRecord] = []
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for fetched in (await consumer.getmany(timeout_ms=100)).values():
                    records += fetched
    return sorted(records, key=lambda record: record.partition)


async def high_watermarks(kafka: str, topic: str) -> dict[TopicPartition, int]:
    """Give where each partition of the topic ends, markers and open transactions included."""
    async with administration(kafka) as admin:
        partitions = [TopicPartition(topic, number) for number in await _led(admin, topic)]
    async with AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_uncommitted") as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return ends


async def configuration(kafka: str, topic: str) -> dict[str, str]:
    """Give the settings in force for a topic, the defaults too."""
    async with administration(kafka) as admin:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    (described,) = answer.to_object()["resources"]
    return {it["config_names"]: it["config_value"] for it in described["config_entries"]}


def administration(kafka: str) -> AbstractAsyncContextManager[AIOKafkaAdminClient]:
    """Open an admin client for as long as it is needed."""
    return console.administration({"bootstrap_servers": kafka})


async def _led(admin: AIOKafkaAdminClient, topic: str) -> list[int]:
    """Give the partitions of a topic that have a leader."""
    (described,) = await admin.describe_topics([topic])
    return sorted(it["partition"] for it in described["partitions"] if it["leader"] >= 0)
