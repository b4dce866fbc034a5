"""The whole pipeline in memory for tests of feeds: N partitions, a manual clock, and faults as input items.

`StreamDriver` runs both stages of the worker over topics that are lists: records in, records out. It has transactions,
offset commits with their metadata, and the offsets of transaction markers. Only the broker's disk and the network are
mocked. No thread, clock or random number is involved: equal inputs give equal runs.

>>> driver = StreamDriver(partitions=4)
>>> driver.feed([
...     Update({"customerSession": {"cartItems": [{"sku": "cup", "quantity": 3, "price": 0.1}]}}, key="s-1"),
...     Fault.CRASH,
...     Update({"customerSession": {"state": "closed"}}, key="s-1"),
... ])
>>> session = driver.sessions()["s-1"]
>>> session["total"], session["state"], session["updateCount"]
(0.3, 'closed', 2)
>>> [dict(record.headers)["ce_type"].decode() for record in driver.published("customer-sessions")]
['customersession.created', 'customersession.closed']
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

import orjson

from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.codec.snapshot import entry_from_changelog
from worker.domain.limits import Rules
from worker.pipeline.lane import Batch, Lane, MemoryTable, Overlay, Stage
from worker.pipeline.ledger import Ledger
from worker.pipeline.profiles import Profiles
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology


class Update(NamedTuple):
    """An update record to send.

    *value* is JSON as Python data, or raw bytes, or None for a tombstone. The default *partition* is that of Kafka's
    default partitioner (0 without a key). The default *timestamp*, in milliseconds, is the driver's clock.
    """

    value: dict[str, Any] | bytes | None
    key: str | bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Fault(Enum):
    """The faults between two update records, or at any step of a cycle."""

    CRASH = "the worker dies, loses its uncommitted state, and starts again"
    ABORT = "the transaction is aborted, and the same records are processed again"
    REVOKE = "another worker gets the partitions; the commit of the first worker is refused"
    SEEK_BACK = "the consumer seeks to the beginning: all fetched records are delivered a second time"
    DUPLICATE = "the producer sends its last update record a second time"


class _Log:
    """One partition of a topic; the offsets of markers and aborted records are missing."""

    def __init__(self) -> None:
        self.records: list[ConsumerRecord] = []
        self.end = 0

    def append(self, record: ProducerRecord) -> None:
        self.records.append(ConsumerRecord(self.end, record.timestamp, record.key, record.value, record.headers))
        self.end += 1

    def read(self, topic: str, start: int, limit: int) -> Batch:
        """Return at most *limit* records from the position *start*."""
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.records[middle].offset < start else (low, middle)
        found = self.records[low : low + limit]
        is_last = low + limit >= len(self.records)
        return Batch(topic, start, self.end if is_last else found[-1].offset + 1, found)


class StreamDriver:
    """Both stages over topics in memory.

    A cycle reads at most *max_poll_records* of each source partition. *choose* makes the choices that Kafka leaves open:
    *choose(n)* returns 0 to n - 1. For example, `random.Random(7).randrange` interleaves partitions, stages and cycle
    lengths at random. By default all sources advance together, in an order that depends only on the committed state.
    """

    def __init__(
        self,
        partitions: int = 4,
        rules: Rules | None = None,
        *,
        v1_topic: str | None = None,
        max_poll_records: int = 1_000_000,
        choose: Callable[[int], int] | None = None,
    ) -> None:
        self.topology = Topology(partitions, v1=v1_topic)
        self.clock = 1_795_372_800_000
        """The timestamp of records that are sent without one, in milliseconds since 1970."""
        self.steps = 0
        """Number of steps until now: each cycle has four, a fetch, a fold, a commit and an adoption."""
        self._stages: tuple[tuple[Stage, str], ...] = (
            (Sessions(rules or Rules(), self.topology), self.topology.sessions),
            (Profiles(self.topology), self.topology.first_sessions),
        )
        self._max_poll_records = max_poll_records
        self._choose = choose
        self._logs: dict[str, list[_Log]] = {}
        self._commits: dict[tuple[str, int], tuple[int, str]] = {}
        self._published: list[ProducerRecord] = []
        self._last: ProducerRecord | None = None
        self._counts: Counter[str] = Counter()
        self._generation = 0
        self._progress = False
        self._lanes: list[Lane] = []
        self._carried: list[Overlay] = []
        self._open()

    # ------------------------------------------------------------------------------------------------ what goes in

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.clock += round(seconds * 1000)

    def send(self, update: Update) -> None:
        """Append an update record to the input topic without processing it."""
        key = update.key.encode() if isinstance(update.key, str) else update.key
        value = orjson.dumps(update.value) if isinstance(update.value, dict) else update.value
        partition = update.partition
        if partition is None:
            partition = self.topology.home(key, 0) if key is not None else 0
        timestamp = self.clock if update.timestamp is None else update.timestamp
        self._last = ProducerRecord(self.topology.updates, partition, key, value, timestamp, update.headers)
        self._log(self.topology.updates, partition).append(self._last)

    def inject(self, record: ProducerRecord) -> None:
        """Put a record on any topic, also on one that only the stages write, without processing it yet."""
        self._log(record.topic, record.partition).append(record)

    def feed(self, items: Iterable[Update | Fault]) -> None:
        """Send update records, apply the faults between them, then process all records.

        A fault occurs in a cycle that has folded all records before the fault and has not committed.
        """
        for item in items:
            if isinstance(item, Update):
                self.send(item)
            elif item is Fault.DUPLICATE:
                self._strike(item)
            else:
                self.run({self.steps + 2: item}, cycles=1)
        self.run()

    def run(self, faults: Mapping[int, Fault] | None = None, *, cycles: int | None = None) -> None:
        """Process until no record is left, or for *cycles* cycles.

        Each of *faults* occurs after the step with its number, counted like `steps`. An abort after a commit has no effect.
        Raise RuntimeError if no cycle processes the remaining records.
        """
        faults = faults or {}
        while cycles is None or cycles > 0:
            self._progress = False
            cycle = self._cycle()
            for step in cycle:
                self.steps += 1
                if self.steps in faults and self._strike(faults[self.steps], step, cycle):
                    break
            else:
                if not self._is_behind():
                    return
                if not self._progress:
                    raise RuntimeError("no cycle processes the remaining records")
            cycles = None if cycles is None else cycles - 1

    # ----------------------------------------------------------------------------------------------- what comes out

    def published(self, topic: str | None = None) -> list[ProducerRecord]:
        """Return what the stages wrote to a topic, or to all, in order of publication, as read_committed sees it."""
        return [record for record in self._published if topic is None or record.topic == topic]

    def records(self, topic: str, partition: int) -> list[ConsumerRecord]:
        """Return what a partition holds, markers and aborted records left out."""
        return list(self._log(topic, partition).records)

    def parked(self) -> int:
        """Return the number of update records that wait for a verdict, or behind one that waits."""
        return sum(
            len(lane.awaiting_verdict)
            + sum(map(len, lane.queued_behind.values()))
            + sum(map(len, lane.dry_awaiting.values()))
            for lane in self._lanes
        )

    def sessions(self) -> dict[str, dict[str, Any]]:
        """Return the last snapshot of every session by integrationId, like a reader of the compacted topic."""
        last = {record.key: record.value for record in self.published(self.topology.sessions)}
        return {(key or b"").decode(): orjson.loads(value) for key, value in last.items() if value is not None}

    def counts(self) -> Counter[str]:
        """Return the numbers of outcomes until now, by their names in pipeline/outcomes.py."""
        return self._counts

    # --------------------------------------------------------------------------------------------------- the worker

    def _cycle(self) -> Iterator[str]:
        """Run one cycle over all lanes and yield after each step; the steps after the last yield have no effect."""
        self._fetch()
        yield "fetch"
        generation, overlays = self._generation, self._carried or self._folded([])
        self._progress |= bool(self._carried)
        self._carried = []
        yield "fold"
        if self._choose and self._choose(2):
            self._carried = self._folded(overlays)
        if not self._commit(overlays, generation):
            self._carried = []
            return
        yield "commit"
        for overlay in overlays:
            overlay.adopt()
        yield "adopt"

    def _folded(self, below: list[Overlay]) -> list[Overlay]:
        """Return the overlays of a cycle over all available records, above the overlays *below* of an uncommitted cycle."""
        under = {overlay.lane: overlay for overlay in below}
        overlays = [Overlay(lane, under.get(lane)) for lane in self._lanes if lane.has_work()]
        for overlay in overlays:
            limit = 1 + self._choose(100) if self._choose else 1_000_000
            self._progress |= overlay.run(limit) > 0
        return overlays

    def _fetch(self) -> None:
        sources = [source for source in self._sources() if self._unread(*source)]
        self._progress = bool(sources)
        if self._choose is None:
            for lane, topic in sources:
                if not lane.queued[topic]:
                    self._poll(lane, topic, lane.position(topic), self._max_poll_records)
        elif sources:
            lane, topic = sources[self._choose(len(sources))]
            self._poll(lane, topic, lane.position(topic), 1 + self._choose(50))

    def _poll(self, lane: Lane, topic: str, start: int, limit: int) -> None:
        lane.queue(self._log(topic, lane.partition).read(topic, start, limit))

    def _commit(self, overlays: list[Overlay], generation: int) -> bool:
        """Commit outputs and offsets in one transaction; return False if another worker owns the partitions now."""
        if generation != self._generation:
            return False
        written = set()
        for overlay in overlays:
            for record in overlay.out:
                log = self._log(record.topic, record.partition)
                log.append(record)
                written.add(log)
                self._published.append(record)
            for topic, commit in overlay.offsets().items():
                self._commits[topic, overlay.partition] = commit
            self._counts.update(overlay.counts)
        for log in written:
            log.end += 1  # the transaction's marker
        return True

    def _strike(self, fault: Fault, step: str = "", cycle: Iterable[str] = ()) -> bool:
        """Apply a fault after a *step* of a cycle; return True if the cycle ends there."""
        match fault:
            case Fault.CRASH:
                self._open()
                return True
            case Fault.REVOKE:
                self._open()
                for _step in cycle:
                    pass  # the worker that lost the partitions continues, and must change nothing
                return True
            case Fault.ABORT:
                self._carried = []
                for logs in self._logs.values():
                    for log in logs:
                        log.end += 2  # an aborted record and its marker
                return step in ("fetch", "fold")
            case Fault.SEEK_BACK:
                for lane, topic in self._sources():
                    end = lane.position(topic)
                    known = [record for record in self._log(topic, lane.partition).records if record.offset < end]
                    lane.queue(Batch(topic, 0, end, known))
                return False
            case Fault.DUPLICATE:
                if self._last is not None:
                    self._log(self._last.topic, self._last.partition).append(self._last)
                return False

    def _open(self) -> None:
        """Open every lane from the committed state: changelogs, offsets with ledgers, unprocessed records."""
        self._generation += 1
        self._carried = []
        self._lanes = []
        for stage, changelog in self._stages:
            for partition in range(self.topology.partitions or 0):
                table = MemoryTable[bytes, bytes]()
                log = self._log(changelog, partition)
                table.apply({record.key or b"": entry_from_changelog(record) for record in log.records}, log.end)
                commits = {topic: self._commits.get((topic, partition)) for topic in stage.reads}
                ledgers = {topic: Ledger.restore(*commit) if commit else Ledger() for topic, commit in commits.items()}
                lane = Lane(stage, partition, table, ledgers)
                self._lanes.append(lane)
                for topic, ledger in ledgers.items():
                    while lane.position(topic) < ledger.next:
                        self._poll(lane, topic, lane.position(topic), 1)

    def _log(self, topic: str, partition: int) -> _Log:
        if topic not in self._logs:
            self._logs[topic] = [_Log() for _partition in range(self.topology.partitions or 0)]
        return self._logs[topic][partition]

    def _sources(self) -> Iterator[tuple[Lane, str]]:
        return ((lane, topic) for lane in self._lanes for topic in lane.stage.reads)

    def _unread(self, lane: Lane, topic: str) -> bool:
        return lane.position(topic) < self._log(topic, lane.partition).end

    def _is_behind(self) -> bool:
        return any(lane.has_work() for lane in self._lanes) or any(self._unread(*source) for source in self._sources())
