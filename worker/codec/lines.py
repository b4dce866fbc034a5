"""Read and write records as JSON Lines, the offline form, without changing a byte of a value.

A line is JSON and therefore text; a record in Kafka can contain any bytes. If the key, the value or a header is not
UTF-8, all of them are in Base64, and the line has `"base64": true`. Of headers with the same name only the last is kept.

A line nests at most 512 levels deep. The limits of the parsers are not used: they depend on the version of Python and on
the depth of the calls. A value that nests deeper is written as a string.
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
"""A valid line, shown in messages."""

_MAX_DEPTH: Final = 512
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class BadLine(Exception):
    """A line of the input is not in the offline form; *number* counts from 1."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number


class Line(msgspec.Struct, frozen=True, gc=False):
    """A record as a line describes it; a field that the line omits is None."""

    number: int
    partition: int | None
    offset: int | None
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class _NotInForm(ValueError):
    """A line cannot be a record; the message is complete."""


class _Form(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    timestamp: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    value: msgspec.Raw
    key: str | None = None
    partition: int | msgspec.UnsetType = msgspec.UNSET
    offset: int | None = None
    headers: dict[str, str] = {}
    base64: bool = False


def read(lines: Iterable[bytes], *, is_split: bool = False) -> Iterator[Line]:
    """Yield the records in the lines of a file. Raise BadLine for a line that is not in the offline form.

    Empty lines are counted and skipped. A byte order mark before the first line is skipped. With *is_split*, each element
    of a JSON array becomes a record, and so does each line of a value with several lines of JSON. These records have the
    same key, timestamp and headers.

    >>> next(read([b'{"key": "s-1", "value": {"type": "reopen"}, "timestamp": 0}'])).value
    b'{"type":"reopen"}'
    """
    decoder = msgspec.json.Decoder(_Form)
    for number, text in enumerate(lines, 1):
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)  # noqa: PLW2901 (the rest of the line)
        if text.isspace() or not text:
            continue
        try:
            if _is_too_deep(text):
                raise _NotInForm(f"the line nests deeper than {_MAX_DEPTH} levels; write the value as a string")
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
        raise _NotInForm(f"partition {partition} is outside 0 to 8191")
    if offset is not None and not 0 <= offset < 1 << 40:
        raise _NotInForm(f"offset {offset} is outside 0 to 2^40 - 1")
    decode = from_base64 if form.base64 else str.encode
    headers = [(name, decode(text)) for name, text in form.headers.items()]
    key = None if form.key is None else decode(form.key)
    return Line(number, partition, offset, form.timestamp, key, _value(form.value, decode), headers)


def _split(number: int, form: _Form) -> list[Line]:
    """Return a record for each element of an array, or for each line of a value with several lines of JSON."""
    if bytes(form.value).startswith(b"["):
        values = [_value(element) for element in _elements(form.value)]
        form.value = msgspec.Raw(b"null")
        return [msgspec.structs.replace(_line(number, form), value=value) for value in values]
    line = _line(number, form)
    return [msgspec.structs.replace(line, value=value) for value in _texts(line.value)]


def _texts(value: bytes | None) -> list[bytes | None]:
    """Return the values in a value: the value alone, unless it is an array or its first line is an object."""
    if value is None:
        return [None]
    lines: list[bytes | None] = [stripped for text in value.split(b"\n") if (stripped := text.strip())]
    for text in (value, lines[0] if lines else None):
        try:
            kind = msgspec.json.decode(text or b"", type=msgspec.Raw)
        except (msgspec.DecodeError, RecursionError):
            continue
        if text is not value:
            return lines if bytes(kind).startswith(b"{") else [value]
        return [bytes(element) for element in _elements(value)] if bytes(kind).startswith(b"[") else [value]
    return [value]


def _elements(array: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    elements = msgspec.json.decode(array, type=list[msgspec.Raw])
    for number, element in enumerate(elements, 1):
        if not bytes(element).startswith(b"{"):
            raise _NotInForm(f"element {number} of the array is not a JSON object")
    return elements


def written(record: ProducerRecord, rejections: str) -> bytes:
    """Return a published record as a line of the output; the value of a rejection is a string, any other is JSON."""
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
    r"""Return a record as a line from which `read` restores the same bytes.

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
    """Return the value of a line: None for null, the bytes of a string, or the compact JSON of an object.

    msgspec removes white space and keeps numbers, escapes and the order of keys. This takes 0.8 µs; a search for white
    space took 1.9 µs.
    """
    text = msgspec.json.format(raw, indent=-1)
    if text == b"null":
        return None
    if text.startswith(b'"'):
        return decode(msgspec.json.decode(text, type=str))
    if not text.startswith(b"{") or decode is not str.encode:
        raise ValueError("value must be an object, a string or null")
    return _STRINGS.sub(_unescaped, text) if b"\\" in text and b"\\u" in text else text


def _unescaped(string: re.Match[bytes]) -> bytes:
    """Return the character of an escape sequence."""
    return orjson.dumps(orjson.loads(string[0])) if b"\\u" in string[0] else string[0]


def _stands_for_itself(value: bytes) -> bool:
    """Return True if a value can be written as an object from which a reader restores its bytes."""
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
    """Return True if JSON nests deeper than *levels*; a text with few brackets passes after a count (0.1 µs a line)."""
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
    _BYTE_ORDER_MARK: "text with a byte order mark, which is only allowed at the beginning of the file",
    b"PK\x03\x04": "an Excel workbook or another ZIP archive; export its rows as JSON Lines",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; export its rows as JSON Lines",
    b"PAR1": "a Parquet file; export its rows as JSON Lines",
    b"Obj\x01": "an Avro file; export its records as JSON Lines",
    b"ORC": "an ORC file; export its rows as JSON Lines",
    b"SQLite format 3": "an SQLite database; export its rows as JSON Lines",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "gzip data within the file; decompress the file a second time",
    b"\x28\xb5\x2f\xfd": "zstd data within the file; decompress the file a second time",
    b"BZh": "a bzip2 file; decompress the file, or use gzip or zstd",
    b"\xfd7zXZ": "an xz file; decompress the file, or use gzip or zstd",
    b"\x04\x22\x4d\x18": "an lz4 file; decompress the file, or use gzip or zstd",
    b"<": "XML or HTML",
    b"---": "YAML",
}
"""The kind of a file, by its first bytes."""
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
    """Return the fault of a line that is not in the form; None if the parser's message is better."""
    for magic, kind in _KINDS.items():
        if text.startswith(magic):
            return f"this is {kind}"
    if text[257:262] == b"ustar":
        return "this is a tar archive; extract the file from the archive"
    if b"\x00" in text:
        return f"this is {'UTF-16 text; save the file as UTF-8' if text[:2].count(0) == 1 else 'not text'}"
    try:
        line = text.decode().strip()
    except UnicodeDecodeError:
        return "this is not UTF-8; save the file as UTF-8"
    if line.startswith("["):
        return f"this is a JSON array, not JSON Lines; {_A_LINE} '.[]'` converts the file"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return _fault_of_text(line)
    return _fault_of_object(found) if isinstance(found, dict) else "this is not a JSON object"


def _fault_of_text(line: str) -> str | None:
    """Return the fault of a line of text that is not JSON."""
    if not line.startswith("{"):
        delimiter = next((mark for mark in (",", ";", "\t", "|") if mark in line), None)
        if delimiter is None or line.startswith(("}", "]")):
            return "this is not a JSON object"
        return f"this looks like CSV (with {delimiter!r} between columns), not JSON Lines"
    if line.startswith(("{'", "{ '")):
        return "this is a Python dict, not JSON; write the record with json.dumps"
    if line.endswith(("{", "[", ",")):
        return f"this is the beginning of pretty-printed JSON; {_A_LINE} .` converts the file"
    return None


def _fault_of_object(line: dict[str, Any]) -> str | None:
    """Return the fault of a JSON object that is not a valid line."""
    if "value" not in line and "timestamp" not in line and _BODY_FIELDS & line.keys():
        return 'this is the body of a request, not a record; put the body under "value", beside "key" and "timestamp"'
    if "topic" in line:
        return "this is an output record of replay, with its topic; the input must contain update records"
    if missing := [f'"{name}"' for name in ("value", "timestamp") if name not in line]:
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
    if unknown := line.keys() - _Form.__annotations__.keys():
        return f'"{min(unknown)}" is not a field of a line'
    if isinstance(line["value"], list):
        return '"value" is a JSON array; `session-worker send --split` sends each element as one record'
    for name in ("timestamp", "partition", "offset"):
        number = line.get(name, 0)
        if type(number) is not int:
            hint = f"{number:.0f}" if isinstance(number, float) and number.is_integer() else "an integer"
            unit = ", milliseconds since 1970" if name == "timestamp" else ""
            return f'"{name}" is {json.dumps(number)[:50]}; write {hint}{unit}'
    return None
