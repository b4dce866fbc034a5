"""Kafka records as plain data, and the origin of an update record."""

import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

Headers = Sequence[tuple[str, bytes]]


class ConsumerRecord(Struct, frozen=True, gc=False):
    """A fetched record; *timestamp* is in milliseconds since 1970.

    Each record creates five such objects: a Struct takes 60 ns, a NamedTuple 250 ns.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class ProducerRecord(Struct, frozen=True, gc=False):
    """A record to publish, with its partition."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers


class Origin(Struct, frozen=True, gc=False):
    """The place at which an update record first arrived, and its key, timestamp and headers there."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    headers: Headers

    @property
    def session_id(self) -> int:
        """The id of a session that this record creates: unique, below 2^53, equal in every replay."""
        return (self.partition << 40) + self.offset + 1

    @property
    def event_id(self) -> str:
        """The ce_id of the outputs that this record causes."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def partition_of_session(session_id: int) -> int:
    """Return the partition of the record that created a session."""
    return session_id - 1 >> 40


_BASE64: Final = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def from_base64(text: str) -> bytes:
    """Return the bytes of standard Base64 text (RFC 4648, section 4). Raise ValueError for any other text.

    The decoder of Python before 3.13 accepts excess padding.
    """
    if not _BASE64.fullmatch(text):
        raise ValueError("not standard Base64")
    return b64decode(text)


MAX_FRAME_BYTES: Final = 64 << 10
"""Upper bound in bytes of the key and headers of a record that is passed on: half of the room of outputs for headers."""
_BATCH_BYTES: Final = 61 + 31
"""Upper bound in bytes of the header of a batch and of the fields of its first record."""
_HEADER_BYTES: Final = 6
"""Upper bound in bytes of a header's two varint lengths."""


def frame_bytes(key: bytes | None, headers: Headers) -> int:
    """Return the size in bytes of a record's key and headers."""
    return len(key or b"") + sum(len(name) + len(value or b"") for name, value in headers)


def batch_bytes(key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> int:
    """Return the size in bytes of a batch with this one record as a broker counts it, or up to 100 bytes more."""
    return _BATCH_BYTES + len(value) + frame_bytes(key, headers) + _HEADER_BYTES * len(headers)
