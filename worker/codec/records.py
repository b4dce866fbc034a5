"""Records as they come from Kafka and go there, and where an update record came from."""

import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

Headers = Sequence[tuple[str, bytes]]


class ConsumerRecord(Struct, frozen=True, gc=False):
    """A record as it was fetched; *timestamp* in milliseconds since 1970.

    Every record makes five such objects on its way; a Struct is made in 60 ns, a NamedTuple in 250.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class ProducerRecord(Struct, frozen=True, gc=False):
    """A record to be published, into a partition that is known already."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers


class Origin(Struct, frozen=True, gc=False):
    """Where and how an update record arrived first, before any re-keying."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    headers: Headers

    @property
    def session_id(self) -> int:
        """The id of a session that this record creates: unique, below 2^53, the same in every replay."""
        return (self.partition << 40) + self.offset + 1

    @property
    def event_id(self) -> str:
        """The ce_id of what this record brings about."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def partition_of_session(session_id: int) -> int:
    """Name the partition of the record that created a session."""
    return session_id - 1 >> 40


_BASE64: Final = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def from_base64(text: str) -> bytes:
    """Return what a text of standard Base64 (RFC 4648, section 4) encodes; raise ValueError for any other text.

    Python's own decoder takes more padding than is due, except from 3.13 on.
    """
    if not _BASE64.fullmatch(text):
        raise ValueError("not standard Base64")
    return b64decode(text)


MAX_FRAME_BYTES: Final = 64 << 10
"""What a record's key and headers may take together where they are passed on; half of what outputs leave for headers."""
_BATCH_BYTES: Final = 61 + 31
"""Of a batch and of its first record, with lengths as long as they can be."""
_HEADER_BYTES: Final = 6
"""Of the two lengths of a header."""


def frame_bytes(key: bytes | None, headers: Headers) -> int:
    """Count the bytes of a record's key and headers."""
    return len(key or b"") + sum(len(name) + len(value or b"") for name, value in headers)


def batch_bytes(key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> int:
    """Count the bytes of a batch with this one record, as a broker judges them; at most a hundred too many."""
    return _BATCH_BYTES + len(value) + frame_bytes(key, headers) + _HEADER_BYTES * len(headers)
