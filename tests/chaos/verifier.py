"""Tells whether what a crew of workers published is what the contract asks for. It believes nobody.

A program of its own: it reads nothing but topics, read_committed, imports nothing of the worker, and folds the input with
tests/oracle.py, the contract written a second time. Only the last snapshots are held against `session-worker replay`, too,
which runs as a process, over what `session-worker dump` wrote of the input.

    python -m tests.chaos.verifier --brokers HOST:PORT,… [--updates TOPIC] [--sessions TOPIC] …

Each update record is known by its origin, the partition and offset at which it arrived. Its outcome is one snapshot, one
rejection, one dry run, or nothing (a duplicate, a tombstone of no session). What is found is told by kind:

- lost: an update record without its outcome;
- doubled: one with more than one;
- out of order: a snapshot behind one of the same session that comes later in the input;
- wrong: an outcome that is another one than the fold of what came before, or not where its key is at home;
- foreign: an output that no update record explains;
- first sessions: a `firstSession` that is not true of a profile's smallest claim, and of that alone;
- final: a key whose last snapshot, all that a reader of the compacted topic has, is not the replay's, byte for byte.

What depends on how partitions interleave is left free: at which claim a session learns that another one is first, and
what a dry run was told of it. All update records of a session have to arrive through one partition: else the contract
gives them no order. Exit status 1 with a flaw, 2 when a topic cannot be read to its end.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.partitioner import murmur2

from tests.oracle import REJECTION_HEADERS, ROW, Oracle, Record

KINDS = "lost", "doubled", "out of order", "wrong", "foreign", "first sessions", "final"
PATIENCE_SECONDS = 120
"""How long a topic may give nothing before its end."""
SETTING = "SESSION_WORKER_"

_SHOWN = 5
_FIRST = re.compile(rb'"firstSession":(?:true|false),"updateCount":')
_RECLASSIFIED = "/reclassified"

Place = tuple[int, int]
"""The partition and the offset at which an update record arrived."""


class Published(NamedTuple):
    """What is on the output topics, each in the order of its partitions."""

    sessions: list[Record]
    rejections: list[Record]
    dry_runs: list[Record]


class _Outcome(NamedTuple):
    kind: str
    record: Record


class Verdict:
    """The flaws by kind, each with where it is."""

    def __init__(self) -> None:
        self.records = 0
        self.outputs = 0
        self.flaws: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def add(self, kind: str, told: str) -> None:
        self.flaws[kind].append(told)

    @property
    def is_good(self) -> bool:
        return not any(self.flaws.values())

    def counts(self) -> dict[str, int]:
        """Count the flaws of the kinds that have any."""
        return {kind: len(flaws) for kind, flaws in self.flaws.items() if flaws}

    def lines(self) -> Iterator[str]:
        """Tell it to a person, and to who reads `name: number`."""
        yield f"records: {self.records}"
        yield f"outputs: {self.outputs}"
        for kind, flaws in self.flaws.items():
            yield f"{kind}: {len(flaws)}"
            yield from (f"    {flaw}" for flaw in flaws[:_SHOWN])


# ------------------------------------------------------------------------------------------------ what has to come out


class _Expected:
    """The outcome of each update record, the order of each session, and the smallest claim of each profile."""

    def __init__(self, updates: Iterable[Record], oracle: Oracle) -> None:
        self.outcomes: dict[Place, _Outcome] = {}
        self.order: dict[bytes, list[Place]] = defaultdict(list)
        self.records = 0
        names = {"customer-sessions": "snapshot", "session-rejections": "rejection", "session-dry-runs": "dry run"}
        for update in updates:
            self.records += 1
            place = update["partition"], update["offset"]
            for record in oracle.fold(update):
                if _header(record, "ce_type") == "customersession.reclassified":
                    continue
                kind = names[record["topic"]]
                self.outcomes[place] = _Outcome(kind, record)
                if kind == "snapshot":
                    self.order[record["key"]].append(place)
        self.claims = oracle.profiles
        for key, places in self.order.items():
            if len({partition for partition, _offset in places}) > 1:
                raise ValueError(f"{key!r} arrives through several partitions: the contract gives it no order")


def verify(
    updates: Iterable[Record],
    published: Published,
    replayed: dict[bytes, bytes | None],
    partitions: int,
    *,
    is_compacted: bool = False,
    oracle: Oracle | None = None,
) -> Verdict:
    """Hold what was published against what has to be, which an *oracle* knows.

    With *is_compacted* the topic of the snapshots may lack all but the last of each key.
    """
    expected, verdict = _Expected(updates, oracle or Oracle()), Verdict()
    verdict.records = expected.records
    verdict.outputs = sum(map(len, published))
    seen: Counter[Place] = Counter()
    for kind, records in zip(("snapshot", "rejection", "dry run"), published, strict=True):
        for record in records:
            _judge(kind, record, expected, seen, verdict)
    for place, outcome in expected.outcomes.items():
        if place not in seen and not (is_compacted and outcome.kind == "snapshot"):
            verdict.add("lost", f"the {outcome.kind} of {_at(place)}, key {outcome.record['key']!r}")
    for place, times in seen.items():
        if times > 1:
            verdict.add("doubled", f"{expected.outcomes[place].kind} of {_at(place)}: {times} times")
    by_key: dict[bytes, list[Record]] = defaultdict(list)
    for record in published.sessions:
        by_key[record["key"]].append(record)
        home = (murmur2(record["key"]) & 0x7FFFFFFF) % partitions
        if record["partition"] != home:
            verdict.add("wrong", f"{record['key']!r} is in partition {record['partition']}, at home in {home}")
    for key, snapshots in by_key.items():
        _check_order(key, snapshots, expected, verdict)
        if not is_compacted:
            _check_firsts(key, snapshots, expected, verdict)
    last = {key: snapshots[-1]["value"] for key, snapshots in by_key.items()}
    _check_final(last, replayed, expected, verdict)
    return verdict


def _judge(kind: str, record: Record, expected: _Expected, seen: Counter[Place], verdict: Verdict) -> None:
    """Look for what an output comes of, and whether it is that."""
    place, is_reclassified = _origin(kind, record)
    told = f"{kind} of {_at(place)}, key {record['key']!r}"
    outcome = expected.outcomes.get(place) if place else None
    if is_reclassified:
        return  # _check_firsts has to see what is before it
    if place is None or outcome is None:
        verdict.add("foreign", told)
        return
    seen[place] += 1
    if outcome.kind != kind:
        verdict.add("wrong", f"{told}: a {outcome.kind} is due")
    elif differs := [
        name for name in ("key", "value", "timestamp", "headers") if _differs(kind, name, record, outcome)
    ]:
        verdict.add("wrong", f"{told}: another {' and '.join(differs)}")


def _differs(kind: str, name: str, record: Record, outcome: _Outcome) -> bool:
    given, due = record[name], outcome.record[name]
    if kind == "rejection":
        if name != "headers":
            return bool(_header(record, "rejection-cut") is None and given != due)
        given, due = _comparable(given), _comparable(due)
    elif name == "value" and given is not None and due is not None:
        given, due = _FIRST.sub(b"", given), _FIRST.sub(b"", due)
    return bool(given != due)


def _comparable(headers: list[tuple[str, bytes]]) -> list[tuple[str, Any]]:
    """Keep of a rejection's reasons what the contract fixes: its texts are free, and so is the code within a row."""
    free = {"rejection-message", "rejection-pointer", "__streams.errors.message", "rejection-cut"}
    codes = {REJECTION_HEADERS[0], "__streams.errors.exception"}
    return [
        (name, ROW.get(value.decode(), value) if name in codes else value)
        for name, value in headers
        if name not in free
    ]


def _check_order(key: bytes, snapshots: list[Record], expected: _Expected, verdict: Verdict) -> None:
    rank = {place: number for number, place in enumerate(expected.order.get(key, []))}
    highest = -1
    for snapshot in snapshots:
        place, is_reclassified = _origin("snapshot", snapshot)
        if is_reclassified or place not in rank:
            continue
        if rank[place] < highest:
            verdict.add("out of order", f"{key!r}: the snapshot of {_at(place)} comes too late")
        highest = max(highest, rank[place])


def _check_firsts(key: bytes, snapshots: list[Record], expected: _Expected, verdict: Verdict) -> None:
    """See that each answer stays until another session is found to be first, and that this one is published again then."""
    before: dict[str, Any] | None = None
    previous: Record | None = None
    for snapshot in snapshots:
        session = None if snapshot["value"] is None else json.loads(snapshot["value"])
        place, is_reclassified = _origin("snapshot", snapshot)
        if is_reclassified:
            if not _is_demotion(snapshot, session, previous, before, place, expected):
                verdict.add("foreign", f"{key!r} is published again because of {_at(place)}")
        elif session is not None:
            profile, first = session["profileId"], session["firstSession"]
            claim = session["created"], session["integrationId"]
            stays = before is not None and (before["id"], before["profileId"]) == (session["id"], profile)
            if profile == "":
                is_right = first is True
            elif stays and before is not None:
                is_right = first is before["firstSession"]
            else:
                is_right = first or expected.claims.get(profile) != claim
            if not is_right:
                verdict.add("first sessions", f"{key!r}, {_at(place)}: firstSession is {first}")
        before, previous = session, snapshot


def _is_demotion(
    snapshot: Record,
    session: dict[str, Any] | None,
    previous: Record | None,
    before: dict[str, Any] | None,
    place: Place | None,
    expected: _Expected,
) -> bool:
    """Tell whether a snapshot is the one before, no longer first, because of a record that made a smaller claim."""
    cause = expected.outcomes.get(place) if place else None
    if cause is None or cause.record["value"] is None or session is None or before is None or previous is None:
        return False
    claiming = json.loads(cause.record["value"])
    is_same = _FIRST.sub(b"", snapshot["value"]) == _FIRST.sub(b"", previous["value"])
    is_smaller = (claiming["created"], claiming["integrationId"].encode()) < (session["created"], snapshot["key"])
    turned = before["firstSession"] is True and session["firstSession"] is False
    return (
        cause.kind == "snapshot" and is_same and turned and is_smaller and claiming["profileId"] == session["profileId"]
    )


def _check_final(
    last: dict[bytes, bytes | None], replayed: dict[bytes, bytes | None], expected: _Expected, verdict: Verdict
) -> None:
    for key in last.keys() | replayed.keys():
        if key not in last or key not in replayed or last[key] != replayed[key]:
            verdict.add("final", f"{key!r} ends as {_cut(last, key)}, by replay as {_cut(replayed, key)}")
    firsts: Counter[str] = Counter()
    for key, value in last.items():
        session = None if value is None else json.loads(value)
        if session is not None and session["profileId"] != "":
            is_due = expected.claims.get(session["profileId"]) == (session["created"], session["integrationId"])
            firsts[session["profileId"]] += session["firstSession"]
            if session["firstSession"] is not is_due:
                verdict.add("first sessions", f"{key!r} ends with firstSession {session['firstSession']}")
    for profile, count in firsts.items():
        if count > 1:
            verdict.add("first sessions", f"{profile!r} has {count} first sessions")


def _origin(kind: str, record: Record) -> tuple[Place | None, bool]:
    """Give the place an output names as its origin, and whether it is published again because of that record."""
    if kind == "rejection":
        numbers = [_header(record, f"__streams.errors.{name}") for name in ("partition", "offset")]
        text, is_reclassified = "/".join(it or "" for it in numbers), False
    else:
        source = _header(record, "ce_id") or ""
        is_reclassified = source.endswith(_RECLASSIFIED)
        text = "/".join(source.removesuffix(_RECLASSIFIED).split("/")[-2:])
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    return ((int(match[1]), int(match[2])) if match else None), is_reclassified


def _header(record: Record, name: str) -> str | None:
    values = [value for header, value in record["headers"] if header == name]
    return values[-1].decode(errors="replace") if values else None


def _at(place: Place | None) -> str:
    return "no origin" if place is None else f"update {place[0]}/{place[1]}"


def _cut(last: dict[bytes, bytes | None], key: bytes) -> str:
    return repr(last[key])[:300] if key in last else "nothing"


# ------------------------------------------------------------------------------------------------------ reading topics


class Unread(Exception):
    """A topic could not be read to its end; the message says where it stopped."""


async def read(brokers: str, topic: str) -> tuple[list[Record], int]:
    """Read what is committed of a topic, up to its high watermark, by partition in order; and count its partitions."""
    records: list[Record] = []
    at_ends = {"bootstrap_servers": brokers, "enable_auto_commit": False}
    async with (
        AIOKafkaConsumer(**at_ends, isolation_level="read_uncommitted") as every,
        AIOKafkaConsumer(topic, **at_ends, isolation_level="read_committed", auto_offset_reset="earliest") as consumer,
    ):
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.unsubscribe()
        consumer.assign(partitions)
        ends = await every.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while left := [it for it in partitions if await consumer.position(it) < ends[it]]:
            if asyncio.get_running_loop().time() > deadline:
                raise Unread(
                    f"{topic}/{left[0].partition} is held at {await consumer.position(left[0])} of {ends[left[0]]}"
                )
            for fetched in (await consumer.getmany(*left, timeout_ms=200)).values():
                deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
                records += [
                    {
                        "topic": it.topic,
                        "partition": it.partition,
                        "offset": it.offset,
                        "timestamp": it.timestamp,
                        "key": it.key,
                        "value": it.value,
                        "headers": list(it.headers),
                    }
                    for it in fetched
                ]
    return sorted(records, key=lambda record: (record["partition"], record["offset"])), len(partitions)


class _Line(msgspec.Struct):
    topic: str
    key: str | None
    value: msgspec.Raw


def dump(brokers: str, topic: str) -> bytes:
    """Let `session-worker dump` write the topic."""
    return _run(b"", {"BROKERS": brokers}, "dump", topic)


def replay(lines: bytes) -> dict[bytes, bytes | None]:
    """Let `session-worker replay` fold the lines; give the last snapshot of each key."""
    published = map(msgspec.json.Decoder(_Line).decode, _run(lines, {}, "replay", "-").splitlines())
    values = [((it.key or "").encode(), bytes(it.value)) for it in published if it.topic == "customer-sessions"]
    return {key: None if value == b"null" else value for key, value in values}


def _run(given: bytes, settings: dict[str, str], *words: str) -> bytes:
    ours = {SETTING + name: value for name, value in settings.items()}
    others = {name: value for name, value in os.environ.items() if not name.startswith(SETTING)}
    command = sys.executable, "-m", "worker", *words
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, env=others | ours, check=True).stdout


async def gather(brokers: str, names: dict[str, str], *, is_compacted: bool = False) -> Verdict:
    """Read all topics, and judge."""
    updates, partitions = await read(brokers, names["updates"])
    outputs = [(await read(brokers, names[it]))[0] for it in ("sessions", "rejections", "dry_runs")]
    replayed = await asyncio.to_thread(lambda: replay(dump(brokers, names["updates"])))
    return verify(updates, Published(*outputs), replayed, partitions, is_compacted=is_compacted)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.verifier")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--updates", default="session-updates")
    parser.add_argument("--sessions", default="customer-sessions")
    parser.add_argument("--rejections", default="session-rejections")
    parser.add_argument("--dry-runs", default="session-dry-runs")
    parser.add_argument("--compacted", action="store_true", help="the snapshots' topic was compacted")
    names = vars(parser.parse_args())
    try:
        verdict = asyncio.run(gather(names.pop("brokers"), names, is_compacted=names.pop("compacted")))
    except Unread as error:
        print(error, file=sys.stderr)
        return 2
    print(*verdict.lines(), sep="\n")
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
