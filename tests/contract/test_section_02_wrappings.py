"""Section 2, wrappings and bare bodies: what was wrapped is read as if it had come bare, and kept as it came."""

import base64
import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.conftest import CUP, PEN, SENT, SENT_AT, Network, Till, cart, encoded
from worker.codec.records import ConsumerRecord

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY: dict[str, Any] = {"customerSession": {"profileId": "p", **cart(CUP)}}
RAW = encoded(BODY)
STRUCTURED = [("content-type", b"application/cloudevents+json")]
LIMIT = 1 << 20


def zipped(value: bytes) -> bytes:
    """Compress without the time of day, so that a test has the same name everywhere."""
    return gzip.compress(value, mtime=0)


def framed(value: bytes) -> bytes:
    return b"\x00\x00\x00\x00\x2a" + value


def event(data: Any = BODY, **members: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "e-1", "source": "/tills/3", "type": "update", "data": data, **members}


def in_base64(value: bytes) -> dict[str, Any]:
    envelope = event(data_base64=base64.b64encode(value).decode())
    del envelope["data"]
    return envelope


def stream(value: bytes) -> bytes:
    """Compress as a producer that does not know the size before, so that the frame does not say it."""
    compressor = zstd.ZstdCompressor()
    return compressor.compress(value) + compressor.flush()


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "framed": framed,
    "gzip": zipped,
    "zstd": zstd.compress,
    "zstd of unknown size": stream,
    "framed gzip": lambda value: framed(zipped(value)),
    "framed zstd": lambda value: framed(zstd.compress(value)),
    "gzip of two members": lambda value: zipped(value[:9]) + zipped(value[9:]),
    "zstd of two frames": lambda value: zstd.compress(value[:9]) + zstd.compress(value[9:]),
    "gzip of many empty members": lambda value: zipped(b"") * 999 + zipped(value),
    "zstd of many empty frames": lambda value: zstd.compress(b"") * 999 + stream(value),
}


# ------------------------------------------------------------------------------------------- frames and compression


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_update_gives_the_snapshot_of_the_bare_one(how):
    bare, wrapped = Till().one(RAW), Till().one(WRAPPED[how](RAW))
    assert (wrapped.raw, wrapped.headers) == (bare.raw, bare.headers)


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_rejection_has_the_same_pointer_and_the_value_as_it_arrived(till, how):
    value = WRAPPED[how](encoded({"customerSession": {"cartItem": [], "couponCodes": ["A"]}}))
    rejection = till.one(value)
    assert (rejection.code, rejection.pointer) == ("unknown_field", "/customerSession/cartItem")
    assert rejection.raw == value


@pytest.mark.parametrize("how", WRAPPED)
def test_the_digest_covers_what_was_wrapped(till, how):
    value = encoded({**BODY, "eventId": "e"})
    till.one(value)
    assert till.send(WRAPPED[how](value)) == []
    other = encoded({"eventId": "e", **BODY})
    assert till.one(WRAPPED[how](other)).code == "event_id_reused"


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_stray_is_forwarded_as_it_arrived(network, how):
    value = WRAPPED[how](RAW)
    network.send(value, "s-1", network.away("s-1"))
    (stray,) = network.strays
    assert stray.raw == value
    assert [snapshot.event for snapshot in network.snapshots] == ["created"]


@pytest.mark.parametrize("how", WRAPPED)
def test_the_limit_counts_the_bytes_that_were_wrapped(how):
    till = Till(max_record_bytes=len(RAW))
    assert till.one(WRAPPED[how](RAW)).event == "created"
    refused = till.one(WRAPPED[how](RAW + b" "))
    assert (refused.code, refused.raw) == ("record_too_large", WRAPPED[how](RAW + b" ")[: len(refused.raw)])


@pytest.mark.parametrize("compress", [zipped, zstd.compress, stream])
def test_a_value_that_inflates_beyond_the_limit_takes_no_memory_beyond_it(till, compress):
    bomb = compress(b" " * (256 << 20))
    assert len(bomb) < LIMIT
    tracemalloc.start()
    try:
        assert till.one(bomb).code == "record_too_large"
        assert tracemalloc.get_traced_memory()[1] < 6 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_member_behind_the_limit_is_too_large_and_garbage_there_is_damage():
    till = Till(max_record_bytes=len(RAW))
    assert till.one(zipped(RAW) + zipped(b" ")).code == "record_too_large"
    assert till.one(zipped(RAW) + b" ").code == "malformed_json"
    assert till.one(zipped(RAW) + zipped(b"")).event == "created"


@pytest.mark.parametrize("window_log", [28, 31, 41])
def test_a_frame_that_asks_for_a_window_over_128_mib_is_malformed(till, window_log):
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    assert till.one(header + b"\x11\x00\x00{}").code == "malformed_json"
    assert till.one(b"\x28\xb5\x2f\xfd\x00" + bytes([(27 - 10) << 3]) + b"\x11\x00\x00{}").code == "unknown_type"


@pytest.mark.parametrize(
    "value",
    [
        b"\x00",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x00\x00",
        framed(framed(RAW)),
        zipped(framed(RAW)),
        zipped(zipped(RAW)),
        zstd.compress(zipped(RAW)),
        zipped(RAW)[:-1],
        zipped(RAW)[:20],
        zipped(RAW)[:-5] + b"\x00" * 5,
        zipped(RAW) + b"\x00",
        zipped(b""),
        b"\x1f\x8b",
        zstd.compress(RAW)[:-1],
        zstd.compress(RAW)[:4],
        zstd.compress(RAW) + b"x",
        zstd.compress(b""),
        zstd.compress(RAW)[:12] + b"\xff" * 20,
        zipped(b"") * 1000 + zipped(RAW),
        zstd.compress(b"") * 1000 + zstd.compress(RAW),
        zipped(b"\xef\xbb\xbf" + RAW),
    ],
)
def test_what_is_wrapped_wrongly_or_holds_no_json_is_malformed(till, value):
    rejection = till.one(value)
    assert (rejection.code, rejection.pointer, rejection.raw) == ("malformed_json", "", value)


def test_a_record_without_origin_is_too_large_first_however_it_is_wrapped():
    network = Network(max_record_bytes=100)
    for value in (b"{" * 100, b"{" * 101):
        for how in WRAPPED.values():
            network.put("session-updates-rekeyed", 0, ConsumerRecord(0, SENT, None, how(value), ()))
    codes = [rejection.code for rejection in network.rejections]
    assert codes == ["missing_origin"] * len(WRAPPED) + ["record_too_large"] * len(WRAPPED)


def test_a_stray_whose_compressed_form_is_larger_than_a_topic_takes_is_refused():
    """A comment in a member of gzip takes no room in what is inflated."""
    member = b"\x1f\x8b\x08\x10" + b"\x00" * 6 + b"x" * 70_000 + b"\x00" + zipped(RAW)[10:]
    network = Network(max_record_bytes=1000)
    network.send(member, "s-1", network.away("s-1"))
    (rejection,) = network.rejections
    assert (rejection.code, rejection.headers["rejection-cut"]) == ("record_too_large", "value")
    network.send(member, "s-1")
    assert [snapshot.event for snapshot in network.snapshots] == ["created"]


# --------------------------------------------------------------------------------------------- CloudEvents, structured


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
@pytest.mark.parametrize(
    "content",
    [b"application/cloudevents+json", b"Application/CloudEvents+JSON; charset=utf-8", b"application/cloudevents+jsonx"],
)
def test_the_content_type_names_an_envelope_in_any_case(till, name, content):
    outcome = till.one(event(), headers=[(name, content)])
    assert outcome.event == "created"
    assert outcome.snapshot["profileId"] == "p"


@pytest.mark.parametrize(
    "content", [b"application/json", b"application/cloudevents", b" application/cloudevents+json", None]
)
def test_without_that_content_type_an_envelope_is_no_envelope(till, content):
    assert till.one(event(), headers=[("content-type", content)]).code == "unknown_field"


@pytest.mark.parametrize("envelope", [event(), in_base64(RAW), event(data_base64="!"), event(extra={"deep": [1e3]})])
def test_the_data_of_an_envelope_is_the_update_record(envelope):
    bare = Till().one(RAW)
    outcome = Till().one(envelope, headers=STRUCTURED)
    assert outcome.raw == bare.raw
    assert outcome.headers["ce_id"] == "session-updates/0/0"
    assert {name: text for name, text in outcome.headers.items() if name != "worker-events"} == bare.headers
    assert "worker-events" in outcome.headers, "its id is the eventId"


@pytest.mark.parametrize("how", ["framed", "gzip", "framed zstd"])
def test_an_envelope_may_be_framed_and_compressed(till, how):
    assert till.one(WRAPPED[how](encoded(event())), headers=STRUCTURED).event == "created"


def test_id_time_and_subject_stand_in_for_what_the_record_lacks(till):
    envelope = event(subject="s-9", time="2026-11-22T19:00:00.1239+01:00")
    outcome = till.one(envelope, None, headers=STRUCTURED)
    assert outcome.key == b"s-9"
    assert outcome.snapshot["created"] == outcome.headers["ce_time"] == "2026-11-22T18:00:00.123Z"
    assert till.send(envelope, None, headers=STRUCTURED) == []
    assert till.send({**envelope, "time": "2020-01-01T00:00:00Z", "x": 1}, None, headers=STRUCTURED) == []
    other = event({**BODY, "dry": None}, subject="s-9")
    assert till.one(other, None, headers=STRUCTURED).code == "event_id_reused"


def test_what_the_record_or_its_key_has_wins_and_the_rest_is_not_read(till):
    data = {**BODY, "eventId": "mine", "occurredAt": "2026-11-22T10:00:00Z", "integrationId": "s-5"}
    outcome = till.one(event(data, id=7, time="never", subject=["x"]), None, headers=STRUCTURED)
    assert (outcome.key, outcome.snapshot["created"]) == (b"s-5", "2026-11-22T10:00:00.000Z")
    assert till.one(event(BODY, subject="s-9", id="n"), "s-7", headers=STRUCTURED).key == b"s-7"
    assert till.one(event(BODY, subject=5, id="n"), "s-8", headers=STRUCTURED).key == b"s-8"


@pytest.mark.parametrize("members", [{"id": None}, {"time": None}, {"subject": None}])
def test_a_null_member_is_omitted(till, members):
    assert till.one(event(**members), headers=STRUCTURED).event == "created"


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"id": ""}, "/id"),
        ({"id": "x" * 256}, "/id"),
        ({"id": 5}, "/id"),
        ({"time": "10:00"}, "/time"),
        ({"time": 5}, "/time"),
        ({"data": {**BODY, "eventId": ""}}, "/eventId"),
        ({"data": {**BODY, "occurredAt": ""}}, "/occurredAt"),
        ({"data": {"profileId": 5}}, "/profileId"),
        ({"data": {"customerSession": {"profileId": 5}}}, "/customerSession/profileId"),
        ({"data": None}, "/data"),
    ],
)
def test_an_invalid_member_is_named_where_it_stands(till, members, pointer):
    value = event(**members)
    rejection = till.one(value, headers=STRUCTURED)
    assert (rejection.code, rejection.pointer, rejection.raw) == ("invalid_field", pointer, encoded(value))
    assert rejection.headers["content-type"] == "application/cloudevents+json"


def test_a_time_in_the_future_is_named_where_it_stands(till):
    rejection = till.one(event(time="2027-01-01T00:00:00Z"), headers=STRUCTURED)
    assert (rejection.code, rejection.pointer) == ("occurred_in_future", "/time")


@pytest.mark.parametrize("data", ["e30", "e3=0", "e30=\n", "e30-", "=", "e30==", "e30=====", "QUJD=", 5, {}, "é"])
def test_data_that_is_not_standard_base64_is_refused(till, data):
    envelope = in_base64(b"")
    envelope["data_base64"] = data
    rejection = till.one(envelope, headers=STRUCTURED)
    assert (rejection.code, rejection.pointer) == ("invalid_field", "/data_base64")


@pytest.mark.parametrize("data", ["x", 5, [BODY], True])
def test_data_that_is_no_object_is_malformed(till, data):
    assert till.one(event(data), headers=STRUCTURED).code == "malformed_json"
    if not isinstance(data, bool):
        assert till.one(in_base64(json.dumps(data).encode()), headers=STRUCTURED).code == "malformed_json"


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{", b'"x"', encoded(event())[:-1], b'{"x":"\\ud800","data":{"state":"open"}}']
)
def test_an_envelope_that_is_no_object_is_malformed(till, value):
    assert till.one(value, headers=STRUCTURED).code == "malformed_json"


def test_the_digest_covers_the_text_of_data(till):
    text = '{ "eventId" : "a",\n "customerSession": {"state": "open" } }'
    envelope = f'{{"id": "x", "data" :  {text} , "time": "2026-11-22T10:00:00Z"}}'
    assert till.one(text).event == "created"
    assert till.send(envelope, headers=STRUCTURED) == []
    assert till.send(in_base64(text.encode()), headers=STRUCTURED) == []
    assert till.send(f'{{"data": 5, "data": {text}}}', headers=STRUCTURED) == []
    assert till.one(envelope.replace(" {", "{"), headers=STRUCTURED).code == "event_id_reused"


def test_the_limit_counts_the_whole_envelope():
    value = encoded(event())
    assert Till(max_record_bytes=len(value)).one(value, headers=STRUCTURED).event == "created"
    assert Till(max_record_bytes=len(value) - 1).one(value, headers=STRUCTURED).code == "record_too_large"


def test_nesting_is_counted_from_the_records_own_object(till):
    def nested(levels: int) -> str:
        return '{"customerSession":{"attributes":{"a":' + "[" * (levels - 3) + "]" * (levels - 3) + "}}}"

    assert till.one(f'{{"id":"1","data":{nested(64)}}}', headers=STRUCTURED).event == "created"
    assert till.one(f'{{"id":"2","data":{nested(65)}}}', headers=STRUCTURED).code == "malformed_json"
    assert till.one(in_base64(nested(64).encode()), "s-2", headers=STRUCTURED).event == "created"
    assert till.one(in_base64(nested(65).encode()), "s-2", headers=STRUCTURED).code == "malformed_json"


def test_a_stray_in_an_envelope_keeps_its_content_type_on_its_way(network):
    value = event(subject="s-1", time="2026-11-22T10:00:00Z")
    network.send(value, None, network.away("s-1"), headers=STRUCTURED)
    (stray,) = network.strays
    assert (stray.raw, stray.headers["content-type"]) == (encoded(value), "application/cloudevents+json")
    (snapshot,) = network.snapshots
    assert snapshot.snapshot["created"] == "2026-11-22T10:00:00.000Z"


def test_a_tombstone_with_such_headers_stays_a_tombstone():
    till = Till(cloudevents=True)
    till.update()
    (deleted,) = till.send(None, headers=[*STRUCTURED, ("ce_id", b"1"), ("ce_subject", b"s-2")])
    assert (deleted.key, deleted.event) == (b"s-1", "deleted")


# ------------------------------------------------------------------------------------------------ CloudEvents, binary

BINARY = [
    ("ce_id", b"e-1"),
    ("ce_time", b"2026-11-22T10:00:00Z"),
    ("ce_subject", b"s-9"),
    ("content-type", b"application/json"),
]


def test_a_binary_event_stands_in_for_what_the_record_lacks():
    till = Till(cloudevents=True)
    outcome = till.one(RAW, None, headers=BINARY)
    assert (outcome.key, outcome.snapshot["created"]) == (b"s-9", "2026-11-22T10:00:00.000Z")
    assert till.send(RAW, None, headers=BINARY) == []
    assert till.one({**BODY, "dry": False}, None, headers=BINARY).code == "event_id_reused"
    assert till.one(RAW, b"\xff", headers=[("ce_id", b"e-2"), *BINARY[1:]]).key == b"s-9"
    assert till.send(RAW, "s-1", headers=BINARY)[0].key == b"s-1"


def test_without_the_setting_or_a_ce_id_there_is_no_binary_event(till):
    assert till.one(RAW, None, headers=BINARY).code == "missing_integration_id"
    assert till.one(RAW, headers=BINARY).snapshot["created"] == SENT_AT
    reader = Till(cloudevents=True)
    assert reader.one(RAW, None, headers=BINARY[1:]).code == "missing_integration_id"
    assert reader.one(RAW, headers=BINARY[1:]).snapshot["created"] == SENT_AT


@pytest.mark.parametrize(
    ("headers", "pointer"),
    [
        ([("ce_id", b"")], "/eventId"),
        ([("ce_id", b"x" * 256)], "/eventId"),
        ([("ce_id", b"1"), ("ce_time", b"never")], "/occurredAt"),
        ([("ce_id", b"1"), ("ce_time", b"\xff")], "/occurredAt"),
    ],
)
def test_an_invalid_header_of_a_binary_event_has_the_pointer_of_its_field(headers, pointer):
    rejection = Till(cloudevents=True).one(RAW, headers=headers)
    assert (rejection.code, rejection.pointer) == ("invalid_field", pointer)


def test_an_id_that_is_not_utf_8_still_tells_records_apart():
    till = Till(cloudevents=True)
    till.one(RAW, headers=[("ce_id", b"\xff")])
    assert till.send(RAW, headers=[("ce_id", b"\xff")]) == []
    assert till.one(RAW, headers=[("ce_id", b"\xfe")]).event == "updated"
    assert till.one(RAW, None, headers=[("ce_id", b"1"), ("ce_subject", b"\xff")]).code == "missing_integration_id"
    assert till.one(RAW, headers=[("ce_id", None)]).event == "updated"


def test_a_structured_event_is_not_read_as_a_binary_one():
    till = Till(cloudevents=True)
    envelope = event(subject="s-5", time=None)
    outcome = till.one(envelope, None, headers=[*BINARY[:3], *STRUCTURED])
    assert (outcome.key, outcome.snapshot["created"]) == (b"s-5", SENT_AT)


# ------------------------------------------------------------------------------------------------------- bare bodies

HEAD = {"eventId": "e", "occurredAt": "2026-11-22T10:00:00Z", "applicationId": 1, "responseContent": ["x"]}


def test_a_bare_body_is_read_as_the_customer_session_of_an_update():
    body = {"profileId": "p", **cart(CUP), "coupon": "A"}
    bare = Till().one({**body, **HEAD, "integrationId": "s-2"})
    whole = Till().one({"customerSession": body, **HEAD, "integrationId": "s-2"})
    drop = "worker-events"
    assert (bare.key, bare.raw) == (b"s-2", whole.raw)
    assert bare.headers.pop(drop)[:16] == whole.headers.pop(drop)[:16]
    assert bare.headers == whole.headers


@pytest.mark.parametrize("ignored", ["reject", "ignore"])
@pytest.mark.parametrize("omitted", [{}, {"type": None}, {"customerSession": None, "return": None}])
def test_each_field_of_the_table_makes_a_bare_body(omitted, ignored):
    for field, value in {
        "profileId": "p",
        "storeIntegrationId": "s",
        "evaluableCampaignIds": [],
        "couponCodes": [],
        "referralCode": "",
        "loyaltyCards": [],
        "identifiers": [],
        "state": "closed",
        "cartItems": [],
        "additionalCosts": [],
        "attributes": [],
        "experimentVariantAllocations": [],
        "coupon": "",
        "referral": "",
    }.items():
        till = Till(unknown_fields=ignored)
        assert till.one({field: value, **omitted}).event == "created", field
        assert till.one({field: None, **omitted}).code == "unknown_type", field


def test_a_dry_bare_body_is_a_dry_run(till):
    assert till.one({**cart(CUP), "dry": True}).event == "created.dry_run"


@pytest.mark.parametrize(
    ("value", "code", "pointer"),
    [
        ({"cartItems": [{**PEN, "price": "1"}]}, "invalid_field", "/cartItems/0/price"),
        ({"cartItems": [{"sku": "a", "quantity": 1}]}, "missing_price", "/cartItems/0/price"),
        ({"cartItems": [], "cartItem": []}, "unknown_field", "/cartItem"),
        ({"cartItems": [], "effects": []}, "unknown_field", "/effects"),
        ({"cartItems": [], "eventID": "x"}, "unknown_field", "/eventID"),
        ({"cartItems": [], "applicationId": 2}, "wrong_application", "/applicationId"),
        ({"cartItems": [], "applicationId": "1"}, "invalid_field", "/applicationId"),
        ({"cartItems": [], "integrationId": ""}, "missing_integration_id", "/integrationId"),
        ({"cartItems": [], "integrationId": 5}, "invalid_field", "/integrationId"),
        ({"cartItems": [], "eventId": 5}, "invalid_field", "/eventId"),
        ({"cartItems": [], "dry": 1}, "invalid_field", "/dry"),
        ({"coupon": "A", "couponCodes": []}, "ambiguous_field", "/coupon"),
        ({"attributes": {"a": 12345678901234567890}}, "number_out_of_range", "/attributes/a"),
        ({"additionalCosts": {"a": {"price": 1e12}}}, "number_out_of_range", "/additionalCosts/a/price"),
        ({"cartItems": [PEN] * 1001}, "too_many_items", "/cartItems"),
        ({"cartItems": [{**PEN, "quantity": 10_001}]}, "too_many_units", "/cartItems"),
        ({"state": "cancelled"}, "invalid_state", "/state"),
        ({"cartItems": [{**PEN, "price": 1234567.123456789}]}, "number_out_of_range", ""),
        ({"state": "open", "occurredAt": "2027-01-01T00:00:00Z"}, "occurred_in_future", "/occurredAt"),
        ({"cartItems": [], "type": "update"}, "unknown_field", "/cartItems"),
        ({"cartItems": [], "customerSession": {}}, "unknown_field", "/cartItems"),
        ({"cartItems": [], "return": {"returnedCartItems": []}}, "unknown_field", "/cartItems"),
        ({"id": 7, "total": 5}, "unknown_type", "/type"),
        ({"integrationId": "s-1", "applicationId": 1}, "unknown_type", "/type"),
    ],
)
def test_pointers_refer_to_the_bare_body_as_it_arrived(till, value, code, pointer):
    rejection = till.one(value)
    assert (rejection.code, rejection.pointer) == (code, pointer)


def test_unknown_fields_of_a_bare_body_may_be_ignored():
    till = Till(unknown_fields="ignore")
    assert till.one({"cartItems": [{**PEN, "x": 1}], "effects": [], "zzz": 1}).snapshot["total"] == 1
    assert till.one({"effects": []}).code == "unknown_type"
    assert till.one(b'{"effects":"\xff","state":"open"}').code == "malformed_json"


def test_a_snapshot_sent_back_changes_nothing_but_the_count():
    till = Till(v1_topic="customer-sessions-v1")
    session = {"profileId": "p", **cart({**CUP, "attributes": {}}), "couponCodes": ["A"], "attributes": {"a": 1}}
    v2, v1 = till.send({"customerSession": session})
    before = v2.snapshot
    for echo in (v2.snapshot, {**v2.snapshot, "closurePrediction": 0.5}, v1.snapshot):
        after, _view = till.send(echo)
        assert {**after.snapshot, "updateCount": 1} == before


# ------------------------------------------------------------------------------------------- what clients send back


def test_the_read_only_fields_of_a_session_are_ignored_whatever_they_hold(till):
    echoed = {
        "id": "x", "created": 5, "integrationId": "other", "applicationId": 99, "firstSession": "no", "updateCount": -1,
        "total": 1e300, "cartItemTotal": None, "additionalCostTotal": [], "cartItemAdditionalCostTotal": {"a": 1},
        "updated": "never", "closurePrediction": 2, "discounts": {"A": 5},
    }  # fmt: skip
    created = till.update({**cart(PEN), **echoed})
    assert created.snapshot == {
        **created.snapshot,
        "integrationId": "s-1",
        "applicationId": 1,
        "total": 1.0,
        "updateCount": 1,
    }
    till.update({"state": "closed"})
    revoked = till.update({"state": "cancelled", **echoed, "coupon": "A"})
    assert revoked.headers["ignored-fields"] == "coupon"


def test_an_empty_array_counts_as_an_empty_object(till):
    till.update({"attributes": {"a": 1}, "additionalCosts": {"post": {"price": 5}}})
    outcome = till.update(
        {"attributes": [], "additionalCosts": [], **cart({**PEN, "attributes": [], "additionalCosts": []})}
    )
    snapshot = outcome.snapshot
    assert (snapshot["attributes"], "additionalCosts" in snapshot, snapshot["total"]) == ({"a": 1}, False, 1.0)
    (item,) = snapshot["cartItems"]
    assert (item["attributes"], item["additionalCosts"]) == ({}, {})
    assert b"[]" not in outcome.raw.replace(b'"cartItems":[]', b"")


@pytest.mark.parametrize(
    ("session", "pointer"),
    [
        ({"attributes": [[]]}, "/customerSession/attributes"),
        ({"additionalCosts": [None]}, "/customerSession/additionalCosts"),
        ({"additionalCosts": {"a": []}}, "/customerSession/additionalCosts/a"),
        (cart({**PEN, "product": []}), "/customerSession/cartItems/0/product"),
        (cart([]), "/customerSession/cartItems/0"),  # type: ignore[arg-type]
    ],
)
def test_no_other_array_counts_as_an_object(till, session, pointer):
    rejection = till.update(session)
    assert (rejection.code, rejection.pointer) == ("invalid_field", pointer)


def test_a_coupon_that_is_the_first_code_already_changes_nothing(till):
    till.update({"couponCodes": ["A", "B"]})
    assert till.update({"coupon": "A"}).snapshot["couponCodes"] == ["A", "B"]
    assert till.update({"coupon": "B"}).snapshot["couponCodes"] == ["B"]
    assert till.update({"coupon": "B"}).snapshot["couponCodes"] == ["B"]
    assert "couponCodes" not in till.update({"coupon": ""}).snapshot
    assert till.update({"coupon": "C"}).snapshot["couponCodes"] == ["C"]


@pytest.mark.parametrize(
    ("written", "published"),
    [
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", None),
        ("10000000000000000000", "1e19"),
        ("-10000000000000000000", "-1e19"),
        ("18446744073709551616", None),
        ("18446744073709552000", "18446744073709552000"),
        ("100000000000000000000", "1e20"),
        ("12345678901234567890", None),
        ("123456789012345680000", "123456789012345680000"),
        ("1" + "0" * 308, "1e308"),
        ("1" + "0" * 309, None),
        ("-1" + "0" * 308, "-1e308"),
        ("2" + "0" * 308, None),
        ("9" * 400, None),
        ("1e19", "1e19"),
        ("-0.0", "-0.0"),
        ("-0", "0"),
    ],
)
@pytest.mark.parametrize(
    "where",
    ['{"attributes":{"a":[{"b":#}]}}', '{"cartItems":[{"sku":"a","quantity":1,"price":1,"attributes":{"a":#}}]}'],
)
def test_an_integer_in_attributes_is_kept_if_a_double_keeps_its_digits(till, where, written, published):
    outcome = till.one(where.replace("#", written))
    if published is None:
        assert outcome.code == "number_out_of_range"
        assert written[:100] in outcome.headers["rejection-message"]
    else:
        text = outcome.raw.decode()
        number = text.partition('"b":' if '"b":' in text else '"attributes":{"a":')[2].partition("}")[0]
        assert repr(json.loads(number)) in (repr(json.loads(published)), repr(float(published)))


# ------------------------------------------------------------------------------------------- records without a time


@pytest.mark.parametrize("timestamp", [-1, -(2**63)])
def test_a_record_without_a_timestamp_needs_its_occurred_at(till, timestamp):
    refused = till.one({"customerSession": {}}, timestamp=timestamp)
    assert (refused.code, refused.pointer, refused.timestamp) == ("invalid_field", "/occurredAt", timestamp)
    created = till.one({"customerSession": {}, "occurredAt": "2099-01-01T00:00:00Z"}, timestamp=timestamp)
    assert (created.event, created.timestamp) == ("created", timestamp)
    assert created.snapshot["created"] == "2099-01-01T00:00:00.000Z"
    envelope = event(time="2099-01-02T00:00:00Z")
    assert till.one(envelope, headers=STRUCTURED, timestamp=timestamp).snapshot["updated"] == "2099-01-02T00:00:00.000Z"


def test_a_missing_time_has_its_row_among_the_invalid_fields(till):
    assert till.one({"customerSession": {"x": 1}}, timestamp=-1).code == "unknown_field"
    assert till.one({"customerSession": cart({"sku": "a", "quantity": 1})}, timestamp=-1).code == "invalid_field"
    assert till.one({"state": "open", "profileId": 5}, timestamp=-1).code == "invalid_field"


def test_a_tombstone_without_a_timestamp_deletes(till):
    till.update()
    (deleted,) = till.delete(timestamp=-1)
    assert (deleted.event, deleted.timestamp) == ("deleted", -1)


def test_a_stray_without_a_timestamp_keeps_that_on_its_way(network):
    value = {"customerSession": {"profileId": "p"}, "occurredAt": "2099-01-01T00:00:00Z"}
    network.send(value, "s-1", network.away("s-1"), timestamp=-1)
    (stray,), (snapshot,) = network.strays, network.snapshots
    assert (stray.timestamp, snapshot.timestamp) == (-1, -1)
    assert snapshot.snapshot["firstSession"] is True


def test_an_hour_ahead_is_still_refused_at_the_timestamp_zero(till):
    assert till.one({"state": "open", "occurredAt": "1970-01-01T01:00:00Z"}, timestamp=0).event == "created"
    assert (
        till.one({"state": "open", "occurredAt": "1970-01-01T01:00:00.001Z"}, timestamp=0).code == "occurred_in_future"
    )
