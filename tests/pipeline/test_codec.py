"""Record bytes to requests and back: origins, private state, claims and verdicts, rejections that have to fit."""

import sys
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from worker.codec.claims import (
    ClaimMessage,
    VerdictMessage,
    decode_claim,
    decode_verdict,
    encode_claim,
    encode_first_claim,
    encode_verdict,
)
from worker.codec.headers import REJECTION_HEADERS, Cause, encode_rejection, encode_stray, origin_of_stray
from worker.codec.records import ConsumerRecord, Origin
from worker.codec.snapshot import (
    add_event_id,
    as_first_session,
    check_event_id,
    encode_json,
    entry_from_changelog,
    event_entry,
    join_entry,
    newest_origin,
    split_entry,
)
from worker.domain.profile import Claim
from worker.domain.rejections import Rejection

headers = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=20)), max_size=5)
origins = st.builds(
    Origin,
    st.text(min_size=1, max_size=20),
    st.integers(0, 8191),
    st.integers(0, 2**40 - 1),
    st.integers(-(2**62), 2**62),
    st.none() | st.binary(max_size=20),
    headers,
)


def test_newest_origin_counts_snapshots_of_one_partition_only():
    def snapshot(*names):
        return ConsumerRecord(0, 0, b"s-1", b"{}", [("ce_specversion", b"1.0"), *(("ce_id", name) for name in names)])

    seen = [
        snapshot(b"in/1/7"),
        snapshot(b"in/1/12"),
        snapshot(b"in/1/3"),
        snapshot(b"in/2/99"),
        snapshot(b"in/1/88/reclassified"),
    ]
    assert newest_origin([*seen, snapshot(), ConsumerRecord(0, 0, b"s-1", None)], b"in/1/") == 12
    assert newest_origin(seen, b"other/1/") == -1


@given(origins, st.binary(max_size=20))
def test_a_stray_keeps_its_origin_its_key_and_its_headers(origin, value):
    sent = encode_stray("session-updates-rekeyed", 3, b"s-1", value, origin)
    assert (sent.value, sent.key, sent.partition, sent.timestamp) == (value, b"s-1", 3, origin.timestamp)
    arrived = ConsumerRecord(0, sent.timestamp, sent.key, sent.value, sent.headers)
    assert origin_of_stray(arrived) == origin


def test_origin_headers_of_a_producer_are_ordinary_headers_of_a_stray():
    forged = [("worker-origin", b"elsewhere/7/7/7"), ("worker-origin-key", b"x")]
    origin = Origin("session-updates", 1, 2, 3, None, forged)
    sent = encode_stray("session-updates-rekeyed", 0, b"s-1", b"{}", origin)
    assert origin_of_stray(ConsumerRecord(0, 3, sent.key, sent.value, sent.headers)) == origin


@pytest.mark.parametrize(
    "forged",
    [
        [],
        [("other", b"session-updates/1/2/3")],
        [("worker-origin", b"session-updates/1/2")],
        [("worker-origin", b"session-updates/1/2/x")],
        [("worker-origin", b"session-updates/-1/2/3")],
        [("worker-origin", b"session-updates/8192/2/3")],
        [("worker-origin", b"session-updates/1/1099511627776/3")],
        [("worker-origin", b"session-updates/1/2/9223372036854775808")],
        [("worker-origin", b"\xff/1/2/3")],
        [("worker-origin-key", b"s-1")],
        [("worker-origin", b"session-updates/1/2/3"), ("other", b"")],
    ],
)
def test_headers_that_tell_no_origin_tell_none(forged):
    assert origin_of_stray(ConsumerRecord(0, 0, b"s-1", b"{}", forged)) is None


@given(st.binary(max_size=50).filter(lambda snapshot: b"\n" not in snapshot), st.binary(max_size=50))
def test_what_is_packed_can_be_unpacked(snapshot, events):
    assert split_entry(join_entry(snapshot, events)) == (snapshot, events)


def test_the_changelog_gives_the_table_entry_back():
    private = [("ce_id", b"x"), ("worker-events", b"remembered")]
    assert entry_from_changelog(ConsumerRecord(0, 0, b"s-1", b"{}", private)) == join_entry(b"{}", b"remembered")
    assert entry_from_changelog(ConsumerRecord(0, 0, b"s-1", b"{}")) == b"{}"
    assert entry_from_changelog(ConsumerRecord(0, 0, b"s-1", None)) is None


def test_only_the_field_first_session_is_rewritten():
    hostile = {"firstSession": False, "updateCount": 1}
    session = {"attributes": {"a": hostile, "b": '"firstSession":false,"updateCount":'}, **hostile, "total": 0.0}
    rewritten = orjson.loads(as_first_session(orjson.dumps(session)))
    assert rewritten == {**session, "firstSession": True}


def test_thirty_two_event_ids_are_remembered():
    entries = [event_entry(f"e-{number}", b"{}") for number in range(33)]
    events = b""
    for entry in entries:
        assert check_event_id(events, entry) == "new"
        events = add_event_id(events, entry)
    assert check_event_id(events, entries[0]) == "new"
    assert check_event_id(events, entries[1]) == "duplicate"
    assert check_event_id(events, event_entry("e-1", b"{ }")) == "reused"
    assert len(events) == 32 * 32


def test_digests_are_compared_where_they_begin():
    events = b"a" * 16 + b"b" * 16 + b"c" * 16 + b"d" * 16
    assert check_event_id(events, b"b" * 16 + b"c" * 16) == "new"


WHAT = Cause("session-updates/0/7", "2026-11-22T10:00:00.000Z", 17, b"00-trace")
CLAIM = Claim("2026-11-22T10:00:00.000Z", "s-ä")


@pytest.mark.parametrize("what", [WHAT, structs.replace(WHAT, traceparent=None)])
@pytest.mark.parametrize("dry", [True, False])
def test_claims_and_verdicts_arrive_as_they_were_sent(what, dry):
    claim = ClaimMessage("p-ü", CLAIM, dry, what)
    sent = encode_claim("profile-claims", 3, claim)
    assert sent.key == "p-ü".encode()
    assert decode_claim(ConsumerRecord(0, sent.timestamp, sent.key, sent.value, sent.headers)) == claim
    verdict = VerdictMessage("p-ü", CLAIM, dry, "demoted", what)
    sent = encode_verdict("profile-verdicts", 3, verdict)
    assert sent.key == "s-ä".encode()
    assert decode_verdict(ConsumerRecord(0, sent.timestamp, sent.key, sent.value, sent.headers)) == verdict


@given(st.none() | st.binary(max_size=30) | st.just(b"{}") | st.just(b"[]"), st.none() | st.binary(max_size=9), headers)
def test_what_no_stage_wrote_is_no_claim_and_no_verdict(value, key, strange):
    record = ConsumerRecord(0, 0, key, value, strange)
    assert decode_claim(record) is None
    assert decode_verdict(record) is None


ORIGIN = Origin("session-updates", 2, 7, 17, b"s-1", [("a", b"1"), ("rejection-code", b"old"), ("b", b"2")])
WHY = Rejection("invalid_field", "/type", "It is wrong.")


def test_a_rejection_sent_again_has_the_new_reason_only():
    headers = encode_rejection("session-rejections", 2, b"{}", ORIGIN, WHY, 100).headers
    assert [name for name, _value in headers] == ["a", "b", *REJECTION_HEADERS]
    assert dict(headers)["rejection-code"] == b"invalid_field"


def cut(record) -> bytes | None:
    return dict(record.headers).get("rejection-cut")


def test_a_record_that_is_too_large_but_fits_comes_out_whole():
    record = encode_rejection("session-rejections", 2, b"v" * 200, ORIGIN, WHY, 100)
    assert (record.value, cut(record)) == (b"v" * 200, None)


def test_what_would_not_fit_is_cut_and_named():
    huge = structs.replace(ORIGIN, key=b"k" * 100_000)
    record = encode_rejection("session-rejections", 2, b"v" * 200, huge, WHY, 100)
    assert (record.value, record.key, cut(record)) == (b"v" * 100, b"k" * 65_536, b"value,headers,key")
    assert [name for name, _value in record.headers] == [*REJECTION_HEADERS, "rejection-cut"]
    wide = structs.replace(ORIGIN, headers=[("a", b"1" * 70_000)])
    record = encode_rejection("session-rejections", 2, None, wide, WHY, 100)
    assert (record.value, record.key, cut(record)) == (None, b"s-1", b"headers")
    record = encode_rejection("session-rejections", 2, b"v" * 66_000, ORIGIN, WHY, 100)
    assert (record.value, cut(record)) == (b"v" * 100, b"value")


def test_a_pointer_into_long_names_leads_as_deep_as_fits():
    why = WHY._replace(pointer="/customerSession/attributes/" + "n" * 2000)
    record = encode_rejection("session-rejections", 2, b"{}", ORIGIN, why, 100)
    assert dict(record.headers)["rejection-pointer"] == b"/customerSession/attributes"


CAUSE = Cause("session-updates/0/1", "2026-11-22T18:40:00.000Z", 1_795_372_800_000, None)


def test_kept_entries_have_no_spare_memory():
    """`sys.getsizeof` does not see the buffer behind a bytes object; the allocator does."""

    def kept_bytes(make):
        tracemalloc.start()
        try:
            kept = [make(number) for number in range(1000)]
            return sum(map(len, kept)), tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    def first(number):
        return encode_first_claim(Claim("2026-11-22T18:40:00.000Z", f"s-{number}"))

    def snapshot(number):
        return encode_json({"integrationId": f"s-{number}", "attributes": {"note": "x" * 600}})

    def claim(number):
        message = ClaimMessage(f"p-{number}", Claim("2026-11-22T18:40:00.000Z", f"s-{number}"), False, CAUSE)
        return encode_claim("profile-claims", 0, message).value

    def verdict(number):
        message = VerdictMessage(f"p-{number}", Claim("2026-11-22T18:40:00.000Z", f"s-{number}"), False, "first", CAUSE)
        return encode_verdict("profile-verdicts", 0, message).value

    for make in (first, snapshot, claim, verdict):
        content, traced = kept_bytes(make)
        assert traced <= content + 1000 * (sys.getsizeof(b"") + 8) + 4096
