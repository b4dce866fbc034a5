"""Hands over a partition's fetched records as one batch.

Faust's way is a message a record, with tasks, tracking and an acknowledgement for each; that is where a thousand
records a second is its limit. This transport gives it one message for all that a fetch brought of one partition, so
its app, agents, group membership, tables, recovery and standby replicas work on as they are, at the price of a batch.

What that takes:

D1. A message's value is a Batch: the records between two positions, start and end. Transaction markers and compaction
    leave offsets without records, so the two are positions, not offsets of records; a fetch of markers alone is a batch
    without records.
D2. A message's offset is the end less one. Faust's recovery ends when the offset that it saw reaches the high
    watermark, and no record may be there.
D3. Everything is read read_committed, but high watermarks are those of read_uncommitted: the markers of the
    last transactions may be on their way, and a table restored to the last stable offset would miss them.
D4. Faust does not commit, keeps no list of what was acknowledged, and looks for no gaps: it expects one record an
    offset, and commits past unfinished ones. Offsets are the cycle's business.
D5. Group generation and member id are read once, in the moment of the assignment, and never live: a worker that wakes
    from a freeze has neither for a moment, and a commit without them is one that no coordinator refuses.
D6. A batch that was fetched before a rebalance is dropped. Paused partitions are paused in the client as well, so that
    nothing is fetched ahead from where nobody reads.
D7. A worker is alive as long as its main loop turns. The client expects fetches instead, leaves the group
    where that takes too long, and does not join again: a worker without partitions would never get any.
D8. While records come, a broker holds each fetch for a moment, so that it brings more of them: a fetch costs the same,
    whatever it brings. When none come any more, it holds a fetch for long, and answers the first record at once. Not
    while a partition is paused because too much of it is there: it would have to wait for the end of a fetch without it.
D9. A client that cannot go on ends the worker, which would otherwise stay alive and do nothing. Each answer is judged
    before aiokafka acts on it (refusals.py). Every second the client's own tasks are checked: none of them may end
    while the worker runs.
D10. A batch that cannot be read ends the worker. The records before it are handed over first, so each restart meets it
    at the same offset, and the message names that offset.

Registered as the transport `batched` (entry point `faust.transports`); `batched://host:9092` is its URL. It overrides
what is not Faust's public face, so Faust's version is pinned, and tests/kafka/test_driver.py runs it on a broker.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from copy import copy
from typing import Any, ClassVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError, KafkaError
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, AppT, ConsumerMessage, Message
from mode import Service

from worker.codec.records import ConsumerRecord
from worker.kafka.cluster import Membership
from worker.kafka.protocol import Code
from worker.kafka.rebalances import Rebalances
from worker.kafka.responses import ClientEnded, Watch, remedy
from worker.kafka.throttles import Throttles
from worker.kafka.unreadable import unreadable
from worker.pipeline.lane import Batch
from worker.runtime.stalls import Progress, Standing

_CALM = (1, 500)  # a broker may hold a fetch until it has so many bytes, and so many milliseconds
_BUSY = (1 << 16, 12)  # each fetch costs the same, whatever it brings
_BUSY_SECONDS = 0.1  # after the last record
_IDLE_SECONDS = 0.02  # between two looks whether a partition may be read now
_LIFE_SECONDS = 1.0
_CREATE_TIME = 0


class BatchSchema(Schema):
    """The schema of topics whose messages are batches: nothing is decoded."""

    def loads_key(self, app: AppT, message: Message, **_: Any) -> None:
        """Return no key: a batch has none."""

    def loads_value(self, app: AppT, message: Message, **_: Any) -> Batch:
        """Return the batch as the driver made it."""
        batch: Batch = message.value
        return batch


class RebalanceListener(stock.ConsumerRebalanceListener):
    """Pins generation and member id in the moment in which they are an assignment's (D5)."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        thread = self._thread
        coordinator = thread._ensure_consumer()._coordinator
        thread.consumer.membership = Membership(coordinator.group_id, coordinator.generation, coordinator.member_id)
        await super().on_partitions_assigned(assigned)


class ConsumerThread(stock.AIOKafkaConsumerThread):
    """The thread, with an event loop of its own, in which the Kafka client fetches and stays in the group."""

    def _create_worker_consumer(self, transport: stock.Transport) -> AIOKafkaConsumer:
        consumer: AIOKafkaConsumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # D3
        consumer._fetch_min_bytes, consumer._fetch_max_wait_ms = _CALM
        client: Any = consumer._client

        def rejoin() -> None:
            coordinator: Any = consumer._coordinator
            coordinator.request_rejoin()

        client.send = Throttles(client.send).send
        client.send = Progress(client.send, self.consumer.standing).send
        client.send = Watch(client.send, consumer._group_id, client.force_metadata_update, self._end).send  # D9
        client.send = Rebalances(client.send, consumer._group_id, rejoin).send
        return consumer

    def set_shutdown(self) -> None:
        """Report that the thread has ended; a worker that has crashed may have closed its loop before."""
        with suppress(RuntimeError):
            super().set_shutdown()

    async def on_thread_stop(self) -> None:
        """Stop the client, also where one of its tasks has failed: that ends the worker already (D9)."""
        try:
            await super().on_thread_stop()
        except (KafkaError, asyncio.CancelledError) as error:  # the second left the worker waiting for its thread
            self.log.debug("The client does not stop in order: %r", error)
            await self._ensure_consumer()._client.close()

    async def _highwaters(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the high watermarks, not the last stable offsets (D3)."""
        consumer = self._ensure_consumer()
        uncommitted: Fetcher = copy(consumer._fetcher)
        uncommitted._isolation_level = READ_UNCOMMITTED
        wanted = stock.ensure_aiokafka_TPset(partitions)
        ends: Mapping[TP, int] = await uncommitted.end_offsets(wanted, consumer._request_timeout_ms) if wanted else {}
        return ends

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Collection[TP],
        timeout: float | None = None,  # noqa: ASYNC109 (Faust's signature)
        max_records: int | None = None,
    ) -> dict[TP, Batch]:
        """Return what was fetched of the active partitions; wait for it up to *timeout* seconds."""
        try:
            return await self._fetch(consumer, active_partitions, timeout)
        except Exception as error:
            if damage := unreadable(error):
                raise damage from error
            if isinstance(error, KafkaError):
                raise self._ended(error) from error
            raise

    async def _fetch(self, consumer: Any, active_partitions: Collection[TP], timeout: float | None) -> dict[TP, Batch]:  # noqa: ASYNC109
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            if fetcher._subscriptions.reassignment_in_progress:
                await fetcher._subscriptions.wait_for_assignment()
            batches = _take(fetcher, active_partitions)
            if not batches and timeout:
                waiter = fetcher._create_fetch_waiter()
                done, _pending = await asyncio.wait([waiter], timeout=_BUSY_SECONDS)
                if not done and not self._is_holding_back(consumer):
                    fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = _CALM
                    done, _pending = await asyncio.wait([waiter], timeout=timeout - _BUSY_SECONDS)
                if not done:
                    waiter.cancel()
                else:
                    waiter.result()  # raises what the coordinator or the broker refuses for good
                    batches = _take(fetcher, active_partitions)
            if batches:
                fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = _BUSY
            return batches

    def _is_holding_back(self, consumer: AIOKafkaConsumer) -> bool:
        """Return True if a paused partition has more to read; Faust keeps those of restored tables paused."""
        restored = self.app.tables.changelog_topics
        return any(tp.topic not in restored for tp in consumer._subscription.paused_partitions())

    def set_paused(self, partitions: Iterable[TP], *, paused: bool) -> None:
        """Pause partitions in the client, or let them be fetched again; from any thread, for those still assigned."""

        def change() -> None:
            consumer = self._ensure_consumer()
            present = consumer.assignment() & stock.ensure_aiokafka_TPset(partitions)
            (consumer.pause if paused else consumer.resume)(*present)
            if not paused:  # who waits for records of the others looks again: these may have been fetched before
                for waiter in tuple(consumer._fetcher._fetch_waiters):
                    consumer._fetcher._notify(waiter)

        self._soon(change)

    def seek(self, partition: TP, offset: int) -> None:
        """Seek in the client's own thread, where the partition is still assigned."""

        def change() -> None:
            consumer = self._ensure_consumer()
            if partition in consumer.assignment():
                consumer.seek(stock.ensure_aiokafka_TP(partition), offset)

        self._soon(change)

    def set_fetch_bytes(self, most: int) -> None:
        """Set the upper bound in bytes of what a fetch brings of one partition."""

        def change() -> None:
            fetcher: Any = self._ensure_consumer()._fetcher
            fetcher._max_partition_fetch_bytes = most

        self._soon(change)

    def show_life(self) -> None:
        """Show the client that something was fetched just now (D7), and check that it can go on (D9)."""

        def change() -> None:
            if self._consumer is not None and not self._consumer._closed:
                with self._consumer._subscription.fetch_context():
                    pass
                self._check(self._consumer)

        self._soon(change)

    def _check(self, consumer: Any) -> None:
        """End the worker when a task of the client has ended, or waits for somebody to look at its error (D9)."""
        coordinator = consumer._coordinator
        if coordinator is None:  # it has not started yet
            return
        tasks = {
            "coordination": coordinator._coordination_task,
            "fetching": consumer._fetcher._fetch_task,
            "metadata": consumer._client._sync_task,
        }
        causes = [_cause(name, task) for name, task in tasks.items() if task.done()]
        for cause in (coordinator._pending_exception, *causes):
            if cause is not None:
                self._end(self._ended(cause))
                return

    def _ended(self, cause: BaseException) -> ClientEnded:
        """Return what ends the worker when its client has ended."""
        first = cause
        while first.__cause__ is not None:
            first = first.__cause__
        return ClientEnded(
            f"The Kafka client of group {self.app.conf.id} ended: {' '.join(str(cause).split())} ({first!r}). Start the "
            f"worker again. If it ends in the same way, perhaps {remedy(Code.INCONSISTENT_GROUP_PROTOCOL)}"
        )

    def _end(self, error: Exception) -> None:
        """End the worker, from the client's thread."""
        if not self.should_stop:
            asyncio.run_coroutine_threadsafe(self.app.crash(error), self.parent_loop)

    def _soon(self, change: Callable[[], None]) -> None:
        """Do something in the client's own thread, unless that has ended: a worker that crashed still has to stop."""
        with suppress(RuntimeError):
            self.thread_loop.call_soon_threadsafe(change)


class _NoReadOffsets(dict[TP, int | None]):
    """Where Faust would keep the last offset of each partition, to drop what it takes for delivered already (D4)."""

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        pass

    def update(self, *_: object, **__: object) -> None:
        pass


class _NoAcks(dict[TP, Any]):
    """Where Faust's streams, which do not ask the consumer, would list what was acknowledged (D4)."""

    def __init__(self, kind: Callable[[], Any]) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, tp: TP) -> Any:
        return self._kind()


class Consumer(stock.Consumer):
    """Faust's consumer, a batch a message."""

    RebalanceListener: ClassVar[type[RebalanceListener]] = RebalanceListener

    membership: Membership | None = None
    """Of the last assignment (D5)."""

    standing: dict[TopicPartition, Standing]
    """The partitions whose fetches found nothing although there is more."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.standing = {}
        super().__init__(*args, **kwargs)
        self._read_offset = _NoReadOffsets()
        self._acked = _NoAcks(list)
        self._acked_index = _NoAcks(set)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109 (Faust's signature)
        """Yield a message for each partition of which something was fetched (D1)."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        active = frozenset(self._get_active_partitions())
        if not active:
            await self.sleep(_IDLE_SECONDS)
            return
        generation = self.app.consumer_generation_id
        for tp, batch in (await self._getmany(active, timeout)).items():
            if self.should_stop or not self.flow_active or generation != self.app.consumer_generation_id:
                return  # D6
            yield tp, self._to_message(tp, batch)

    @Service.task
    async def _show_life(self) -> None:
        while not self.should_stop:
            self._thread.show_life()
            await self.sleep(_LIFE_SECONDS)

    def _to_message(self, tp: TP, batch: Batch) -> ConsumerMessage:
        last = batch.records[-1].timestamp / 1000 if batch.records else 0.0
        return ConsumerMessage(
            tp.topic, tp.partition, batch.end - 1, last, _CREATE_TIME, [], None, batch, None, tp=tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Stop reading partitions, and fetching them ahead (D6)."""
        tps = set(tps)
        super().pause_partitions(tps)
        self._thread.set_paused(tps, paused=True)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Read partitions again from where they are."""
        tps = set(tps)
        super().resume_partitions(tps)
        self._thread.set_paused(tps, paused=False)

    def set_fetch_bytes(self, most: int) -> None:
        """Set the upper bound in bytes of what a fetch brings of one partition."""
        self._thread.set_fetch_bytes(most)

    def go_to(self, tp: TP, offset: int) -> None:
        """Fetch a partition from another position, as soon as the client's thread gets to it."""
        self._thread.seek(tp, offset)

    # ------------------------------------------------------------------------------- what Faust shall not do (D4)

    async def commit(self, topics: object = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002
        """Commit nothing."""
        return False

    def ack(self, message: Message) -> bool:
        """Forget a message that was delivered."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Look for no gaps."""

    async def verify_all_partitions_active(self) -> None:
        """Expect no commits."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Expect no fetch that Faust knows of."""

    def verify_recovery_event_path(self, now: float, tp: TP) -> None:
        """Expect no fetch that Faust knows of, also while tables are restored: `Progress` sees what stands still."""


class Transport(stock.Transport):
    """The transport behind `batched://`."""

    Consumer: ClassVar[type[Consumer]] = Consumer


def _cause(name: str, task: asyncio.Task[Any]) -> BaseException:
    """Return why a task of the client has ended."""
    if task.cancelled():
        return RuntimeError(f"the task of its {name} was cancelled")
    return task.exception() or RuntimeError(f"the task of its {name} returned")


def _take(fetcher: Fetcher, active: Collection[TP]) -> dict[TP, Batch]:
    """Return all that was fetched of the active partitions, positions included; raise an error if that is all."""
    batches: dict[TP, Batch] = {}
    for tp in list(fetcher._records):
        if tp not in active:
            if not fetcher._subscriptions.is_assigned(tp):
                del fetcher._records[tp]
            continue
        result = fetcher._records[tp]
        if batches and not isinstance(result, FetchResult):
            break  # the next call raises the error
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
        if not isinstance(result, FetchResult):
            result.check_raise()
        fetched = result._partition_records
        if result.check_assignment(tp):  # the position is still where this was fetched
            fetched._consumer_record = _record
            start, records = fetched.next_fetch_offset, _unpack(fetched)
            result._update_position()
            if fetched.next_fetch_offset > start:
                batches[TP(*tp)] = Batch(tp.topic, start, fetched.next_fetch_offset, records)
    return batches


def _unpack(fetched: PartitionRecords) -> list[ConsumerRecord]:
    """Return the records up to the first batch that cannot be read; raise its error when nothing comes before it (D10)."""
    start, records = fetched.next_fetch_offset, list[ConsumerRecord]()
    try:
        records.extend(fetched._records_iterator)
    except Exception:
        if fetched.next_fetch_offset == start:
            raise
    return records


def _record(_tp: TopicPartition, record: Any) -> ConsumerRecord:
    """Make a record of what the client unpacked; its own dataclass costs 3 µs a record, this 0.4."""
    return ConsumerRecord(record.offset, record.timestamp, record.key, record.value, record.headers)
