"""The protocol between an assignment and the first cycle: resolve, claim, restore, seek.

Theory of operation. After each rebalance, also for partitions that stay, and after each transaction whose outcome is
unknown, lanes are opened in eight steps:

1. the cycle in flight has ended: it was answered, aborted or given up, and nothing that was queued survives;
2. learn how large a batch the snapshots' topic takes, and *pin* generation and member id. They come with the assignment
   and are never read live. The worker never sends those of no group, -1 and an empty id: a coordinator takes a commit
   with them for one without a group and accepts it;
3. InitProducerId on this process's own transactional.id, which ends what the process left open itself;
4. *fence*: InitProducerId on the transactional.id of each recorded owner of these partitions that is not a member of
   the group now;
5. fetch the committed offsets, with their ledgers, until no transaction with offsets of these partitions is open. Then
   record the worker as the owner: a plain offset commit, checked by generation, for the changelog's partition, which no
   other client commits. The metadata names the owner. The offset is the partition's end, and the upkeep keeps it there;
6. *restore* each changelog partition, read_committed, up to its high watermark;
7. load the ledgers, and seek to each lane's position. From there the records that were not done are read again;
8. open the gate.

This module has the steps 2 to 5 and the checks of step 7. faust/recovery.py has the others.

O1. The pinned generation (2), the stable offsets (5) and the restore up to the high watermark (6) make it safe. A worker
    that has lost its assignment cannot commit. A transaction of an earlier owner is in both, offsets and table, or in
    neither. A mistake in these three fails silently, so each has a test that takes it out.
O2. Fencing only makes it fast: without it the broker ends what a dead worker left open after its transaction timeout.
    Members of the group are never fenced: live workers would end each other's transactions forever. A worker that was
    started again has the transactional.id of before and another member id. A broker makes a member id of the client id,
    which is the transactional.id here, a dash and a UUID. So the member ids show which are in use.
O3. Each step may be cut short by a rebalance, and is done again from the start. A step has no time limit: a limit would
    end a restore that is merely long. Between the revocation of partitions and the next assignment nothing is opened.
O4. Nothing is skipped or counted twice in silence. Three things end the worker: a committed offset outside of what the
    topic holds; no committed offset, although the lane was open before (the offset was deleted or has expired, or the
    outputs are of another app id); an offset that no worker committed (it has no mark, rule L5 of ledger.py). The
    worker ends only if it is still a member: between its two questions another worker may have moved on and purged.
    A lane was open before if a worker is recorded as its owner, or if an output's partition has ever held records. In
    a lane that was never open, an operator may choose where to start. There the worker commits the start with its mark
    before it can publish anything: the markers of a first transaction stay also if it is aborted.
O5. What this process has committed itself it does not take for less. A coordinator may forget a part of what it confirmed
    (seen with Kafka 4.4, whose brokers had all been killed): reading on from there would count records twice.
O6. A snapshot of a record that is not done by its ledger shows an offset that was set back together with its mark, or
    that a coordinator has forgotten newer ones. The worker ends if what it restored holds such a snapshot.
O7. An offset that was committed for another cluster, or when one of the topics was another (rule L7 of ledger.py), ends
    the worker: its tables and its ledgers do not belong together.
O8. Two live workers with one transactional.id would fence each other forever: a folder with its name was copied, or an
    operator gave two workers one name. A dead member leaves the group after the session timeout. So a member that is
    there for twice that time is alive. Then the worker whose member id is the greater of the two ends.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Final, Literal, NamedTuple

from aiokafka import TopicPartition

from worker.kafka.cluster import Cluster, Identity, Membership
from worker.kafka.producer import TransactionalProducer
from worker.pipeline.lane import RecordsDeleted, Stage
from worker.pipeline.ledger import Ledger
from worker.pipeline.topology import TOPICS, Topology
from worker.runtime.commit_loop import CommitLoop
from worker.runtime.topics import replaced
from worker.runtime.upkeep import TopicsChanged, Upkeep

log = logging.getLogger(__name__)

_OWNER_WORDS: Final = 2
"""Number of words in an owner's mark that name it: the transactional.id and the member id."""
_UUID_CHARACTERS: Final = 36
_ALIVE_TIMEOUTS: Final = 2
"""Number of session timeouts after which a member that is still there is alive (O8)."""
_REMEDIES: Final = (
    "Stop all workers; `session-worker offsets accept` shows what would be skipped or counted twice. Set another offset "
    "with kafka-consumer-groups.sh --reset-offsets if need be, then `session-worker offsets accept --yes`. Or process "
    "the input again into new output topics, with a new SESSION_WORKER_APP_ID"
)


class OffsetsMoved(Exception):
    """A worker cannot know which records of a source are done: no worker committed the offset, or there is none."""


class SharedName(Exception):
    """Another live worker has the same transactional.id."""


class Dependencies(NamedTuple):
    """What lanes are opened with."""

    cluster: Cluster
    producer: TransactionalProducer
    upkeep: Upkeep
    commit_loop: CommitLoop
    topology: Topology
    on_data_loss: Literal["fail", "earliest"]
    session_timeout_seconds: float


class OpeningPlan(NamedTuple):
    """The lanes to open, each with its changelog's partition, and the offsets that were committed last."""

    membership: Membership
    lanes: list[tuple[Stage, TopicPartition]]
    ledgers: dict[TopicPartition, Ledger]
    batch_bytes: Mapping[str, int]
    """The largest batch that a topic takes, in bytes, as far as it is known."""


class Opening:
    """The steps of an opening that need Kafka alone."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._seen_twins: dict[str, float] = {}

    async def plan(
        self,
        membership: Membership,
        changelogs: Mapping[Stage, Collection[TopicPartition]],
        assignment: Collection[TopicPartition],
    ) -> OpeningPlan:
        """Run the steps 2 to 5 for the changelogs' partitions of each stage, whose sources are in the *assignment*.

        Raises NotMember when the worker has lost its place in the group, and OutcomeUnknown when the steps are to be
        taken again. What ends the worker: OffsetsMoved, RecordsDeleted, SharedName, TopicsChanged.
        """
        cluster, producer, upkeep, commit_loop, topology, on_data_loss, _seconds = self._dependencies
        await upkeep.check_topics()
        lanes = [*_openable(changelogs, assignment)]
        batch_bytes = {topology.sessions: await cluster.largest_batch_bytes(topology.sessions)}
        members = await cluster.members(membership.group)
        self._check_name(membership.member, members)
        await producer.init()
        partitions = [changelog for _stage, changelog in lanes]
        owners = await cluster.stable_offsets(membership.group, partitions)
        await self.fence(members, owners)
        sources = {
            TopicPartition(topic, changelog.partition): changelog
            for stage, changelog in lanes
            for topic in reversed(stage.reads)
        }
        commits = await cluster.stable_offsets(membership.group, list(sources), commit_loop.committed)
        outputs = {changelog: _outputs(topology, changelog) for changelog in partitions}
        marks = await cluster.watermarks({*sources, *chain.from_iterable(outputs.values())})
        parking = {topic for stage, _changelog in lanes for topic in stage.parks}
        mark = membership.mark(producer.transactional_id)
        owned = {changelog: (marks[changelog][1], mark) for changelog in partitions}
        try:
            _check_stream(membership.group, topology, commits.values(), upkeep.identity)
            ledgers = {
                source: _ledger(
                    membership.group,
                    source,
                    commits[source],
                    marks[source],
                    _evidence(owners[changelog], {output: marks[output] for output in outputs[changelog]}),
                    is_internal=source.topic != topology.updates,
                    may_skip=source.topic in parking,
                    skips=on_data_loss == "earliest",
                )
                for source, changelog in sources.items()
            }
        except (RecordsDeleted, OffsetsMoved, TopicsChanged):
            await cluster.verify(membership)  # raises NotMember: then another worker has moved on
            raise
        for ledger in ledgers.values():
            ledger.stream = upkeep.stream
        beginnings = {
            source: ledger.commit() for source, ledger in ledgers.items() if ledger.commit() != commits[source]
        }
        await cluster.commit(membership, beginnings | owned)
        return OpeningPlan(membership, lanes, ledgers, batch_bytes)

    async def check_origins(self, plan: OpeningPlan, newest: Mapping[TopicPartition, int]) -> None:
        """Raise OffsetsMoved if a restored snapshot comes of a record that is not done by its ledger (O6).

        *newest* is the largest offset of an update record that a changelog's partition names; -1 if it names none.
        """
        updates = self._dependencies.topology.updates
        for changelog, offset in newest.items():
            ledger = plan.ledgers.get(TopicPartition(updates, changelog.partition))
            if ledger is not None and offset >= max(ledger.next, ledger.redo):
                await self._dependencies.cluster.verify(plan.membership)
                raise OffsetsMoved(
                    f"{updates}/{changelog.partition}: offset {ledger.commit()[0]} of the group "
                    f"{plan.membership.group} was set back, but {changelog.topic}/{changelog.partition} holds a snapshot "
                    f"of offset {offset}: records would be counted twice. {_REMEDIES}"
                )

    async def fence(self, members: set[str], recorded: Mapping[TopicPartition, tuple[int, str] | None]) -> None:
        """End what recorded owners left open that are not members any more (step 4)."""
        producer = self._dependencies.producer
        marks = [tuple(mark.split()) for _end, mark in filter(None, recorded.values())]
        owners = [mark[:2] for mark in marks if len(mark) >= _OWNER_WORDS]  # a tool that resets offsets leaves no mark
        present = {transactional_id for transactional_id, member in owners if member in members}
        present |= {producer.transactional_id, *map(_client_of, members)}
        for transactional_id in {transactional_id for transactional_id, _member in owners} - present:
            await producer.fence(transactional_id)

    def _check_name(self, own: str, members: set[str]) -> None:
        """Raise SharedName if another live worker has the same transactional.id, and this one has to end (O8)."""
        name, now = self._dependencies.producer.transactional_id, time.monotonic()
        twins = {member for member in members if member != own and _client_of(member) == name}
        self._seen_twins = {twin: self._seen_twins.get(twin, now) for twin in twins}
        alive_seconds = _ALIVE_TIMEOUTS * self._dependencies.session_timeout_seconds
        for twin, since in self._seen_twins.items():
            if now - since > alive_seconds and twin < own:
                raise SharedName(
                    f"another live worker (member {twin}) has the transactional id {name}, and two with one would end each "
                    f"other's transactions. Set SESSION_WORKER_INSTANCE to a name that no other worker has; or, if "
                    f"SESSION_WORKER_DATA_DIR was copied from another machine, delete its folder `instances`"
                )


def _openable(
    changelogs: Mapping[Stage, Collection[TopicPartition]], assignment: Collection[TopicPartition]
) -> Iterable[tuple[Stage, TopicPartition]]:
    """Yield the lanes whose sources are all assigned to this worker."""
    for stage, partitions in changelogs.items():
        for changelog in sorted(partitions):
            sources = [TopicPartition(topic, changelog.partition) for topic in stage.reads]
            missing = [source.topic for source in sources if source not in assignment]
            if missing:
                log.error(
                    "%s/%d is not opened: %s are not assigned. Give all topics the same number of partitions",
                    changelog.topic, changelog.partition, ", ".join(missing),
                )  # fmt: skip
            else:
                yield stage, changelog


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
        found = f"{offset} is below the log start offset {low}, so records were deleted before they were processed"
    else:
        found = f"{ledger.next} is beyond the end {high}, so the topic was created again or has lost records"
    found = f"{name}: committed offset {found}"
    if not (may_skip and skips):
        setting = "To skip them set SESSION_WORKER_ON_DATA_LOSS=earliest. Or: " if may_skip else ""
        raise RecordsDeleted(f"{found}. {setting}{_REMEDIES}")
    if ledger.next > high:
        log.warning(
            "%s. Going on from %d; how many were lost is not known, since the partition was created again", found, low
        )
        return Ledger(low, redo=ledger.next)
    kept = {at: is_head for at, is_head in ledger.not_done.items() if at >= low}
    lost = len(ledger.not_done) - len(kept) + max(0, low - ledger.next)
    log.warning("%s. Going on from %d without %d records", found, low, lost)
    return Ledger(max(low, ledger.next), kept, ledger.redo)
