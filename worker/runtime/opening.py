"""What happens between an assignment and the first cycle: resolve, claim, restore, seek.

Theory of operation. After each rebalance, also for partitions that stay, and after each transaction whose outcome is
unknown, lanes are opened in eight steps:

1. the cycle in flight has ended: it was answered, aborted or given up, and nothing that was queued survives;
2. learn how large a record the snapshots' topic takes, and *pin* generation and member id. They come with the
   assignment and are never read live; the ones of no group, -1 and an empty id, are never sent, since a coordinator
   takes a commit with them for one without a group and lets it pass;
3. InitProducerId on this process's own transactional.id, which ends what it left open itself;
4. *fence*: InitProducerId on the transactional.id of each recorded owner of these partitions that is not a member of
   the group now;
5. fetch the committed offsets, with their ledgers, until no transaction with offsets of these partitions is open; then
   record oneself as the owner, by a plain offset commit, checked by generation, for the changelog's partition, which no
   one else commits. The metadata names the owner; the offset is the partition's end, and the cycle keeps it there;
6. *restore* each changelog partition, read_committed, up to its high watermark;
7. load the ledgers, seek to each lane's position: from there also the records come again that were not done;
8. open the gate.

O1. Safe are the pinned generation (2: a worker that has lost its assignment cannot commit), the stable offsets (5) and the
    restore up to the high watermark (6). With them a transaction of an earlier owner is either in both, offsets and
    table, or in neither. A mistake in them fails silently, so each has a test that takes it out.
O2. Fencing only makes it fast: without it the broker ends what a dead worker left open after its transaction
    timeout. Never are owners fenced that are members: live workers would end each other's transactions for ever.
    A worker that was started again has the transactional.id of before and another member id. A broker makes a member id
    of the client id, which is the transactional.id here, a dash and a UUID. So the member ids show which are in use.
O3. Faust drives it: `Opening` takes the place of its table recovery and adds the steps around it. Faust gives up a step
    when another rebalance comes, so each may be cut short anywhere and is done again from the start. A step takes as
    long as it takes: Faust's own limit would end its recovery for ever. From the moment when the partitions are revoked
    until they are assigned again nothing is opened.
O4. Nothing is skipped or counted twice in silence. Three things end the worker: a committed offset outside of what the
    topic holds; no committed offset, although the lane was open before (the offset was deleted or has expired, or the
    outputs are of another app id); an offset that no worker committed (it has no mark, rule L5 of ledger.py). The
    worker ends only if it is still a member: between its two questions another worker may have moved on and purged.
    A lane was open before if a worker is recorded as its owner, or if an output's partition has ever held records. In
    a lane that was never open, an operator may choose where to start. There the worker commits the start with its mark
    before it can publish anything: of a first transaction that is aborted the markers stay.
O5. What this process has committed itself it does not take for less. A coordinator may forget a part of what it confirmed
    (seen with Kafka 4.4, whose brokers had all been killed): to read on from there would double.
O6. A snapshot of a record that is not done by its ledger shows an offset that was set back together with its mark, or
    that a coordinator has forgotten newer ones. The worker ends, if what it restored holds such a snapshot.
O7. An offset that was committed for another cluster, or when one of the topics was another (rule L7 of ledger.py), ends
    the worker: its tables and its ledgers do not belong together.
O8. Two live workers with one transactional.id would fence each other forever: a folder with its name was copied, or an
    operator gave two workers one name. A dead member leaves the group after the session timeout. So a member that is
    there for twice that time is alive. Then the worker whose member id is the greater of the two ends.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, Literal, NamedTuple

from aiokafka import TopicPartition
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP
from mode import Service

from worker.kafka.cluster import Cluster, Identity, Membership
from worker.kafka.errors import NotMember
from worker.kafka.producer import OutcomeUnknown, TransactionalProducer
from worker.pipeline.lane import Lane, RecordsDeleted, Stage
from worker.pipeline.ledger import Ledger
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import TOPICS, Topology
from worker.runtime.cycle import CommitLoop, TopicsChanged
from worker.runtime.faust.tables import Partitions, Table
from worker.runtime.topics import replaced

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
_OWNER_WORDS = 2
_UUID_CHARACTERS = 36
_ALIVE_TIMEOUTS = 2
"""Number of session timeouts after which a member that is still there is alive (O8)."""
_REMEDIES = (
    "Stop all workers; `session-worker offsets accept` shows what would be skipped or counted twice. Set another offset "
    "with kafka-consumer-groups.sh --reset-offsets if need be, then `session-worker offsets accept --yes`. Or process "
    "the input again into new output topics, with a new SESSION_WORKER_APP_ID"
)


class OffsetsMoved(Exception):
    """A worker cannot know which records of a source are done: no worker committed the offset, or there is none."""


class SharedName(Exception):
    """Another live worker has the same transactional.id."""


class Dependencies(NamedTuple):
    """What lanes are opened from, and for."""

    cluster: Cluster
    producer: TransactionalProducer
    cycle: CommitLoop
    tables: Mapping[Stage, Table]
    sessions: Sessions
    on_data_loss: Literal["fail", "earliest"]


class OpeningPlan(NamedTuple):
    """What the first steps found out: the lanes to open, each with the offsets that were committed last."""

    membership: Membership
    lanes: list[tuple[Stage, TopicPartition]]
    ledgers: dict[TopicPartition, Ledger]
    batch_bytes: Mapping[str, int]
    """The largest batch that a topic takes, in bytes, as far as it is known."""


class Tables(TableManager):
    """Faust's table manager, with the opening in place of its recovery."""

    _opening: "Opening | None" = None

    @property
    def recovery(self) -> "Opening":
        """The opening of this app's lanes."""
        if self._opening is None:
            self._opening = self._recovery = Opening(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._opening


class Latch(asyncio.Event):
    """An event that Faust's reader of changelogs cannot clear between its being set and being waited for."""

    def clear(self) -> None:
        """Stay as it is."""

    def reset(self) -> None:
        """Start anew."""
        super().clear()


class Opening(Recovery):
    """Opens the lanes of an app that has `parts`."""

    def __init__(self, app: Any, tables: TableManager, **kwargs: Any) -> None:
        super().__init__(app, tables, **kwargs)
        self._parts: Dependencies = app.parts
        self._prepared: OpeningPlan | None = None
        self._signal_recovery_end = self._restored = Latch()
        self._began = 0.0
        self._is_assigned = False
        self._seen_twins: dict[str, float] = {}

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Open nothing until the next assignment."""
        self._is_assigned = False
        super().on_partitions_revoked(revoked)

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Begin to open what was assigned."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        self._is_assigned = self._generation_id == generation_id

    def again(self) -> None:
        """Open the lanes again, which are closed, unless a rebalance does so meanwhile."""
        self.add_future(self._again())

    async def _again(self) -> None:
        await self.sleep(_PAUSE_SECONDS * (1 + random.random()))
        if self._is_assigned and not self._parts.cycle.lanes:
            consumer = self.app.consumer
            consumer.pause_partitions(consumer.assignment())
            self.signal_recovery_start.set()

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 (Faust's signature)
        """Wait for a step without a limit (O3)."""
        await super()._wait(coro)

    @Service.task
    async def _publish_stats(self) -> None:
        """Look for no slow recovery: Faust would take a healthy one for stuck; stalls.py reports what stands still."""

    # ------------------------------------------------------------------------------------------------ steps 2 to 5

    async def _build_highwaters(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        if title == "active":
            self._prepared = None
            await self._parts.cycle.close()
            self._prepared = await self._prepare(consumer.membership)
            self._began = time.monotonic()
            self._count_restored()
        marks = await self._parts.cluster.watermarks(list(tps))
        destination.clear()
        destination.update({TP(*tp): high - 1 for tp, (_low, high) in marks.items()})

    async def _prepare(self, membership: Membership | None) -> OpeningPlan:
        """Take the steps 2 to 5; does not come back when this is no member of the group any more."""
        while membership is not None and membership.generation == self._generation_id:
            try:
                return await self._resolve(membership)
            except NotMember:
                break
            except OutcomeUnknown as error:
                self.log.warning("Opening: %s", error)
                await self.sleep(_PAUSE_SECONDS * (1 + random.random()))
        self.log.info("The assignment is not ours any more; waiting for the next")
        return await asyncio.Future()

    async def _resolve(self, membership: Membership) -> OpeningPlan:
        cluster, producer, cycle, tables, sessions, on_data_loss = self._parts
        await cycle.check_topics()
        assignment = self.app.consumer.assignment()
        lanes = []
        for stage, table in tables.items():
            changelog = table.changelog_topic_name
            for number in sorted(tp.partition for tp in self.active_tps if tp.topic == changelog):
                missing = [topic for topic in stage.reads if TP(topic, number) not in assignment]
                if missing:
                    self.log.error("Partition %d of %s is not opened: %s are not assigned", number, changelog, missing)
                else:
                    lanes.append((stage, TopicPartition(changelog, number)))
        batch_bytes = {topic: await cluster.largest_batch_bytes(topic) for topic in (sessions.topology.sessions,)}
        members = await cluster.members(membership.group)
        self._check_name(membership.member, members)
        await producer.init()
        changelogs = [changelog for _stage, changelog in lanes]
        owners = await cluster.stable_offsets(membership.group, changelogs)
        await self._fence(members, owners)
        sources = {
            TopicPartition(topic, changelog.partition): changelog
            for stage, changelog in lanes
            for topic in reversed(stage.reads)
        }
        commits = await cluster.stable_offsets(membership.group, list(sources), cycle.committed)
        outputs = {changelog: _outputs(sessions.topology, changelog) for changelog in changelogs}
        marks = await cluster.watermarks({*sources, *chain.from_iterable(outputs.values())})
        parking = {topic for stage, _changelog in lanes for topic in stage.parks}
        mark = membership.mark(producer.transactional_id)
        owned = {changelog: (marks[changelog][1], mark) for changelog in changelogs}
        try:
            _check_stream(membership.group, sessions.topology, commits.values(), cycle.identity)
            ledgers = {
                source: _ledger(
                    membership.group,
                    source,
                    commits[source],
                    marks[source],
                    _evidence(owners[changelog], {output: marks[output] for output in outputs[changelog]}),
                    is_internal=source.topic != sessions.topology.updates,
                    may_skip=source.topic in parking,
                    skips=on_data_loss == "earliest",
                )
                for source, changelog in sources.items()
            }
        except (RecordsDeleted, OffsetsMoved, TopicsChanged):
            await cluster.verify(membership)  # raises NotMember: then another worker has moved on
            raise
        for ledger in ledgers.values():
            ledger.stream = cycle.stream
        beginnings = {
            source: ledger.commit() for source, ledger in ledgers.items() if ledger.commit() != commits[source]
        }
        await cluster.commit(membership, beginnings | owned)
        return OpeningPlan(membership, lanes, ledgers, batch_bytes)

    async def _fence(self, members: set[str], recorded: Mapping[TopicPartition, tuple[int, str] | None]) -> None:
        """End what the recorded owners left open of whom no member is left (step 4)."""
        producer = self._parts.producer
        marks = [tuple(mark.split()) for _end, mark in filter(None, recorded.values())]
        owners = [
            mark[:2] for mark in marks if len(mark) >= _OWNER_WORDS
        ]  # a tool that resets offsets leaves no metadata
        present = {transactional_id for transactional_id, member in owners if member in members}
        present |= {producer.transactional_id, *map(_client_of, members)}
        for transactional_id in {it for it, _member in owners} - present:
            await producer.fence(transactional_id)

    def _check_name(self, own: str, members: set[str]) -> None:
        """Raise SharedName when another live worker has the same transactional.id, and this one has to end (O8)."""
        name, now = self._parts.producer.transactional_id, time.monotonic()
        twins = {it for it in members if it != own and _client_of(it) == name}
        self._seen_twins = {twin: self._seen_twins.get(twin, now) for twin in twins}
        alive_seconds = _ALIVE_TIMEOUTS * self.app.conf.broker_session_timeout
        for twin, since in self._seen_twins.items():
            if now - since > alive_seconds and twin < own:
                raise SharedName(
                    f"another live worker (member {twin}) has the transactional id {name}, and two with one would end each "
                    f"other's transactions. Set SESSION_WORKER_INSTANCE to a name that no other worker has; or, if "
                    f"SESSION_WORKER_DATA_DIR was copied from another machine, delete its folder `instances`"
                )

    # ------------------------------------------------------------------------------------------------------- step 6

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Find out where each changelog partition has to be read on from."""
        for tp, (low, high) in (await self._parts.cluster.watermarks(list(tps))).items():
            destination[TP(*tp)] = self._store(tp).begin(tp.partition, low, high) - 1

    async def _seek_offsets(self, consumer: Any, tps: set[TP], offsets: Any, title: str) -> None:
        """Seek to what follows, where Faust would read its last record again."""
        await consumer.seek_wait({tp: offsets[tp] + 1 for tp in tps})
        if title == "active":
            self._restored.reset()

    def _store(self, tp: TopicPartition) -> Partitions:
        store: Partitions = self.tp_to_table[TP(*tp)].data
        return store

    # ------------------------------------------------------------------------------------------------- steps 7 and 8

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Open the lanes, when everything is prepared and restored for this generation."""
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        self._set_recovery_ended()
        prepared, self._prepared = self._prepared, None
        if not self._may_open(generation_id):
            return
        if prepared is None or not self._are_restored(prepared):
            self.again()
            return
        await self._check_origins(prepared)
        lanes = {
            Lane(
                stage,
                changelog.partition,
                self._store(changelog).partition(changelog.partition),
                {topic: prepared.ledgers[TopicPartition(topic, changelog.partition)] for topic in stage.reads},
                prepared.batch_bytes.get(changelog.topic),
            ): changelog
            for stage, changelog in prepared.lanes
        }
        await consumer.seek_wait({TP(*source): ledger.commit()[0] for source, ledger in prepared.ledgers.items()})
        if not self._may_open(generation_id):
            return
        self._parts.cycle.open(lanes, prepared.membership, prepared.batch_bytes)
        consumer.resume_partitions({TP(*source) for source in prepared.ledgers})
        self.completed.set()
        app.flow_control.resume()
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        if not app.assignor.assigned_standbys():
            self.tables.on_standbys_ready()
        if app.rebalancing:
            app.on_rebalance_end()
        seconds, records = time.monotonic() - self._began, self._count_restored()
        self.log.info("Restored %d records in %.2f s", records, seconds)
        self.log.info("Opened %d lanes in generation %d", len(lanes), generation_id)

    def _may_open(self, generation_id: int) -> bool:
        """Tell whether what was assigned in this generation still is (O3)."""
        app = self.app
        return self._is_assigned and app.consumer_generation_id == generation_id and not app.should_stop

    def _count_restored(self) -> int:
        """Count the records that were restored since the last call."""
        return sum(table.data.take_count() for table in self._parts.tables.values())

    async def _check_origins(self, prepared: OpeningPlan) -> None:
        """Raise OffsetsMoved when a restored snapshot comes of a record that is not done by its ledger (O6)."""
        updates = self._parts.sessions.topology.updates
        for _stage, changelog in prepared.lanes:
            newest = self._store(changelog).newest_origin(changelog.partition)
            ledger = prepared.ledgers.get(TopicPartition(updates, changelog.partition))
            if ledger is not None and newest >= max(ledger.next, ledger.redo):
                await self._parts.cluster.verify(prepared.membership)
                raise OffsetsMoved(
                    f"{updates}/{changelog.partition}: offset {ledger.commit()[0]} of the group "
                    f"{prepared.membership.group} was set back, but {changelog.topic}/{changelog.partition} holds a snapshot "
                    f"of offset {newest}: records would be counted twice. {_REMEDIES}"
                )

    def _are_restored(self, prepared: OpeningPlan) -> bool:
        """Tell whether each table partition stands for its changelog up to the high watermark."""
        for _stage, changelog in prepared.lanes:
            end = self._store(changelog).partition(changelog.partition).end
            if end is None or end <= self.active_highwaters[TP(*changelog)]:
                self.log.warning("%s/%d is restored to %s only", *changelog, end)
                return False
        return True


def _client_of(member: str) -> str:
    """Return the client id of which a broker made a member id."""
    return member[: -_UUID_CHARACTERS - 1]


def _outputs(topology: Topology, changelog: TopicPartition) -> list[TopicPartition]:
    """Return the partitions of output topics that a lane writes, its changelog among them."""
    public = [
        name for field, name in topology.named().items() if TOPICS[field].is_ours and not TOPICS[field].is_internal
    ]
    topics = public if changelog.topic in public else [changelog.topic]
    return [TopicPartition(topic, changelog.partition) for topic in topics]


def _evidence(owner: tuple[int, str] | None, outputs: Mapping[TopicPartition, tuple[int, int]]) -> str:
    """Return what shows that a lane was open before, or nothing (O4)."""
    for output, (_low, high) in outputs.items():
        if high > 0:
            return f"{output.topic}/{output.partition} holds records"
    if owner is not None and len(owner[1].split()) >= _OWNER_WORDS:
        return f"a worker has read this partition ({owner[1]})"
    return ""


def _check_stream(
    group: str, topology: Topology, commits: Iterable[tuple[int, str] | None], identity: Identity | None
) -> None:
    """Raise TopicsChanged when an offset was committed for another cluster or other topics (O7)."""
    found: set[str] = set()
    for commit in filter(None, commits):
        with suppress(ValueError):  # no worker committed it
            if identity is not None and (stream := Ledger.restore(*commit).stream):
                found.update(replaced(topology, group, stream, identity))
    if found:
        raise TopicsChanged("\n".join(sorted(found)))


def _ledger(
    group: str,
    source: TopicPartition,
    commit: tuple[int, str] | None,
    marks: tuple[int, int],
    evidence: str,
    *,
    is_internal: bool,
    may_skip: bool,
    skips: bool,
) -> Ledger:
    """Return what was committed of a source, or where to start in a lane that was never open (O4).

    Raises OffsetsMoved, and RecordsDeleted unless the worker *skips* records that were deleted where it *may skip* them.
    """
    low, high = marks
    name = f"{source.topic}/{source.partition}"
    if commit is None:
        if evidence:
            raise OffsetsMoved(
                f"{evidence}, but no offset of {name} is committed: the offset was deleted or has expired, or the "
                f"outputs belong to a worker with another SESSION_WORKER_APP_ID than {group}. {_REMEDIES}"
            )
        return Ledger(low)
    offset, metadata = commit
    try:
        ledger = Ledger.restore(offset, metadata)
    except ValueError as error:
        if is_internal and high > 0:
            evidence = evidence or f"{name} holds records"
        if evidence:
            raise OffsetsMoved(
                f"{name}: offset {offset} of the group {group} was not committed by a worker, but {evidence}: another "
                f"client has moved the offset, so records may be skipped or counted twice. {_REMEDIES}"
            ) from error
        ledger = Ledger(offset)
    if low <= offset and ledger.next <= high:
        return ledger
    if offset < low:
        told = f"{offset} is below the log start offset {low}, so records were deleted before they were processed"
    else:
        told = f"{ledger.next} is beyond the end {high}, so the topic was created again or has lost records"
    told = f"{name}: committed offset {told}"
    if not (may_skip and skips):
        setting = "To skip them set SESSION_WORKER_ON_DATA_LOSS=earliest. Or: " if may_skip else ""
        raise RecordsDeleted(f"{told}. {setting}{_REMEDIES}")
    if ledger.next > high:
        log.warning("%s. Going on from %d; how many is not known, the partition was made anew", told, low)
        return Ledger(low, redo=ledger.next)
    kept = {at: is_head for at, is_head in ledger.not_done.items() if at >= low}
    lost = len(ledger.not_done) - len(kept) + max(0, low - ledger.next)
    log.warning("%s. Going on from %d without %d records", told, low, lost)
    return Ledger(max(low, ledger.next), kept, ledger.redo)
