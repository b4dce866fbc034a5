"""Report what a worker would skip or process again from its group's committed offsets, and accept these offsets.

Theory of operation. Each output names its *origin*: the update record that caused the output. So the outputs show which
records of the input are done, also if the committed offsets of the group contradict them.

A1. Only committed records count: all topics are read to their ends with read_committed. While a transaction is open on
    an output, no review is possible.
A2. An offset that a worker committed has a mark (rule L5 of worker/pipeline/ledger.py) and needs no acceptance. Any other
    offset is accepted unchanged, by a commit of the same offset with a mark.
A3. If no offset is committed, the tool proposes the offset after the last origin, or the log start offset if there is no
    origin. Claims and verdicts start at their log start offset: a second answer changes nothing.
A4. The tool commits as a client outside the group. The coordinator refuses such a commit while the group has members.
A5. A mark of another cluster or of other topics (rule L7) is not accepted: the records of those are not in these. The
    exception is a new input without outputs: its marks are written again.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata

from worker.codec.headers import origin_of_stray
from worker.codec.records import ConsumerRecord
from worker.kafka.connection import Consumer
from worker.pipeline.ledger import Ledger, differing
from worker.pipeline.topology import Topology
from worker.tools.topics import Connection, Fetched, administration, high_watermarks, partitions_of, reader

_POLL_MS = 200

Place = tuple[str, int, int]
"""Topic, partition and offset of an update record."""


class NotAccepted(Exception):
    """Offsets cannot be reviewed or accepted now; the message has the cause."""


class Finding(NamedTuple):
    """The result of the review of one source partition; *accepted* is the ledger to commit, if one is needed.

    An offset that *is_wrong* cannot be accepted.
    """

    tp: TopicPartition
    text: str
    accepted: Ledger | None = None
    is_wrong: bool = False


class _Source(NamedTuple):
    """A partition that workers read: its committed offset, its log start offset and its end."""

    tp: TopicPartition
    committed: OffsetAndMetadata
    low: int
    high: int
    stream: bytes


async def review(connection: Connection, group: str, topology: Topology, stream: bytes) -> list[Finding]:
    """Return the findings on each partition that workers read. Raise NotAccepted or NoSuchTopic.

    *stream* is the identity of the cluster and topics from which workers build their state (rule L7).
    """
    await _check_members(connection, group)
    sources = [source async for source in _sources(connection, group, topology, stream)]
    strays = {
        (record.partition, record.offset): _origin(topology, record)
        async for record in _read(connection, [topology.rekeyed])
    }
    done: set[Place] = set()
    asked = {source.tp.partition: source.committed.offset for source in sources if source.tp.topic == topology.updates}
    last: dict[int, int] = {}
    again: dict[int, set[int]] = defaultdict(set)

    def see(origin: Place | None) -> None:
        if origin is not None and origin[0] == topology.updates:
            _topic, partition, offset = origin
            last[partition] = max(offset, last.get(partition, offset))
            if 0 <= asked.get(partition, -1) <= offset:
                again[partition].add(offset)

    wanted = set(strays.values())
    async for record in _read(connection, [topology.sessions, topology.rejections, topology.dry_runs]):
        origin = _origin(topology, record)
        see(origin)
        if origin in wanted and origin is not None:
            done.add(origin)
    for origin in strays.values():
        see(origin)
    _check_stream(group, topology, sources, is_new=not last)
    return [
        _of_input(source, last.get(source.tp.partition), again[source.tp.partition])
        if source.tp.topic == topology.updates
        else _of_strays(
            source, {at: origin in done for (number, at), origin in strays.items() if number == source.tp[1]}
        )
        if source.tp.topic == topology.rekeyed
        else _of_messages(source)
        for source in sources
    ]


async def accept(connection: Connection, group: str, findings: Iterable[Finding], stream: bytes) -> None:
    """Commit the offsets that the findings accept, each with the mark of a worker (A2). Raise NotAccepted."""
    accepted = {finding.tp: finding.accepted for finding in findings if finding.accepted is not None}
    for ledger in accepted.values():
        ledger.stream = stream
    marked = {tp: OffsetAndMetadata(*ledger.commit()) for tp, ledger in accepted.items()}
    async with Consumer(**connection, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign(list(marked))
        try:
            await consumer.commit(marked)
        except UnknownMemberIdError as error:
            raise NotAccepted(_has_members(group)) from error


# ------------------------------------------------------------------------------------------------- what is committed


def _has_members(group: str) -> str:
    return f"the group {group} has members: stop all workers and all other clients of this group, then try again"


async def _check_members(connection: Connection, group: str) -> None:
    async with administration(connection) as admin:
        (response,) = await admin.describe_consumer_groups([group])
    (described,) = response.to_object()["groups"]
    if described["members"]:
        raise NotAccepted(_has_members(group))


async def _sources(connection: Connection, group: str, topology: Topology, stream: bytes) -> AsyncIterator[_Source]:
    topics = topology.updates, topology.rekeyed, topology.claims, topology.verdicts
    partitions = [tp for topic in topics for tp in await partitions_of(connection, topic)]
    async with administration(connection) as admin:
        committed = await admin.list_consumer_group_offsets(group, partitions=partitions)
    if committed.keys() != set(partitions):
        raise GroupCoordinatorNotAvailableError(f"the coordinator of {group} does not list its offsets; try again")
    async with reader(connection, is_committed=False) as consumer:
        lows, highs = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    for tp in partitions:
        yield _Source(tp, committed[tp], lows[tp], highs[tp], stream)


def _differing(source: _Source) -> list[int]:
    """Return the indexes of the cluster and topics in which an offset's mark differs from the current ones (A5)."""
    with suppress(ValueError):
        return differing(Ledger.restore(*source.committed).stream, source.stream)
    return []


def _check_stream(group: str, topology: Topology, sources: Iterable[_Source], *, is_new: bool) -> None:
    """Raise NotAccepted for marks of another cluster or of other topics; another input is allowed if it *is_new*."""
    places = {place for source in sources for place in _differing(source)}
    names = ["this cluster", *topology.state().values()]
    wrong = [names[place] for place in sorted(places) if not (is_new and names[place] == topology.updates)]
    if wrong:
        raise NotAccepted(
            f"the offsets of the group {group} do not belong to {', '.join(wrong)}: the topics or the "
            "cluster were replaced after the commit, or the settings changed. Acceptance cannot restore the state. Either set "
            "SESSION_WORKER_BROKERS and the topics to their earlier values; or set SESSION_WORKER_APP_ID and the "
            "SESSION_WORKER_…_TOPIC of every topic but the input to new names, and process the input again"
        )


# ------------------------------------------------------------------------------------------------------- the origins


async def _read(connection: Connection, topics: Iterable[str]) -> AsyncIterator[Fetched]:
    """Yield the records of topics up to their ends (A1)."""
    partitions = [tp for topic in topics for tp in await partitions_of(connection, topic)]
    ends = await high_watermarks(connection, partitions)
    async with reader(connection) as consumer:
        for tp, stable in (await consumer.end_offsets(partitions)).items():
            if stable < ends[tp]:
                raise NotAccepted(
                    f"a transaction is open on {tp.topic}/{tp.partition} at offset {stable}: try again after its end (the "
                    "broker aborts that of a dead worker after SESSION_WORKER_TRANSACTION_TIMEOUT_SECONDS and up to 10 s more)"
                )
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    yield record


def _origin(topology: Topology, record: Fetched) -> Place | None:
    """Return the update record that caused an output; None if the output has another cause."""
    headers = dict(record.headers)
    with suppress(LookupError, ValueError):
        if record.topic == topology.rekeyed:
            consumed = ConsumerRecord(record.offset, record.timestamp, record.key, record.value, record.headers)
            stray = origin_of_stray(consumed)
            return None if stray is None else (stray.topic, stray.partition, stray.offset)
        if record.topic == topology.rejections:
            topic, partition, offset = (
                headers[f"__streams.errors.{part}"] for part in ("topic", "partition", "offset")
            )
        else:
            topic, partition, offset = headers["ce_id"].rsplit(
                b"/", 2
            )  # ValueError for a reclassified session: its offset is not a number
        return topic.decode(), int(partition), int(offset)
    return None


# ------------------------------------------------------------------------------------------------------ the findings


def _of_input(source: _Source, last: int | None, again: set[int]) -> Finding:
    """Return the finding on an offset of the input, by the last origin and by the origins at or after the offset."""
    offset = source.committed.offset
    if offset < 0:
        start = source.low if last is None else last + 1
        why = "no output has its origin here" if last is None else f"the last record with an output is {last}"
        return _unmarked(source, start, f"{why}.")
    with suppress(ValueError):
        following = Ledger.restore(*source.committed).next
        if done := sorted(at for at in again if at >= max(following, Ledger.restore(*source.committed).redo)):
            return Finding(source.tp, _set_back(source, following, done), is_wrong=True)
    skipped = range(source.low if last is None else max(source.low, last + 1), min(offset, source.high))
    text = f"skipped: {_listed(skipped)}; processed again: {_listed(sorted(again))}."
    return _unmarked(source, offset, text, redo=max(again, default=-1) + 1)


def _set_back(source: _Source, following: int, done: list[int]) -> str:
    (topic, partition), (offset, _metadata) = source.tp, source.committed
    return (
        f"{topic}/{partition}: a worker committed offset {offset}, and it was set back later: a worker would continue at "
        f"{following}; processed again: {_listed(done)}. Set offset {done[-1] + 1} with kafka-consumer-groups.sh "
        "--reset-offsets."
    )


def _of_strays(source: _Source, is_done: Mapping[int, bool]) -> Finding:
    """Return the finding on an offset of forwarded strays, by the outputs of each stray."""
    offset = source.committed.offset
    if offset < 0:
        offset = min((at for at, done in is_done.items() if not done), default=source.high)
    skipped = sorted(at for at, done in is_done.items() if at < offset and not done)
    again = sorted(at for at, done in is_done.items() if at >= offset and done)
    return _unmarked(source, offset, f"skipped: {_listed(skipped)}; processed again: {_listed(again)}.")


def _of_messages(source: _Source) -> Finding:
    """Return the finding on an offset of claims or verdicts: only a skipped record does harm (A3)."""
    offset = source.committed.offset if source.committed.offset >= 0 else source.low
    skipped = range(source.low, min(offset, source.high))
    safe = f" Offset {source.low} is safe: records that are read again change nothing." if skipped else ""
    return _unmarked(source, offset, f"not read: {_listed(skipped)}; a worker may have read some of them.{safe}")


def _unmarked(source: _Source, offset: int, text: str, redo: int = 0) -> Finding:
    (topic, partition), committed = source.tp, source.committed
    name = f"{topic}/{partition}"
    if committed.offset < 0:
        return Finding(
            source.tp,
            f"{name}: no offset is committed; {text} The offset would be {offset}.",
            Ledger(offset, redo=redo),
        )
    with suppress(ValueError):
        ledger = Ledger.restore(*committed)
        if _differing(source):
            return Finding(source.tp, f"{name}: a worker committed offset {offset} for another input.", ledger)
        return Finding(source.tp, f"{name}: a worker committed offset {offset}.")
    finding = f"{name}: no worker committed offset {offset}; {text}"
    if source.low <= offset <= source.high:
        return Finding(source.tp, finding, Ledger(offset, redo=redo))
    outside = f"The partition has the offsets {source.low} to {source.high}: set one with kafka-consumer-groups.sh --reset-offsets."
    return Finding(source.tp, f"{finding} {outside}", is_wrong=True)


def _listed(offsets: Iterable[int]) -> str:
    """Return the number of offsets, the first and the last as text.

    >>> _listed([3, 5, 9]), _listed([])
    ('up to 3 records (3 to 9)', 'none')
    """
    found = [*offsets]
    if not found:
        return "none"
    place = f"{found[0]} to {found[-1]}" if len(found) > 1 else f"{found[0]}"
    return f"up to {len(found)} {'records' if len(found) > 1 else 'record'} ({place})"


def summary(group: str, findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the lines of the report: partitions that need acceptance, and the number of the others."""
    fine = 0
    for finding in findings:
        if finding.accepted is None and not finding.is_wrong:
            fine += 1
        else:
            yield finding.text
    yield f"{fine} partitions of the group {group} have an offset that a worker committed."
