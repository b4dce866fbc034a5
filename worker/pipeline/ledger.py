"""What of a source partition is done, what is parked, how far may be committed, and its encoding.

Theory of operation. A stage takes the records of a source partition in order, but a record that waits for a verdict is
finished later than records behind it. The ledger is what must be known of that after a crash:

L1. Every offset below `next` is done, except those listed in `not_done`. So a record below `next` that arrives again
    (a seek back, a second delivery) is dropped unless it is listed: nothing counts twice.
L2. The committed offset is the first one not done, or `next`: a reader that starts there reads every listed record
    again, and a tool that knows nothing of ledgers sees a true lag. It never passes a record that is not done.
L3. `not_done` says of each record whether its claim was sent (it is a *head*): after a crash a head waits for its
    verdict again and is not asked a second time.
L4. The encoding fits the commit's metadata because a record is parked only when the ledger with it still fits. Taking
    one out never lengthens the encoding: two deltas become one that is no longer than both were. (A bitmap of what is
    done would grow by a verdict in the middle, and a full lane could never commit again.) The room that a growing
    `next` needs is set aside once.
L5. Every commit of a worker carries metadata, also when nothing is parked: this is the mark of a worker. The mark names
    the offset that it belongs to. Another client commits without a mark, or copies a mark to another offset. Then
    nobody knows which records are done, and `restore` refuses the offset.
L6. Every record below `redo` may have been done before: an operator has accepted that they are folded again. Otherwise
    nothing at or above `next` was ever done, so an output that comes of such a record shows a stale offset.
L7. A mark also names what the state was built from: a digest of the cluster, and one of each topic with its id. So a
    topic that was deleted and created again, or a cluster that took the place of another, is seen and named after a
    restart. A mark of version 2 has no digests.

The ledger is committed in the transaction that carries the outputs, so a crash finds both or neither. Offsets rise in
`not_done`: records are parked in the order in which they are taken.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b

MAX_METADATA_BYTES = 4096
"""What a broker takes as an offset commit's metadata (offset.metadata.max.bytes, its default)."""

_VERSION = 3
_UNNAMED = 2
"""The version of a mark without digests (L7)."""
_MAX_ENCODED = MAX_METADATA_BYTES // 4 * 3  # base64 writes three bytes as four characters
_DIGEST_BYTES = 4
_UNKNOWN = bytes(_DIGEST_BYTES)
_MAX_STREAM_BYTES = 7 * _DIGEST_BYTES
_RESERVED = 2 + _MAX_STREAM_BYTES + 3 * 10
"""Bytes of the version, the digests with their length, and three varints as wide as can be: offset, `next`, `redo`."""


class Ledger:
    """The ledger of one source partition.

    >>> ledger = Ledger(next=7)
    >>> ledger.park(7, is_head=True); ledger.next = 9
    >>> offset, metadata = ledger.commit()
    >>> offset, Ledger.restore(offset, metadata).next
    (7, 9)
    """

    __slots__ = ("_bytes", "next", "not_done", "redo", "stream")

    def __init__(
        self,
        next: int = 0,  # noqa: A002 (Kafka's word)
        not_done: dict[int, bool] | None = None,
        redo: int = 0,
        stream: bytes = b"",
    ) -> None:
        self.next = next
        self.redo = redo
        self.stream = stream
        """The digests of the cluster and the topics that the state was built from (L7)."""
        self.not_done: dict[int, bool] = not_done if not_done is not None else {}
        self._bytes = sum(_width(entry) for entry in self._entries())

    def copy(self) -> "Ledger":
        """Return a copy for a cycle that may be aborted."""
        twin = Ledger(self.next, redo=self.redo, stream=self.stream)
        twin.not_done = self.not_done.copy()
        twin._bytes = self._bytes
        return twin

    def has_room(self, offset: int) -> bool:
        """Return True if the record at *offset*, behind all others, may be parked (L4)."""
        if not self.not_done:
            return True
        added = _width(offset - next(reversed(self.not_done)) << 1)
        if self._bytes + added > _MAX_ENCODED - _RESERVED:
            self._bytes = sum(_width(entry) for entry in self._entries())  # what is done since made room
        return self._bytes + added <= _MAX_ENCODED - _RESERVED

    def park(self, offset: int, *, is_head: bool) -> None:
        """List the record at *offset* as not done, or change whether it is a head; the caller has seen to `has_room`."""
        if offset not in self.not_done:
            last = next(reversed(self.not_done), offset)
            self._bytes += _width(offset - last << 1)
        self.not_done[offset] = is_head

    def done(self, offset: int) -> None:
        """Strike the record at *offset* off, if it is listed."""
        self.not_done.pop(offset, None)

    def commit(self) -> tuple[int, str]:
        """Return the offset to commit and its metadata, which is the mark of a worker (L5)."""
        offset = next(iter(self.not_done), self.next)
        encoded = bytearray((_VERSION, len(self.stream)) if self.stream else (_UNNAMED,)) + self.stream
        for number in (offset, self.next - offset, max(0, self.redo - self.next), *self._entries()):
            _append_varint(encoded, number)
        return offset, b64encode(encoded).decode()

    @classmethod
    def restore(cls, offset: int, metadata: str) -> "Ledger":
        """Read back what `commit` returned.

        Raises ValueError for metadata that no worker of this version, or of the one before, committed with this offset (L5).
        """
        encoded = b64decode(metadata, validate=True)
        begin = 2 + int.from_bytes(encoded[1:2]) if encoded[:1] == bytes((_VERSION,)) else 1
        _offset, ahead, redone, *entries = _varints(encoded[begin:])
        not_done: dict[int, bool] = {}
        at = offset
        for number in entries:
            at += number >> 1
            not_done[at] = bool(number & 1)
        ledger = cls(offset + ahead, not_done, offset + ahead + redone, encoded[2:begin])
        if ledger.commit() != (offset, metadata):
            raise ValueError(f"a worker with ledgers of version {_VERSION} commits other metadata with offset {offset}")
        return ledger

    def _entries(self) -> Iterator[int]:
        """Yield each record that is not done as the distance from the one before, and in the last bit whether a head."""
        before = next(iter(self.not_done), 0)
        for offset, is_head in self.not_done.items():
            yield offset - before << 1 | is_head
            before = offset


def digests(identities: Iterable[str]) -> bytes:
    """Return a digest of each identity, one after the other (L7); that of an empty one, which is not known, is zeros."""
    known = (it and blake2b(it.encode(), digest_size=_DIGEST_BYTES).digest() for it in identities)
    return b"".join(digest or _UNKNOWN for digest in known)


def differing(stream: bytes, other: bytes) -> list[int]:
    """Return the places of the digests that differ; what is not known differs from nothing.

    >>> differing(digests(["cluster", "a", "b", ""]), digests(["cluster", "a", "c", "d"]))
    [2]
    """
    starts = range(0, min(len(stream), len(other)), _DIGEST_BYTES)
    pairs = [(stream[at : at + _DIGEST_BYTES], other[at : at + _DIGEST_BYTES]) for at in starts]
    return [place for place, (one, two) in enumerate(pairs) if one != two and _UNKNOWN not in {one, two}]


def _width(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def _append_varint(encoded: bytearray, number: int) -> None:
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)


def _varints(encoded: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in encoded:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
