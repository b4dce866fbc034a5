"""The worker's one transaction at a time: take, fold, send, commit, adopt.

Theory of operation. All lanes of a worker share one transactional producer. A cycle has five steps:

1. *take*: what has queued for the lanes, in portions and in turn, for at most FOLD_SECONDS;
2. *fold*: each lane into an overlay of its own;
3. *send* and *commit*: one transaction with all outputs, and the offsets with the ledgers as their metadata, under the
   generation that was pinned when the lanes were opened;
4. *adopt*: only when the commit was answered, the overlays become the lanes' state.

C1. Nothing is half done. What was queued and is not committed is still queued; what was committed is adopted. When there
    is much to do, the next cycle is folded while the last one's commit is under way, over its overlays: it is sent after
    that was answered, and dropped when the answer is not a good one.
C2. An aborted transaction is followed by the same records again. Of one whose outcome is unknown nothing is kept: the
    lanes are closed, and the opening finds out what was committed. So it is when records are gone that come next.
C3. Lanes are closed before the partitions are given up, within a bounded time: a transaction that is not answered by
    then is given up (its outcome is unknown), and whoever opens the partitions next waits until the broker has ended it.
C4. The interval follows the load: few records wait a little for others, since a transaction costs the same for one
    record as for a hundred; many do not wait.
C5. Nothing here blocks the fetching of verdicts. Where more is queued than a few cycles take, that partition is paused
    until they have taken it. Verdicts and claims are taken whatever is parked, so they always come again, and a full
    ledger empties.
C6. Topics between the stages are kept for ever, since losing a question or an answer would leave a record parked for
    ever. So they are purged up to what is committed.
C7. A batch that a topic refuses for its size is one that was folded under a limit that is not the topic's any more. So
    the lanes are opened again, which reads the limit of the snapshots' topic, and what is too large for it is refused.
    Where that does not help, because it is another topic or not the outcome of a record, the worker ends.
C8. A topic that is deleted, created again or given more partitions ends the worker. Otherwise a client would wait for
    the topic, the worker would apply its state to another stream, or nobody would read the new partitions. So does
    another cluster at the same addresses. The worker looks every few seconds, at each opening, and before it purges.
C9. The group's offset of a changelog's partition records the owner (opening.py), and monitoring tools show its distance to
    the end as lag. So the worker commits the end each second in which it has moved, and when lanes are closed. The end
    counts the markers of transactions, which come a moment after the answer to a commit.
C10. Where a quota of a broker throttles the worker, a cycle waits for the end of that before it begins, and holds so little
    that one request for each leader carries it. A second request would wait in the middle of the transaction, which would
    then take longer than its timeout.
C11. Nothing of another topic or cluster is committed. Records are fetched and written by a topic's name, which may be
    another topic's since the last look. So the leaders of all partitions that a transaction touches are asked for the
    topics' ids after everything is written, and before it commits. A leader that serves a new topic knows its id. If an
    id differs, the worker aborts the transaction and opens its lanes again, which looks at the ids once more.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition
from mode import Service

from worker.connection import OtherCluster
from worker.pipeline.lane import Batch, Lane, Overlay
from worker.pipeline.ledger import differing
from worker.pipeline.topology import Topology
from worker.runtime.cluster import Cluster, Failed, Identity, Membership, NotMember, OutOfTime, Refused
from worker.runtime.topics import changes
from worker.runtime.transaction import Aborted, TooLarge, TransactionalProducer, Unknown

FOLD_SECONDS = 0.1
INTERVAL_SECONDS = 0.02
"""How long a few records wait for others."""

CLOSE_SECONDS = 5.0
"""How long a transaction in flight may hold up a rebalance, or the end."""

PURGE_SECONDS = 60.0

WATCH_SECONDS = 3.0
"""Between two looks whether all topics are still there, and still the same."""

MARK_SECONDS = 1.0
"""Between two looks where the changelogs end."""

TOO_LARGE_TIMES = 3
"""So often a topic may refuse a batch for its size, under limits that stay the same, before the worker ends."""

_MANY = 256
_WINDOW_RECORDS = 1000
_NO_OUTCOMES = {"forwarded", "reclassified", "unreadable"}  # of what is counted: no update record's last word
_PORTION = 128
_QUEUED_BYTES = 4 << 20
"""Upper bound in bytes of the records that are queued of a partition."""
_QUEUED_BYTES_IN_ALL = 16 << 20
"""The same of all lanes together: each has its share."""
_MANY_PARKED = 4096
"""Number of parked records above which a worker is crowded (N5 of lane.py). Each takes about 2 KB."""
_FRAME_BYTES = 200
_SAMPLED = 16
_THROTTLED_PORTION = 8
_THROTTLED_BYTES = 128 << 10
_MARKERS_SECONDS = 1.0
_MARKER_SECONDS = 0.02
_PAUSE_SECONDS = 0.1


class Source(Protocol):
    """What records come from."""

    def pause_partitions(self, tps: Iterable[TopicPartition]) -> None:
        """Fetch no more of these partitions."""

    def resume_partitions(self, tps: Iterable[TopicPartition]) -> None:
        """Fetch them again."""

    def go_to(self, tp: TopicPartition, offset: int) -> None:
        """Fetch a partition from another position."""


class TopicsChanged(Exception):
    """The cluster or the topics are not those that the worker's state was built from."""


class _Replaced(Aborted):
    """The transaction did not happen: it would have mixed two lives."""


class _Pending(NamedTuple):
    """A cycle whose commit has begun."""

    overlays: list[Overlay]
    changelogs: Mapping[Lane, TopicPartition]
    offsets: Mapping[TopicPartition, tuple[int, str]]
    commit: asyncio.Future[dict[TopicPartition, int]]


class TooManyRejections(Exception):
    """More of the update records are refused than an operator allows."""


class Rejections:
    """The share of rejections among the last update records, at most *limit*; nothing is said of less than 1,000."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._records = self._rejected = 0

    def add(self, overlays: Iterable[Overlay]) -> None:
        """Count what a cycle is about to commit.

        Raises TooManyRejections, so that none of it is: those records stay to be read again.
        """
        for overlay in overlays:
            self._records += sum(count for what, count in overlay.counts.items() if what not in _NO_OUTCOMES)
            self._rejected += sum(count for what, count in overlay.counts.items() if what.startswith("rejected."))
        if self._records >= _WINDOW_RECORDS:
            if self._rejected > self._limit * self._records:
                raise TooManyRejections(
                    f"{self._rejected} of the last {self._records} update records were rejected, a larger share than "
                    f"SESSION_WORKER_MAX_REJECTION_RATIO={self._limit:g} allows. The last of them are not committed"
                )
            self._records //= 2
            self._rejected //= 2


class Cycle(Service):
    """Runs cycles over the lanes that are open.

    *source* gives the consumer, *lost* is called when the lanes were closed for the opening to find out what is committed
    and what is there; *topology* names the topics; *limit* is the share of rejections that ends the worker.
    """

    def __init__(
        self,
        cluster: Cluster,
        producer: TransactionalProducer,
        source: Callable[[], Source],
        lost: Callable[[], None],
        topology: Topology,
        limit: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._cluster = cluster
        self._producer = producer
        self._source = source
        self._lost = lost
        self._topology = topology
        self._internal = frozenset((topology.rekeyed, topology.claims, topology.verdicts))
        self.identity: Identity | None = None
        """The cluster and the topics as they were when the worker started."""
        self.stream = b""
        """The digests of those that the worker's state is built from (rule L7 of ledger.py)."""
        self._state = [*topology.state().values()]
        self._rejections = None if limit is None else Rejections(limit)
        self._purged: dict[TopicPartition, int] = {}
        self.committed: dict[TopicPartition, tuple[int, str]] = {}
        """What this process knows to be committed of the partitions that its lanes read, or read last."""
        self._membership: Membership | None = None
        self._by_source: dict[TopicPartition, Lane] = {}
        self._changelogs: dict[Lane, TopicPartition] = {}
        self._marking = asyncio.Lock()
        self._written: dict[TopicPartition, int] = {}
        self._marked: dict[TopicPartition, int] = {}
        self._turns: deque[Lane] = deque()
        self._paused: dict[TopicPartition, int] = {}
        self._checked: set[TopicPartition] = set()
        self._waiting = 0
        self._begun = 0.0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._pending: _Pending | None = None
        self._is_cut = False
        self._limits: Mapping[str, int] = {}
        self._too_large = 0

    @property
    def lanes(self) -> Collection[Lane]:
        """The lanes that are open."""
        return self._changelogs.keys()

    def open(self, lanes: Mapping[Lane, TopicPartition], membership: Membership) -> None:
        """Take records for these lanes, each with the partition of its changelog, as this member of the group."""
        if self._limits != self._producer.limits:
            self._limits, self._too_large = dict(self._producer.limits), 0
        self._membership = membership
        self._changelogs = dict(lanes)
        self._turns = deque(lanes)
        self._by_source = {
            TopicPartition(topic, lane.partition): lane for lane in lanes for topic in lane.stage.reads
        }  # fmt: skip
        self._written, self._marked = {}, {}
        self.committed = {tp: lane.ledgers[tp.topic].commit() for tp, lane in self._by_source.items()}

    async def close(self, within_seconds: float = CLOSE_SECONDS) -> None:
        """Take no more records, and let the cycle in flight end; give it up when that takes too long (C3)."""
        membership, changelogs = self._membership, set(self._changelogs.values())
        self._forget()
        try:
            await asyncio.wait_for(self._idle.wait(), within_seconds)
        except TimeoutError:
            self.log.warning("A transaction was not answered within %s s and is given up", within_seconds)
            if self._pending is not None:
                self._pending.commit.cancel()
            await self._idle.wait()
        if membership is not None:
            with suppress(TimeoutError, Failed, OtherCluster):  # a mark serves monitoring tools alone
                async with asyncio.timeout(MARK_SECONDS):
                    while not await self._mark(membership, changelogs):  # noqa: ASYNC110 (a broker gives no event)
                        await asyncio.sleep(_MARKER_SECONDS)

    def queue(self, tp: TopicPartition, batch: Batch) -> None:
        """Queue a batch for its lane; one that is not due is dropped.

        Raises LostRecords when records are gone that had to be read again.
        """
        lane = self._by_source.get(tp)
        if lane is None:
            return
        if batch.start < lane.position(tp.topic):  # records read again, or a topic made anew
            self._check_soon(tp, lane.position(tp.topic))
        if not lane.queue(batch):
            self._go_back(tp, lane)
            return
        if not batch.records:
            self.loop.call_later(_MARKERS_SECONDS, self._wake.set)
            return
        self._waiting += len(batch.records)
        self._hold_back(tp, lane, batch)
        if lane.is_complete:
            self._wake.set()

    # ------------------------------------------------------------------------------------------------- the cycle

    @Service.task
    async def _run(self) -> None:
        try:
            while not self.should_stop:
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
            self._is_cut = bool(overlays)  # C10
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
        """Whether so much is there already that the next cycle should not wait for the commit of this one."""
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
        parked = {overlay.lane: overlay.parked for overlay in going}
        while going and time.monotonic() < deadline:
            overlay = going.popleft()
            folded = overlay.run(portion, is_crowded=sum(parked.values()) >= _MANY_PARKED)
            parked[overlay.lane] = overlay.parked
            if folded:
                if is_throttled and sum(len(record.value or b"") for record in overlay.out) > _THROTTLED_BYTES:
                    is_full = True  # C10
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

    def _send(self, overlays: list[Overlay], membership: Membership) -> "_Pending":
        """Begin a transaction with what the overlays hold."""
        records = [record for overlay in overlays for record in overlay.out]
        offsets = {
            TopicPartition(topic, overlay.partition): commit
            for overlay in overlays
            for topic, commit in overlay.offsets().items()
        }
        commit = asyncio.ensure_future(self._producer.commit(records, offsets, membership, self._check_identity))
        return _Pending(overlays, self._changelogs, offsets, commit)

    async def _settle(self, pending: "_Pending") -> bool:
        """Wait for the answer, and adopt the overlays if it is a good one."""
        try:
            ends = await pending.commit
        except _Replaced as error:
            self._lose(str(error))
            return False
        except Aborted as error:
            self.log.warning("A transaction was aborted and is tried again: %s", error)
            self._is_cut = True
            await asyncio.sleep(_PAUSE_SECONDS)
            return False
        except Unknown as error:
            self._lose(f"the outcome of a transaction is unknown: {error}")
            return False
        except TooLarge as error:
            self._too_large += 1
            if self._too_large == TOO_LARGE_TIMES:
                raise
            self._lose(f"what was folded is larger than a topic takes now: {error}")  # C7
            return False
        except asyncio.CancelledError:
            if self.should_stop or not pending.commit.cancelled():
                raise
            self._lose("a transaction was given up, its outcome is unknown")
            return False
        finally:
            self._pending = None
        for overlay in pending.overlays:
            overlay.adopt(ends.get(pending.changelogs[overlay.lane]))
        self._written.update(ends)
        self.committed.update(pending.offsets)
        self._let_go()
        return True

    def _forget(self) -> None:
        """Close the lanes: nothing that was queued survives."""
        self._by_source = {}
        self._changelogs = {}
        self._turns = deque()
        self._membership = None
        self._paused = {}
        self._waiting = 0
        self._is_cut = False

    def _lose(self, why: str) -> None:
        """Close the lanes, for the opening to find out what is committed and what is there (C2)."""
        if self._membership is not None:
            self._forget()
            self.log.warning("The lanes are opened again: %s", why)
            self._lost()

    async def check_topics(self) -> None:
        """Raise TopicsChanged when the topics are not those of the first call, or have other numbers of partitions.

        A broker may answer with what was true a moment ago, so the worker asks again before it ends (C8).
        """
        found = await self._changes()
        if found:
            await asyncio.sleep(WATCH_SECONDS)
            found &= await self._changes()
        if found:
            raise TopicsChanged("\n".join(sorted(found)))

    async def _changes(self) -> set[str]:
        names = self._topology.named().values()
        now = await self._cluster.identity(names)
        if self.identity is None and now.topics.keys() == set(names):
            self.identity, self.stream = now, now.stream(self._state)
        return {*changes(self._topology, self.identity or now, now)}

    async def _check_identity(self, touched: Collection[TopicPartition], deadline: float) -> None:
        """Raise _Replaced when a leader of the partitions knows another cluster or other topics (C11)."""
        try:
            answers = await self._cluster.identities(self._state, touched, deadline)
        except OutOfTime as error:
            raise Aborted(str(error)) from error
        for answer in answers:
            if answer.topics.keys() < {*self._state} or differing(answer.stream(self._state), self.stream):
                raise _Replaced("the cluster or a topic is not the one that the worker started with")

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            await self.sleep(WATCH_SECONDS)
            await self.check_topics()

    @Service.task
    async def _keep_marks(self) -> None:
        while not self.should_stop:
            await self.sleep(MARK_SECONDS)
            if self._membership is not None:
                await self._mark(self._membership, set(self._changelogs.values()))

    async def _mark(self, membership: Membership, changelogs: Collection[TopicPartition]) -> bool:
        """Commit where the changelogs end (C9); return False if markers of this worker's transactions are still missing."""
        async with self._marking:
            ends = {tp: high for tp, (_low, high) in (await self._cluster.watermarks(changelogs)).items()}
            mark = membership.mark(self._producer.transactional_id)
            moved = {tp: (end, mark) for tp, end in ends.items() if end != self._marked.get(tp)}
            try:
                await self._cluster.commit(membership, moved)
            except NotMember:  # the next owner commits its own
                return True
            self._marked.update(ends)
            return all(end > self._written.get(tp, -1) for tp, end in ends.items())

    @Service.timer(PURGE_SECONDS)
    async def _purge(self) -> None:
        """Delete what is done of the topics that only workers write and read; they keep everything else (C6)."""
        offsets = {
            TopicPartition(topic, lane.partition): ledger.commit()[0]
            for lane in self._changelogs
            for topic, ledger in lane.ledgers.items()
            if topic in self._internal
        }
        due = {tp: offset for tp, offset in offsets.items() if offset > self._purged.get(tp, 0)}
        await self.check_topics()
        try:
            await self._cluster.purge(due)
            self._purged = offsets
        except Refused as refusal:
            self.log.warning("What is done cannot be deleted: %s", refusal)

    # ------------------------------------------------------------------------------------------------- the fetching

    def _go_back(self, tp: TopicPartition, lane: Lane) -> None:
        """Fetch from where the lane is; see meanwhile that this is still there."""
        position = lane.position(tp.topic)
        self._source().go_to(tp, position)
        self._check_soon(tp, position)

    def _check_soon(self, tp: TopicPartition, position: int) -> None:
        if tp not in self._checked:
            self._checked.add(tp)
            self.add_future(self._check(tp, position))

    async def _check(self, tp: TopicPartition, position: int) -> None:
        (low, high) = (await self._cluster.watermarks([tp]))[tp]
        self._checked.discard(tp)
        if not low <= position <= high:
            self._lose(f"{tp.topic}/{tp.partition} holds the offsets {low} to {high}, {position} was to be read next")

    def _hold_back(self, tp: TopicPartition, lane: Lane, batch: Batch) -> None:
        """Pause a partition of which more is queued than memory should hold (C5)."""
        queued = len(lane.queued[tp.topic])
        if queued > len(batch.records) and tp not in self._paused:
            some = batch.records[::_SAMPLED]
            size = sum(len(record.value or b"") for record in some) / len(some) + _FRAME_BYTES
            if queued * size > min(_QUEUED_BYTES, _QUEUED_BYTES_IN_ALL / len(self._changelogs)):
                self._paused[tp] = queued // 2
                self._source().pause_partitions({tp})

    def _let_go(self) -> None:
        """Fetch those paused partitions again of which enough has been taken."""
        ready = {tp for tp, few in self._paused.items() if len(self._by_source[tp].queued[tp.topic]) <= few}
        if ready:
            self._source().resume_partitions(ready)
            for tp in ready:
                del self._paused[tp]
