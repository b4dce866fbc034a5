"""Records as lines of JSON, the offline form: reads and writes it without changing a byte of a value.

A line holds JSON, and so text; a record of Kafka may hold any bytes. Where a key, a value or a header is not UTF-8,
all of them are in Base64, and the line says so: `"base64": true`. Of headers with the same name only the last is kept.

A line nests at most 512 levels deep, wherever it is read: the parsers' own limits depend on the version of Python and on
the depth of the calls. A deeper value is written as text.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Final

import msgspec
import orjson

from worker.codec.records import ConsumerRecord, ProducerRecord, from_base64

FORM: Final = '{"key": "s-1", "value": {"customerSession": {"state": "open"}}, "timestamp": 1795372800000}'
"""A valid line, to show in messages."""

_MAX_DEPTH: Final = 512
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


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


class _NotInForm(ValueError):
    """What a line holds cannot be a record; the message is all that there is to say."""


class _Form(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    timestamp: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    value: msgspec.Raw
    key: str | None = None
    partition: int | msgspec.UnsetType = msgspec.UNSET
    offset: int | None = None
    headers: dict[str, str] = {}
    base64: bool = False


def read(lines: Iterable[bytes], *, is_split: bool = False) -> Iterator[Line]:
    """Read the lines of a file; empty ones count, but mean nothing. Raises BadLine for one that is not in the form.

    A byte order mark before the first line is skipped. With *is_split*, a value that is a JSON array, or text of several
    lines of JSON, is a record for each of them, with the same key, timestamp and headers.

    >>> next(read([b'{"key": "s-1", "value": {"type": "reopen"}, "timestamp": 0}'])).value
    b'{"type":"reopen"}'
    """
    decoder = msgspec.json.Decoder(_Form)
    for number, text in enumerate(lines, 1):
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)  # noqa: PLW2901 (what is read of the line)
        if text.isspace() or not text:
            continue
        try:
            if _is_too_deep(text):
                raise _NotInForm(f"it nests deeper than {_MAX_DEPTH} levels; write such a value as text")
            form = decoder.decode(text)
            if is_split:
                yield from _split(number, form)
            else:
                yield _line(number, form)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            fault = None if isinstance(error, _NotInForm) else _fault(text)
            raise BadLine(number, f"{fault or error}. A valid line is {FORM}") from error


def _line(number: int, form: _Form) -> Line:
    partition = None if form.partition is msgspec.UNSET else form.partition
    offset = form.offset
    if partition is not None and not 0 <= partition < 1 << 13:
        raise _NotInForm(f"partition {partition} is not one of 0 to 8191")
    if offset is not None and not 0 <= offset < 1 << 40:
        raise _NotInForm(f"offset {offset} is not one of 0 to 2^40 - 1")
    decode = from_base64 if form.base64 else str.encode
    headers = [(name, decode(text)) for name, text in form.headers.items()]
    key = None if form.key is None else decode(form.key)
    return Line(number, partition, offset, form.timestamp, key, _value(form.value, decode), headers)


def _split(number: int, form: _Form) -> list[Line]:
    """Make a record of each element of an array, or of each line of a text of several lines of JSON."""
    if bytes(form.value).startswith(b"["):
        values = [_value(element) for element in _elements(form.value)]
        form.value = msgspec.Raw(b"null")
        return [msgspec.structs.replace(_line(number, form), value=value) for value in values]
    line = _line(number, form)
    return [msgspec.structs.replace(line, value=value) for value in _texts(line.value)]


def _texts(value: bytes | None) -> list[bytes | None]:
    """List the records that a value holds: it alone, unless it is an array or begins with a line that is an object."""
    if value is None:
        return [None]
    lines: list[bytes | None] = [stripped for it in value.split(b"\n") if (stripped := it.strip())]
    for text in (value, lines[0] if lines else None):
        try:
            kind = msgspec.json.decode(text or b"", type=msgspec.Raw)
        except (msgspec.DecodeError, RecursionError):
            continue
        if text is not value:
            return lines if bytes(kind).startswith(b"{") else [value]
        return [bytes(it) for it in _elements(value)] if bytes(kind).startswith(b"[") else [value]
    return [value]


def _elements(array: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    elements = msgspec.json.decode(array, type=list[msgspec.Raw])
    for number, element in enumerate(elements, 1):
        if not bytes(element).startswith(b"{"):
            raise _NotInForm(f"element {number} of the array is no JSON object")
    return elements


def written(record: ProducerRecord, rejections: str) -> bytes:
    """Write a published record as a line of the output; a rejection's value is text, any other's is JSON."""
    try:
        return _written(record, rejections, bytes.decode)
    except UnicodeDecodeError:
        return _written(record, rejections, _to_base64)


def _written(record: ProducerRecord, rejections: str, encode: Callable[[bytes], str]) -> bytes:
    value: object = None
    if record.value is not None:
        is_json = encode is bytes.decode and record.topic != rejections
        value = orjson.Fragment(record.value) if is_json else encode(record.value)
    line = {
        "topic": record.topic,
        "partition": record.partition,
        "key": None if record.key is None else encode(record.key),
        "value": value,
        "timestamp": record.timestamp,
        "headers": {name: encode(text) for name, text in record.headers},
    }
    if encode is _to_base64:
        line["base64"] = True
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


def _stands_for_itself(value: bytes) -> bool:
    """Tell whether a value may be written as the object that it is, so that a reader gets its bytes."""
    if not (value.startswith(b"{") and value.endswith(b"}")) or _is_too_deep(value, _MAX_DEPTH - 1):
        return False
    try:
        orjson.loads(value)
        msgspec.json.decode(value, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return _value(value) == value


_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[{]|[\]}]')


def _is_too_deep(text: bytes, levels: int = _MAX_DEPTH) -> bool:
    """Return True if JSON nests deeper; what has few brackets is not looked at any further (0.1 µs a line)."""
    if text.count(b"{") + text.count(b"[") <= levels:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text):
        match found[0]:
            case b"{" | b"[":
                depth += 1
                if depth > levels:
                    return True
            case b"}" | b"]":
                depth -= 1
    return False


def _to_base64(data: bytes) -> str:
    return b64encode(data).decode()


# ------------------------------------------------------------------------------------------- what is not in the form

_KINDS: Final = {
    b"\xff\xfe\x00\x00": "UTF-32 text; save the file as UTF-8",
    b"\xff\xfe": "UTF-16 text; save the file as UTF-8",
    b"\xfe\xff": "UTF-16 text; save the file as UTF-8",
    _BYTE_ORDER_MARK: "text with a byte order mark, which may only be at the beginning of the file",
    b"PK\x03\x04": "an Excel workbook or another ZIP archive; export its rows as JSON Lines",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; export its rows as JSON Lines",
    b"PAR1": "a Parquet file; export its rows as JSON Lines",
    b"Obj\x01": "an Avro file; export its records as JSON Lines",
    b"ORC": "an ORC file; export its rows as JSON Lines",
    b"SQLite format 3": "an SQLite database; export its rows as JSON Lines",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "gzip data within the file; decompress it once more",
    b"\x28\xb5\x2f\xfd": "zstd data within the file; decompress it once more",
    b"BZh": "a bzip2 file; decompress it, or use gzip or zstd",
    b"\xfd7zXZ": "an xz file; decompress it, or use gzip or zstd",
    b"\x04\x22\x4d\x18": "an lz4 file; decompress it, or use gzip or zstd",
    b"<": "XML or HTML",
    b"---": "YAML",
}
"""What a file is that begins so."""
_A_LINE: Final = "each record is one line: `jq -c"
_BODY_FIELDS: Final = {
    "type",
    "integrationId",
    "customerSession",
    "return",
    "responseContent",
    "cartItems",
    "profileId",
}


def _fault(text: bytes) -> str | None:
    """Say what a line is that is not in the form; None where the parser's own words say it as well."""
    for magic, kind in _KINDS.items():
        if text.startswith(magic):
            return f"this is {kind}"
    if text[257:262] == b"ustar":
        return "this is a tar archive; extract the file from it"
    if b"\x00" in text:
        return f"this is {'UTF-16 text; save the file as UTF-8' if text[:2].count(0) == 1 else 'no text'}"
    try:
        line = text.decode().strip()
    except UnicodeDecodeError:
        return "this is not UTF-8; save the file as UTF-8"
    if line.startswith("["):
        return f"this is a JSON array, not JSON Lines; {_A_LINE} '.[]'` makes it so"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return _fault_of_text(line)
    return _fault_of_object(found) if isinstance(found, dict) else "this is no JSON object"


def _fault_of_text(line: str) -> str | None:
    """Say what a line of text is that is not JSON."""
    if not line.startswith("{"):
        delimiter = next((it for it in (",", ";", "\t", "|") if it in line), None)
        if delimiter is None or line.startswith(("}", "]")):
            return "this is no JSON object"
        return f"this looks like CSV (with {delimiter!r} between columns), not JSON Lines"
    if line.startswith(("{'", "{ '")):
        return "this is a Python dict, not JSON: write it with json.dumps"
    if line.endswith(("{", "[", ",")):
        return f"this is the beginning of pretty-printed JSON; {_A_LINE} .` makes it so"
    return None


def _fault_of_object(line: dict[str, Any]) -> str | None:
    """Say what is wrong with a JSON object as a line."""
    if "value" not in line and "timestamp" not in line and _BODY_FIELDS & line.keys():
        return 'this is the body of a request, not a record; put it under "value", beside "key" and "timestamp"'
    if "topic" in line:
        return "this is a record that replay has published, with its topic; the input holds update records"
    if missing := [f'"{name}"' for name in ("value", "timestamp") if name not in line]:
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
    if unknown := line.keys() - _Form.__annotations__.keys():
        return f'there is no field "{min(unknown)}" in a line'
    if isinstance(line["value"], list):
        return '"value" is a JSON array; `session-worker send --split` makes a record of each of its elements'
    for name in ("timestamp", "partition", "offset"):
        number = line.get(name, 0)
        if type(number) is not int:
            hint = f"{number:.0f}" if isinstance(number, float) and number.is_integer() else "an integer"
            unit = ", milliseconds since 1970" if name == "timestamp" else ""
            return f'"{name}" is {json.dumps(number)[:50]}; write {hint}{unit}'
    return None
