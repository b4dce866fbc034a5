"""The bare pipe: copy update records with aiokafka and orjson in transactions, without storing or checking them.

Its rate is the upper bound of a worker in Python with this client: `python -m bench.pipe host:port`.
"""

import asyncio
import sys

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

UPDATES, SESSIONS = "session-updates", "customer-sessions"
GROUP = "bare-pipe"
CYCLE = 4_000  # records in a transaction, about the number of the worker


async def main(kafka: str) -> None:
    """Copy records, one transaction per fetch, until killed."""
    options = {"isolation_level": "read_committed", "enable_auto_commit": False, "auto_offset_reset": "earliest"}
    async with (
        AIOKafkaConsumer(UPDATES, bootstrap_servers=kafka, group_id=GROUP, **options) as consumer,
        AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=GROUP, max_batch_size=1 << 20) as producer,
    ):
        while True:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=CYCLE)
            if not fetched:
                continue
            async with producer.transaction():
                sent = []
                for tp, records in fetched.items():
                    batch = producer.create_batch()
                    for record in records:
                        value = orjson.dumps(orjson.loads(record.value))
                        if batch.append(key=record.key, value=value, timestamp=record.timestamp) is None:
                            sent.append(await producer.send_batch(batch, SESSIONS, partition=tp.partition))
                            batch = producer.create_batch()
                            batch.append(key=record.key, value=value, timestamp=record.timestamp)
                    sent.append(await producer.send_batch(batch, SESSIONS, partition=tp.partition))
                await asyncio.gather(*sent)
                ends = {tp: records[-1].offset + 1 for tp, records in fetched.items()}
                await producer.send_offsets_to_transaction(ends, GROUP)


asyncio.run(main(sys.argv[1]))
