"""A worker of fifty lines, over the offline replay, which makes one mistake: to see that a live run finds it.

It is a process as the real one: settings from the environment, words on standard error. The mistake is its argument.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.kafka.topics import Record, create, send
from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.domain.limits import Rules
from worker.pipeline.replay import Replay

GROUP: dict[str, Any] = {
    "group_id": "session-worker",
    "auto_offset_reset": "earliest",
    "enable_auto_commit": False,  # it would commit what a worker that dies has not done
}
PARTITIONS = 2
NUMBER = 40
"""The mistake is made with the first record from here on that brings a snapshot about: in which order they come is chance."""


async def work(mistake: str) -> None:
    kafka = os.environ["SESSION_WORKER_BROKERS"]
    replay, number, made = Replay(Rules()), 0, False
    names = replay.topology
    await create(kafka, names.sessions, names.rejections, names.dry_runs, partitions=PARTITIONS)
    await create(kafka, names.updates, partitions=PARTITIONS, max_message_bytes="2000000")
    async with (
        AIOKafkaConsumer(bootstrap_servers=kafka, **GROUP) as consumer,
        AIOKafkaProducer(bootstrap_servers=kafka, max_request_size=2_000_000) as producer,
    ):
        consumer.assign([TopicPartition(names.updates, partition) for partition in range(PARTITIONS)])
        while True:
            fetched = await consumer.getmany(timeout_ms=100)
            for partition, records in fetched.items():
                for it in records:
                    number += 1
                    record = ConsumerRecord(it.offset, it.timestamp, it.key, it.value, it.headers)
                    published = replay.fold(partition.partition, record)
                    if number >= NUMBER and not made and [out.topic for out in published] == [names.sessions]:
                        published, made = mistaken(mistake, published), True
                    for out in published:
                        await send(producer, out.topic, [_sendable(out)])
            if fetched and not (mistake == "hang" and made):
                await consumer.commit()


def mistaken(mistake: str, published: list[ProducerRecord]) -> list[ProducerRecord]:
    if mistake == "die":
        sys.exit("Error: the cause is in the last line")
    return published * {"lose": 0, "double": 2}.get(mistake, 1)


def _sendable(out: ProducerRecord) -> Record:
    return Record(out.key or b"", out.value or b"", tuple(out.headers), out.partition, out.timestamp)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(3 if sys.argv[1] == "untidy" else 0))
    asyncio.run(work(sys.argv[1]))
