"""Encode the headers of the records that the worker writes: snapshots, strays and rejections."""

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from worker.codec.records import MAX_FRAME_BYTES, ConsumerRecord, Headers, Origin, ProducerRecord, frame_bytes
from worker.domain.lifecycle import Event
from worker.domain.rejections import Rejection

_ORIGIN: Final = "worker-origin"
_ORIGIN_KEY: Final = "worker-origin-key"
_MAX_TOPIC: Final = 249


def encode_stray(topic: str, partition: int, key: bytes, value: bytes | None, origin: Origin) -> ProducerRecord:
    """Return a stray unchanged for the partition of its session, with the origin in the last headers."""
    place = f"{origin.topic}/{origin.partition}/{origin.offset}/{origin.timestamp}"
    headers = [*origin.headers, (_ORIGIN, place.encode())]
    if origin.key is not None:
        headers.append((_ORIGIN_KEY, origin.key))
    return ProducerRecord(topic, partition, key, value, origin.timestamp, headers)


def origin_of_stray(record: ConsumerRecord) -> Origin | None:
    """Return the origin of a forwarded record; None if the last headers contain no origin."""
    *headers, last = record.headers or (("", b""),)
    key = None
    if last[0] == _ORIGIN_KEY and headers:
        key = last[1]
        last = headers.pop()
    try:
        topic, partition, offset, timestamp = last[1].decode().rsplit("/", 3)
        place = int(partition), int(offset), int(timestamp)
    except ValueError:
        return None
    if (
        last[0] != _ORIGIN
        or len(topic) > _MAX_TOPIC
        or not (0 <= place[0] < 1 << 13 and 0 <= place[1] < 1 << 40 and abs(place[2]) < 1 << 63)
    ):
        return None
    return Origin(topic, *place, key, headers)


EVENTS_HEADER: Final = "worker-events"
_SPEC_VERSION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/json")
TRACE_PARENT: Final = "traceparent"
_MAX_TRACE_PARENT_BYTES: Final = 512
TYPES: Final = "customersession."
"""The prefix of ce_type; the event follows."""


class Cause(Struct, frozen=True, gc=False):
    """The update record behind a snapshot: its CloudEvents id and time, its timestamp, and its trace."""

    event_id: str
    time: str
    timestamp: int
    traceparent: bytes | None


def cause_of(origin: Origin, time: str) -> Cause:
    """Return the cause that the outputs of an update record name."""
    return Cause(origin.event_id, time, origin.timestamp, _trace(origin.headers) if origin.headers else None)


def _trace(headers: Headers) -> bytes | None:
    """Return the last traceparent of a record; None if the value is too long to be one."""
    for name, value in reversed(headers):
        if name == TRACE_PARENT and value is not None:
            return value if len(value) <= _MAX_TRACE_PARENT_BYTES else None
    return None


class SnapshotHeaders:
    """Encoder of the headers of snapshot records: CloudEvents 1.0 in binary mode."""

    def __init__(self, application_id: int) -> None:
        self._source = ("ce_source", f"/applications/{application_id}".encode())

    def of(
        self,
        cause: Cause,
        event: Event | Literal["reclassified"],
        *,
        ignored: Iterable[str] = (),
        events: bytes = b"",
        dry: bool = False,
    ) -> list[tuple[str, bytes]]:
        """Return the headers of the snapshot that *cause* brought about; *events* are the remembered eventIds."""
        suffix = ".dry_run" if dry else ""
        headers = [
            _SPEC_VERSION,
            ("ce_id", cause.event_id.encode()),
            self._source,
            ("ce_time", cause.time.encode()),
            _CONTENT_TYPE,
            ("ce_type", f"{TYPES}{event}{suffix}".encode()),
        ]
        if cause.traceparent is not None:
            headers.append((TRACE_PARENT, cause.traceparent))
        if ignored:
            headers.append(("ignored-fields", ",".join(ignored).encode()))
        if events:  # always the last header: `entry_from_changelog` reads the last one
            headers.append((EVENTS_HEADER, events))
        return headers


def v1_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """Return the headers of a snapshot's v1 view."""
    return [(name, b"v1." + value if name == "ce_type" else value) for name, value in headers]


REJECTION_HEADERS: Final = (
    "rejection-code",
    "rejection-pointer",
    "rejection-message",
    "__streams.errors.topic",
    "__streams.errors.partition",
    "__streams.errors.offset",
    "__streams.errors.exception",
    "__streams.errors.message",
)
_CUT: Final = "rejection-cut"
_REPLACED: Final = frozenset((*REJECTION_HEADERS, _CUT))
_MAX_POINTER: Final = 1000
"""Upper bound in characters of a pointer in a header; a longer pointer is cut to its longest parent that fits."""


def encode_rejection(
    topic: str, partition: int, value: bytes | None, origin: Origin, why: Rejection, max_record_bytes: int
) -> ProducerRecord:
    """Return a rejection: the record as it arrived, and why the worker refused it.

    A record that does not fit the output topic is cut: its value to *max_record_bytes*, its headers completely, its key
    to its first bytes. The header `rejection-cut` names the parts that were cut. The origin leads to the whole record.
    """
    pointer = why.pointer
    while len(pointer) > _MAX_POINTER:
        pointer = pointer.rpartition("/")[0]
    texts = (
        why.code,
        pointer,
        why.message,
        origin.topic,
        str(origin.partition),
        str(origin.offset),
        why.code,
        why.message,
    )
    key, kept = origin.key, [header for header in origin.headers if header[0] not in _REPLACED]
    cut = []
    if len(value or b"") + frame_bytes(key, kept) > max_record_bytes + MAX_FRAME_BYTES:
        if value is not None and len(value) > max_record_bytes:
            value = value[:max_record_bytes]
            cut.append("value")
        if frame_bytes(key, kept) > MAX_FRAME_BYTES:
            kept = []
            cut.append("headers")
        if key is not None and len(key) > MAX_FRAME_BYTES:
            key = key[:MAX_FRAME_BYTES]
            cut.append("key")
    headers = kept + [(name, text.encode()) for name, text in zip(REJECTION_HEADERS, texts, strict=True)]
    if cut:
        headers.append((_CUT, ",".join(cut).encode()))
    return ProducerRecord(topic, partition, key, value, origin.timestamp, headers)
