"""What a person reads of a record; sending, dumping and following is tested on a real Kafka."""

from types import SimpleNamespace

import pytest

from worker.tools.topics import line_of


def record(value, headers=(), key=b"s-1"):
    return SimpleNamespace(key=key, value=value, headers=tuple(headers), timestamp=1795372800000)


UPDATED = (("ce_type", b"customersession.updated"), ("worker-events", b"x"))
REJECTED = (("rejection-code", b"invalid_field"), ("rejection-pointer", b"/a"), ("rejection-message", b"It is wrong."))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (record(b'{"state":"open","total":30.0,"updateCount":3}', UPDATED), "updated s-1 open 30.0 3"),
        (record(b'{"state":"open","total":1.5}', [("ce_type", b"v1.customersession.closed")]), "closed s-1 open 1.5"),
        (record(None, [("ce_type", b"customersession.deleted")]), "deleted s-1 deleted"),
        (record(b"{", REJECTED), "rejected s-1 invalid_field /a It is wrong."),
        (record(b"?", REJECTED, None), "rejected invalid_field /a It is wrong."),
        (record(b"what\xff", ()), "– s-1 what\ufffd"),
        (record(b"[]", UPDATED), "updated s-1 []"),
        (record(b"a\x1b[2J\nb", (), b"\x1bc"), "– \ufffdc a\ufffd[2J\ufffdb"),
    ],
)
def test_a_record_is_one_line_that_does_nothing_to_a_terminal(given, told):
    assert line_of(given).split() == ["2026-11-22T18:40:00.000Z", *told.split()]
    assert line_of(given).isprintable()
