"""Unwrap an update record from a Confluent frame, from compression, or from a CloudEvents envelope.

Theory of operation. A producer's serializer or connector may wrap the JSON. The worker reads the JSON inside as if it had
arrived without a wrapping. A rejection and a forwarded stray carry the value as it arrived.

W1. The first byte decides. No JSON begins with the byte 0 (a frame) or with the magic number of gzip or zstd.
W2. A frame can be outside a compressed value, not inside: the inflated bytes are not unwrapped again.
W3. Inflation stops at the limit of a record: the output of each step is bounded, and the first excess byte ends it.
    A window of zstd takes at most 128 MiB of address space, and only the pages that the output needs are touched. More
    than 1,000 members or frames are refused: each costs a decoder, 40 µs, but only 9 bytes of a value.
W4. The header `content-type` marks a structured event, whose object is the envelope. The header `ce_id` marks a binary
    event, if SESSION_WORKER_CLOUDEVENTS is true.
W5. The envelope's id, time and subject replace fields that the record lacks. They are checked only if they are used.
"""

import sys
import zlib
from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw
from msgspec.json import decode

from worker.codec.records import Headers, from_base64
from worker.codec.update import Envelope, parse, too_large
from worker.domain.limits import MAX_DEPTH, Rules
from worker.domain.rejections import Rejection, malformed, must_be, not_an_object, shown

if sys.version_info >= (3, 14):  # pragma: no cover - the same module in the standard library
    from compression import zstd
else:
    from backports import zstd

_FRAME: Final = 0
_FRAME_BYTES: Final = 5
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_FIRST_BYTES: Final = frozenset((_FRAME, _GZIP[0], _ZSTD[0]))
_PIECE_BYTES: Final = 1 << 16
"""Size in bytes of the pieces that a decoder reads; a decoder copies the bytes after the end of a member."""
MAX_MEMBERS: Final = 1000
_WINDOW_LOG: Final = 27
_STRUCTURED: Final = b"application/cloudevents+json"


Unwrapped = tuple[bytes, Envelope | None]
"""The bytes of the update record, and the fields of its envelope."""


def unwrap(value: bytes, headers: Headers, rules: Rules) -> Unwrapped | Rejection:
    r"""Return the update record inside *value*. Without headers, a value that begins with `{` is not wrapped.

    >>> unwrap(b"\x00\x00\x00\x00\x07{}", (), Rules())
    (b'{}', None)
    """
    if value and value[0] in _FIRST_BYTES:  # W1
        inner = _inflated(value[_FRAME_BYTES:] if value[0] == _FRAME else value, rules)
        if isinstance(inner, Rejection):
            return inner
        value = inner
    if not headers:
        return value, None
    if _is_structured(headers):
        return too_large(value, rules) if len(value) > rules.max_record_bytes else _structured(value)
    return value, _binary(headers) if rules.cloudevents else None


# -------------------------------------------------------------------------------------------------------- compression


class _GzipDecoder:
    """Decoder of one member of gzip, with the interface of zstd's decoder."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def decompress(self, piece: memoryview, max_length: int) -> bytes:
        return self._decoder.decompress(piece, max_length)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


def _zstd_decoder() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


def _inflated(value: bytes, rules: Rules) -> bytes | Rejection:
    """Return *value* inflated if it is compressed, within the limit of a record."""
    try:
        if value.startswith(_GZIP):
            return _members(value, _GzipDecoder, rules)
        if value.startswith(_ZSTD):
            return _members(value, _zstd_decoder, rules)
    except (zlib.error, zstd.ZstdError):
        return malformed("the compressed data is corrupt", value)
    return value


def _members(value: bytes, decoder_of: Callable[[], Any], rules: Rules) -> bytes | Rejection:
    """Return the inflated members of a compressed value, joined (W3)."""
    rest, text, left = memoryview(value), [], rules.max_record_bytes
    members = 0
    while rest:
        members += 1
        if members > MAX_MEMBERS:
            return malformed(f"the compressed data has more than {MAX_MEMBERS} members or frames", value)
        decoder = decoder_of()
        while not decoder.eof:
            if not rest:
                return malformed("the compressed data is truncated", value)
            piece = rest[:_PIECE_BYTES]
            text.append(decoder.decompress(piece, left + 1))
            left -= len(text[-1])
            if left < 0:
                allowed = f"at most {rules.max_record_bytes} bytes (SESSION_WORKER_MAX_RECORD_BYTES)"
                message = f"The value must have {allowed}, but its {len(value)} bytes inflate to more."
                return Rejection("record_too_large", "", message)
            rest = rest[len(piece) - len(decoder.unused_data) :]
    return b"".join(text)


# -------------------------------------------------------------------------------------------------------- CloudEvents


def _is_structured(headers: Headers) -> bool:
    """Return True if the last header `content-type` is that of a structured event in JSON (W4)."""
    content = None
    for name, given in headers:
        if len(name) == _NAME_LENGTH and given is not None and name.lower() == _CONTENT_TYPE:
            content = given
    return content is not None and content.lower().startswith(_STRUCTURED)


_CONTENT_TYPE: Final = "content-type"
_NAME_LENGTH: Final = len(_CONTENT_TYPE)


def _structured(value: bytes) -> Unwrapped | Rejection:
    parsed = parse(value, MAX_DEPTH + 1)
    if isinstance(parsed, Rejection):
        return parsed
    members = decode(value, type=dict[str, Raw])
    envelope = {
        name: (parsed[member], f"/{member}")
        for name, member in (("eventId", "id"), ("occurredAt", "time"), ("integrationId", "subject"))
        if parsed.get(member) is not None and not (member == "subject" and parsed[member] == "")
    }
    encoded = parsed.get("data_base64")
    if parsed.get("data") is not None:
        data = bytes(members["data"])
        return (data, envelope) if type(parsed["data"]) is dict else not_an_object(data)
    if encoded is None:
        has = f"in an event with the members {shown(list(parsed))}"
        how = "null" if "data" in parsed else "missing"
        return Rejection(
            "invalid_field", "/data", f"/data must be the update record, an object, but it is {how} {has}."
        )
    try:
        return from_base64(encoded), envelope
    except (TypeError, ValueError):
        return must_be("/data_base64", "a string of standard Base64", shown(encoded))


def _binary(headers: Headers) -> Envelope | None:
    """Return the envelope in the headers of a binary event; its fields have the pointers of the record's fields."""
    given = {name: text for name, text in headers if text is not None}
    if "ce_id" not in given:
        return None
    envelope: dict[str, tuple[Any, str]] = {"eventId": (given["ce_id"].decode(errors="backslashreplace"), "/eventId")}
    if "ce_time" in given:
        envelope["occurredAt"] = given["ce_time"].decode(errors="backslashreplace"), "/occurredAt"
    try:
        if subject := given.get("ce_subject", b"").decode():
            envelope["integrationId"] = subject, "/integrationId"
    except UnicodeDecodeError:
        pass  # a subject that is not UTF-8 names no session, like a key
    return envelope
