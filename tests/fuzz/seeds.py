"""Writes the inputs that fuzzing begins with into tests/fuzz/corpus: the simulator's records, and those of tests."""

from base64 import b64encode
from collections import defaultdict
from pathlib import Path

import orjson

from tests.contract.test_against_the_oracle import SEEDS
from tests.fuzz.target import records, written
from worker.local.simulator.day import simulate
from worker.testing import StreamDriver

_SMALL_BYTES = 800  # what is small is tried more often
_SESSIONS, _RECORDS = 40, 6
Written = tuple[bytes, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


def main() -> None:
    """Write all seeds."""
    folder = Path(__file__).parent / "corpus"
    folder.mkdir(exist_ok=True)
    sessions: dict[str | None, list[Written]] = defaultdict(list)
    for line in simulate(5_000, 1):
        if len(orjson.dumps(line)) < _SMALL_BYTES and len(sessions[line["key"]]) < _RECORDS:
            sessions[line["key"]].append(_line(line))
    seen: set[bytes] = set()
    for number, some in enumerate(sessions.values()):
        data = written(*some)
        shown = _outcomes(data)
        if number < _SESSIONS or not shown <= seen:
            (folder / f"simulated-{number:03d}").write_bytes(data)
        seen |= shown
    one: list[Written] = [(b"\x00", b"s-1", orjson.dumps(seed), ()) for seed in SEEDS]
    (folder / "all-kinds").write_bytes(written(*one))
    (folder / "all-kinds-astray").write_bytes(written(*((b"\x60", b"s-1", value, ()) for _, _, value, _ in one)))
    (folder / "wrapped").write_bytes(
        written(
            *(
                (b"\x80", b"s-1", bytes([how]) + (value or b""), ())
                for how in (1, 2, 4, 5)
                for _, _, value, _ in one[:4]
            )
        )
    )
    envelopes = [
        b'{"id":"e-7","time":"2026-11-22T10:00:00Z","subject":"s-1","data":%s}' % (value or b"")
        for _, _, value, _ in one
    ]
    content_type = (("Content-Type", b"application/cloudevents+json"),)
    binary = (("ce_id", b"e-8"), ("ce_time", b"2026-11-22T10:00:00Z"), ("ce_subject", b"s-2"))
    events: list[Written] = [(b"\x04", None, envelope, content_type) for envelope in envelopes]
    events += [(b"\x00", b"s-1", b'{"id":"e-9","data_base64":"%s"}' % b64encode(one[0][2] or b""), content_type)]
    events += [(b"\x04", None, one[-1][2], binary), (b"\x00-1", b"s-1", one[0][2], binary)]
    (folder / "events").write_bytes(written(*events))
    closed = orjson.dumps(SEEDS[1])
    origin = (("worker-origin", b"session-updates/1/7/1795372800000"), ("worker-origin-key", b"s-2"))
    claim = orjson.dumps({"integrationId": "s-1", "created": "2026-11-22T09:00:00.000Z", "dry": False})
    verdict = orjson.dumps({"profileId": "p-1", "created": "2026-11-22T09:00:00.000Z", "dry": False, "answer": "first"})
    told = (("ce_id", b"session-updates/0/0"), ("ce_time", b"2026-11-22T09:00:00.000Z"))
    forged: list[Written] = [
        (b"\x01", b"s-1", closed, origin),
        (b"\x01", b"s-1", closed, ()),
        (b"\x00", b"s-1", one[0][2], (("worker-events", b"x" * 32),)),
        (b"\x02", b"p-1", claim, told),
        (b"\x03", b"s-1", verdict, told),
        (b"\x0a", b"p-1", None, ()),
        (b"\x08", b"s-1", None, ()),
        (b"\x04", None, closed, ()),
        (b"\x00-5", b"", b"\x80{", (("traceparent", b"00-1-2-3"), ("rejection-code", b"x"))),
    ]
    (folder / "forged").write_bytes(written(*forged))


def _outcomes(data: bytes) -> set[bytes]:
    """Name what comes of an input: events, and codes of rejections."""
    driver = StreamDriver()
    for _topic, update in records(data):
        driver.send(update)
    driver.run()
    headers = [dict(record.headers) for record in driver.published()]
    return {it.get("ce_type") or it.get("rejection-code", b"") for it in headers}


def _line(line: dict) -> Written:
    value, key = line["value"], line["key"]
    raw = orjson.dumps(value) if isinstance(value, dict) else None if value is None else value.encode()
    bits = (key is None) << 2 | (raw is None) << 3
    headers = tuple((name, text.encode()) for name, text in line.get("headers", {}).items())
    return bytes([bits]) + str(line["timestamp"]).encode(), None if key is None else key.encode(), raw, headers


if __name__ == "__main__":
    main()
