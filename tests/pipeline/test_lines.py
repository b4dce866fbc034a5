"""Records as lines and back, byte for byte; what the contract says of the form is tested with its section 11."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.lines import BadLine, Line, dumped, read
from worker.pipeline.wire import ConsumerRecord

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
    *(b'{"a":' + b"[" * depth + b"]" * depth + b"}" for depth in (700, 780, 790, 800, 900, 960, 1000, 5000)),
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
