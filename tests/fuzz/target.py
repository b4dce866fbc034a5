"""What the fuzzer calls: bytes become records of hostile producers, the pipeline folds them, and oracles judge it.

Bytes 0xFE part records, 0xFF the fields of one: a place, the key, the value, then headers, name and value in turn. No
text has either byte, so an update record of a shop stands in an input as it is. The place is a byte, then the
timestamp as a decimal number (left out: the driver's clock); bits 0-1 of the byte name the topic, bit 2 takes the key
away, bit 3 the value, bits 4-5 are the partition when bit 6 is set. With bit 7 the value is wrapped before it is sent:
bit 0 of its first byte compresses the rest with gzip, bit 1 with zstd, bit 2 puts a frame around that.
"""

import gzip
import sys
from collections import defaultdict
from typing import Any, Final, TypedDict

import orjson
from pydantic import TypeAdapter

from tests.chaos.feed import consumed, topics_of
from tests.chaos.verifier import Published, verify
from tests.contract.test_against_the_oracle import comparable, reasons
from tests.domain.test_request import judged
from tests.oracle import Oracle, Record
from worker.codec.records import ProducerRecord
from worker.codec.update import read
from worker.codec.wrapping import unwrap
from worker.domain.limits import Rules
from worker.domain.model import Snapshot
from worker.domain.rejections import ROW_OF, Rejection
from worker.pipeline.replay import Replay
from worker.testing import Fault, StreamDriver, Update

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class _Limits(TypedDict):
    cloudevents: bool
    max_record_bytes: int
    max_snapshot_bytes: int


_LIMITS: Final = _Limits(cloudevents=True, max_record_bytes=4096, max_snapshot_bytes=4096)
RULES = Rules(**_LIMITS)
"""Limits that inputs of some kilobytes reach."""
MAX_RECORDS = 20
_PARTITIONS = 4
_V1: Final = "customer-sessions-v1"
_SNAPSHOT = TypeAdapter(Snapshot)
_NOW = 1_795_372_800_000


def records(data: bytes) -> list[tuple[str, Update]]:
    """Read an input: the topic's field of Topology, and the record for it."""
    found = []
    for text in data.split(b"\xfe")[:MAX_RECORDS]:
        place, key, value, *headers = [*text.split(b"\xff"), b"", b""][: max(3, text.count(b"\xff") + 1)]
        bits = place[0] if place else 0
        partition = bits >> 4 & 3 if bits & 64 else None
        names = [name.decode(errors="replace") for name in headers[::2]]
        update = Update(
            None if bits & 8 else _wrapped(value) if bits & 128 else value,
            None if bits & 4 else key,
            partition,
            _timestamp(place[1:]),
            tuple(zip(names, headers[1::2], strict=False)),
        )
        found.append((("updates", "rekeyed", "claims", "verdicts")[bits & 3], update))
    return found


def _wrapped(value: bytes) -> bytes:
    how, value = value[:1] or b"\x00", value[1:]
    if how[0] & 1:
        value = gzip.compress(value, mtime=0)
    if how[0] & 2:
        value = zstd.compress(value)
    return b"\x00\x00\x00\x00\x07" + value if how[0] & 4 else value


def written(*given: tuple[bytes, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]) -> bytes:
    """Write an input of places, keys, values and headers; what is None has to be so in the place as well."""
    return b"\xfe".join(
        b"\xff".join([place, key or b"", value or b"", *(part for name, it in headers for part in (name.encode(), it))])
        for place, key, value, headers in given
    )


def run(data: bytes) -> None:
    """Fold an input in every way there is; raises AssertionError, or what the worker raised, when something is wrong."""
    sent = records(data)
    updates = [update for topic, update in sent if topic == "updates"]
    for update in updates:
        if isinstance(update.value, bytes):
            timestamp = _NOW if update.timestamp is None else update.timestamp
            text = unwrap(update.value, update.headers, RULES)
            if not isinstance(text, Rejection):
                judged(text[0], _key(update), timestamp, RULES, text[1])
    driver = _folded(sent)
    published = driver.published()
    assert published == _folded(sent)._published
    for record in published:
        _sound(driver, record)
    taken = topics_of(driver)
    last = _as_the_oracle(taken[0])
    if len(updates) == len(sent) and _has_order(taken[0]):
        for topics in (taken, topics_of(_folded(sent, crashes=True))):
            _verified(*topics, last)


def _folded(sent: list[tuple[str, Update]], *, crashes: bool = False) -> StreamDriver:
    driver = StreamDriver(_PARTITIONS, RULES, v1_topic=_V1, max_poll_records=3)
    topics = driver.topology.named()
    for topic, update in sent:
        if topic == "updates":
            driver.send(update)
        else:
            key = _key(update)
            partition = update.partition if update.partition is not None else driver.topology.home(key or b"", 0)
            timestamp = _NOW if update.timestamp is None else update.timestamp
            value = update.value if isinstance(update.value, bytes) else None
            record = ProducerRecord(topics[topic], partition, key, value, timestamp, update.headers)
            driver.inject(record)
        if crashes:
            driver.run({driver.steps + 2: Fault.CRASH}, cycles=1)
    driver.run()
    return driver


def _as_the_oracle(updates: list[Record]) -> dict[bytes, bytes | None]:
    """Hold what the offline form makes of update records against the second implementation of the contract.

    Gives the last snapshot of each key.
    """
    oracle = Oracle(v1=True, **_LIMITS)
    replay = Replay(RULES, _V1)
    last: dict[bytes, bytes | None] = {}
    for update in updates:
        given = replay.fold(update["partition"], consumed(update))
        assert [comparable(it) for it in given] == [comparable(it) for it in oracle.fold(update)], update
        assert reasons(given) <= oracle.reasons, update
        last |= {it.key: it.value for it in given if it.key is not None and it.topic == replay.topology.sessions}
    return last


def _verified(updates: list[Record], published: Published, last: dict[bytes, bytes | None]) -> None:
    """Have the verifier of the fault suite judge: each update record has one outcome, the right one."""
    verdict = verify(updates, published, last, _PARTITIONS, oracle=Oracle(**_LIMITS))
    assert verdict.is_good, list(verdict.lines())


def _has_order(updates: list[Record]) -> bool:
    """Return True if each session's update records arrive through one partition; otherwise one may overtake another."""
    partitions = defaultdict(set)
    for update in updates:
        unwrapped = unwrap(update["value"], update["headers"], RULES) if update["value"] is not None else (None, None)
        if not isinstance(unwrapped, Rejection):
            request = read(unwrapped[0], update["key"], update["timestamp"], RULES, unwrapped[1])
            if not isinstance(request, Rejection):
                partitions[request.integration_id].add(update["partition"])
    return all(len(taken) == 1 for taken in partitions.values())


def _sound(driver: StreamDriver, record: ProducerRecord) -> None:
    """Judge a record that was published: its place, its headers, and that its value is what the contract says."""
    topology, headers = driver.topology, dict(record.headers)
    assert 0 <= record.partition < _PARTITIONS
    if record.topic == topology.rejections:
        assert headers["rejection-code"].decode() in ROW_OF
        assert headers["rejection-message"].decode().endswith(".")
    elif record.topic in {topology.sessions, topology.dry_runs}:
        assert record.key
        assert headers["ce_type"].startswith(b"customersession.")
        assert (record.value is None) == headers["ce_type"].endswith(b".deleted")
        if record.value is not None:
            snapshot: dict[str, Any] = orjson.loads(record.value)
            _SNAPSHOT.validate_python(snapshot, extra="forbid")
            assert snapshot["integrationId"].encode() == record.key
            assert len(record.value) <= RULES.max_snapshot_bytes


def _key(update: Update) -> bytes | None:
    return update.key.encode() if isinstance(update.key, str) else update.key


def _timestamp(text: bytes) -> int | None:
    try:
        number = int(text[:20])
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None
