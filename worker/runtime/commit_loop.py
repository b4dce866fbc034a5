"""The worker's one transaction at a time: take, fold, send, commit, adopt.

Theory of operation. All lanes of a worker share one transactional producer. A cycle has five steps:

1. *take*: what has queued for the lanes, in portions and in turn, for at most FOLD_SECONDS;
2. *fold*: each lane into an overlay of its own;
3. *send* and *commit*: one transaction with all outputs, and the offsets with the ledgers as their metadata, under the
   generation that was pinned when the lanes were opened;
4. *adopt*: when the commit is answered, and only then, the overlays become the lanes' state.

C1. Nothing is half done. What was queued and is not committed is still queued; what was committed is adopted. If there
    is much to do, the loop folds the next cycle while the commit of the last one is under way, over its overlays. The
    loop sends it after a good answer, and drops it after any other.
C2. After an aborted transaction the same records are folded again. Of a transaction with an unknown outcome the worker
    keeps nothing: the lanes are closed, and the opening finds out what is committed. The same happens if records that
    are read next were deleted.
C3. Lanes are closed before the partitions are revoked, within a bounded time. A transaction without an answer by then is
    given up: its outcome is unknown. The next owner of the partitions waits until the broker has ended it.
C4. The interval follows the load: a few records wait a little for others, because a transaction costs the same for one
    record as for a hundred. Many records do not wait.
C5. A topic that refuses a batch for its size has a lower limit than the worker read when it opened the lanes. So the
    lanes are opened again, which reads the limit, and a snapshot that is too large is rejected. If that does not help,
    because another topic refuses or the batch holds no outcome of a record, the worker ends.
C6. If a quota of a broker throttles the worker, a cycle waits for the end of that before it begins. It holds so little
    that one request for each leader carries it. A second request would wait in the middle of the transaction, which
    would then take longer than its timeout.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition

from worker.kafka.cluster import Cluster, Membership
from worker.kafka.connection import OtherCluster
from worker.kafka.errors import RequestFailed
from worker.kafka.producer import OutcomeUnknown, TooLarge, TransactionAborted, TransactionalProducer
from worker.pipeline.lane import Batch, Lane, Overlay
from worker.runtime.flow import Flow, Source
from worker.runtime.upkeep import MARK_SECONDS, RejectionRatio, StreamReplaced, Upkeep

FOLD_SECONDS: Final = 0.1
INTERVAL_SECONDS: Final = 0.02
"""How long a few records wait for others."""

CLOSE_SECONDS: Final = 5.0
"""How long a transaction in flight may hold up a rebalance, or the end."""

TOO_LARGE_TIMES: Final = 3
"""How many times a topic may refuse a batch for its size, under limits that stay the same, before the worker ends."""

_MANY: Final = 256
"""Number of queued records that do not wait for others."""
_PORTION: Final = 128
"""Records that a lane folds before the next lane has its turn."""
_MANY_PARKED: Final = 4096
"""Number of parked records above which a worker is crowded (N5 of lane.py). Each takes about 2 KB."""
_THROTTLED_PORTION: Final = 8
_THROTTLED_BYTES: Final = 128 << 10
"""Bytes of outputs after which a cycle is full while a quota throttles the worker (C6)."""
_MARKERS_SECONDS: Final = 1.0
"""After which offsets are committed that only moved over transaction markers."""
_MARKER_SECONDS: Final = 0.02
"""Between two looks for the marker of this worker's last transaction."""
_PAUSE_SECONDS: Final = 0.1
"""Between an aborted transaction and the next."""

log = logging.getLogger(__name__)


class _Pending(NamedTuple):
    """A cycle whose commit has begun."""

    overlays: list[Overlay]
    changelogs: Mapping[Lane, TopicPartition]
    offsets: Mapping[TopicPartition, tuple[int, str]]
    commit: asyncio.Future[dict[TopicPartition, int]]


class CommitLoop:
    """Runs cycles over the lanes that are open.

    *source* returns the consumer. *lost* is called when the lanes were closed for the opening to find out what is
    committed. *spawn* runs a coroutine whose failure ends the worker. *limit* is the share of rejections that ends it.
    """

    def __init__(
        self,
        cluster: Cluster,
        producer: TransactionalProducer,
        upkeep: Upkeep,
        source: Callable[[], Source],
        lost: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        limit: float | None = None,
    ) -> None:
        self._cluster = cluster
        self._producer = producer
        self._upkeep = upkeep
        self._lost = lost
        self._flow = Flow(source, cluster.watermarks, spawn, self.lose)
        self._rejections = None if limit is None else RejectionRatio(limit)
        self.committed: dict[TopicPartition, tuple[int, str]] = {}
        """What this process knows to be committed of the partitions that its lanes read, or read last."""
        self._membership: Membership | None = None
        self._by_source: dict[TopicPartition, Lane] = {}
        self._changelogs: dict[Lane, TopicPartition] = {}
        self._turns: deque[Lane] = deque()
        self._waiting = 0
        self._begun = 0.0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._pending: _Pending | None = None
        self._is_cut = False
        self._is_ending = False
        self._batch_bytes: Mapping[str, int] = {}
        self._too_large = 0

    @property
    def lanes(self) -> Collection[Lane]:
        """The lanes that are open."""
        return self._changelogs.keys()

    @property
    def is_committing(self) -> bool:
        """Whether a transaction is under way."""
        return self._pending is not None

    def open(
        self, lanes: Mapping[Lane, TopicPartition], membership: Membership, batch_bytes: Mapping[str, int]
    ) -> None:
        """Begin to fold records for these lanes, each with the partition of its changelog, as this member of the group.

        *batch_bytes* has the largest batch of topics, as far as it is known.
        """
        if self._batch_bytes != batch_bytes:
            self._batch_bytes, self._too_large = batch_bytes, 0
        self._membership = membership
        self._changelogs = dict(lanes)
        self._turns = deque(lanes)
        self._by_source = {
            TopicPartition(topic, lane.partition): lane for lane in lanes for topic in lane.stage.reads
        }  # fmt: skip
        self._upkeep.open(self._changelogs, membership)
        self.committed = {tp: lane.ledgers[tp.topic].commit() for tp, lane in self._by_source.items()}

    async def close(self, within_seconds: float = CLOSE_SECONDS) -> None:
        """Fold no more records, and wait for the cycle in flight; give it up when that takes too long (C3)."""
        membership, changelogs = self._membership, set(self._changelogs.values())
        self._forget()
        try:
            await asyncio.wait_for(self._idle.wait(), within_seconds)
        except TimeoutError:
            log.warning("a transaction has no answer after %s s; the worker gives it up", within_seconds)
            if self._pending is not None:
                self._pending.commit.cancel()
            await self._idle.wait()
        if membership is not None:
            with suppress(TimeoutError, RequestFailed, OtherCluster):  # a mark serves monitoring tools alone
                async with asyncio.timeout(MARK_SECONDS):
                    while not await self._upkeep.mark(membership, changelogs):  # noqa: ASYNC110 (a broker gives no event)
                        await asyncio.sleep(_MARKER_SECONDS)

    def end(self) -> None:
        """Expect the cancellation of `run`."""
        self._is_ending = True

    def queue(self, tp: TopicPartition, batch: Batch) -> None:
        """Queue a batch for its lane; drop one that is not due.

        Raises RecordsDeleted if records were deleted that have to be read again.
        """
        lane = self._by_source.get(tp)
        if lane is None:
            return
        if batch.start < lane.position(tp.topic):  # records read again, or a topic that was created again
            self._flow.check_soon(tp, lane.position(tp.topic))
        if not lane.queue(batch):
            self._flow.go_back(tp, lane)
            return
        if not batch.records:
            asyncio.get_running_loop().call_later(_MARKERS_SECONDS, self._wake.set)
            return
        self._waiting += len(batch.records)
        self._flow.hold_back(tp, lane, batch, len(self._changelogs))
        if lane.is_complete:
            self._wake.set()

    def lose(self, why: str) -> None:
        """Close the lanes, for the opening to find out what is committed and what is there (C2)."""
        if self._membership is not None:
            self._forget()
            log.warning("the worker opens its partitions again: %s", why)
            self._lost()

    # ------------------------------------------------------------------------------------------------- the cycle

    async def run(self) -> None:
        """Run cycles until the task is cancelled."""
        try:
            while True:
                await self._work()
                self._idle.clear()
                await self._cycle()
                if self._pending is None:
                    self._idle.set()
        finally:
            if self._pending is not None:
                self._pending.commit.cancel()
            self._idle.set()

    async def _cycle(self) -> None:
        membership, overlays = self._membership, await self._fold()
        if self._pending is not None and not await self._settle(self._pending):
            return
        if self._cluster.throttles.seconds(self._cluster.nodes()) > 0:
            self._is_cut = bool(overlays)  # C6
            return
        if overlays and membership is not None and membership is self._membership:
            if self._rejections is not None:
                self._rejections.add(overlays)
            self._pending = self._send(overlays, membership)
            if not self.is_behind:
                await self._settle(self._pending)

    async def _work(self) -> None:
        """Wait until there is something to do, and for others when it is little (C4)."""
        if self._pending is None and not self.is_behind:
            await self._wake.wait()
        if self._pending is None and not self.is_behind:
            await asyncio.sleep(self._begun + INTERVAL_SECONDS - time.monotonic())
        if self._pending is None:
            await self._cluster.throttles.wait()
        self._wake.clear()
        self._waiting = 0
        self._begun = time.monotonic()

    @property
    def is_behind(self) -> bool:
        """Whether so much is queued that the next cycle should not wait for the commit of this one."""
        return self._is_cut or self._waiting >= _MANY

    async def _fold(self) -> list[Overlay]:
        """Fold portions of all lanes in turn, until nothing is left or the time is up."""
        deadline = time.monotonic() + FOLD_SECONDS
        membership, pending = self._membership, self._pending
        below = {overlay.lane: overlay for overlay in pending.overlays} if pending else {}
        lanes = [lane for lane in self._turns if lane.has_work() or lane.has_moved()]
        going = deque(Overlay(lane, below.get(lane)) for lane in lanes)
        overlays: list[Overlay] = []
        turn = 0
        is_throttled, is_full = self._cluster.throttles.is_recent, False
        portion = _THROTTLED_PORTION if is_throttled else _PORTION
        parked = sum(overlay.parked for overlay in going)
        while going and time.monotonic() < deadline:
            overlay = going.popleft()
            before = overlay.parked
            folded = overlay.run(portion, is_crowded=parked >= _MANY_PARKED)
            parked += overlay.parked - before
            if folded:
                if is_throttled and sum(len(record.value or b"") for record in overlay.out) > _THROTTLED_BYTES:
                    is_full = True  # C6
                else:
                    going.append(overlay)
            if turn < len(lanes) and (folded or (overlay.lane not in below and overlay.lane.has_moved())):
                overlays.append(overlay)
            turn += 1
            if pending is not None:
                await asyncio.sleep(0)  # its requests and answers go on meanwhile
                if self._membership is not membership:
                    return []
        self._is_cut = bool(going) or is_full
        self._turns.rotate(-len(overlays))
        return overlays

    def _send(self, overlays: list[Overlay], membership: Membership) -> _Pending:
        """Begin a transaction with what the overlays hold."""
        records = [record for overlay in overlays for record in overlay.out]
        offsets = {
            TopicPartition(topic, overlay.partition): commit
            for overlay in overlays
            for topic, commit in overlay.offsets().items()
        }
        committing = self._producer.commit(records, offsets, membership, self._upkeep.check_touched, self._batch_bytes)
        return _Pending(overlays, self._changelogs, offsets, asyncio.ensure_future(committing))

    async def _settle(self, pending: _Pending) -> bool:
        """Wait for the answer, and adopt the overlays if it is a good one."""
        try:
            ends = await pending.commit
        except StreamReplaced as error:
            self.lose(str(error))
            return False
        except TransactionAborted as error:
            log.warning("a transaction was aborted; the worker folds its records again: %s", error)
            self._is_cut = True
            await asyncio.sleep(_PAUSE_SECONDS)
            return False
        except OutcomeUnknown as error:
            self.lose(f"the outcome of a transaction is unknown: {error}")
            return False
        except TooLarge as error:
            self._too_large += 1
            if self._too_large == TOO_LARGE_TIMES:
                raise
            self.lose(f"a topic takes no batch of this size any more: {error}")  # C5
            return False
        except asyncio.CancelledError:
            if self._is_ending or not pending.commit.cancelled():
                raise
            self.lose("a transaction was given up, its outcome is unknown")
            return False
        finally:
            self._pending = None
        for overlay in pending.overlays:
            overlay.adopt(ends.get(pending.changelogs[overlay.lane]))
        self._upkeep.note_written(ends)
        self.committed.update(pending.offsets)
        self._flow.let_go(self._by_source)
        return True

    def _forget(self) -> None:
        """Close the lanes: nothing that was queued survives."""
        self._by_source = {}
        self._changelogs = {}
        self._turns = deque()
        self._membership = None
        self._upkeep.close()
        self._flow.reset()
        self._waiting = 0
        self._is_cut = False
