"""The whole pipeline in memory, to test feeds with: N partitions, a clock moved by hand, and faults as input items.

`StreamDriver` runs both stages exactly as the worker does, over topics that are lists: records in, records out, with
transactions, offset commits with their metadata, and the offsets that transaction markers take. Nothing is mocked
but the broker's disk and the network, and no thread, clock or chance is involved: the same input gives the same run.

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

    *value* is JSON as Python data, or raw bytes, or None for a tombstone. Without a *partition* the record goes where
    Kafka's default partitioner puts its key (0 without a key); without a *timestamp* (milliseconds) it has the
    driver's clock.
    """

    value: dict[str, Any] | bytes | None
    key: str | bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Fault(Enum):
    """What can go wrong between two update records, or at any step of a cycle."""

    CRASH = "the worker dies with whatever was not committed, and starts again"
    ABORT = "the transaction is aborted, and the same records are folded again"
    REVOKE = "another worker takes the partitions; the commit of the one that had them is refused"
    SEEK_BACK = "the consumer goes back to the beginning: all that was fetched is delivered a second time"
    DUPLICATE = "the producer sends its last update record once more"


class _Log:
    """One partition of a topic: offsets may be missing where markers and aborted records were."""

    def __init__(self) -> None:
        self.records: list[ConsumerRecord] = []
        self.end = 0

    def append(self, record: ProducerRecord) -> None:
        self.records.append(ConsumerRecord(self.end, record.timestamp, record.key, record.value, record.headers))
        self.end += 1

    def read(self, topic: str, start: int, limit: int) -> Batch:
        """Fetch at most *limit* records from the position *start* on."""
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.records[middle].offset < start else (low, middle)
        found = self.records[low : low + limit]
        is_last = low + limit >= len(self.records)
        return Batch(topic, start, self.end if is_last else found[-1].offset + 1, found)


class StreamDriver:
    """Both stages over topics in memory.

    A cycle takes at most *max_poll_records* of each source partition. *choose* decides what Kafka leaves open: called
    with n, it answers 0 to n - 1 (`random.Random(7).randrange`, for instance, for any interleaving of partitions,
    stages and cycle lengths). Without it all sources advance together, in a way that depends on nothing but what was
    committed.
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
        """The time of records sent without one, in milliseconds since 1970."""
        self.steps = 0
        """How many steps have been taken: each cycle has four, a fetch, a fold, a commit and an adoption."""
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
        """Put an update record on the input topic, without processing it yet."""
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
        """Send update records and let faults happen in between, then process all there is.

        A fault strikes a cycle that has folded all records before it and has not committed yet.
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
        """Process until nothing is left to do, or for so many *cycles*.

        *faults* strike after the steps whose numbers they have, counted like `steps`. An abort after a commit is none.
        Raises RuntimeError when records are left that no cycle ever takes.
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
                    raise RuntimeError("records are left, and no cycle takes them")
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
        """Give the last snapshot of every session, by integrationId, as a reader of the compacted topic has it."""
        last = {record.key: record.value for record in self.published(self.topology.sessions)}
        return {(key or b"").decode(): orjson.loads(value) for key, value in last.items() if value is not None}

    def counts(self) -> Counter[str]:
        """Count the outcomes of the records so far, by their names in pipeline/outcomes.py."""
        return self._counts

    # --------------------------------------------------------------------------------------------------- the worker

    def _cycle(self) -> Iterator[str]:
        """Run one cycle over all lanes, a step at a time; what is not reached has not happened."""
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
        """Fold what is there, over the overlays of a cycle that is about to be committed."""
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
        """Commit outputs and offsets in one transaction; refused when the partitions are another worker's by now."""
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
        """Let a fault strike after a *step* of a cycle; tell whether the cycle ends there."""
        match fault:
            case Fault.CRASH:
                self._open()
                return True
            case Fault.REVOKE:
                self._open()
                for _step in cycle:
                    pass  # the worker that had the partitions goes on, and must leave no trace
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
        """Open every lane from what was committed: changelogs, offsets with their ledgers, records not done yet."""
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
