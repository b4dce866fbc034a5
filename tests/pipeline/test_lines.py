"""Records as lines and back, byte for byte; what the contract says of the form is tested with its section 11."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.codec.lines import FORM, BadLine, Line, dumped, read, written
from worker.codec.records import ConsumerRecord, ProducerRecord

VALUES = (
    None,
    b"",
    b"null",
    b'"text"',
    b'{"type":"reopen"}',
    b'{"type": "reopen"}',
    b'{"b":1.0,"a":2e0,"a":12345678901234567890123}',
    '{"name":"Żółty 抹茶"}'.encode(),
    rb'{"name":"\u00fc"}',
    rb'{"name":"\ud83d"}',
    rb'{"name":"a\"b\\c\nd\/e"}',
    b'{"a":1}\n',
    b'{"a":1},"b":2',
    b'{"a":1},{"b":2}',
    b'{"a":1',
    b'{"a":1e400}',
    b'{"a":NaN}',
    b'{"a":"\n"}',
    b'{"a":"\xff"}',
    b"\x00\xff\xfe",
    b'\xef\xbb\xbf{"a":1}',
    b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    *(b'{"a":' + b"[" * depth + b"]" * depth + b"}" for depth in (509, 510, 511, 512, 700, 1000, 5000)),
)


def back(text: bytes) -> Line:
    (line,) = read([text])
    return line


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("key", [None, b"", b"s-1", "ß".encode(), b"\xff"])
def test_a_record_that_is_dumped_is_read_byte_for_byte(key, value):
    headers = [("traceparent", b"00-1"), ("ü", "ö".encode())]
    text = dumped(3, ConsumerRecord(7, 1795372800000, key, value, headers))
    assert text.count(b"\n") == 1
    assert back(text) == Line(1, 3, 7, 1795372800000, key, value, headers)


@given(st.none() | st.binary(), st.none() | st.binary(), st.dictionaries(st.text(), st.binary()), st.integers(0, 2**62))
def test_any_bytes_come_back_from_a_line(key, value, headers, timestamp):
    record = ConsumerRecord(0, timestamp, key, value, list(headers.items()))
    assert back(dumped(0, record)) == Line(1, 0, 0, timestamp, key, value, list(headers.items()))


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.floats() | st.text(), st.lists)), st.booleans())
def test_any_json_comes_back_as_it_was_written(value, ascii_only):
    for separators in ((",", ":"), (", ", ": ")):
        raw = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
        assert back(dumped(0, ConsumerRecord(0, 0, b"s-1", raw))).value == raw


def test_compact_json_is_dumped_as_json_and_all_else_as_text():
    def value(raw):
        return orjson.loads(dumped(0, ConsumerRecord(0, 0, b"s-1", raw)))["value"]

    assert value(b'{"type":"reopen"}') == {"type": "reopen"}
    assert value(b'{"type": "reopen"}') == '{"type": "reopen"}'
    assert value(b"[]") == "[]"


def test_of_headers_with_one_name_the_last_that_has_a_value_is_dumped():
    headers: Any = [("a", b"1"), ("a", b"2"), ("a", None), ("b", None)]  # aiokafka gives null as None
    assert back(dumped(0, ConsumerRecord(0, 0, None, None, headers))).headers == [("a", b"2")]


def test_what_is_not_utf_8_is_in_base64_all_of_it():
    line = orjson.loads(dumped(0, ConsumerRecord(0, 0, b"s-1", b"\xff", [("a", b"b")])))
    assert (line["base64"], line["key"], line["value"], line["headers"]) == (True, "cy0x", "/w==", {"a": "Yg=="})


def test_a_line_tells_no_partition_that_it_does_not_name():
    line = back(b'{"value": null, "timestamp": 0}')
    assert (line.partition, line.offset) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        b'{"value": {}, "timestamp": 0, "base64": true}',
        b'{"value": "?", "timestamp": 0, "base64": true}',
        b'{"value": null, "key": "s-1", "timestamp": 0, "base64": true}',
        b'{"value": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b', "timestamp": 0}',
    ],
    ids=["an object in Base64", "a value not in Base64", "a key not in Base64", "nested too deep"],
)
def test_a_bad_line_is_named(text):
    lines = read([b"\n", text])
    with pytest.raises(BadLine, match="line 2: ") as found:
        next(lines)
    assert found.value.number == 2


# ----------------------------------------------------------------------------------------------------------- depth


def nested(depth: int) -> bytes:
    """Write a line that nests so deep, the line's own object included."""
    return b'{"timestamp": 0, "value": ' + b'{"a":' * (depth - 1) + b"1" + b"}" * (depth - 1) + b"}"


def test_a_line_may_nest_512_levels_deep_on_every_python():
    assert back(nested(512)).value == b'{"a":' * 511 + b"1" + b"}" * 511
    with pytest.raises(BadLine, match=r"^line 1: the line nests deeper than 512 levels; write the value as a string"):
        back(nested(513))


@pytest.mark.parametrize("value", [b'{"a":[' + b"[]," * 600 + b"[]]}", b'{"a":"' + b"[" * 600 + rb"\"{\\" + b'"}'])
def test_brackets_side_by_side_and_in_strings_are_not_levels(value):
    assert back(b'{"timestamp": 0, "value": ' + value + b"}").value == value
    assert back(dumped(0, ConsumerRecord(0, 0, None, value))).value == value
    assert b'"value":{' in dumped(0, ConsumerRecord(0, 0, None, value))


# ------------------------------------------------------------------------------------------- kinds of wrong files

TIME = 1795372800000
GOOD = b'{"key": "s-1", "value": {}, "timestamp": 0}'
BODY = '{"customerSession": {"state": "open"}}'
KINDS: dict[str, tuple[bytes, str]] = {
    "CSV": (b"key,value,timestamp\n", "this looks like CSV (with ',' between columns), not JSON Lines"),
    "CSV, semicolon": (b'"key";"value"\n', "this looks like CSV (with ';' between columns), not JSON Lines"),
    "TSV": (b"key\tvalue\n", r"this looks like CSV (with '\t' between columns), not JSON Lines"),
    "CSV, quoted": (b'"key","value"\n', "this looks like CSV (with ',' between columns), not JSON Lines"),
    "UTF-16, BOM": ("\ufeff{}".encode("utf-16-le"), "this is UTF-16 text; save the file as UTF-8"),
    "UTF-16, BE": ("\ufeff{}".encode("utf-16-be"), "this is UTF-16 text; save the file as UTF-8"),
    "UTF-16, no BOM": ('{"key"'.encode("utf-16-le"), "this is UTF-16 text; save the file as UTF-8"),
    "UTF-32": ("\ufeff{}".encode("utf-32-le"), "this is UTF-32 text; save the file as UTF-8"),
    "Latin-1": ('{"key": "\xfc"}'.encode("latin-1"), "this is not UTF-8; save the file as UTF-8"),
    "array": (
        b"[" + GOOD + b"]\n",
        "this is a JSON array, not JSON Lines; each record is one line: `jq -c '.[]'` converts the file",
    ),
    "array, pretty": (
        b"[\n",
        "this is a JSON array, not JSON Lines; each record is one line: `jq -c '.[]'` converts the file",
    ),
    "pretty": (
        b"{\n",
        "this is the beginning of pretty-printed JSON; each record is one line: `jq -c .` converts the file",
    ),
    "pretty, later": (
        b'{ "key": "s-1",\n',
        "this is the beginning of pretty-printed JSON; each record is one line: `jq -c .` converts the file",
    ),
    "end of pretty": (b"},\n", "this is not a JSON object"),
    "body": (
        BODY.encode(),
        'this is the body of a request, not a record; put the body under "value", beside "key" and "timestamp"',
    ),
    "bare body": (
        b'{"cartItems": []}',
        'this is the body of a request, not a record; put the body under "value", beside "key" and "timestamp"',
    ),
    "output": (
        b'{"topic": "t", "value": {}, "timestamp": 0}',
        "this is an output record of replay, with its topic; the input must contain update records",
    ),
    "pandas": (
        b'{"value": {}, "timestamp": 1795372800000.0}',
        '"timestamp" is 1795372800000.0; write 1795372800000, milliseconds since 1970',
    ),
    "pandas, partition": (b'{"value": {}, "timestamp": 0, "partition": 1.0}', '"partition" is 1.0; write 1'),
    "half a millisecond": (
        b'{"value": {}, "timestamp": 0.5}',
        '"timestamp" is 0.5; write an integer, milliseconds since 1970',
    ),
    "ISO time": (
        b'{"value": {}, "timestamp": "2026-11-23T00:00:00Z"}',
        '"timestamp" is "2026-11-23T00:00:00Z"; write an integer, milliseconds since 1970',
    ),
    "null time": (
        b'{"value": {}, "timestamp": null}',
        '"timestamp" is null; write an integer, milliseconds since 1970',
    ),
    "true offset": (b'{"value": {}, "timestamp": 0, "offset": true}', '"offset" is true; write an integer'),
    "no time": (b'{"value": {}}', '"timestamp" is missing'),
    "nothing": (b"{}", '"value" and "timestamp" are missing'),
    "misspelt": (b'{"value": {}, "timestamp": 0, "Key": "s-1"}', '"Key" is not a field of a line'),
    "array as value": (
        b'{"value": [], "timestamp": 0}',
        '"value" is a JSON array; `session-worker send --split` sends each element as one record',
    ),
    "number as value": (b'{"value": 5, "timestamp": 0}', "value must be an object, a string or null"),
    "key of another type": (
        b'{"key": 5, "value": {}, "timestamp": 0}',
        "Expected `str | null`, got `int` - at `$.key`",
    ),
    "partition": (b'{"value": {}, "timestamp": 0, "partition": -1}', "partition -1 is outside 0 to 8191"),
    "offset": (b'{"value": {}, "timestamp": 0, "offset": -1}', "offset -1 is outside 0 to 2^40 - 1"),
    "Excel": (b"PK\x03\x04\x14\x00", "this is an Excel workbook or another ZIP archive; export its rows as JSON Lines"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1", "this is an Excel workbook; export its rows as JSON Lines"),
    "Parquet": (b"PAR1\x15\x04", "this is a Parquet file; export its rows as JSON Lines"),
    "bzip2": (b"BZh91AY", "this is a bzip2 file; decompress the file, or use gzip or zstd"),
    "tar": (b"updates.jsonl" + bytes(244) + b"ustar", "this is a tar archive; extract the file from the archive"),
    "binary": (b"\x7fELF\x02\x00\x00", "this is not text"),
    "HTML": (b"<html>\n", "this is XML or HTML"),
    "BOM in the middle": (
        b"\xef\xbb\xbf{}",
        "this is text with a byte order mark, which is only allowed at the beginning of the file",
    ),
    "Python": (b"{'key': 's-1'}", "this is a Python dict, not JSON; write the record with json.dumps"),
    "text": (b"hello\n", "this is not a JSON object"),
    "number": (b"5\n", "this is not a JSON object"),
    "cut off": (b'{"key": "s-1', "Input data was truncated"),
    "two on a line": (GOOD + GOOD, "JSON is malformed: trailing characters (byte 44)"),
}


@pytest.mark.parametrize(("text", "told"), KINDS.values(), ids=KINDS)
def test_the_error_says_what_the_line_is_and_shows_a_valid_one(text, told):
    with pytest.raises(BadLine) as found:
        list(read([b"\n", text]))
    assert str(found.value) == f"line 2: {told}. A valid line is {FORM}"
    assert "\n" not in str(found.value)


def test_the_valid_line_that_errors_show_is_valid():
    assert back(FORM.encode()).value == b'{"customerSession":{"state":"open"}}'


def test_a_byte_order_mark_is_skipped_at_the_beginning_only():
    mark = b"\xef\xbb\xbf"
    assert [it.number for it in read([mark + GOOD, GOOD])] == [1, 2]
    assert list(read([mark])) == list(read([mark + b"\n"])) == list(read([b""])) == []
    with pytest.raises(BadLine, match=r"^line 2: this is text with a byte order mark"):
        list(read([GOOD, mark + GOOD]))


# ----------------------------------------------------------------------------------------------------------- split


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ([{"a": 1}, {"b": [2.0]}], [b'{"a":1}', b'{"b":[2.0]}']),
        ([], []),
        (' [{"a": 1}, {"b":2} ]\n', [b'{"a": 1}', b'{"b":2}']),
        ('{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        ('{"a":1}\r\n\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
        ('{"a":1}\nbroken', [b'{"a":1}', b"broken"]),
        ('{\n"a":1\n}', [b'{\n"a":1\n}']),
        ("broken\n{}", [b"broken\n{}"]),
        ("5\n6", [b"5\n6"]),
        ({"a": [1]}, [b'{"a":[1]}']),
        (None, [None]),
        ("", [b""]),
        ("5", [b"5"]),
    ],
    ids=repr,
)
def test_split_makes_records_of_an_array_and_of_lines_of_json(value, values):
    line = {"key": "s-1", "value": value, "timestamp": TIME, "partition": 3, "headers": {"a": "b"}}
    found = list(read([b"\n", json.dumps(line).encode()], is_split=True))
    assert [it.value for it in found] == values
    assert all(it[:4] == (2, 3, None, TIME) and it[6:] == ([("a", b"b")],) for it in map(tuple_of, found))


def tuple_of(line: Line) -> tuple[Any, ...]:
    return (line.number, line.partition, line.offset, line.timestamp, line.key, line.value, line.headers)


@pytest.mark.parametrize("value", [[1], '["a"]', [{}, None]])
def test_split_refuses_an_element_that_is_no_object(value):
    with pytest.raises(BadLine, match=r"^line 1: element [12] of the array is not a JSON object\. A valid line"):
        list(read([json.dumps({"value": value, "timestamp": 0}).encode()], is_split=True))


# ---------------------------------------------------------------------------------------------------------- output


def test_published_bytes_that_are_not_utf_8_are_written_in_base64():
    record = ProducerRecord("session-rejections", 0, b"\xff", b"{", 0, [("h", b"x")])
    line = orjson.loads(written(record, "session-rejections"))
    assert (line["base64"], line["key"], line["value"], line["headers"]) == (True, "/w==", "ew==", {"h": "eA=="})
