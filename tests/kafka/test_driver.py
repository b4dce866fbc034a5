"""Stock Faust over the batched driver, on a real broker; D1 to D8 are driver.py's rules."""

import asyncio
import gc
import inspect
import tempfile
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from importlib import import_module
from importlib.metadata import requires, version
from operator import attrgetter

import faust
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, ConsumerMessage
from mode.services import ServiceTask

from tests.kafka.inside import until
from tests.kafka.topics import Record, create, own, produce, send
from worker.kafka.cluster import Cluster
from worker.pipeline.lane import Batch
from worker.runtime.faust.driver import BatchSchema


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
            datadir=tempfile.mkdtemp(),
            **settings,
        )
        self.topic = self.app.topic(topic, schema=BatchSchema())
        self.seen = []
        self.offsets = []
        self.generations = []
        self.strange = []
        self.app.agent(self.topic, name="note")(self._note)

    async def _note(self, stream):
        async for event in stream.events():
            self.seen.append((event.message.tp, event.value))
            self.offsets.append(event.message.offset)
            self.generations.append(event.message.generation_id)
            if event.message.generation_id != self.app.consumer_generation_id:
                self.strange.append(event)

    def assigned(self):
        return {tp for tp in self.app.consumer.assignment() if tp.topic == self.topic.get_topic_name()}

    def position(self):
        return self.seen[-1][1].end if self.seen else None

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


def test_a_message_is_a_batch_and_its_positions_leave_out_nothing(kafka):
    """Neither markers nor aborted records: they are offsets without records, or a batch without any (D1, D2, D3)."""

    async def scenario():
        topic = own("positions")
        await create(kafka, topic)
        async with running(Shop(kafka, topic)) as shop:
            await produce(kafka, topic, numbered(3))
            await until(lambda: shop.values() == [b"0", b"1", b"2"])
            async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
                await producer.begin_transaction()
                await send(producer, topic, numbered(3, first=3))
                await producer.commit_transaction()
                await until(lambda: shop.position() == 7)
                await producer.begin_transaction()
                await send(producer, topic, numbered(2, first=90))
                await producer.abort_transaction()
                await until(lambda: shop.position() == 10)
            await produce(kafka, topic, numbered(1, first=6))
            await until(lambda: shop.position() == 11)
            batches = [batch for _tp, batch in shop.seen]
            assert [batch.start for batch in batches] == [0, *(batch.end for batch in batches[:-1])]
            assert [(it.offset, it.value) for batch in batches for it in batch.records] == [
                *((offset, b"%d" % offset) for offset in range(6)),
                (10, b"6"),
            ]
            assert any(not batch.records for batch in batches)
            assert shop.offsets == [batch.end - 1 for batch in batches]

    asyncio.run(scenario())


def test_what_an_open_transaction_wrote_is_not_seen_but_counts_for_the_high_watermark(kafka):
    """A table restored to the last stable offset would miss what is committed a moment later (D3)."""

    async def scenario():
        topic = own("open")
        await create(kafka, topic)
        await produce(kafka, topic, numbered(2))
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await send(producer, topic, numbered(3, first=2))
            async with running(Shop(kafka, topic)) as shop:
                (tp,) = shop.assigned()
                await until(lambda: shop.values() == [b"0", b"1"])
                assert await shop.app.consumer.highwaters(tp) == {tp: 5}
                assert await shop.app.consumer.earliest_offsets(tp) == {tp: 0}
                await asyncio.sleep(0.6)
                assert shop.position() == 2
                await producer.commit_transaction()
                await until(lambda: len(shop.values()) == 5)

    asyncio.run(scenario())


def test_faust_commits_nothing_and_keeps_nothing_of_what_was_delivered(kafka):
    """D4; a commit of its own could pass a record that is not done."""

    async def scenario():
        topic = own("kept")
        await create(kafka, topic)
        async with running(Shop(kafka, topic, broker_commit_interval=0.2)) as shop:
            for number in range(20):
                await produce(kafka, topic, numbered(1, first=number))
                await until(lambda number=number: len(shop.values()) > number)
            shop.seen.clear()
            await shop.app.commit(topic)
            await asyncio.sleep(0.5)
            consumer = shop.app.consumer
            assert not any(map(len, (consumer._acked, consumer._acked_index, consumer._gap, consumer._read_offset)))
            assert not len(consumer._unacked_messages)
            gc.collect()
            kept = [it for it in gc.get_objects() if isinstance(it, ConsumerMessage) and it.topic == topic]
            assert len(kept) <= 2  # the last one, in the frames that wait for the next
        async with Cluster({"bootstrap_servers": kafka}) as cluster:
            assert await cluster.stable_offsets(topic, [TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): None}

    asyncio.run(scenario())


def test_a_seek_back_brings_everything_again_and_what_was_fetched_ahead_is_dropped(kafka):
    async def scenario():
        topic = own("seek")
        await create(kafka, topic)
        async with running(Shop(kafka, topic)) as shop:
            (tp,) = shop.assigned()
            await produce(kafka, topic, numbered(5))
            await until(lambda: len(shop.values()) == 5)
            shop.seen.clear()
            await shop.app.consumer.seek(tp, 2)
            await until(lambda: shop.values() == [b"2", b"3", b"4"])
            shop.seen.clear()
            shop.app.consumer.go_to(tp, 4)
            await until(lambda: shop.values() == [b"4"])

    asyncio.run(scenario())


def test_a_paused_partition_is_not_fetched_ahead(kafka):
    """A client that is paused in Faust alone holds up to a megabyte of each partition that nobody reads (D6)."""

    async def scenario():
        topic = own("paused")
        await create(kafka, topic, partitions=2)
        async with running(Shop(kafka, topic)) as shop:
            paused, other = sorted(shop.assigned())
            shop.app.consumer.pause_partitions({paused})
            await asyncio.sleep(0.7)  # until a fetch that was under way has come back
            await produce(kafka, topic, [*numbered(3, partition=0), *numbered(3, first=3, partition=1)])
            await until(lambda: len(shop.values()) == 3)
            await asyncio.sleep(0.3)
            assert {tp for tp, _batch in shop.seen} == {other}
            assert paused not in shop.app.consumer._thread._consumer._fetcher._records
            shop.app.consumer.resume_partitions({paused})
            await until(lambda: len(shop.values()) == 6)

    asyncio.run(scenario())


def test_what_was_fetched_of_a_partition_before_it_was_paused_is_read_when_it_goes_on(kafka):
    """Even where nothing comes of the others, for whose records somebody waits (D6)."""

    async def scenario():
        topic = own("resumed")
        await create(kafka, topic, partitions=2)
        async with running(Shop(kafka, topic)) as shop:
            paused, _other = sorted(shop.assigned())
            thread = shop.app.consumer._thread
            fetch_records = thread._fetch_records
            thread._fetch_records = lambda *what, **more: fetch_records(*what, **{**more, "timeout": 3600})
            stock.Consumer.pause_partitions(shop.app.consumer, {paused})  # in Faust alone: the client fetches on
            await produce(kafka, topic, numbered(1, partition=1))
            await until(lambda: len(shop.values()) == 1)
            await produce(kafka, topic, numbered(3, first=1, partition=0))
            fetcher = thread._consumer._fetcher
            await until(
                lambda: paused in fetcher._records and not all(it.done() for it in tuple(fetcher._fetch_waiters))
            )
            shop.app.consumer.resume_partitions({paused})
            await until(lambda: len(shop.values()) == 4)
            thread._fetch_records = fetch_records
            await produce(kafka, topic, numbered(1, first=4, partition=1))  # ends the last long wait

    asyncio.run(scenario())


def test_a_fetch_is_held_for_more_records_only_while_some_come(kafka):
    """Held for a moment each time, a worker with nothing to do would ask a hundred times a second (D8).

    Held for long, a fetch of the others would keep a partition waiting that was paused, and is to be read again.
    """

    async def scenario():
        topic = own("held")
        await create(kafka, topic)
        async with running(Shop(kafka, topic)) as shop:
            fetcher = shop.app.consumer._thread._consumer._fetcher

            def held():
                return fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms

            await until(lambda: held() == (1, 500))
            await produce(kafka, topic, numbered(1))
            await until(lambda: held() == (1 << 16, 12))
            shop.app.consumer.pause_partitions(shop.assigned())
            await asyncio.sleep(0.5)
            assert held() == (1 << 16, 12)
            shop.app.consumer.resume_partitions(shop.assigned())
            await until(lambda: held() == (1, 500))

    asyncio.run(scenario())


@pytest.mark.parametrize("delivered", [0, 1])
def test_what_was_fetched_before_a_rebalance_is_dropped_even_when_a_part_of_it_was_delivered(kafka, delivered):
    """A rebalance may come while the fetch is under way, and between two of the batches that it brought (D6)."""

    async def scenario():
        topic = own("dropped")
        await create(kafka, topic, partitions=2)
        async with running(Shop(kafka, topic)) as shop:
            await shop.app._fetcher.stop()
            consumer = shop.app.consumer

            async def fetched(active, seconds):
                consumer.app.consumer_generation_id += not delivered
                return {tp: Batch(tp.topic, 0, 1, []) for tp in active}

            consumer._getmany = fetched
            messages = consumer.getmany(1.0)
            for _ in range(delivered):
                await anext(messages)
            consumer.app.consumer_generation_id += delivered
            assert [tp async for tp, _message in messages] == []

    asyncio.run(scenario())


def test_no_batch_of_an_earlier_assignment_is_delivered_and_none_is_missing(kafka):
    """Two apps share, and share again when one leaves (D5, D6). What is dropped has to be sought by its reader."""

    async def scenario():
        topic = own("rebalance")
        await create(kafka, topic, partitions=4)
        first, second = Shop(kafka, topic), Shop(kafka, topic)

        async def feed():
            async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
                while True:
                    await send(producer, topic, [Record(b"k", b"v", partition=number) for number in range(4)])
                    await asyncio.sleep(0.01)

        feeding = asyncio.create_task(feed())
        async with running(first):
            await until(lambda: len(first.seen) > 20)
            alone = first.app.consumer.membership
            async with running(second):
                await until(lambda: len(first.assigned()) == len(second.assigned()) == 2)
                shared = first.app.consumer.membership, second.app.consumer.membership
                assert shared[0].generation == shared[1].generation > alone.generation
                assert shared[0].member == alone.member != shared[1].member
                await until(lambda: len({tp for tp, _ in second.seen}) == 2)
                assert {tp for tp, _ in second.seen} <= second.assigned()
            await until(lambda: len(first.assigned()) == 4)
            await until(lambda: first.is_ready() and len(first.seen) > 60)
            feeding.cancel()
            await asyncio.wait([feeding])
            await asyncio.sleep(0.5)
        for shop in (first, second):
            assert not shop.strange
            ends: dict[tuple[TP, int], int] = {}
            for (tp, batch), generation in zip(shop.seen, shop.generations, strict=True):
                assert batch.start == ends.get((tp, generation), batch.start)
                ends[tp, generation] = batch.end

    asyncio.run(scenario())


class Unpacked(faust.Table):  # type: ignore[misc]
    """A stock table that takes the records out of their batches."""

    def apply_changelog_batch(self, batch):
        for event in batch:
            for record in event.message.value.records:
                self.app.restored[record.key] = record.value


def with_table(kafka, topic, changelog, **settings):
    shop = Shop(kafka, topic, **settings)
    shop.app.restored = {}
    shop.app.tables.add(
        Unpacked(
            shop.app,
            name="found",
            changelog_topic=shop.app.topic(changelog, schema=BatchSchema()),
            recovery_buffer_size=2,
            standby_buffer_size=1,
        )
    )
    return shop


def test_the_recovery_of_a_changelog_that_ends_in_markers_ends(kafka):
    """Stock Faust never ends it; an aborted transaction at the end, and an empty changelog, are no different (D2)."""

    async def scenario():
        topic, changelog = own("recovery"), own("changelog")
        await create(kafka, topic, changelog, partitions=3)
        await produce(kafka, changelog, numbered(5, partition=0))
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await send(producer, changelog, [Record(b"a", b"1", partition=0), Record(b"b", b"2", partition=1)])
            await producer.commit_transaction()
            await producer.begin_transaction()
            await send(producer, changelog, [Record(b"a", b"x", partition=0), Record(b"b", b"x", partition=1)])
            await producer.abort_transaction()
        async with running(with_table(kafka, topic, changelog)) as shop:
            assert shop.app.restored == {b"k": b"4", b"a": b"1", b"b": b"2"}
            await produce(kafka, topic, numbered(1))
            await until(lambda: shop.values() == [b"0"])

    asyncio.run(scenario())


def test_a_standby_follows_the_changelog(kafka):
    async def scenario():
        topic, changelog = own("standby"), own("changelog")
        await create(kafka, topic, changelog)
        await produce(kafka, changelog, numbered(5))
        shops = [with_table(kafka, topic, changelog, table_standby_replicas=1) for _ in range(2)]
        async with running(shops[0]), running(shops[1]):
            await until(lambda: sum(len(shop.assigned()) for shop in shops) == 1)
            (standby,) = (shop for shop in shops if not shop.assigned())
            await until(lambda: standby.app.restored == {b"k": b"4"})
            await produce(kafka, changelog, [Record(b"new", b"5")])
            await until(lambda: standby.app.restored == {b"k": b"4", b"new": b"5"})

    asyncio.run(scenario())


# ------------------------------------------------------------------------------------- what the driver leans on

REVIEW = {
    # What is overridden, called from inside or relied on of Faust, mode and aiokafka: a hash of its source when it was read.
    "faust.transport.drivers.aiokafka:ConsumerRebalanceListener.on_partitions_revoked": "348c3aec879f",
    "faust.transport.drivers.aiokafka:ConsumerRebalanceListener.on_partitions_assigned": "1c1f8406ad36",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._ensure_consumer": "ff4a4c693b7e",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._highwaters": "a7f4f97d9f32",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._seek_wait": "9d221e816d94",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.getmany": "26fc5fc9f3b6",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.seek": "1498560d05f0",
    "faust.transport.drivers.aiokafka:Consumer._new_consumer_thread": "0870ec53dea7",
    "faust.transport.drivers.aiokafka:Consumer._to_message": "7c24f6511b2f",
    "faust.transport.consumer:Consumer.__init__": "302410d59e69",
    "faust.transport.consumer:Consumer._add_gap": "4df2573ded7c",
    "faust.transport.consumer:Consumer._drain_messages": "44a2500309e8",
    "faust.transport.consumer:Consumer._get_active_partitions": "b24897f3c7af",
    "faust.transport.consumer:Consumer._set_active_tps": "401f4dc88319",
    "faust.transport.consumer:Consumer.ack": "5fcf41cf4515",
    "faust.transport.consumer:Consumer.commit": "a354437baaa0",
    "faust.transport.consumer:Consumer.getmany": "4b168d84882a",
    "faust.transport.consumer:Consumer.on_partitions_assigned": "29ce96596f05",
    "faust.transport.consumer:Consumer.on_partitions_revoked": "d04b7ae72c6f",
    "faust.transport.consumer:Consumer.pause_partitions": "27a1c94bdacd",
    "faust.transport.consumer:Consumer.perform_seek": "0e8c130ff4b0",
    "faust.transport.consumer:Consumer.resume_flow": "db59630f25b5",
    "faust.transport.consumer:Consumer.resume_partitions": "afe6b7c02a41",
    "faust.transport.consumer:Consumer.seek": "b86a9fe05f95",
    "faust.transport.consumer:Consumer.stop_flow": "cf7e875a2b0d",
    "faust.transport.consumer:Consumer.verify_all_partitions_active": "4e0e46f5c297",
    "faust.transport.consumer:Consumer._wait_next_records": "6218e1969a63",
    "faust.transport.consumer:ThreadDelegateConsumer._getmany": "f9d47aa9010b",
    "faust.transport.consumer:ThreadDelegateConsumer.verify_recovery_event_path": "1159baf5ae11",
    "faust.transport.drivers.aiokafka:Consumer.verify_event_path": "a17e8f0610e1",
    "faust.tables.recovery:Recovery._build_highwaters": "91b4cc0d3724",
    "faust.tables.recovery:Recovery._build_offsets": "27eec86be06c",
    "faust.tables.recovery:Recovery._publish_stats": "48939a846a9a",
    "faust.tables.recovery:Recovery._restart_recovery": "6bd8a8558a2d",
    "faust.tables.recovery:Recovery._seek_offsets": "19598ca63d94",
    "faust.tables.recovery:Recovery._slurp_changelogs": "7825c7e50f76",
    "faust.tables.recovery:Recovery._wait": "ec7429b70176",
    "faust.tables.recovery:Recovery.flush_buffers": "6fa9c17f1071",
    "faust.tables.recovery:Recovery.on_partitions_revoked": "161b5e997f7c",
    "faust.tables.recovery:Recovery.on_rebalance": "aa4d997a1795",
    "faust.tables.recovery:Recovery.on_recovery_completed": "6ef567acf072",
    "faust.tables.manager:TableManager.on_start": "365dd25fbc0e",
    "faust.tables.manager:TableManager.on_rebalance": "2d2c23a07bf5",
    "faust.tables.manager:TableManager.recovery": "f0bf5de78b4c",
    "faust.tables.base:Collection._new_store": "914a2bda605d",
    "faust.tables.base:Collection.apply_changelog_batch": "b980a78d3ae9",
    "faust.tables.base:Collection.on_rebalance": "0812ad692171",
    "faust.app.base:App._create_directories": "a9f571c3b04a",
    "faust.app.base:App._on_partitions_assigned": "de932b7927db",
    "faust.app.base:App._on_partitions_revoked": "d5c895bbe57d",
    "faust.app.base:App._stop_consumer": "55854a5de12c",
    "faust.app.base:App.on_rebalance_end": "b7ff69e1e377",
    "faust.app.base:App.on_rebalance_start": "5c1e23de3067",
    "faust.app.base:App.on_stop": "bfe5a933defb",
    "aiokafka.client:AIOKafkaClient.__init__": "edf3d0229560",
    "aiokafka.client:AIOKafkaClient._get_conn": "68ce5d839171",
    "aiokafka.client:AIOKafkaClient._md_synchronizer": "e0421bffa9a7",
    "aiokafka.client:AIOKafkaClient._metadata_update": "06dc51ed3e0d",
    "aiokafka.client:AIOKafkaClient.bootstrap": "198943b004e5",
    "aiokafka.client:AIOKafkaClient.close": "02119d4d618a",
    "aiokafka.client:AIOKafkaClient.send": "246b277687d7",
    "aiokafka.conn:create_conn": "673276cbddb4",
    "aiokafka.conn:AIOKafkaConnection._do_sasl_handshake": "d4f7b5acbbec",
    "aiokafka.consumer.consumer:AIOKafkaConsumer.assignment": "d327de7a3898",
    "aiokafka.consumer.consumer:AIOKafkaConsumer.pause": "d5fc6f423650",
    "aiokafka.consumer.consumer:AIOKafkaConsumer.resume": "9301532efa15",
    "aiokafka.consumer.consumer:AIOKafkaConsumer.seek": "a9430f1f3b9a",
    "aiokafka.consumer.fetcher:FetchError": "10966ad4c795",
    "aiokafka.consumer.fetcher:FetchResult": "d7db13f06de8",
    "aiokafka.consumer.fetcher:Fetcher._create_fetch_waiter": "61d840568746",
    "aiokafka.consumer.fetcher:Fetcher._fetch_requests_routine": "2a8ec5932644",
    "aiokafka.consumer.fetcher:Fetcher._get_actions_per_node": "1dab2cf937d1",
    "aiokafka.consumer.fetcher:Fetcher._notify": "d3a30d94f34f",
    "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request": "59bf948fff47",
    "aiokafka.consumer.fetcher:Fetcher.end_offsets": "d03333ff4f87",
    "aiokafka.consumer.fetcher:Fetcher.fetched_records": "be4348896b9b",
    "aiokafka.consumer.fetcher:PartitionRecords": "94aa0da0dbec",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._do_heartbeat": "dc1d6632aaa6",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._heartbeat_routine": "61d010289522",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._on_join_complete": "0b0b3d204b40",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.ensure_active_group": "33c84c1a9301",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.request_rejoin": "f70a261c91c3",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.reset_generation": "537aa37c531b",
    "aiokafka.consumer.subscription_state:SubscriptionState.fetch_context": "ff2a654dca23",
    "mode.services:Service.crash": "14980000465d",
    "mode.services:Service.wait_first": "feade6a31f8a",
}


def source_hash(path):
    module, _, name = path.partition(":")
    found = attrgetter(name)(import_module(module))
    source = inspect.getsource(
        found.fun if isinstance(found, ServiceTask) else inspect.unwrap(getattr(found, "fget", found))
    )
    return sha256(source.encode()).hexdigest()[:12]


@pytest.mark.smoke
@pytest.mark.parametrize("path", REVIEW)
def test_what_the_driver_overrides_is_what_it_was_when_it_was_read(path):
    assert source_hash(path) == REVIEW[path], (
        f"{path} has changed. Read it again beside what overrides or calls it in worker/kafka/connection.py, worker/runtime/faust/driver.py, tables.py "
        f"and opening.py, run the tests of this folder, then put {source_hash(path)!r} into this table"
    )


@pytest.mark.smoke
def test_the_versions_installed_are_those_that_were_read():
    assert (version("faust-streaming"), version("aiokafka"), version("mode-streaming")) == ("0.15.3", "0.14.0", "0.7.1")
    (faust_requirement,) = (it for it in requires("session-worker") or () if it.startswith("faust-streaming"))
    assert faust_requirement == "faust-streaming==0.15.3"
