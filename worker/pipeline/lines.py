"""Records as lines of JSON, the offline form: reads and writes it without changing a byte of a value.

A line holds JSON, and so text; a record of Kafka may hold any bytes. Where a key, a value or a header is not UTF-8,
all of them are in Base64, and the line says so: `"base64": true`. Of headers with the same name only the last is kept.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import msgspec
import orjson

from worker.pipeline.wire import ConsumerRecord, ProducerRecord


class BadLine(Exception):
    """A line of the input is not in the offline form; *number* counts from 1."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number


class Line(msgspec.Struct, frozen=True, gc=False):
    """A record as a line gives it; what the line leaves out is None."""

    number: int
    partition: int | None
    offset: int | None
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class _Form(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    timestamp: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    value: msgspec.Raw
    key: str | None = None
    partition: int | msgspec.UnsetType = msgspec.UNSET
    offset: int | None = None
    headers: dict[str, str] = {}
    base64: bool = False


def read(lines: Iterable[bytes]) -> Iterator[Line]:
    """Read the lines of a file; empty ones count, but mean nothing. Raises BadLine for one that is not in the form.

    >>> next(read([b'{"key": "s-1", "value": {"type": "reopen"}, "timestamp": 0}'])).value
    b'{"type":"reopen"}'
    """
    decoder = msgspec.json.Decoder(_Form)
    for number, text in enumerate(lines, 1):
        if text.isspace():
            continue
        try:
            yield _line(number, decoder.decode(text))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise BadLine(number, str(error)) from error


def _line(number: int, form: _Form) -> Line:
    partition = None if form.partition is msgspec.UNSET else form.partition
    offset = form.offset
    if partition is not None and not 0 <= partition < 1 << 13:
        raise ValueError(f"partition {partition} is not one of 0 to 8191")
    if offset is not None and not 0 <= offset < 1 << 40:
        raise ValueError(f"offset {offset} is not one of 0 to 2^40 - 1")
    decode = _from_base64 if form.base64 else str.encode
    headers = [(name, decode(text)) for name, text in form.headers.items()]
    key = None if form.key is None else decode(form.key)
    return Line(number, partition, offset, form.timestamp, key, _value(form.value, decode), headers)


def written(record: ProducerRecord, rejections: str) -> bytes:
    """Write a published record as a line of the output; a rejection's value is text, any other's is JSON."""
    value: object = None
    if record.value is not None:
        is_raw = record.topic == rejections
        value = record.value.decode(errors="replace") if is_raw else orjson.Fragment(record.value)
    line = {
        "topic": record.topic,
        "partition": record.partition,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "value": value,
        "timestamp": record.timestamp,
        "headers": {name: text.decode("utf-8", "replace") for name, text in record.headers},
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def dumped(partition: int, record: ConsumerRecord) -> bytes:
    r"""Write a record as a line that `read` gives back byte for byte.

    >>> dumped(0, ConsumerRecord(7, 0, b"s-1", b'{"type":"reopen"}'))
    b'{"key":"s-1","value":{"type":"reopen"},"timestamp":0,"partition":0,"offset":7}\n'
    """
    try:
        return _dumped(partition, record, bytes.decode)
    except UnicodeDecodeError:
        return _dumped(partition, record, _to_base64)


def _dumped(partition: int, record: ConsumerRecord, encode: Callable[[bytes], str]) -> bytes:
    value: object = None
    if record.value is not None:
        is_json = encode is bytes.decode and _stands_for_itself(record.value)
        value = orjson.Fragment(record.value) if is_json else encode(record.value)
    line = {
        "key": None if record.key is None else encode(record.key),
        "value": value,
        "timestamp": record.timestamp,
        "partition": partition,
        "offset": record.offset,
    }
    if headers := {name: encode(text) for name, text in record.headers if text is not None}:
        line["headers"] = headers
    if encode is _to_base64:
        line["base64"] = True
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


# ------------------------------------------------------------------------------------------------ values in a line

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _value(raw: bytes | msgspec.Raw, decode: Callable[[str], bytes] = str.encode) -> bytes | None:
    """Give the value that a line means: null, what a string stands for, or the compact JSON of an object.

    msgspec drops the white space and leaves all else as it is, numbers, escapes and the order of keys: 0.8 µs where
    finding that there is none to drop was 1.9.
    """
    text = msgspec.json.format(raw, indent=-1)
    if text == b"null":
        return None
    if text.startswith(b'"'):
        return decode(msgspec.json.decode(text, type=str))
    if not text.startswith(b"{") or decode is not str.encode:
        raise ValueError("value is neither an object nor a string nor null")
    return _STRINGS.sub(_unescaped, text) if b"\\" in text and b"\\u" in text else text


def _unescaped(string: re.Match[bytes]) -> bytes:
    """Write the characters of a string as themselves, where one is escaped by its number."""
    return orjson.dumps(orjson.loads(string[0])) if b"\\u" in string[0] else string[0]


_MARGIN = 200


def _stands_for_itself(value: bytes) -> bool:
    """Tell whether a value may be written as the object that it is: a reader, though deep in calls, gets its bytes."""
    if not (value.startswith(b"{") and value.endswith(b"}")):
        return False
    try:
        orjson.loads(value)
        msgspec.json.decode(b"[" * _MARGIN + value + b"]" * _MARGIN, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return _value(value) == value


def _to_base64(data: bytes) -> str:
    return b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    return b64decode(text, validate=True)
