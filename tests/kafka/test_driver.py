"""Stock Faust over the batched driver, on a real broker; D1 to D6 are driver.py's rules."""

import asyncio
from contextlib import asynccontextmanager, suppress

import faust

from tests.kafka.inside import until
from tests.kafka.topics import Record, create, own, produce
from worker.runtime.driver import AsFetched


class Shop:
    """A stock app with an agent that notes the batches it is given."""

    def __init__(self, kafka, topic, partitions=1, **settings):
        self.app = faust.App(
            topic,
            broker=f"batched://{kafka}",
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            broker_session_timeout=6,
            broker_heartbeat_interval=1,
            **settings,
        )
        self.topic = self.app.topic(topic, schema=AsFetched())
        self.seen = []
        self.app.agent(self.topic, name="note")(self._note)

    async def _note(self, stream):
        async for event in stream.events():
            self.seen.append((event.message.tp, event.value))

    def assigned(self):
        return {tp for tp in self.app.consumer.assignment() if tp.topic == self.topic.get_topic_name()}

    def is_ready(self):
        return self.app.tables.actives_ready and not self.app.rebalancing

    def values(self):
        return [record.value for _tp, batch in self.seen for record in batch.records]


@asynccontextmanager
async def running(shop):
    shop.app.finalize()
    starting = asyncio.ensure_future(shop.app.start())
    try:
        await until(lambda: shop.app._consumer is not None and shop.is_ready())
        yield shop
    finally:
        await shop.app.stop()
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting


def numbered(count, first=0, **given):
    return [Record(b"k", b"%d" % number, **given) for number in range(first, first + count)]


def test_a_worker_without_partitions_stays_in_the_group_and_takes_over(kafka):
    """aiokafka leaves the group when nothing is fetched for max_poll_interval, and does not come back by itself."""

    async def scenario():
        topic = own("spare")
        await create(kafka, topic)
        shops = [Shop(kafka, topic, broker_max_poll_interval=2) for _ in range(2)]
        async with running(shops[0]), running(shops[1]):
            await until(lambda: sum(len(shop.assigned()) for shop in shops) == 1)
            await asyncio.sleep(4)
            spare, busy = sorted(shops, key=lambda shop: len(shop.assigned()))
            await busy.app.stop()
            await produce(kafka, topic, numbered(3))
            await until(lambda: spare.values() == [b"0", b"1", b"2"], 10)

    asyncio.run(scenario())
