"""The replay's own doing: lines and what stands between them; what it publishes is tested with the contract."""

import orjson
import pytest

from worker.codec.lines import BadLine
from worker.domain.limits import Rules
from worker.pipeline.replay import Replay

LINE = b'{"key": "s-1", "timestamp": 1795372800000, "value": {"customerSession": {}}}\n'


def replayed(*lines: bytes) -> list:
    return [record for published in Replay(Rules()).lines(lines) for record in published]


def test_empty_lines_count_but_mean_nothing():
    assert len(replayed(LINE, b"\n", b"  \r\n", LINE)) == 2
    with pytest.raises(BadLine, match="line 3: "):
        replayed(LINE, b"\n", b"{\n")


def test_what_came_before_a_bad_line_is_published():
    replay = Replay(Rules())
    published = replay.lines([LINE, b"?\n"])
    assert len(next(published)) == 1
    with pytest.raises(BadLine):
        next(published)
    assert replay.counts()["created"] == 1


def test_a_line_with_a_lone_surrogate_is_no_json():
    with pytest.raises(BadLine, match="line 2: "):
        replayed(LINE, LINE.replace(b"{}}", b'{"profileId": "\\ud800"}}'))


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 3000])
def test_sessions_are_the_same_however_many_records_there_were(count):
    replay = Replay(Rules())
    for number in range(count):
        line = {"key": f"s-{number % 700}", "timestamp": number, "value": {"customerSession": {"profileId": "p"}}}
        list(replay.lines([orjson.dumps(line)]))
    sessions = {session["integrationId"]: session["updateCount"] for session in replay.sessions()}
    assert sum(sessions.values()) == count
    assert replay.records == count
