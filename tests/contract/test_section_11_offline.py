"""Section 11, the offline form: lines in, lines out, and exit status 2 for what is not in the form."""

import json
import os
import pty
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.contract.conftest import CUP, SENT, SENT_AT, SNAPSHOT, TRACE, Till, cart
from worker.cli import main
from worker.codec.lines import BadLine, written
from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.pipeline.replay import Replay
from worker.settings.sources import PREFIX

ROOT = str(Path(__file__).parents[2])
EMPTY: dict[str, Any] = {"customerSession": {}}


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """Run in an empty folder, with default settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def line(value: Any = EMPTY, key: Any = "s-1", timestamp: Any = SENT, **more: Any) -> dict[str, Any]:
    return {"key": key, "value": value, "timestamp": timestamp, **more}


def text_of(*lines: Any) -> bytes:
    """Write lines as JSON Lines; bytes stand for themselves."""
    texts = [one if isinstance(one, bytes) else json.dumps(one, ensure_ascii=False).encode() for one in lines]
    return b"".join(text + b"\n" for text in texts)


def replayed(*lines: Any, **env: str) -> Result:
    """Run the command over a file with these lines."""
    Path("lines.jsonl").write_bytes(text_of(*lines))
    return CliRunner(env=env).invoke(main, ["replay", "lines.jsonl"])


def published(*lines: Any, **env: str) -> list[dict[str, Any]]:
    result = replayed(*lines, **env)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    out: list[dict[str, Any]] = [json.loads(text) for text in result.stdout_bytes.splitlines()]
    for record in out:
        if record["topic"] in ("customer-sessions", "session-dry-runs") and record["value"] is not None:
            SNAPSHOT.validate_json(json.dumps(record["value"]), strict=True)
    return out


def test_a_published_record_is_a_line_with_these_fields_in_this_order():
    (out,) = published(line({**EMPTY, "eventId": "e"}, headers={"traceparent": TRACE, "a": "b"}, partition=3, offset=7))
    assert list(out) == ["topic", "partition", "key", "value", "timestamp", "headers"]
    assert (out["topic"], out["partition"], out["key"], out["timestamp"]) == ("customer-sessions", 3, "s-1", SENT)
    assert (out["value"]["id"], out["value"]["created"]) == (3 * 2**40 + 8, SENT_AT)
    assert out["headers"].pop("worker-events")
    assert out["headers"] == {
        "ce_specversion": "1.0",
        "ce_id": "session-updates/3/7",
        "ce_source": "/applications/1",
        "ce_time": SENT_AT,
        "content-type": "application/json",
        "ce_type": "customersession.created",
        "traceparent": TRACE,
    }


def test_the_bytes_of_a_value_are_those_of_the_live_worker():
    session = {**cart(CUP), "attributes": {"ü": [1.0, "é"]}, "profileId": "p"}
    result = replayed(line({"customerSession": session}))
    raw = Till().update(session).raw
    assert b'"value":' + raw + b"," in result.stdout_bytes


def test_records_come_out_in_order_of_publication_on_topics_by_their_default_names():
    out = published(
        line({"customerSession": {"profileId": "p"}}, "s-1"),
        line({"customerSession": {"x": 1}}, "s-1"),
        line({**EMPTY, "dry": True}, "s-1"),
        line({"customerSession": {"profileId": "p"}}, "s-0", SENT - 1),
        line(None, "s-1"),
    )
    assert [(record["topic"], record["key"]) for record in out] == [
        ("customer-sessions", "s-1"),
        ("session-rejections", "s-1"),
        ("session-dry-runs", "s-1"),
        ("customer-sessions", "s-0"),
        ("customer-sessions", "s-1"),
        ("customer-sessions", "s-1"),
    ]
    assert [record["headers"].get("ce_type", "-").rpartition(".")[2] for record in out] == [
        *("created", "-", "dry_run", "created", "reclassified", "deleted"),
    ]
    assert out[-1]["value"] is None


def test_claims_and_verdicts_are_settled_on_the_spot_and_not_written():
    out = published(*(line({"customerSession": {"profileId": "p"}}, f"s-{number}") for number in range(3)))
    assert {record["topic"] for record in out} == {"customer-sessions"}
    assert [record["value"]["firstSession"] for record in out] == [True, False, False]


def test_no_record_is_a_stray_here():
    out = published(
        line(EMPTY, "s-1", partition=0),
        line({**EMPTY, "integrationId": "s-1"}, "other", partition=5),
        line({**EMPTY, "integrationId": "s-1"}, None, partition=6),
        line(EMPTY, "s-1", partition=7),
    )
    assert {record["topic"] for record in out} == {"customer-sessions"}
    assert [record["value"]["updateCount"] for record in out] == [1, 2, 3, 4]
    assert [record["key"] for record in out] == ["s-1"] * 4
    assert [record["partition"] for record in out] == [0, 5, 6, 7]


def test_a_demoted_session_is_written_in_its_own_partition():
    out = published(
        line({"customerSession": {"profileId": "p"}}, "s-1", partition=4),
        line({"customerSession": {"profileId": "p"}}, "s-0", SENT - 1, partition=2),
    )
    assert [(record["key"], record["partition"]) for record in out] == [("s-1", 4), ("s-0", 2), ("s-1", 4)]


# ----------------------------------------------------------------------------------------------------- input's form


def test_partition_offset_and_headers_have_defaults():
    out = published(
        line(key="s-1"), line(key="s-2"), line(key="s-3", partition=0), line(key="s-4", offset=9), line(key="s-5")
    )
    assert [record["value"]["id"] for record in out] == [1, 2, 3, 10, 11]
    assert {record["partition"] for record in out} == {0}


def test_each_partition_counts_its_own_offsets():
    places = [(1, None), (0, None), (1, None), (0, 5), (1, None), (0, None)]
    lines = []
    for number, (partition, offset) in enumerate(places):
        more = {"partition": partition} if offset is None else {"partition": partition, "offset": offset}
        lines.append(line(key=f"s-{number}", **more))
    ids = [record["headers"]["ce_id"].removeprefix("session-updates/") for record in published(*lines)]
    assert ids == ["1/0", "0/0", "1/1", "0/5", "1/2", "0/6"]


@pytest.mark.parametrize("key", [None, "", "s-1", "ü", "\x00"])
def test_a_key_is_text_or_null(key):
    (out,) = published(line({**EMPTY, "integrationId": "x"}, key))
    assert out["key"] == "x"
    (rejection,) = published(line({"x": 1, "customerSession": {}, "integrationId": "x"}, key))
    assert rejection["key"] == key


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        ('{"customerSession": {"x": 1}}', '{"customerSession":{"x":1}}'),
        ('{"x":1,"customerSession":{}}', '{"x":1,"customerSession":{}}'),
        ('{ "b" : [ 1 , 2 ] ,\t"a" : { } , "x" :\r null }', '{"b":[1,2],"a":{},"x":null}'),
        ('{"x": "a  b , c : d [ ] { }"}', '{"x":"a  b , c : d [ ] { }"}'),
        ('{"x": "\\u00fc\\u0041\\ud83d\\ude00"}', '{"x":"üA😀"}'),
        ('{"\\u00fc": 1}', '{"ü":1}'),
        ('{"x":"\\u0022\\u005c\\u000a"}', '{"x":"\\"\\\\\\n"}'),
        ('{"x": "\\\\u00fc \\" :"}', '{"x":"\\\\u00fc \\" :"}'),
        ('{"x": 1.0, "y": 1e2, "z": -0, "w": 1E400}', '{"x":1.0,"y":1e2,"z":-0,"w":1E400}'),
        ('{"x": 12345678901234567890123}', '{"x":12345678901234567890123}'),
        ('{"b": 1, "a": 2, "b": 3}', '{"b":1,"a":2,"b":3}'),
        ('{"x": "ü"}', '{"x":"ü"}'),
        ("{}", "{}"),
    ],
)
def test_an_object_stands_for_its_compact_json(value, raw):
    """No spaces, non-ASCII unescaped, keys and numbers as written; a rejection shows the bytes."""
    text = '{"key": "s-1", "value": #, "timestamp": 0}'.replace("#", value)
    (out,) = published(text.encode())
    assert (out["topic"], out["value"]) == ("session-rejections", raw)


def test_an_object_and_its_compact_json_as_text_are_the_same_record():
    value = {"eventId": "e", "customerSession": {"attributes": {"ü": "a, b: c", "n": 1.0}}}
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    escaped = json.dumps(line(value)).encode()
    out = published(line(value), line(compact), escaped)
    assert [record["headers"]["ce_type"] for record in out] == ["customersession.created"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "malformed_json"),
        ("no json", "malformed_json"),
        ('{"customerSession": {}', "malformed_json"),
        ('{"customerSession": {"x": 1}}', "unknown_field"),
        ("null", "malformed_json"),
        ("5", "malformed_json"),
        ('"text"', "malformed_json"),
        ("\ufeff{}", "malformed_json"),
        ("ü\x00", "malformed_json"),
        (' { "x" : 1 } ', "unknown_type"),
    ],
)
def test_text_is_the_raw_value_so_that_broken_records_can_be_written_down(value, code):
    (out,) = published(line(value))
    assert out["headers"]["rejection-code"] == code
    assert out["value"] == value


def test_a_valid_record_may_be_written_as_text():
    (out,) = published(line(' { "customerSession" : { "referralCode" : "ü" } } '))
    assert out["value"]["referralCode"] == "ü"


def test_null_is_a_tombstone():
    created, deleted = published(line(EMPTY), line(None))
    assert (created["value"]["integrationId"], deleted["value"]) == ("s-1", None)
    assert deleted["headers"]["ce_type"] == "customersession.deleted"
    (rejection,) = published(line(None, None))
    assert (rejection["topic"], rejection["value"], rejection["key"]) == ("session-rejections", None, None)


def test_a_published_record_that_is_not_utf_8_is_written_in_base64():
    """In a file it can be written down in no other way; a value that is cut may end within a character."""
    (out,) = published(line("ü" * (1 << 20)), SESSION_WORKER_MAX_RECORD_BYTES="7")
    assert (out["base64"], b64decode(out["value"]), b64decode(out["key"])) == (True, "üüü".encode() + b"\xc3", b"s-1")
    assert b64decode(out["headers"]["rejection-code"]) == b"record_too_large"
    (record,) = Replay(Rules()).fold(0, arrived(b"\xffabc"))
    out = json.loads(written(record, "session-rejections"))
    assert (out["base64"], b64decode(out["value"]), b64decode(out["key"])) == (True, b"\xffabc", b"\xfe")
    assert "base64" not in published(line("broken"))[0]


def arrived(value: bytes):
    return ConsumerRecord(0, SENT, b"\xfe", value, (("h", b"\xfd"),))


def test_keys_and_headers_that_are_not_utf_8_are_written_in_base64():
    (record,) = Replay(Rules()).fold(0, arrived(b"{"))
    out = json.loads(written(record, "session-rejections"))
    assert (out["base64"], b64decode(out["key"]), b64decode(out["headers"]["h"])) == (True, b"\xfe", b"\xfd")
    assert b64decode(out["value"]) == b"{"


@pytest.mark.parametrize("timestamp", [0, -1, SENT, 2**63 - 1, -(2**63)])
def test_a_timestamp_is_any_of_kafkas(timestamp):
    (out,) = published(line(timestamp=timestamp))
    assert out["timestamp"] == timestamp


def test_an_empty_input_gives_an_empty_output():
    assert published() == []


def test_a_last_line_without_a_newline_counts():
    result = CliRunner().invoke(main, ["replay", "-"], input=text_of(line())[:-1])
    assert (result.exit_code, len(result.stdout_bytes.splitlines())) == (0, 1)


# ------------------------------------------------------------------------------------------------- not in the form

GOOD = json.dumps(line())
BAD_LINES: list[Any] = [
    b"no json",
    b"{",
    b"[]",
    b"5",
    b'"text"',
    b"null",
    GOOD.encode() + b" " + GOOD.encode(),
    b"\xff",
    b'\xef\xbb\xbf{"key": "s-1", "value": {}, "timestamp": 0}',
    b'{"key": "s-1", "value": "\xff", "timestamp": 0}',
    b'{"key": "s-1", "value": "\\ud800", "timestamp": 0}',
    {"key": "s-1", "timestamp": SENT},
    {"key": "s-1", "value": EMPTY},
    line(timestamp="0"),
    line(timestamp=None),
    line(timestamp=1.5),
    line(timestamp=True),
    line(timestamp=2**63),
    line(key=5),
    line(key=["s-1"]),
    line(5),
    line(1.5),
    line(True),
    line([]),
    line([EMPTY]),
    line(partition="0"),
    line(partition=-1),
    line(partition=8192),
    line(partition=1.5),
    line(partition=None),
    line(offset=-1),
    line(offset="0"),
    line(offset=2**40),
    line(headers=[]),
    line(headers={"a": 1}),
    line(headers={"a": None}),
    line(headers=None),
    line(extra=1),
    line(Key="s-1"),
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda bad: repr(bad)[:60])
def test_a_line_that_is_not_in_the_form_is_exit_status_2_with_its_number(bad):
    result = replayed(line(key="s-1"), line(key="s-2"), bad, line(key="s-3"))
    assert result.exit_code == 2
    assert re.search(r"\bline 3\b", result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stdout_bytes.splitlines()) == 2, "what came before it is written"


@pytest.mark.parametrize(
    "offsets",
    [[0, 0], [5, 5], [5, 4], [5, None, 6], [1, 0]],
)
def test_within_a_partition_offsets_must_rise(offsets):
    lines = [line() if offset is None else line(offset=offset) for offset in offsets]
    result = replayed(*lines)
    assert result.exit_code == 2
    assert f"line {len(lines)}" in result.stderr
    others = [line(key=f"s-{n}", partition=n, offset=offset or 9) for n, offset in enumerate(offsets)]
    assert replayed(*others).exit_code == 0


def test_the_form_is_told_to_callers_as_an_exception_with_the_number():
    with pytest.raises(BadLine, match="line 2") as caught:
        list(Replay(Rules()).lines([text_of(line()), b"oops\n"]))
    assert caught.value.number == 2


def test_an_input_that_cannot_be_read_is_exit_status_2(tmp_path):
    for name in ("missing.jsonl", str(tmp_path)):
        result = CliRunner().invoke(main, ["replay", name])
        assert result.exit_code == 2
        assert name in result.stderr


def test_rejections_are_exit_status_0():
    assert replayed(line("broken"), line({"x": 1})).exit_code == 0


def test_input_and_output_may_be_files(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(text_of(line(), line({"customerSession": {"state": "closed"}})))
    result = CliRunner().invoke(main, ["replay", "in.jsonl", "--output", "out.jsonl"])
    assert (result.exit_code, result.stdout) == (0, "")
    out = (tmp_path / "out.jsonl").read_bytes()
    assert out == replayed(line(), line({"customerSession": {"state": "closed"}})).stdout_bytes
    assert len(out.splitlines()) == 2


def test_the_settings_hold_here_too():
    (out,) = published(line({**EMPTY, "applicationId": 7}), SESSION_WORKER_APPLICATION_ID="7")
    assert out["value"]["applicationId"] == 7
    assert published(line(), line({**EMPTY, "applicationId": 7}), SESSION_WORKER_OTHER_APPLICATIONS="skip")[1:] == []
    lax = published(line({"customerSession": {"x": 1}}), SESSION_WORKER_UNKNOWN_FIELDS="ignore")
    assert [record["topic"] for record in lax] == ["customer-sessions"]
    small = published(line(), SESSION_WORKER_MAX_SNAPSHOT_BYTES="10")
    assert [record["headers"]["rejection-code"] for record in small] == ["session_too_large"]
    both = published(line(), SESSION_WORKER_V1_TOPIC="old")
    assert [record["topic"] for record in both] == ["customer-sessions", "old"]


# --------------------------------------------------------------------------------------------------- as a process


def run(data: bytes, *, hash_seed: str = "0", **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process of its own."""
    env = {**os.environ, "PYTHONPATH": ROOT, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "worker", "replay", "-"]
    return subprocess.run(command, input=data, env=env, check=False, **more)


def test_what_is_wrong_with_standard_input_is_told_alike():
    result = run(text_of(line(), "oops"), capture_output=True)
    assert result.returncode == 2
    assert b"line 2" in result.stderr
    assert b"Traceback" not in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_as_a_module_it_gives_the_same_bytes_whatever_the_hash_seed():
    lines = [
        line(
            {
                "customerSession": {
                    "state": "cancelled" if number == 9 else "closed" if number == 8 else "open",
                    "attributes": {chr(97 + n): n for n in range(number, 26)},
                    "profileId": "p",
                    "couponCodes": ["a"],
                    "identifiers": ["b"],
                }
            },
            f"s-{number % 2}",
        )
        for number in range(10)
    ]
    data = text_of(*lines, line({"customerSession": {"x": 1, "y": 1, "z": 1}, "q": 1}))
    first, second = run(data, capture_output=True), run(data, hash_seed="7", capture_output=True)
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 10


def _all_of(terminal: int) -> bytes:
    """Read a terminal to its end, which it tells by an error."""
    read = b""
    try:
        while more := os.read(terminal, 1 << 16):
            read += more
    except OSError:
        pass
    os.close(terminal)
    return read


def test_a_progress_bar_is_on_standard_error_only_when_that_is_a_terminal(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(text_of(*[line()] * 3000))
    env = {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm"}
    command = [sys.executable, "-m", "worker", "replay", "in.jsonl", "--output", "out.jsonl"]
    reader, writer = pty.openpty()
    with subprocess.Popen(command, env=env, stderr=writer, stdout=subprocess.PIPE) as process:
        os.close(writer)
        shown = _all_of(reader)
        stdout, _none = process.communicate()
    assert (process.returncode, stdout) == (0, b"")
    assert b"100%" in shown
    piped = subprocess.run(command, env=env, capture_output=True, check=True)
    assert (piped.stdout, piped.stderr) == (b"", b"")
