"""What the worker does beside its transactions: it watches the topics, purges them, marks its offsets, counts rejections.

U1. A topic that is deleted, created again or given more partitions ends the worker. So does another cluster at the same
    addresses. Otherwise a client would wait for the topic, the worker would apply its state to another stream, or
    nobody would read the new partitions. The worker looks every WATCH_SECONDS, at each opening, and before it purges.
U2. Nothing of another topic or cluster is committed. Records are fetched and written by a topic's name, which may stand
    for another topic since the last look. So the worker asks the leaders of all partitions of a transaction for the
    topics' ids, after everything is written and before it commits. A leader that serves a new topic knows its id. If an
    id differs, the worker aborts the transaction and opens its partitions again, which looks at the ids once more.
U3. Topics between the stages keep their records forever: a claim or a verdict that is lost would leave an update record
    parked forever. So the worker deletes what is committed.
U4. The group's offset of a changelog's partition records the owner (opening.py). Monitoring tools show its distance to
    the end as lag. So the worker commits the end every MARK_SECONDS in which it has moved, and when lanes are closed.
    The end counts the markers of transactions, which a broker writes a moment after its answer to a commit.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from aiokafka import TopicPartition

from worker.kafka.cluster import Cluster, Identity, Membership
from worker.kafka.errors import BrokerError, DeadlineExceeded, NotMember
from worker.kafka.producer import TransactionAborted
from worker.pipeline import outcomes
from worker.pipeline.lane import Lane, Overlay
from worker.pipeline.ledger import differing
from worker.pipeline.topology import Topology
from worker.runtime.topics import changes, stream_of

PURGE_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 3.0
MARK_SECONDS: Final = 1.0

_WINDOW_RECORDS: Final = 1000
"""Lower bound of the update records that a rejection ratio is taken of."""

log = logging.getLogger(__name__)


class TopicsChanged(Exception):
    """The cluster or the topics are not those that the worker's state was built from."""


class StreamReplaced(TransactionAborted):
    """The transaction did not happen: it would have mixed the records of two topics of one name (U2)."""


class TooManyRejections(Exception):
    """More of the update records are rejected than the operator allows."""


class RejectionRatio:
    """The share of rejections among the last update records, at most *limit*; at least 1,000 records count."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._records = self._rejected = 0

    def add(self, overlays: Iterable[Overlay]) -> None:
        """Count what a cycle is about to commit.

        Raises TooManyRejections; then nothing of the cycle is committed, and its records are read again.
        """
        for overlay in overlays:
            counts = overlay.counts
            self._records += sum(count for outcome, count in counts.items() if outcome in outcomes.OF_UPDATE_RECORDS)
            self._rejected += outcomes.rejections(counts).total()
        if self._records >= _WINDOW_RECORDS:
            if self._rejected > self._limit * self._records:
                raise TooManyRejections(
                    f"{self._rejected} of the last {self._records} update records were rejected, a larger share than "
                    f"SESSION_WORKER_MAX_REJECTION_RATIO={self._limit:g} allows. The last of them are not committed"
                )
            self._records //= 2
            self._rejected //= 2


class Upkeep:
    """The upkeep of the lanes that are open; *transactional_id* names the worker as their owner."""

    def __init__(self, cluster: Cluster, topology: Topology, transactional_id: str) -> None:
        self._cluster = cluster
        self._topology = topology
        self._transactional_id = transactional_id
        self._internal = frozenset((topology.rekeyed, topology.claims, topology.verdicts))
        self._state = [*topology.state().values()]
        self.identity: Identity | None = None
        """The cluster and the topics as they were when the worker started."""
        self.stream = b""
        """The digests of those that the worker's state is built from (rule L7 of ledger.py)."""
        self._membership: Membership | None = None
        self._changelogs: Mapping[Lane, TopicPartition] = {}
        self._purged: dict[TopicPartition, int] = {}
        self._marking = asyncio.Lock()
        self._written: dict[TopicPartition, int] = {}
        self._marked: dict[TopicPartition, int] = {}

    def open(self, changelogs: Mapping[Lane, TopicPartition], membership: Membership) -> None:
        """Keep up these lanes, as this member of the group."""
        self._membership, self._changelogs = membership, changelogs
        self._written, self._marked = {}, {}

    def close(self) -> None:
        """Keep up no lanes."""
        self._membership, self._changelogs = None, {}

    def note_written(self, ends: Mapping[TopicPartition, int]) -> None:
        """Note the offsets behind what a transaction has written."""
        self._written.update(ends)

    # ------------------------------------------------------------------------------------------------- identity

    async def check_topics(self) -> None:
        """Raise TopicsChanged if the topics are not those of the first call, or have other numbers of partitions.

        A broker may answer with what was true a moment ago, so the worker asks again before it ends (U1).
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
            self.identity, self.stream = now, stream_of(now, self._state)
        return {*changes(self._topology, self.identity or now, now)}

    async def check_touched(self, touched: Collection[TopicPartition], deadline: float) -> None:
        """Raise StreamReplaced if a leader of the partitions knows another cluster or other topics (U2)."""
        try:
            answers = await self._cluster.identities(self._state, touched, deadline)
        except DeadlineExceeded as error:
            raise TransactionAborted(str(error)) from error
        for answer in answers:
            if answer.topics.keys() < {*self._state} or differing(stream_of(answer, self._state), self.stream):
                raise StreamReplaced("the cluster or a topic is not the one that the worker started with")

    async def watch(self) -> None:
        """Check the topics every WATCH_SECONDS."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.check_topics()

    # ---------------------------------------------------------------------------------------------------- marks

    async def keep_marks(self) -> None:
        """Commit where the changelogs end, every MARK_SECONDS."""
        while True:
            await asyncio.sleep(MARK_SECONDS)
            if self._membership is not None:
                await self.mark(self._membership, set(self._changelogs.values()))

    async def mark(self, membership: Membership, changelogs: Collection[TopicPartition]) -> bool:
        """Commit where the changelogs end (U4); return False if markers of this worker's transactions are missing."""
        async with self._marking:
            ends = {tp: high for tp, (_low, high) in (await self._cluster.watermarks(changelogs)).items()}
            mark = membership.mark(self._transactional_id)
            moved = {tp: (end, mark) for tp, end in ends.items() if end != self._marked.get(tp)}
            try:
                await self._cluster.commit(membership, moved)
            except NotMember:  # the next owner commits its own
                return True
            self._marked.update(ends)
            return all(end > self._written.get(tp, -1) for tp, end in ends.items())

    # ---------------------------------------------------------------------------------------------------- purge

    async def purge(self) -> None:
        """Delete what is done of the topics between the stages, every PURGE_SECONDS (U3)."""
        while True:
            await asyncio.sleep(PURGE_SECONDS)
            await self._purge()

    async def _purge(self) -> None:
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
        except BrokerError as error:
            log.warning("records between the stages cannot be deleted, and take space: %s", error)
