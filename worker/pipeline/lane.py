"""One partition's state and ledgers, and the overlay of a cycle.

Theory of operation. A lane is what a worker holds for one partition number of one stage. It changes only when a cycle
was committed:

N1. A cycle folds into overlays. An overlay holds everything it changes, table entries, parked records, ledgers, and
    reads through to its lane; the lane itself is not touched. An aborted cycle is an overlay that is dropped.
N2. `adopt` makes an overlay the lane's state, only when the commit was answered. A crash between the two is a crash
    after the commit: the lane is restored from what was committed.
N3. Records queue in the order of their positions, without a gap or a repetition: `queue` drops what was queued before
    and refuses a batch that starts beyond the lane's position (a stale prefetch; the caller seeks).
N4. A restored lane first reads again the records that were not done, all of them (`is_complete`), and folds them
    before anything new: heads, then the records queued behind them, then verdicts, then new records.
N5. While a ledger is full, new records of its topic stay queued. Verdicts never do, so the ledger empties again. While a
    worker has parked many records in all, each lane parks only FEW_PARKED: memory is bounded, and no lane stands still
    because of another.
N6. A cycle may be folded over one whose commit is not answered yet, its overlay *below*: it reads through it, and is
    adopted after it. What is queued stays queued until it is adopted, so when the one below is dropped, this is, too,
    and all its records are folded again.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.pipeline.apply import Accepted, Limits, ParsedUpdate, Question
from worker.pipeline.ledger import Ledger

K = TypeVar("K")
V = TypeVar("V")


FEW_PARKED: Final = 128
"""Number of records of a topic that a lane may park however many the worker has parked (N5)."""


class Batch(NamedTuple):
    """What a fetch gave of one partition: the records between two positions, *start* up to but not including *end*.

    Offsets may be missing in between, where transaction markers were or compaction took records out.
    """

    topic: str
    start: int
    end: int
    records: Sequence[ConsumerRecord]


class Pending(Struct, frozen=True, gc=False):
    """An accepted update record, read at an offset of a topic, whose question waits for its verdict."""

    topic: str
    offset: int
    question: Question
    accepted: Accepted


class RecordsDeleted(Exception):
    """Records that were not done yet are not in the topic any more: what they said cannot be folded."""


class Stage(Protocol):
    """What a lane runs: folds one record after the other into an overlay."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The topics that it reads, in the order in which a cycle takes them."""

    @property
    def parks(self) -> frozenset[str]:
        """Those of them whose records may have to wait."""

    def limits(self, batch_bytes: int | None) -> Limits:
        """Return the limits of a lane whose changelog takes batches of at most *batch_bytes*; None: of any size."""

    def fold(self, overlay: "Overlay", topic: str, record: ConsumerRecord) -> None:
        """Fold one record of *topic*, new or not done yet."""


class Table(Protocol[K, V]):
    """What a lane keeps by key, in memory or on disk: what its changelog says up to some offset."""

    def get(self, key: K, /) -> V | None:
        """Read an entry."""

    def apply(self, changes: Mapping[K, V | None], end: int | None = None) -> None:
        """Change entries at once, or remove them with None.

        The table then stands for its changelog up to *end*; without one, for what it did before.
        """


class MemoryTable(dict[K, V]):
    """A table in memory; *end* is the offset up to which it stands for its changelog."""

    checkpoint: int | None = None

    def apply(self, changes: Mapping[K, V | None], end: int | None = None) -> None:
        """Change entries, or remove them with None."""
        for key, entry in changes.items():
            if entry is None:
                self.pop(key, None)
            else:
                self[key] = entry
        if end is not None:
            self.checkpoint = end


class TableOverlay(Generic[K, V]):
    """What a cycle changes of a table, over what was committed or is about to be; None stands for a removed key."""

    __slots__ = ("_base", "changes")

    def __init__(self, base: "Table[K, V] | TableOverlay[K, V]") -> None:
        self._base = base
        self.changes: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        """Read a key as this cycle sees it."""
        if key in self.changes:
            return self.changes[key]
        return self._base.get(key)

    def put(self, key: K, value: V | None) -> None:
        """Change a key, or remove it with None."""
        self.changes[key] = value

    def rebase(self, base: Table[K, V]) -> None:
        """Lie over a table that has taken up the layer below."""
        self._base = base


class Lane:
    """The state of one partition of a stage, as it was committed last."""

    def __init__(
        self,
        stage: Stage,
        partition: int,
        table: Table[bytes, bytes],
        ledgers: Mapping[str, Ledger],
        batch_bytes: int | None = None,
    ) -> None:
        """Open a lane over its restored *table* and the ledgers, by topic, that were committed with it.

        *batch_bytes* is the largest batch that its changelog takes; None: of any size.
        """
        self.stage = stage
        self.partition = partition
        self.table = table
        self.limits = stage.limits(batch_bytes)
        self.ledgers = {topic: ledgers.get(topic) or Ledger() for topic in stage.reads}
        self.awaiting_verdict = MemoryTable[bytes, Pending]()
        self.queued_behind = MemoryTable[bytes, tuple[ParsedUpdate, ...]]()
        self.dry_awaiting = MemoryTable[Question, tuple[Pending, ...]]()
        self.counts: Counter[str] = Counter()
        self.queued: dict[str, deque[ConsumerRecord]] = {topic: deque() for topic in stage.reads}
        self.again: dict[tuple[str, int], ConsumerRecord] = {}
        self._ends = {topic: ledger.commit()[0] for topic, ledger in self.ledgers.items()}
        self._missing = {(topic, offset) for topic, ledger in self.ledgers.items() for offset in ledger.not_done}

    @property
    def is_complete(self) -> bool:
        """Whether all records that were not done have been read again, so that cycles may start (N4)."""
        return not self._missing

    def position(self, topic: str) -> int:
        """Return the offset at which the next batch of *topic* must start."""
        return self._ends[topic]

    def queue(self, batch: Batch) -> bool:
        """Queue what is new of a batch; False when it starts too late and has to be fetched from `position` (N3).

        Raises RecordsDeleted when the batch passes a record that is not done without bringing it.
        """
        topic, end = batch.topic, self._ends[batch.topic]
        if batch.start > end:
            return False
        ledger = self.ledgers[topic]
        for record in batch.records:
            if record.offset >= max(end, ledger.next):
                self.queued[topic].append(record)
            elif (topic, record.offset) in self._missing:
                self._missing.discard((topic, record.offset))
                self.again[topic, record.offset] = record
        self._ends[topic] = max(end, batch.end)
        if self._missing and (lost := [at for at in self._missing if at[0] == topic and at[1] < batch.end]):
            raise RecordsDeleted(f"{topic}/{self.partition} no longer holds {len(lost)} records, first {min(lost)[1]}")
        return True

    def has_work(self) -> bool:
        """Return True if there are records to fold."""
        return self.is_complete and (bool(self.again) or any(self.queued.values()))

    def has_moved(self) -> bool:
        """Return True if a topic was read beyond the ledger over markers alone: worth a commit, without hurry."""
        return self.is_complete and any(
            self._ends[topic] > ledger.next and not self.queued[topic] for topic, ledger in self.ledgers.items()
        )


class Overlay:
    """What one cycle changes of a lane (N1), over what another is about to change of it (N6)."""

    def __init__(self, lane: Lane, below: "Overlay | None" = None) -> None:
        self.lane = lane
        self.partition = lane.partition
        state = below or lane
        self.table: TableOverlay[bytes, bytes] = TableOverlay(state.table)
        self.awaiting_verdict: TableOverlay[bytes, Pending] = TableOverlay(state.awaiting_verdict)
        self.queued_behind: TableOverlay[bytes, tuple[ParsedUpdate, ...]] = TableOverlay(state.queued_behind)
        self.dry_awaiting: TableOverlay[Question, tuple[Pending, ...]] = TableOverlay(state.dry_awaiting)
        self.ledgers: dict[str, Ledger] = {topic: ledger.copy() for topic, ledger in state.ledgers.items()}
        self.out: list[ProducerRecord] = []
        self.counts: Counter[str] = Counter()
        self._taken = dict.fromkeys(lane.stage.reads, 0)
        self._taken_again = 0
        self._above: Overlay | None = None
        if below is None:
            self._first = dict.fromkeys(lane.stage.reads, 0)
            self._again = self._not_done()
        else:
            self._first = {topic: first + below._taken[topic] for topic, first in below._first.items()}
            self._again = below._again[below._taken_again :]
            below._above = self

    @property
    def parked(self) -> int:
        """Number of records that are not done after this cycle."""
        return sum(len(ledger.not_done) for ledger in self.ledgers.values())

    def run(self, limit: int, *, is_crowded: bool = False) -> int:
        """Fold what the lane has queued, at most *limit* records more; return how many, 0 if there are none.

        When *is_crowded*, the worker has parked many records in all (N5).
        """
        stage, lane = self.lane.stage, self.lane
        folded = 0
        for topic, offset in self._again[self._taken_again : self._taken_again + limit]:
            stage.fold(self, topic, lane.again[topic, offset])
            folded += 1
        self._taken_again += folded
        for topic in stage.reads:
            ledger, queued, parks = self.ledgers[topic], lane.queued[topic], topic in stage.parks
            first, before = self._first[topic], self._taken[topic]
            taken = before
            for record in islice(queued, first + before, first + before + limit - folded):
                if parks and (
                    not ledger.has_room(record.offset) or (is_crowded and len(ledger.not_done) >= FEW_PARKED)
                ):
                    break  # N5
                stage.fold(self, topic, record)
                ledger.next = record.offset + 1
                taken += 1
            if first + taken == len(queued):
                ledger.next = max(ledger.next, lane.position(topic))  # nothing but markers up to there
            self._taken[topic] = taken
            folded += taken - before
        return folded

    def offsets(self) -> dict[str, tuple[int, str]]:
        """Return what to commit of each topic: the offset, and the ledger as its metadata."""
        return {topic: ledger.commit() for topic, ledger in self.ledgers.items()}

    def adopt(self, end: int | None = None) -> None:
        """Make this the lane's state; only when the commit was answered (N2).

        *end* is the changelog's offset behind what the cycle wrote there.
        """
        lane, above = self.lane, self._above
        lane.table.apply(self.table.changes, end)
        lane.awaiting_verdict.apply(self.awaiting_verdict.changes)
        lane.queued_behind.apply(self.queued_behind.changes)
        lane.dry_awaiting.apply(self.dry_awaiting.changes)
        lane.ledgers = self.ledgers
        lane.counts.update(self.counts)
        for place in self._again[: self._taken_again]:
            del lane.again[place]
        for topic, taken in self._taken.items():
            queued = lane.queued[topic]
            for _record in range(taken):
                queued.popleft()
        if above is not None:
            above.table.rebase(lane.table)
            above.awaiting_verdict.rebase(lane.awaiting_verdict)
            above.queued_behind.rebase(lane.queued_behind)
            above.dry_awaiting.rebase(lane.dry_awaiting)
            above._first = dict.fromkeys(lane.stage.reads, 0)

    def _not_done(self) -> list[tuple[str, int]]:
        """List where the records read again are from, heads before the records queued behind them (N4)."""
        order = {topic: place for place, topic in enumerate(self.lane.stage.reads)}
        ledgers = self.lane.ledgers

        def place(at: tuple[str, int]) -> tuple[bool, int, int]:
            topic, offset = at
            return not ledgers[topic].not_done[offset], order[topic], offset

        return sorted(self.lane.again, key=place)
