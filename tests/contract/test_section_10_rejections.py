"""Section 10, rejections: every code, the order of the rows, and a record that says all there is to know."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.conftest import (
    CUP,
    HOUR,
    PEN,
    REJECTION_HEADERS,
    ROWS,
    SENT,
    Network,
    Outcome,
    Till,
    cart,
    checked,
    encoded,
)
from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.testing import StreamDriver, Update

FUTURE = "2027-01-01T00:00:00Z"
REKEYED = "session-updates-rekeyed"
NO_PRICE: dict[str, Any] = {"sku": "a", "quantity": 1}
OVERFLOW = {"a": {"price": 999_999_999_999.999}, "b": {"price": 1e-9}}
"""Additional costs whose sum needs more than 15 digits."""


def returning(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"return": {"returnedCartItems": [*entries]}, **more}


def in_state(state: str, **rules: Any) -> Till:
    """Give a till with a session of a cup and a pen, in a state, that has seen the eventId `used`."""
    till = Till(**rules)
    if state == "none":
        return till
    till.one({"customerSession": cart(CUP, PEN), "eventId": "used"})
    if state in ("closed", "cancelled"):
        till.update({"state": state})
    return till


def full(state: str) -> Till:
    """Give a till whose session may not grow by a byte."""
    probe = in_state(state)
    (session,) = probe.replay.sessions()
    size = len(json.dumps(session, ensure_ascii=False, separators=(",", ":")))
    return in_state(state, max_snapshot_bytes=size)


# -------------------------------------------------------------------------------------------------------- every code

CODES: list[tuple[str, str, Any, str]] = [
    ("record_too_large", "none", {"customerSession": {}, "responseContent": "x" * (1 << 20)}, ""),
    ("malformed_json", "none", b"{", ""),
    ("missing_integration_id", "none", {"customerSession": {}, "integrationId": ""}, "/integrationId"),
    ("unknown_type", "none", {"type": "updat", "customerSession": {}}, "/type"),
    ("wrong_application", "none", {"customerSession": {}, "applicationId": 2}, "/applicationId"),
    ("unknown_field", "none", {"customerSession": {"cartItem": []}}, "/customerSession/cartItem"),
    ("ambiguous_field", "none", {"type": "reopen", "return": {}}, "/return"),
    ("invalid_field", "none", {"customerSession": {"profileId": 5}}, "/customerSession/profileId"),
    ("missing_price", "none", {"customerSession": cart(NO_PRICE)}, "/customerSession/cartItems/0/price"),
    (
        "number_out_of_range",
        "none",
        {"customerSession": cart({**PEN, "price": 1e12})},
        "/customerSession/cartItems/0/price",
    ),
    ("too_many_items", "none", {"customerSession": cart(*[PEN] * 1001)}, "/customerSession/cartItems"),
    (
        "too_many_units",
        "none",
        {"customerSession": cart({**PEN, "quantity": 10_001})},
        "/customerSession/cartItems",
    ),
    ("occurred_in_future", "none", {"customerSession": {}, "occurredAt": FUTURE}, "/occurredAt"),
    ("dry_not_supported", "closed", {"type": "reopen", "dry": True}, "/dry"),
    ("empty_return", "closed", returning(), "/return/returnedCartItems"),
    ("ambiguous_item", "closed", returning({"position": 0, "sku": "cup"}), "/return/returnedCartItems/0"),
    ("missing_item", "closed", returning({"quantity": 1}), "/return/returnedCartItems/0"),
    ("event_id_reused", "open", {"customerSession": {}, "eventId": "used"}, "/eventId"),
    ("unknown_session", "none", {"type": "reopen"}, ""),
    ("invalid_state", "none", {"customerSession": {"state": "cancelled"}}, "/customerSession/state"),
    ("session_not_open", "closed", {"customerSession": {}}, ""),
    ("invalid_transition", "open", {"type": "reopen"}, ""),
    ("unknown_item", "closed", returning({"sku": "tea"}), "/return/returnedCartItems/0"),
    (
        "return_exceeds_remaining",
        "closed",
        returning({"sku": "cup", "quantity": 3}),
        "/return/returnedCartItems/0",
    ),
    ("session_too_large", "open", {"customerSession": {"attributes": {"a": "x" * 2000}}}, ""),
]


def test_the_table_below_has_every_code():
    assert {code for code, *_rest in CODES} | {"missing_origin"} == {code for codes in ROWS for code in codes}


@pytest.mark.parametrize(("code", "state", "value", "pointer"), CODES)
def test_a_rejection_is_the_record_as_it_arrived_and_the_reason(code, state, value, pointer):
    till = in_state(state, max_snapshot_bytes=2000)
    arrived = [("a", b"\xff"), ("content-type", b"text/plain")]
    now: dict[str, Any] = {"partition": 6, "offset": 78, "timestamp": SENT + 3}
    rejection = till.one(value, "s-1", headers=arrived, **now)
    assert rejection.topic == "session-rejections"
    assert (rejection.key, rejection.partition, rejection.timestamp) == (b"s-1", 6, SENT + 3)
    assert rejection.raw == encoded(value)
    headers = rejection.headers
    assert (headers["rejection-code"], headers["__streams.errors.exception"]) == (code, code)
    assert headers["rejection-pointer"] == pointer
    assert headers["rejection-message"] == headers["__streams.errors.message"]
    place = [headers[f"__streams.errors.{name}"] for name in ("topic", "partition", "offset")]
    assert place == ["session-updates", "6", "78"]
    assert (headers["a"], headers["content-type"]) == ("\ufffd", "text/plain")
    assert till.counts()[f"rejected.{code}"] == 1


@pytest.mark.parametrize(("code", "state", "value", "_pointer"), CODES)
def test_a_refused_record_changes_nothing_and_is_refused_again(code, state, value, _pointer):
    till = in_state(state, max_snapshot_bytes=2000)
    before = list(till.replay.sessions())
    first, second = till.one(value, offset=10), till.one(value, offset=20)
    assert list(till.replay.sessions()) == before
    assert (first.code, second.code) == (code, code)
    for name in ("rejection-pointer", "rejection-message"):
        assert first.headers[name] == second.headers[name]


@pytest.mark.parametrize("key", [None, b"", b"\xff\x00", b"s-2"])
def test_the_raw_key_is_kept(till, key):
    rejection = till.one(b"no json", key)
    assert (rejection.key, rejection.raw) == (key, b"no json")


def test_a_rejected_tombstone_has_no_value(till):
    assert till.one(None, None).raw is None


@pytest.mark.parametrize("timestamp", [0, -1, SENT, 2**62])
def test_the_timestamp_is_the_source_records_own(till, timestamp):
    assert till.one(b"{", timestamp=timestamp).timestamp == timestamp


def test_an_hour_is_counted_from_the_records_own_timestamp(till):
    record = {"customerSession": {}, "occurredAt": "2026-11-22T18:40:00Z"}
    assert till.one(record, timestamp=SENT - HOUR).event == "created"
    assert till.one(record, timestamp=SENT - HOUR - 1).code == "occurred_in_future"


# ------------------------------------------------------------------------------------------------- the order of rows

PAIRS: list[tuple[str, str, str, Any]] = [
    ("record_too_large", "malformed_json", "none", b"{" * (1 << 20) + b"{"),
    ("malformed_json", "unknown_type", "none", b"{]"),
    ("missing_integration_id", "unknown_type", "none", {"integrationId": ""}),
    ("unknown_type", "wrong_application", "none", {"applicationId": 2}),
    ("wrong_application", "unknown_field", "none", {"applicationId": 2, "customerSession": {"x": 1}}),
    (
        "wrong_application",
        "ambiguous_field",
        "none",
        {"applicationId": 2, "type": "reopen", "customerSession": {}},
    ),
    ("unknown_field", "invalid_field", "none", {"customerSession": {"profileId": 5, "x": 1}}),
    ("unknown_field", "invalid_field", "none", {"customerSession": cart({**PEN, "quantity": 0}, {**PEN, "x": 1})}),
    ("unknown_field", "invalid_field", "none", {"type": "update", "x": 1}),
    ("unknown_field", "invalid_field", "none", {"type": "return", "x": 1}),
    ("unknown_field", "invalid_field", "none", returning({"quantity": 0}, {"position": 0, "x": 1})),
    (
        "unknown_field",
        "invalid_field",
        "none",
        {"customerSession": {"evaluableCampaignIds": ["x"], "additionalCosts": {"a": {"price": 1, "x": 1}}}},
    ),
    ("ambiguous_field", "invalid_field", "none", {"customerSession": {"coupon": 5, "couponCodes": []}}),
    ("ambiguous_field", "invalid_field", "none", {"customerSession": {"referral": "r" * 101, "referralCode": 1}}),
    ("ambiguous_field", "invalid_field", "none", {"type": "reopen", "customerSession": 5}),
    ("ambiguous_field", "invalid_field", "none", {"type": "update", "return": {}}),
    ("invalid_field", "missing_price", "none", {"customerSession": cart({"quantity": 0, "sku": "a"})}),
    ("invalid_field", "missing_price", "none", {"customerSession": cart(NO_PRICE, {**PEN, "sku": ""})}),
    ("invalid_field", "missing_price", "none", {"customerSession": {**cart(NO_PRICE), "storeIntegrationId": ""}}),
    ("invalid_field", "number_out_of_range", "none", {"customerSession": cart({**PEN, "price": 1e12, "weight": -1})}),
    (
        "invalid_field",
        "number_out_of_range",
        "none",
        {"customerSession": {"attributes": {"a": 2**63}}, "eventId": ""},
    ),
    (
        "invalid_field",
        "number_out_of_range",
        "none",
        {"customerSession": {"evaluableCampaignIds": [2**63, "x"]}},
    ),
    ("missing_price", "too_many_items", "none", {"customerSession": cart(*[PEN] * 1000, NO_PRICE)}),
    ("missing_price", "too_many_units", "none", {"customerSession": cart({**NO_PRICE, "quantity": 10_001})}),
    (
        "number_out_of_range",
        "too_many_items",
        "none",
        {"customerSession": cart(*[PEN] * 1000, {**PEN, "price": 1e12})},
    ),
    (
        "number_out_of_range",
        "too_many_units",
        "none",
        {"customerSession": {**cart({**PEN, "quantity": 10_001}), "attributes": {"a": [2**63]}}},
    ),
    (
        "number_out_of_range",
        "too_many_units",
        "none",
        {"customerSession": {**cart({**PEN, "quantity": 10_001}), "additionalCosts": {"a": {"price": 1e12}}}},
    ),
    (
        "too_many_items",
        "occurred_in_future",
        "none",
        {"customerSession": cart(*[PEN] * 1001), "occurredAt": FUTURE},
    ),
    (
        "too_many_units",
        "occurred_in_future",
        "none",
        {"customerSession": cart({**PEN, "quantity": 10_001}), "occurredAt": FUTURE},
    ),
    (
        "occurred_in_future",
        "dry_not_supported",
        "closed",
        {"type": "reopen", "dry": True, "occurredAt": FUTURE},
    ),
    ("occurred_in_future", "empty_return", "closed", returning(occurredAt=FUTURE)),
    ("occurred_in_future", "ambiguous_item", "closed", returning({"position": 0, "sku": "cup"}, occurredAt=FUTURE)),
    ("occurred_in_future", "missing_item", "closed", returning({}, occurredAt=FUTURE)),
    ("dry_not_supported", "event_id_reused", "closed", {"type": "reopen", "dry": True, "eventId": "used"}),
    ("dry_not_supported", "unknown_session", "none", {"type": "reopen", "dry": True}),
    ("empty_return", "event_id_reused", "closed", returning(eventId="used")),
    ("ambiguous_item", "event_id_reused", "closed", returning({"position": 0, "sku": "cup"}, eventId="used")),
    ("missing_item", "event_id_reused", "closed", returning({}, eventId="used")),
    ("empty_return", "unknown_session", "none", returning()),
    ("event_id_reused", "session_not_open", "closed", {"customerSession": {}, "eventId": "used"}),
    (
        "event_id_reused",
        "invalid_state",
        "closed",
        {"customerSession": {"state": "partially_returned"}, "eventId": "used"},
    ),
    ("event_id_reused", "invalid_transition", "open", {"type": "reopen", "eventId": "used"}),
    ("event_id_reused", "unknown_item", "closed", returning({"sku": "tea"}, eventId="used")),
    ("unknown_session", "unknown_item", "none", returning({"sku": "tea"})),
    ("invalid_transition", "unknown_item", "open", returning({"sku": "tea"})),
    ("invalid_transition", "return_exceeds_remaining", "cancelled", returning({"position": 0, "quantity": 9})),
    ("session_not_open", "number_out_of_range", "closed", {"customerSession": {"additionalCosts": OVERFLOW}}),
    (
        "invalid_state",
        "number_out_of_range",
        "open",
        {"customerSession": {"additionalCosts": OVERFLOW, "state": "partially_returned"}},
    ),
    (
        "invalid_state",
        "number_out_of_range",
        "none",
        {"customerSession": {"additionalCosts": OVERFLOW, "state": "cancelled"}},
    ),
]


@pytest.mark.parametrize(("first", "second", "state", "value"), PAIRS)
def test_a_record_that_fails_two_rows_is_refused_with_the_code_of_the_first(first, second, state, value):
    assert in_state(state).one(value).code == first


@pytest.mark.parametrize(
    ("first", "state", "value"),
    [
        ("session_not_open", "closed", {"customerSession": {"attributes": {"a": "x" * 2000}}}),
        ("unknown_item", "closed", returning({"position": 0}, {"sku": "tea"})),
        ("return_exceeds_remaining", "closed", returning({"position": 0, "quantity": 9})),
        (
            "number_out_of_range",
            "open",
            {"customerSession": {"additionalCosts": OVERFLOW, "attributes": {"a": "x" * 2000}}},
        ),
    ],
)
def test_the_size_of_the_session_is_judged_after_all_other_rows(first, state, value):
    till = full(state)
    growing = {"customerSession": {"referralCode": "r"}} if state == "open" else returning({"position": 0})
    assert till.one(growing).code == "session_too_large"
    assert till.one(value).code == first


def test_a_record_without_origin_is_too_large_first_and_then_lacks_its_origin_whatever_it_holds():
    network = Network(max_record_bytes=100)
    for value in (b"{" * 101, b"{" * 100):
        network.put(REKEYED, 0, ConsumerRecord(0, SENT, None, value, ()))
    assert [rejection.code for rejection in network.rejections] == ["record_too_large", "missing_origin"]


def test_an_update_repaired_row_by_row_is_refused_by_one_row_after_the_other():
    """The record fails every row that an update can fail; each repair lets the next one speak."""
    till = in_state("closed", max_snapshot_bytes=1000)
    items: list[dict[str, Any]] = [{**PEN, "quantity": 11}] * 1001
    record: dict[str, Any] = {
        "integrationId": "",
        "type": "x",
        "applicationId": 2,
        "customerSession": {"x": 1, "profileId": 5, "cartItems": [*items, {**NO_PRICE}]},
        "occurredAt": FUTURE,
        "eventId": "used",
        "responseContent": "x" * (1 << 20),
    }
    session = record["customerSession"]

    def refused() -> str:
        return till.one(record).code

    assert till.one(encoded(record) + b"}").code == refused() == "record_too_large"
    record["responseContent"] = None
    assert till.one(encoded(record) + b"}").code == "malformed_json"
    assert refused() == "missing_integration_id"
    del record["integrationId"]
    assert refused() == "unknown_type"
    record["type"] = "update"
    assert refused() == "wrong_application"
    record["applicationId"] = 1
    assert refused() == "unknown_field"
    del session["x"]
    assert refused() == "invalid_field"
    session["profileId"] = "p"
    assert refused() == "missing_price"
    session["cartItems"] = items
    assert refused() == "too_many_items"
    session["cartItems"] = items[:1000]
    assert refused() == "too_many_units"
    session["cartItems"] = [PEN] * 1000
    assert refused() == "occurred_in_future"
    record["occurredAt"] = None
    assert refused() == "event_id_reused"
    record["eventId"] = "new"
    assert refused() == "session_not_open"
    till.reopen()
    session["additionalCosts"] = OVERFLOW
    assert refused() == "number_out_of_range"
    session["additionalCosts"] = {}
    assert refused() == "session_too_large"
    session["cartItems"] = [PEN]
    assert till.one(record).event == "updated"


def test_a_return_repaired_row_by_row_is_refused_by_one_row_after_the_other():
    till = in_state("open")
    record: dict[str, Any] = {
        "type": "return",
        "applicationId": 2,
        "return": {"returnedCartItems": [{"x": 1, "quantity": 0}]},
        "customerSession": {},
        "occurredAt": FUTURE,
        "eventId": "used",
    }

    def refused(*entries: dict[str, Any]) -> str:
        record["return"]["returnedCartItems"] = [*entries]
        return till.one(record).code

    assert refused({"x": 1, "quantity": 0}) == "wrong_application"
    record["applicationId"] = 1
    assert refused({"quantity": 0}) == "ambiguous_field"
    del record["customerSession"]
    assert refused({"x": 1, "quantity": 0}) == "unknown_field"
    assert refused({"quantity": 0}) == "invalid_field"
    assert refused({"quantity": 2**63}) == "number_out_of_range"
    assert refused() == "occurred_in_future"
    record["occurredAt"] = None
    assert refused() == "empty_return"
    assert refused({}) == "missing_item"
    assert refused({"sku": "cup", "position": 0}) == "ambiguous_item"
    assert refused({"sku": "tea"}) == "event_id_reused"
    record["eventId"] = "new"
    assert refused({"sku": "tea"}) == "invalid_transition"
    till.update({"state": "closed"})
    assert refused({"sku": "tea"}) == "unknown_item"
    assert refused({"sku": "cup", "quantity": 3}) == "return_exceeds_remaining"
    record["return"]["returnedCartItems"] = [{"sku": "cup"}]
    assert till.one(record).event == "partially_returned"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"customerSession": cart(*[NO_PRICE] * 1500, {**PEN, "x": 1})}, "unknown_field"),
        ({"customerSession": cart(*[NO_PRICE] * 1500, {**PEN, "quantity": 0})}, "invalid_field"),
        (returning(*[{"quantity": 0}] * 1500, {"position": 0, "x": 1}), "unknown_field"),
        (
            {
                "customerSession": {
                    "experimentVariantAllocations": [
                        *[{"experimentID": 2**63, "variantID": 1}] * 1500,
                        {"experimentID": 1, "variantID": "x"},
                    ]
                }
            },
            "invalid_field",
        ),
    ],
)
def test_the_first_failing_row_is_found_behind_any_number_of_elements_that_fail_later_rows(till, value, code):
    assert till.one(value).code == code


def test_among_several_failures_of_a_row_it_is_always_the_same_that_is_named():
    record = {"x": 1, "y": 2, "customerSession": {"b": 1, "a": 2, **cart({**PEN, "z": 1}, {**PEN, "q": 1})}}
    pointers = {Till().one(record).pointer for _again in range(5)}
    assert len(pointers) == 1


# ----------------------------------------------------------------------------------------------- what the reason says


@pytest.mark.parametrize(
    "value",
    [
        {"customerSession": {}, "type": "x" * 5000},
        {"customerSession": {}, "applicationId": 10**300},
        {"customerSession": {}, "occurredAt": "x" * 5000},
        {"customerSession": {}, "occurredAt": "2026-02-30T10:00:00." + "9" * 5000 + "Z"},
        {"customerSession": {}, "occurredAt": "0000-01-01T10:00:00." + "9" * 5000 + "Z"},
        {"customerSession": {}, "eventId": "x" * 5000},
        {"customerSession": {"profileId": ["x" * 5000]}},
        {"customerSession": {"state": "x" * 5000}},
        {"customerSession": {"x" * 5000: "x" * 5000}},
        {"customerSession": {"additionalCosts": {"x" * 5000: 5}}},
        {"customerSession": {"evaluableCampaignIds": [{"x" * 5000: 1}]}},
        returning({"sku": "x" * 5000}),
        returning({"position": 0, "sku": "x" * 5000}),
        b'"' + b"x" * 5000 + b'"',
        b"x" * 5000,
        "x" * 5000,
        "[" * 5000,
    ],
)
def test_the_offending_value_is_cut_to_100_characters_in_the_message(value):
    till = in_state("closed")
    rejection = till.one(value)
    message = rejection.headers["rejection-message"]
    assert 10 < len(message) < 400
    assert "x" * 101 not in message
    assert "9" * 101 not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"customerSession": {"profileId": 12345}}, "12345"),
        ({"customerSession": {"cartItem": 1}}, "cartItem"),
        ({"customerSession": {}, "applicationId": 77}, "77"),
        ({"customerSession": {}, "type": "updat"}, "updat"),
        ({"customerSession": {}, "occurredAt": "yesterday"}, "yesterday"),
        (returning({"sku": "tea"}), "tea"),
        (returning({"sku": "cup", "quantity": 3}), "3"),
        ({"customerSession": {}, "eventId": "used"}, "used"),
    ],
)
def test_the_message_names_what_offends(value, told):
    assert told in in_state("closed").one(value).headers["rejection-message"]


@pytest.mark.parametrize(
    "value",
    [
        {"customerSession": {"x" * 200_000: 1}},
        {"customerSession": {"/" * 1_000_000: 1}},
        {"customerSession": {"attributes": {"~" * 1_000_000: 2**63}}},
        {"customerSession": {"additionalCosts": {"x" * 1_000_000: {"price": 1e12}}}},
        {"customerSession": {"additionalCosts": {"x" * 1_000_000: {}}}},
        {"customerSession": cart({**PEN, "attributes": {"x" * 1_000_000: 2**63}})},
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_pointer_into_a_name_of_a_megabyte_makes_no_record_that_no_topic_takes(till, value):
    """An output topic takes max_record_bytes plus 128 KiB for key and headers; `checked` holds every rejection to it."""
    rejection = till.one(value)
    assert rejection.code in ("unknown_field", "number_out_of_range", "missing_price")
    assert rejection.raw == encoded(value)


# ------------------------------------------------------------------------------------------- rejections of rejections


def test_a_rejection_that_is_sent_again_has_its_headers_replaced(till):
    first = till.one(b"{", headers=[("a", b"1")], offset=3)
    sent_again = [(name, text.encode()) for name, text in first.headers.items()]
    second = till.one({"customerSession": {"x": 1}}, headers=sent_again, offset=9)
    assert (second.code, second.headers["__streams.errors.offset"]) == ("unknown_field", "9")
    assert second.headers["a"] == "1"
    assert set(second.headers) == {"a", *REJECTION_HEADERS}


def test_a_rejection_that_is_sent_again_no_longer_says_what_was_cut_of_it(till):
    first = till.one(b"x" * (MOST + 1))
    assert first.headers["rejection-cut"] == "value"
    sent_again = [(name, text.encode()) for name, text in first.headers.items()]
    second = till.one(b"x", headers=sent_again)
    assert (second.code, "rejection-cut" in second.headers) == ("malformed_json", False)


def test_what_is_cut_again_of_a_rejection_that_is_sent_again_is_named_once(till):
    """`checked` sees to it that no header of a rejection stands there twice."""
    first = till.one(b"x" * (MOST + 1))
    sent_again = [(name, text.encode()) for name, text in first.headers.items()]
    second = till.one(b"x" * (MOST + 1), headers=sent_again)
    assert second.headers["rejection-cut"] == "value"


def test_an_accepted_record_passes_no_rejection_headers_on(till):
    first = till.one(b"{")
    sent_again = [(name, text.encode()) for name, text in first.headers.items()]
    accepted = till.one({"customerSession": {}}, headers=sent_again)
    assert not set(accepted.headers) & set(REJECTION_HEADERS)


# -------------------------------------------------------------------------------------------------------- what is cut

KIB64 = 64 << 10
MOST = (1 << 20) + KIB64
"""What a rejected record may take with its key and headers: more no output topic is bound to carry."""


def in_all(value: bytes, headers: int) -> dict[str, Any]:
    """Make a record of so many bytes of headers, key and header name included."""
    return {"value": value, "key": b"s-1", "headers": [("h", b"x" * (headers - len("s-1") - len("h")))]}


@pytest.mark.parametrize("headers", [10, KIB64, KIB64 + 1, MOST - 1])
def test_a_record_that_fits_comes_out_whole_however_its_bytes_are_spread(till, headers):
    record = in_all(b"x" * (MOST - headers), headers)
    rejection = till.one(**record)
    assert rejection.code in ("record_too_large", "malformed_json")
    assert (rejection.raw, rejection.key) == (record["value"], b"s-1")
    assert rejection.headers["h"].encode() == record["headers"][0][1]
    assert "rejection-cut" not in rejection.headers


@pytest.mark.parametrize(
    ("value", "headers", "kept", "cut"),
    [
        (MOST - 9, 10, 1 << 20, "value"),
        (10_000_000, 10, 1 << 20, "value"),
        ((1 << 20) + 1, KIB64, 1 << 20, "value"),
        (1 << 20, KIB64 + 1, 1 << 20, "headers"),
        (1, MOST, 1, "headers"),
        ((1 << 20) + 1, KIB64 + 1, 1 << 20, "value,headers"),
    ],
)
def test_a_record_that_does_not_fit_is_cut_and_says_so(till, value, headers, kept, cut):
    record = in_all(b"x" * value, headers)
    rejection = till.one(**record)
    assert (rejection.raw, rejection.key) == (b"x" * kept, b"s-1")
    assert rejection.headers["rejection-cut"] == cut
    assert ("h" in rejection.headers) == ("headers" not in cut)


def test_a_key_beyond_64_kib_is_cut_too(till):
    rejection = till.one(b"x" * ((1 << 20) + 1), b"k" * (1 << 20), headers=[("h", b"x")])
    assert (rejection.raw, rejection.key) == (b"x" * (1 << 20), b"k" * KIB64)
    assert rejection.headers["rejection-cut"] == "value,headers,key"
    assert "h" not in rejection.headers


@pytest.mark.parametrize("more", [0, 1])
def test_a_pointer_over_a_thousand_characters_is_shortened_to_the_nearest_place_above(till, more):
    name = "😀" * (1000 - len("/customerSession/") + more)
    rejection = till.update({name: 1})
    assert rejection.code == "unknown_field"
    assert rejection.pointer == ("/customerSession" if more else f"/customerSession/{name}")


# ------------------------------------------------------------------------------------------------- nothing stops it

KEYS = st.none() | st.binary(max_size=8) | st.sampled_from([b"s-1", b"s-2"])
VALUES = (
    st.none()
    | st.binary(max_size=40)
    | st.sampled_from([encoded(value) for _code, _state, value, _pointer in CODES if len(encoded(value)) < 2000])
    | st.dictionaries(
        st.sampled_from(["type", "integrationId", "eventId", "customerSession", "return", "dry", "occurredAt"]),
        st.none() | st.text(max_size=3) | st.integers() | st.just({}) | st.just([]) | st.just({"profileId": "p"}),
    ).map(encoded)
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["a", "worker-origin", "worker-origin-key", "worker-events", "traceparent", *REJECTION_HEADERS]
        ),
        st.none() | st.binary(max_size=30),
    ),
    max_size=4,
)
RECORDS = st.lists(
    st.tuples(KEYS, VALUES, HEADERS, st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=12
)


@settings(deadline=None)
@given(records=RECORDS)
def test_no_input_however_broken_stops_the_worker_or_touches_another_session(records):
    driver = StreamDriver(4, Rules())
    witness = Update({"customerSession": {"attributes": {"a": 1}}}, "witness", None, SENT)
    driver.send(witness)
    for key, value, headers, partition, timestamp in records:
        driver.send(Update(value, key, partition, timestamp, tuple(headers)))
    driver.send(witness)
    driver.run()
    session = driver.sessions()["witness"]
    assert (session["updateCount"], session["attributes"]) == (2, {"a": 1})
    outcomes: list[Outcome] = []
    for topic in ("customer-sessions", "session-dry-runs", "session-rejections"):
        outcomes += checked(driver.published(topic), Rules())
    counts = driver.counts()
    answered = sum(
        count for name, count in counts.items() if name not in ("forwarded", "reclassified", "duplicate", "absent")
    )
    assert answered == len([outcome for outcome in outcomes if outcome.what != "reclassified"])
    assert counts["forwarded"] == len(driver.published(REKEYED))
