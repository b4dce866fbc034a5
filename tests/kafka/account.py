"""What has to come of an input topic's update records, by the offline replay, and what a crew of workers made of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aiokafka import ConsumerRecord as Fetched

from tests.kafka.topics import read
from tests.kafka.workers import Crew
from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.domain.limits import Rules
from worker.local.tally import Place, place_of
from worker.pipeline.replay import Replay

_SHOWN = 10


class Account(NamedTuple):
    """What came of update records, each told by its place: whatever the interleaving of partitions, it is the same.

    Of a session that was published again, since another one turned out to be first, only the value counts: which record
    brought that about is chance. So is what a dry run was told of being first.
    """

    sessions: dict[bytes | None, bytes | None]
    """The last snapshot by key; None of a session that was deleted."""
    snapshots: dict[bytes | None, list[Place]]
    """The accepted records by key, in the order of publication."""
    rejections: Counter[tuple[Place, bytes]]
    """The refused records, with the code."""
    dry_runs: Counter[tuple[Place, bytes | None]]
    """The records tried dry, with the key."""


def accounted(
    snapshots: Iterable[Fetched | ProducerRecord],
    rejections: Iterable[Fetched | ProducerRecord],
    dry_runs: Iterable[Fetched | ProducerRecord],
) -> Account:
    """Draw up the account of what was published."""
    account = Account({}, defaultdict(list), Counter(), Counter())
    for record in snapshots:
        headers = dict(record.headers)
        account.sessions[record.key] = record.value
        if headers["ce_type"] != b"customersession.reclassified":
            account.snapshots[record.key].append(place_of(headers["ce_id"].decode()))
    for record in rejections:
        headers = dict(record.headers)
        place = int(headers["__streams.errors.partition"]), int(headers["__streams.errors.offset"])
        account.rejections[place, headers["rejection-code"]] += 1
    for record in dry_runs:
        account.dry_runs[place_of(dict(record.headers)["ce_id"].decode()), record.key] += 1
    return account


async def foretold(crew: Crew) -> Account:
    """Replay what is on the input topic now."""
    replay = Replay(Rules())
    published = defaultdict(list)
    for it in await read(crew.kafka, crew.topology.updates):
        for record in replay.fold(it.partition, ConsumerRecord(it.offset, it.timestamp, it.key, it.value, it.headers)):
            published[record.topic].append(record)
    names = replay.topology
    return accounted(published[names.sessions], published[names.rejections], published[names.dry_runs])


async def found(crew: Crew) -> Account:
    """Read what the workers published and committed."""
    names = crew.topology
    return accounted(*[await read(crew.kafka, it) for it in (names.sessions, names.rejections, names.dry_runs)])


async def flaws(crew: Crew) -> list[str]:
    """Wait until the workers have processed all, and name what is not as the offline replay has it."""
    await crew.settle()
    return differences(await foretold(crew), await found(crew))


def differences(expected: Account, given: Account, *fields: str) -> list[str]:
    """Name what is not as expected, or the first of it: a comparison of all would take pytest minutes to show.

    *fields* are those that are compared; without any, all are.
    """
    told = [line for field in fields or Account._fields for line in _differing(expected, given, field)]
    return told[:_SHOWN] + [f"and {len(told) - _SHOWN} more"] * (len(told) > _SHOWN)


def _differing(expected: Account, given: Account, field: str) -> Iterator[str]:
    wanted, has = getattr(expected, field), getattr(given, field)
    for key in wanted.keys() | has.keys():
        if wanted.get(key) != has.get(key):
            yield f"{field} of {key}: expected {wanted.get(key)}, found {has.get(key)}"
