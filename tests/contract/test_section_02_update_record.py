"""Section 2, the update record: what is read, what is refused, field by field."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.conftest import CUP, HOUR, PEN, SENT, SENT_AT, Network, Till, cart, encoded

Fields = dict[str, Any]
_COSTS: Fields = {"wrap": {"price": 1}}

OBJECTS: dict[str, tuple[Callable[[Fields], Fields], str]] = {
    "record": (lambda fields: {"customerSession": {}, **fields}, ""),
    "session": (lambda fields: {"customerSession": fields}, "/customerSession"),
    "item": (lambda fields: {"customerSession": cart({**PEN, **fields})}, "/customerSession/cartItems/0"),
    "product": (
        lambda fields: {"customerSession": cart({**PEN, "product": {"name": "Pen", **fields}})},
        "/customerSession/cartItems/0/product",
    ),
    "item cost": (
        lambda fields: {"customerSession": cart({**PEN, "additionalCosts": {"a/b~": {"price": 1, **fields}}})},
        "/customerSession/cartItems/0/additionalCosts/a~1b~0",
    ),
    "cost": (
        lambda fields: {"customerSession": {"additionalCosts": {"post": {"price": 1, **fields}}}},
        "/customerSession/additionalCosts/post",
    ),
    "allocation": (
        lambda fields: {
            "customerSession": {"experimentVariantAllocations": [{"experimentID": 1, "variantID": 1, **fields}]}
        },
        "/customerSession/experimentVariantAllocations/0",
    ),
    "return": (lambda fields: {"return": {"returnedCartItems": [{"position": 0}], **fields}}, "/return"),
    "entry": (
        lambda fields: {"return": {"returnedCartItems": [{"position": 0, **fields}]}},
        "/return/returnedCartItems/0",
    ),
    "entry by sku": (
        lambda fields: {"return": {"returnedCartItems": [{"sku": "cup", **fields}]}},
        "/return/returnedCartItems/0",
    ),
}
"""How to write a record with certain fields in an object, and where that object is."""


def with_fields(place: str, fields: Fields) -> Fields:
    return OBJECTS[place][0](fields)


def ready_for(place: str, till: Till) -> Till:
    """Close a session, where it takes that for a record to be accepted."""
    if place in ("return", "entry", "entry by sku"):
        till.update({**cart(CUP, PEN), "state": "closed"})
    return till


# --------------------------------------------------------------------------------------------- type and identity


def test_the_body_of_a_talon_one_request_is_valid_as_it_stands(till):
    body = {"customerSession": {**cart(PEN), "profileId": "p"}, "responseContent": ["customerSession", "effects"]}
    assert till.one(body, "s-1").snapshot["integrationId"] == "s-1"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"type": "update", "customerSession": {"state": "cancelled"}}, "revoked"),
        ({"customerSession": {"state": "cancelled"}}, "revoked"),
        ({"type": None, "customerSession": {"state": "cancelled"}}, "revoked"),
        ({"customerSession": {"state": "cancelled"}, "return": None}, "revoked"),
        ({"type": "return", "return": {"returnedCartItems": [{"position": 0}]}}, "partially_returned"),
        ({"return": {"returnedCartItems": [{"position": 0}]}}, "partially_returned"),
        ({"return": {"returnedCartItems": [{"position": 0}]}, "customerSession": None}, "partially_returned"),
        ({"type": "reopen"}, "reopened"),
        ({"type": "reopen", "customerSession": None, "return": None}, "reopened"),
        ({"type": "Update", "customerSession": {}}, "unknown_type"),
        ({"type": "delete"}, "unknown_type"),
        ({"type": "", "customerSession": {}}, "unknown_type"),
        ({"type": 5, "customerSession": {}}, "unknown_type"),
        ({"type": True, "customerSession": {}}, "unknown_type"),
        ({"type": ["update"], "customerSession": {}}, "unknown_type"),
        ({"type": {"update": 1}, "customerSession": {}}, "unknown_type"),
        ({}, "unknown_type"),
        ({"customerSession": None}, "unknown_type"),
        ({"return": None}, "unknown_type"),
        ({"customerSession": {}, "return": {}}, "unknown_type"),
        ({"type": "update"}, "invalid_field"),
        ({"type": "update", "customerSession": None}, "invalid_field"),
        ({"type": "return"}, "invalid_field"),
        ({"type": "return", "return": None}, "invalid_field"),
    ],
)
def test_the_type_is_given_or_told_by_the_fields(till, record, expected):
    till.update({**cart(CUP), "state": "closed"})
    assert till.one(record).what == expected


@pytest.mark.parametrize(("kind", "pointer"), [("update", "/customerSession"), ("return", "/return")])
@pytest.mark.parametrize("given", [{}, {"customerSession": None, "return": None}])
def test_a_missing_customer_session_or_return_is_named_by_the_pointer(till, kind, pointer, given):
    rejection = till.one({"type": kind, **given})
    assert (rejection.code, rejection.pointer) == ("invalid_field", pointer)


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        ({"type": "return", "return": {"returnedCartItems": []}, "customerSession": {}}, "/customerSession"),
        ({"type": "return", "customerSession": {}}, "/customerSession"),
        ({"type": "reopen", "customerSession": {}}, "/customerSession"),
        ({"type": "reopen", "return": {}}, "/return"),
        ({"type": "update", "customerSession": {}, "return": {}}, "/return"),
        ({"type": "update", "return": {}}, "/return"),
    ],
)
def test_a_customer_session_or_a_return_where_it_does_not_belong_is_ambiguous(till, record, pointer):
    rejection = till.one(record)
    assert (rejection.code, rejection.pointer) == ("ambiguous_field", pointer)


@pytest.mark.parametrize(
    ("field", "key", "expected"),
    [
        (..., b"s-1", "s-1"),
        (None, b"s-1", "s-1"),
        ("s-1", b"s-1", "s-1"),
        ("s-2", b"s-1", "s-2"),
        ("s-2", None, "s-2"),
        ("s-2", b"", "s-2"),
        ("s-2", b"\xff", "s-2"),
        (..., "tür".encode(), "tür"),
        (..., b" ", " "),
        ("\x00", b"s-1", "\x00"),
        ("x" * 1000, None, "x" * 1000),
        ("😀" * 1000, None, "😀" * 1000),
        (..., ("😀" * 1000).encode(), "😀" * 1000),
        ("s-2", b"x" * 1001, "s-2"),
    ],
)
def test_the_session_is_named_by_the_field_and_else_by_the_key(till, field, key, expected):
    record = {"customerSession": {}} if field is ... else {"customerSession": {}, "integrationId": field}
    outcome = till.one(record, key)
    assert (outcome.event, outcome.key, outcome.snapshot["integrationId"]) == ("created", expected.encode(), expected)


@pytest.mark.parametrize(
    ("field", "key", "code"),
    [
        (..., None, "missing_integration_id"),
        (..., b"", "missing_integration_id"),
        (..., b"\xff", "missing_integration_id"),
        (..., b"\xed\xa0\x80", "missing_integration_id"),
        (None, None, "missing_integration_id"),
        (None, b"", "missing_integration_id"),
        ("", b"s-1", "missing_integration_id"),
        ("x" * 1001, b"s-1", "invalid_field"),
        ("😀" * 1001, b"s-1", "invalid_field"),
        (..., b"x" * 1001, "invalid_field"),
        (5, b"s-1", "invalid_field"),
        (5, None, "invalid_field"),
    ],
)
def test_a_session_without_a_name_or_with_one_too_long_is_refused(till, field, key, code):
    record = {"customerSession": {}} if field is ... else {"customerSession": {}, "integrationId": field}
    outcome = till.one(record, key)
    assert (outcome.code, outcome.key, outcome.raw) == (code, key, encoded(record))


@pytest.mark.parametrize(("key", "code"), [(None, "missing_integration_id"), (b"", "missing_integration_id")])
@pytest.mark.parametrize("partition", [0, 5])
def test_a_tombstone_without_a_key_names_no_session(till, key, code, partition):
    rejection = till.one(None, key, partition=partition)
    assert (rejection.code, rejection.key, rejection.raw) == (code, key, None)
    assert rejection.partition == partition


@pytest.mark.parametrize(("key", "code"), [(b"\xff", "missing_integration_id"), (b"x" * 1001, "invalid_field")])
def test_a_tombstone_whose_key_can_name_no_session_is_refused(till, key, code):
    assert till.one(None, key).code == code


def test_a_tombstone_deletes_the_session_of_its_key_and_a_later_update_starts_a_new_one(till):
    till.update({**cart(CUP), "attributes": {"a": 1}}, "s-1", timestamp=SENT - HOUR)
    till.update({}, "s-2")
    (deleted,) = till.delete("s-1")
    assert (deleted.event, deleted.key, deleted.raw) == ("deleted", b"s-1", None)
    assert till.counts() == {"created": 2, "deleted": 1}
    created = till.update({}, "s-1", offset=9)
    assert created.event == "created"
    assert created.snapshot["id"] == 10
    assert (created.snapshot["updateCount"], created.snapshot["created"]) == (1, SENT_AT)
    assert (created.snapshot["cartItems"], created.snapshot["attributes"]) == ([], {})
    assert till.update({}, "s-2").event == "updated"


def test_a_tombstone_for_a_session_that_does_not_exist_changes_nothing(till):
    assert till.delete("s-1") == []
    till.update({}, "s-1")
    assert len(till.delete("s-1")) == 1
    assert till.delete("s-1") == []


def test_strings_compare_as_they_are_without_normalization(till):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert till.update({}, composed).event == "created"
    assert till.update({}, decomposed).event == "created"
    assert till.update({}, composed.upper()).event == "created"
    till.update({**cart({**PEN, "sku": composed}), "state": "closed"}, composed)
    assert till.take_back({"sku": decomposed}, key=composed).code == "unknown_item"


# ---------------------------------------------------------------------------------------------- application, time


@pytest.mark.parametrize("given", ["7", "7.0", "7e0", "null"])
def test_the_workers_own_application_is_taken(given):
    till = Till(application_id=7)
    assert till.one(f'{{"customerSession": {{}}, "applicationId": {given}}}').snapshot["applicationId"] == 7


@pytest.mark.parametrize("given", ["8", "-7", "0", "7.5", str(2**63), "1e400"])
def test_another_application_is_refused_or_skipped_as_the_operator_wants(given):
    record = f'{{"customerSession": {{}}, "applicationId": {given}}}'
    rejection = Till(application_id=7).one(record)
    assert (rejection.code, rejection.pointer) == ("wrong_application", "/applicationId")
    till = Till(application_id=7, other_applications="skip")
    assert till.send(record) == []
    assert till.counts() == {"skipped": 1}
    assert till.update({}).event == "created"


def test_skipping_other_applications_skips_no_other_mistake():
    till = Till(application_id=7, other_applications="skip")
    assert till.one({"applicationId": 8}).code == "unknown_type"
    assert till.one({"applicationId": "8", "customerSession": {}}).code == "invalid_field"
    assert till.one({"applicationId": 7, "customerSession": {"x": 1}}).code == "unknown_field"
    assert till.send({"applicationId": 8, "customerSession": {"x": 1}}) == []


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22T10:00:00.1Z", "2026-11-22T10:00:00.100Z"),
        ("2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        ("2026-11-22T10:00:00.1239Z", "2026-11-22T10:00:00.123Z"),
        ("2026-11-22T10:00:00.999999999999999999999Z", "2026-11-22T10:00:00.999Z"),
        ("2026-11-22t10:00:00z", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22t10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        ("2026-11-22T10:00:00.123z", "2026-11-22T10:00:00.123Z"),
        ("2026-11-22T10:00:00+00:00", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22T10:00:00-00:00", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22T10:00:00+01:00", "2026-11-22T09:00:00.000Z"),
        ("2026-11-22T10:00:00.5-05:30", "2026-11-22T15:30:00.500Z"),
        ("2026-11-22T00:30:00+23:59", "2026-11-21T00:31:00.000Z"),
        ("2024-02-29T23:59:59.999Z", "2024-02-29T23:59:59.999Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_occurred_at_is_an_rfc_3339_time_cut_to_milliseconds_in_utc(till, given, read):
    outcome = till.update({}) and till.one({"customerSession": {}, "occurredAt": given}, "s-2")
    assert outcome.event == "created"
    assert outcome.snapshot["created"] == outcome.snapshot["updated"] == outcome.headers["ce_time"] == read


@pytest.mark.parametrize(
    "given",
    [
        "",
        "now",
        "2026-11-22",
        "2026-11-22T10:00:00",
        "2026-11-22T10:00Z",
        "2026-11-22 10:00:00Z",
        "2026-11-22T10:00:00.Z",
        "2026-11-22T10:00:00,5Z",
        "2026-11-22T10:00:00+01",
        "2026-11-22T10:00:00+0100",
        "2026-11-22T10:00:00+24:00",
        "2026-11-22T10:00:00+01:60",
        "2026-11-22T10:00:00+01:00:00",
        "2026-11-22T23:59:60Z",
        "2016-12-31T23:59:60Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T10:60:00Z",
        "2026-13-01T10:00:00Z",
        "2026-00-01T10:00:00Z",
        "2026-02-29T10:00:00Z",
        "2026-11-31T10:00:00Z",
        "2026-W47-7T10:00:00Z",
        "20261122T100000Z",
        "26-11-22T10:00:00Z",
        "+2026-11-22T10:00:00Z",
        "-2026-11-22T10:00:00Z",
        "12026-11-22T10:00:00Z",
        " 2026-11-22T10:00:00Z",
        "2026-11-22T10:00:00Z\n",
        "2026-11-22T10:00:00Z\x00",
        "２026-11-22T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1969-12-31T23:59:59Z",
        "1969-12-31T23:59:59.999Z",
        "1969-12-31T23:59:59.9999Z",
        "1970-01-01T00:59:59.999+01:00",
        "9999-12-31T23:59:59-01:00",
        1795372800000,
        1.5,
        True,
        {},
        [],
    ],
)
def test_any_other_time_is_an_invalid_field(till, given):
    rejection = till.one({"customerSession": {}, "occurredAt": given})
    assert (rejection.code, rejection.pointer) == ("invalid_field", "/occurredAt")


@pytest.mark.parametrize(
    ("timestamp", "read"),
    [
        (SENT, SENT_AT),
        (SENT + 1, "2026-11-22T18:40:00.001Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_without_occurred_at_it_is_the_kafka_timestamp_as_far_as_a_time_can_name_it(till, timestamp, read):
    created = till.one({"customerSession": {}, "occurredAt": None}, timestamp=timestamp)
    assert created.snapshot["created"] == created.snapshot["updated"] == created.headers["ce_time"] == read
    assert created.timestamp == timestamp
    (deleted,) = till.delete(timestamp=timestamp)
    assert (deleted.headers["ce_time"], deleted.timestamp) == (read, timestamp)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-11-22T19:40:00.000Z", "created"),
        ("2026-11-22T19:40:00.0009Z", "created"),
        ("2026-11-22T20:40:00.0009+01:00", "created"),
        ("2026-11-22T19:40:00.001Z", "occurred_in_future"),
        ("2026-11-22T20:40:00.001+01:00", "occurred_in_future"),
        ("9999-12-31T23:59:59Z", "occurred_in_future"),
        ("1970-01-01T00:00:00Z", "created"),
    ],
)
def test_occurred_at_may_lie_an_hour_after_the_kafka_timestamp_and_no_millisecond_more(till, given, expected):
    outcome = till.one({"customerSession": {}, "occurredAt": given})
    assert outcome.what == expected
    assert expected == "created" or outcome.pointer == "/occurredAt"


# ------------------------------------------------------------------------------------------------ limits of fields

LIMITS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("record", "eventId", ["e", "e" * 255, "😀" * 255, " "], ["", "e" * 256, "😀" * 256]),
    ("record", "dry", [False], []),
    ("session", "profileId", ["", "p", "p" * 1000, "😀" * 1000], ["p" * 1001, "😀" * 1001]),
    ("session", "storeIntegrationId", ["s", "s" * 1000], ["", "s" * 1001]),
    ("session", "evaluableCampaignIds", [[], [0], [-1, -1], [2**63 - 1], [-(2**63)], [1] * 5000], [[1.5]]),
    ("session", "couponCodes", [[], [""], ["c" * 100, "😀" * 100], ["c"] * 5000], [["c" * 101], ["ok", "😀" * 101]]),
    ("session", "referralCode", ["", "r", "r" * 100, "😀" * 100], ["r" * 101, "😀" * 101]),
    ("session", "loyaltyCards", [[], ["l"], ["l" * 9999], [""]], [["l", "m"], ["l"] * 500]),
    ("session", "identifiers", [[], ["i"] * 5, ["i" * 9999]], [["i"] * 6, ["i"] * 500]),
    ("session", "state", ["open", "closed"], ["", "Open", "partially returned", "deleted"]),
    ("session", "additionalCosts", [{}, {"": {"price": 1}}, {"c" * 2000: {"price": 1}}], []),
    ("session", "attributes", [{}, {"": None}, {"a": [None, {"b": None}]}, {"k" * 2000: "v" * 2000}], []),
    ("session", "experimentVariantAllocations", [[], [{"experimentID": 0, "variantID": -1}]], []),
    ("session", "coupon", ["", "c" * 100, "😀" * 100], ["c" * 101]),
    ("session", "referral", ["", "r" * 100, "😀" * 100], ["r" * 101]),
    ("item", "sku", ["s", " ", "s" * 9999], [""]),
    ("item", "quantity", [1, 10_000], [0, -1, 1.5, -(2**70)]),
    ("item", "name", ["", "n" * 9999], []),
    ("item", "category", ["", "c" * 9999], []),
    ("item", "weight", [0, -0.0, 1e-9, 999_999_999_999.999, 999_999_999_999], [-1, -1e-9, -1e15]),
    ("item", "height", [0, -0.0, 1e-9, 999_999_999_999.999], [-1, -1e-9]),
    ("item", "width", [0, -0.0, 1e-9, 999_999_999_999.999], [-1, -1e-9]),
    ("item", "length", [0, -0.0, 1e-9, 999_999_999_999.999], [-1, -1e-9]),
    ("item", "attributes", [{}, {"a": None}], []),
    ("item", "additionalCosts", [{}, {"": {"price": 0}}], []),
    ("product", "name", ["", "n" * 9999], [None]),
    ("allocation", "experimentID", [0, -1, 2**63 - 1, -(2**63)], [1.5, None]),
    ("allocation", "variantID", [0, -1, 2**63 - 1, -(2**63)], [1.5, None]),
    ("entry", "position", [0, 1], [-1, 0.5, -(2**70)]),
    ("entry", "quantity", [1, 2], [0, -1, 0.5]),
    ("entry by sku", "sku", ["cup"], [""]),
    ("entry by sku", "quantity", [1, 2], [0, -1, 0.5]),
]


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [(place, field, value) for place, field, accepted, _refused in LIMITS for value in accepted],
    ids=lambda value: repr(value)[:24],
)
def test_a_field_is_accepted_up_to_its_limits(till, place, field, value):
    outcome = ready_for(place, till).one(with_fields(place, {field: value}))
    assert outcome.topic == "customer-sessions", outcome.headers


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [(place, field, value) for place, field, _accepted, refused in LIMITS for value in refused],
    ids=lambda value: repr(value)[:24],
)
def test_a_field_just_beyond_its_limits_is_an_invalid_field(till, place, field, value):
    rejection = till.one(with_fields(place, {field: value}))
    assert rejection.code == "invalid_field"
    assert rejection.pointer.startswith(f"{OBJECTS[place][1]}/{field}")


def test_a_cart_has_at_most_a_thousand_items(till):
    full = till.update(cart(*[PEN] * 1000))
    assert len(full.snapshot["cartItems"]) == 1000
    rejection = till.update(cart(*[PEN] * 1001))
    assert (rejection.code, rejection.pointer) == ("too_many_items", "/customerSession/cartItems")


@pytest.mark.parametrize(
    ("quantities", "expected"),
    [
        ([10_000], "created"),
        ([9_999, 1], "created"),
        ([10] * 1000, "created"),
        ([10_001], "too_many_units"),
        ([10_000, 1], "too_many_units"),
        ([2**62, 2**62], "too_many_units"),
        ([2**63 - 1] * 3, "too_many_units"),
    ],
)
def test_a_carts_quantities_add_up_to_at_most_ten_thousand(till, quantities, expected):
    outcome = till.update(cart(*({**PEN, "quantity": quantity} for quantity in quantities)))
    assert outcome.what == expected
    assert expected == "created" or outcome.pointer == "/customerSession/cartItems"


# --------------------------------------------------------------------------------------------------- types of JSON

SAMPLES: dict[str, Any] = {
    "string": "1",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "object": {"price": 1},
    "array": [1],
}
TYPES: list[tuple[str, str, str]] = [
    *(("record", name, "string") for name in ("integrationId", "eventId", "occurredAt")),
    ("record", "applicationId", "integer"),
    ("record", "dry", "boolean"),
    ("record", "customerSession", "object"),
    *(
        ("session", name, "string")
        for name in ("profileId", "storeIntegrationId", "referralCode", "coupon", "referral")
    ),
    *(
        ("session", name, "array")
        for name in (
            "evaluableCampaignIds",
            "couponCodes",
            "loyaltyCards",
            "identifiers",
            "cartItems",
            "experimentVariantAllocations",
        )
    ),
    ("session", "state", "string"),
    ("session", "additionalCosts", "object"),
    ("session", "attributes", "object"),
    *(("item", name, "string") for name in ("sku", "name", "category")),
    ("item", "quantity", "integer"),
    *(("item", name, "number") for name in ("price", "weight", "height", "width", "length")),
    *(("item", name, "object") for name in ("product", "attributes", "additionalCosts")),
    ("product", "name", "string"),
    ("item cost", "price", "number"),
    ("cost", "price", "number"),
    ("allocation", "experimentID", "integer"),
    ("allocation", "variantID", "integer"),
    ("return", "returnedCartItems", "array"),
    ("entry", "position", "integer"),
    ("entry", "quantity", "integer"),
    ("entry by sku", "sku", "string"),
]
WRONG_TYPES = [
    (place, field, kind)
    for place, field, right in TYPES
    for kind in SAMPLES
    if kind != right and not (kind == "integer" and right == "number") and (field, kind) != ("applicationId", "number")
]


@pytest.mark.parametrize(("place", "field", "kind"), WRONG_TYPES)
def test_no_field_takes_one_json_type_for_another(till, place, field, kind):
    rejection = till.one(with_fields(place, {field: SAMPLES[kind]}))
    assert (rejection.code, rejection.pointer) == ("invalid_field", f"{OBJECTS[place][1]}/{field}")


@pytest.mark.parametrize("number", [str(2**63), "-" + "9" * 400, "1e400"], ids=lambda number: number[:12])
@pytest.mark.parametrize(("place", "field"), [(place, field) for place, field, right in TYPES if right == "string"])
def test_a_number_instead_of_a_string_is_an_invalid_field_however_large_it_is(till, place, field, number):
    text = encoded(with_fields(place, {field: "#"})).replace(b'"#"', number.encode())
    rejection = till.one(text)
    assert (rejection.code, rejection.pointer) == ("invalid_field", f"{OBJECTS[place][1]}/{field}")


ELEMENTS: list[tuple[str, str, str]] = [
    ("session", "evaluableCampaignIds", "integer"),
    ("session", "couponCodes", "string"),
    ("session", "loyaltyCards", "string"),
    ("session", "identifiers", "string"),
    ("session", "cartItems", "object"),
    ("session", "experimentVariantAllocations", "object"),
    ("return", "returnedCartItems", "object"),
]


@pytest.mark.parametrize(
    ("place", "field", "kind"),
    [(place, field, kind) for place, field, right in ELEMENTS for kind in (*SAMPLES, "null") if kind != right],
)
def test_no_element_of_a_list_is_of_another_json_type_or_null(till, place, field, kind):
    rejection = till.one(with_fields(place, {field: [SAMPLES.get(kind)]}))
    assert (rejection.code, rejection.pointer) == ("invalid_field", f"{OBJECTS[place][1]}/{field}/0")


@pytest.mark.parametrize("kind", [kind for kind in (*SAMPLES, "null") if kind != "object"])
@pytest.mark.parametrize("name", ["post", "price", "", "a/b~c"])
@pytest.mark.parametrize("place", ["session", "item"])
def test_an_additional_cost_is_an_object_whatever_its_name(till, place, name, kind):
    rejection = till.one(with_fields(place, {"additionalCosts": {name: SAMPLES.get(kind)}}))
    pointer = f"{OBJECTS[place][1]}/additionalCosts/{name.replace('~', '~0').replace('/', '~1')}"
    assert (rejection.code, rejection.pointer) == ("invalid_field", pointer)


@pytest.mark.parametrize("spelled", ["2", "2.0", "2e0", "2E+0", "20e-1", "0.2e1", "2.000000000000000000000"])
@pytest.mark.parametrize(
    ("place", "template"),
    [
        ("session", '{"customerSession": {"evaluableCampaignIds": [#]}}'),
        ("session", '{"customerSession": {"experimentVariantAllocations": [{"experimentID": #, "variantID": #}]}}'),
        ("item", '{"customerSession": {"cartItems": [{"sku": "pen", "quantity": #, "price": #, "weight": #}]}}'),
        ("entry", '{"return": {"returnedCartItems": [{"position": 0, "quantity": #}]}}'),
        ("entry", '{"return": {"returnedCartItems": [{"sku": "cup", "quantity": #}]}}'),
        ("entry", '{"return": {"returnedCartItems": [{"position": #}]}}'),
    ],
)
def test_a_number_means_the_same_however_it_is_spelled(place, template, spelled):
    outcomes = []
    for text in ("2", spelled):
        till = Till()
        if place == "entry":
            till.update({**cart(CUP, PEN, PEN), "state": "closed"})
        outcomes.append(till.one(template.replace("#", text)))
    assert outcomes[0].topic == "customer-sessions"
    assert outcomes[0].raw == outcomes[1].raw


# ------------------------------------------------------------------------------------------------ numbers too large

TOO_LARGE = [str(2**63), str(2**64), "9.3e18", "1e30", "1e400", "9" * 400, "9" * 5000]
TOO_SMALL = [str(-(2**63) - 1), "-9.3e18", "-1e400", "-" + "9" * 400]


@pytest.mark.parametrize("number", [*TOO_LARGE, *TOO_SMALL], ids=lambda number: number[:12])
@pytest.mark.parametrize(
    ("template", "pointer"),
    [
        ('{"customerSession": {"evaluableCampaignIds": [#]}}', "/customerSession/evaluableCampaignIds/0"),
        (
            '{"customerSession": {"experimentVariantAllocations": [{"experimentID": #, "variantID": 1}]}}',
            "/customerSession/experimentVariantAllocations/0/experimentID",
        ),
        (
            '{"customerSession": {"experimentVariantAllocations": [{"experimentID": 1, "variantID": #}]}}',
            "/customerSession/experimentVariantAllocations/0/variantID",
        ),
    ],
)
def test_an_integer_beyond_64_bits_is_out_of_range(till, template, pointer, number):
    rejection = till.one(template.replace("#", number))
    assert (rejection.code, rejection.pointer) == ("number_out_of_range", pointer)


@pytest.mark.parametrize("number", TOO_LARGE, ids=lambda number: number[:12])
@pytest.mark.parametrize(
    ("template", "pointer"),
    [
        (
            '{"customerSession": {"cartItems": [{"sku": "a", "quantity": #, "price": 1}]}}',
            "/customerSession/cartItems/0/quantity",
        ),
        ('{"return": {"returnedCartItems": [{"position": #}]}}', "/return/returnedCartItems/0/position"),
        (
            '{"return": {"returnedCartItems": [{"sku": "a", "quantity": #}]}}',
            "/return/returnedCartItems/0/quantity",
        ),
    ],
)
def test_a_count_beyond_64_bits_is_out_of_range(till, template, pointer, number):
    rejection = till.one(template.replace("#", number))
    assert (rejection.code, rejection.pointer) == ("number_out_of_range", pointer)


ATTRIBUTES = [
    ('{"customerSession": {"attributes": {"a": #}}}', "/customerSession/attributes/a"),
    ('{"customerSession": {"profileId": "NaN", "attributes": {"a": #}}}', "/customerSession/attributes/a"),
    ('{"customerSession": {"attributes": {"a": [0, {"b/c": [#]}]}}}', "/customerSession/attributes/a/1/b~1c/0"),
    (
        '{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": 1, "attributes": {"a": #}}]}}',
        "/customerSession/cartItems/0/attributes/a",
    ),
]


@pytest.mark.parametrize(
    "number",
    [
        *(str(2**63), str(-(2**63) - 1), str(2**64), "9" * 30, "9" * 299, "9" * 300, "-" + "9" * 300, "9" * 308),
        *("9" * 309, "9" * 5000, "-" + "9" * 5000, "1e309", "-1e309", "1e400", "1" + "0" * 309 + ".0"),
    ],
    ids=lambda number: f"{number[:12]} of {len(number)}",
)
@pytest.mark.parametrize(("template", "pointer"), ATTRIBUTES)
def test_no_attribute_holds_an_integer_beyond_64_bits_or_a_number_beyond_a_double(till, template, pointer, number):
    rejection = till.one(template.replace("#", number))
    assert (rejection.code, rejection.pointer) == ("number_out_of_range", pointer)


@pytest.mark.parametrize(
    "number", [str(2**63 - 1), str(-(2**63)), "1.7976931348623157e308", "-1e308", "1e-400", "0.1", "5e-324", "1e22"]
)
@pytest.mark.parametrize(("template", "_pointer"), ATTRIBUTES)
def test_attributes_keep_every_number_that_fits(till, template, _pointer, number):
    written = till.one(template.replace("#", number)).raw.decode()
    sent = json.loads(template.replace("#", number))["customerSession"]
    kept = json.loads(written)
    if "cartItems" in sent:
        sent, kept = sent["cartItems"][0], kept["cartItems"][0]
    assert repr(kept["attributes"]) == repr(sent["attributes"])


@pytest.mark.parametrize("number", ["1e400", "9" * 5000], ids=lambda number: number[:12])
@pytest.mark.parametrize(
    "template",
    [
        '{"customerSession": {}, "responseContent": [#]}',
        '{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": 1, "position": #, "prices": [#]}]}}',
    ],
)
def test_a_number_that_nobody_reads_may_be_as_large_as_it_likes(till, template, number):
    assert till.one(template.replace("#", number)).event == "created"


# ------------------------------------------------------------------------------------------------------------ null

NULLABLE = [
    *(
        ("record", name)
        for name in ("type", "integrationId", "eventId", "occurredAt", "applicationId", "dry", "return")
    ),
    ("record", "responseContent"),
    *(
        ("session", name)
        for name in (
            *("profileId", "storeIntegrationId", "evaluableCampaignIds", "couponCodes", "referralCode"),
            *("loyaltyCards", "identifiers", "state", "cartItems", "additionalCosts", "attributes"),
            *("experimentVariantAllocations", "coupon", "referral"),
        )
    ),
    *(
        ("item", name)
        for name in (
            *("name", "category", "product", "weight", "height", "width", "length", "attributes"),
            *("additionalCosts", "position", "returnedQuantity", "remainingQuantity", "catalogItemID"),
            *("selectedPriceType", "adjustmentReferenceId", "adjustmentEffectiveFrom"),
            *("adjustmentEffectiveUntil", "prices"),
        )
    ),
    ("entry", "sku"),
    ("entry", "quantity"),
    ("entry by sku", "position"),
    ("entry by sku", "quantity"),
]
EVERYTHING: Fields = {
    "profileId": "p",
    "storeIntegrationId": "store",
    "evaluableCampaignIds": [1],
    "couponCodes": ["c"],
    "referralCode": "r",
    "loyaltyCards": ["l"],
    "identifiers": ["i"],
    "cartItems": [CUP, PEN],
    "additionalCosts": {"post": {"price": 2}},
    "attributes": {"a": 1},
    "experimentVariantAllocations": [{"experimentID": 1, "variantID": 2}],
}


@pytest.mark.parametrize(("place", "field"), NULLABLE)
def test_a_null_field_counts_as_left_out(place, field):
    raws = []
    for fields in ({}, {field: None}):
        till = Till()
        state = "closed" if place.startswith("entry") else "open"
        till.update({**EVERYTHING, "state": state})
        outcome = till.one(with_fields(place, fields))
        assert outcome.topic == "customer-sessions"
        raws.append(outcome.raw)
    assert raws[0] == raws[1]


@pytest.mark.parametrize(
    ("place", "field", "code"),
    [
        ("item", "sku", "invalid_field"),
        ("item", "quantity", "invalid_field"),
        ("item", "price", "missing_price"),
        ("item cost", "price", "missing_price"),
        ("cost", "price", "missing_price"),
        ("product", "name", "invalid_field"),
        ("allocation", "experimentID", "invalid_field"),
        ("allocation", "variantID", "invalid_field"),
        ("return", "returnedCartItems", "invalid_field"),
        ("entry", "position", "missing_item"),
        ("entry by sku", "sku", "missing_item"),
    ],
)
def test_null_where_something_is_required_is_refused_as_if_it_were_left_out(till, place, field, code):
    nulled = with_fields(place, {field: None})
    absent = json.loads(encoded(nulled), object_hook=lambda found: {k: v for k, v in found.items() if v is not None})
    assert [till.one(record).code for record in (nulled, absent)] == [code, code]


# --------------------------------------------------------------------------------------------------- unknown fields

MISSPELT = [
    ("record", "eventID"),
    ("record", "customersession"),
    ("record", ""),
    ("session", "cartItem"),
    ("session", "profileID"),
    ("session", "first_session"),
    ("session", "eventId"),
    ("item", "Quantity"),
    ("item", "priceX"),
    ("product", "sku"),
    ("item cost", "currency"),
    ("cost", "amount"),
    ("allocation", "experimentId"),
    ("return", "items"),
    ("entry", "price"),
    ("entry by sku", "name"),
]


@pytest.mark.parametrize(("place", "field"), MISSPELT)
def test_an_unknown_field_is_refused_wherever_the_contract_defines_an_object(till, place, field):
    rejection = ready_for(place, till).one(with_fields(place, {field: 1}))
    assert (rejection.code, rejection.pointer) == ("unknown_field", f"{OBJECTS[place][1]}/{field}")


@pytest.mark.parametrize(("place", "field"), MISSPELT)
def test_the_operator_may_have_unknown_fields_ignored(place, field):
    raws = []
    for fields in ({}, {field: {"any": [1, None]}}):
        till = ready_for(place, Till(unknown_fields="ignore"))
        outcome = till.one(with_fields(place, fields))
        assert outcome.topic == "customer-sessions"
        raws.append(outcome.raw)
    assert raws[0] == raws[1]


def test_ignoring_unknown_fields_turns_no_other_rule_off():
    till = Till(unknown_fields="ignore")
    assert till.update({"x": 1, "coupon": "c", "couponCodes": []}).code == "ambiguous_field"
    assert till.update({"x": 1, **cart({"sku": "a", "quantity": 0, "price": 1, "x": 1})}).code == "invalid_field"
    assert till.update({"x": 1, **cart({"sku": "a", "quantity": 1, "x": 1})}).code == "missing_price"
    assert till.one({"x": 1}).code == "unknown_type"
    for what in (b"NaN", b'"\xff"', rb'"\ud800"', b"[" * 64 + b"]" * 64, b"01"):
        assert till.one(b'{"x": ' + what + b', "customerSession": {}}').code == "malformed_json"


def test_inside_attributes_everything_goes_that_json_allows(till):
    anything: Fields = {"cartItem": [None, True, "", {"": [[]]}, -1.5], "type": "x", "a\u0000b": "\U0001f600", "": {}}
    snapshot = till.update({"attributes": anything, **cart({**PEN, "attributes": anything})}).snapshot
    assert snapshot["attributes"] == anything
    assert snapshot["cartItems"][0]["attributes"] == anything


@pytest.mark.parametrize("value", [7, -1.5, "x", "", True, None, {"a": {}}, [1, []]], ids=repr)
@pytest.mark.parametrize(
    "field",
    [
        *("position", "returnedQuantity", "remainingQuantity", "catalogItemID", "selectedPriceType"),
        *("adjustmentReferenceId", "adjustmentEffectiveFrom", "adjustmentEffectiveUntil", "prices"),
    ],
)
def test_what_clients_echo_of_a_cart_item_is_accepted_and_ignored(till, field, value):
    plain = till.update(cart(CUP, PEN), "s-1", offset=1).snapshot
    echoed = till.update(cart({**CUP, field: value}, {**PEN, field: value}), "s-2", offset=2).snapshot
    assert echoed["cartItems"] == plain["cartItems"]


def test_a_snapshots_own_cart_can_be_sent_back(till):
    items = till.update({**cart({**CUP, "name": "Cup", "attributes": {}}, PEN), "state": "closed"}).snapshot[
        "cartItems"
    ]
    assert till.update({"cartItems": items}, "s-2").snapshot["cartItems"] == items


@pytest.mark.parametrize("content", [[], ["customerSession"], "x", 5, {"a": [None]}, False])
def test_response_content_is_accepted_and_ignored(till, content):
    assert till.one({"customerSession": {}, "responseContent": content}).event == "created"


# --------------------------------------------------------------------------------------------------- broken records


def deep(levels: int) -> str:
    """Write a record that is nested so deep: record, customerSession, attributes, then lists."""
    return '{"customerSession": {"attributes": {"a": ' + "[" * (levels - 3) + "]" * (levels - 3) + "}}}"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"5",
        b'"text"',
        b"[]",
        b'[{"customerSession": {}}]',
        b"{",
        b"{}}",
        b'{"customerSession": {}} {}',
        b'{"customerSession": {},}',
        b'{"customerSession": {"identifiers": ["a",]}}',
        b"{'customerSession': {}}",
        b"{customerSession: {}}",
        b'{"customerSession": {}} // comment',
        b'{"customerSession"; {}}',
        b'{"customerSession": undefined}',
        b'{"customerSession": {"profileId": "a\nb"}}',
        b'{"customerSession": {"profileId": "a\x00b"}}',
        b'{"customerSession": {"profileId": "\\x41"}}',
        b'{"customerSession": {"profileId": "\\u12"}}',
        b'{"customerSession": {"profileId": "open}}',
        b'{"customerSession": {"evaluableCampaignIds": [01]}}',
        b'{"customerSession": {"evaluableCampaignIds": [1.]}}',
        b'{"customerSession": {"evaluableCampaignIds": [.5]}}',
        b'{"customerSession": {"evaluableCampaignIds": [+1]}}',
        b'{"customerSession": {"evaluableCampaignIds": [1e]}}',
        b'{"customerSession": {"evaluableCampaignIds": [0x1]}}',
        b'{"customerSession": {"evaluableCampaignIds": [1_000]}}',
        b'{"customerSession": {"evaluableCampaignIds": [-]}}',
        b'\xef\xbb\xbf{"customerSession": {}}',
        '{"customerSession": {}}'.encode("utf-16"),
        b'{"customerSession": {"profileId": "\xff"}}',
        b'{"customerSession": {"profileId": "\xc0\x80"}}',
        b'{"customerSession": {"profileId": "\xe4"}}',
        b'{"\xff": 1, "customerSession": {}}',
        b'{"customerSession": {}}\x00',
        b"\x00" * 100,
    ],
)
def test_what_is_not_utf_8_not_json_or_not_an_object_is_malformed(till, value):
    rejection = till.one(value)
    assert (rejection.code, rejection.pointer) == ("malformed_json", "")
    assert (rejection.raw, rejection.key) == (value, b"s-1")


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize(
    "template",
    [
        b'{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": #}]}}',
        b'{"customerSession": {"attributes": {"a": [#]}}}',
        b'{"customerSession": {}, "responseContent": #}',
        b'{"customerSession": {}, "unknown": #}',
        b"#",
    ],
)
def test_nan_and_infinity_are_not_json(till, template, constant):
    assert till.one(template.replace(b"#", constant)).code == "malformed_json"


def test_the_words_nan_and_infinity_are_fine_in_a_string(till):
    assert till.update({"profileId": "NaN", "referralCode": "-Infinity"}).snapshot["referralCode"] == "-Infinity"


@pytest.mark.parametrize(
    "text",
    [r"\ud83d", r"\uDE00", r"\ude00\ud83d", r"\ud83d\ud83d\ude00", r"\ud83d\n\ude00", r"\ud83dx\ude00", r"\\\ud83d"],
)
@pytest.mark.parametrize(
    "template",
    [
        '{"customerSession": {"profileId": "#"}}',
        '{"customerSession": {"attributes": {"#": 1}}}',
        '{"customerSession": {}, "responseContent": ["#"]}',
        '{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": 1, "prices": {"a": "#"}}]}}',
        '{"customerSession": {}, "unknown": "#"}',
    ],
)
def test_a_lone_surrogate_is_malformed_wherever_it_is(till, template, text):
    assert till.one(template.replace("#", text)).code == "malformed_json"


@pytest.mark.parametrize("raw", [b"\xed\xa0\xbd", b"\xed\xb8\x80", b"\xed\xa0\xbd\xed\xb8\x80"])
def test_a_surrogate_that_is_not_escaped_is_malformed(till, raw):
    assert till.one(b'{"customerSession": {"profileId": "#"}}'.replace(b"#", raw)).code == "malformed_json"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"\uD83D\uDE00", "😀"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d\ude00", "\\😀"),
        (r"\u0041", "A"),
    ],
)
def test_an_escaped_character_is_the_character(till, text, read):
    assert till.one(f'{{"customerSession": {{"profileId": "{text}"}}}}').snapshot["profileId"] == read


@pytest.mark.parametrize(
    ("levels", "expected"), [(1, "unknown_type"), (64, "created"), (65, "malformed_json"), (100_000, "malformed_json")]
)
def test_a_record_is_nested_at_most_64_levels_deep(till, levels, expected):
    assert till.one(deep(levels) if levels > 3 else "{}").what == expected


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a": ', "}"), ("[[], ", "]"), ('{"b": {}, "a": ', "}")]
)
def test_lists_and_objects_count_alike_as_levels(till, opening, closing):
    for levels, expected in ((64, "created"), (65, "malformed_json")):
        nested = opening * (levels - 4) + "[0]" + closing * (levels - 4)
        outcome = till.one(f'{{"customerSession": {{"attributes": {{"a": {nested}}}}}}}', f"s-{levels}")
        assert outcome.what == expected


@pytest.mark.parametrize("place", ["responseContent", "unknown"])
def test_what_nobody_reads_is_nested_at_most_64_levels_deep_too(till, place):
    for levels, expected in ((63, ["created", "unknown_field"]), (64, ["malformed_json"] * 2)):
        value = f'{{"customerSession": {{}}, "{place}": {"[" * levels}{"]" * levels}}}'
        assert till.one(value, f"s-{levels}").what == expected[place == "unknown"]


def test_brackets_in_strings_are_no_levels(till):
    text = '[{"' * 200 + "\\" * 3
    assert till.update({"attributes": {text: text}, "profileId": text}).snapshot["attributes"] == {text: text}
    assert (
        till.one('{"customerSession": {"attributes": {"\\\\": "' + "[" * 99 + '\\"' + "{" * 99 + '"}}}').event
        == "updated"
    )


@pytest.mark.parametrize(
    ("value", "field", "kept"),
    [
        ('{"customerSession": {"profileId": "a"}, "customerSession": {"profileId": "b"}}', "profileId", "b"),
        ('{"customerSession": 5, "customerSession": {"profileId": "b"}}', "profileId", "b"),
        ('{"type": "x", "type": "update", "customerSession": {"profileId": "b"}}', "profileId", "b"),
        ('{"customerSession": {"profileId": 5, "profileId": "b"}}', "profileId", "b"),
        ('{"customerSession": {"profileId": "b", "profileId": null}}', "profileId", ""),
        ('{"customerSession": {"profileId": "a", "profile\\u0049d": "b"}}', "profileId", "b"),
        ('{"customerSession": {"attributes": {"a": 1, "b": 2, "a": 3}}}', "attributes", {"a": 3, "b": 2}),
        ('{"customerSession": {"attributes": {"a": 1e999, "a": 3}}}', "attributes", {"a": 3}),
        ('{"customerSession": {"attributes": {"a": 1, "a": null}}}', "attributes", {}),
        (
            '{"customerSession": {"additionalCosts": {"a": {"price": "x"}, "a": {"price": 0, "price": 1}}}}',
            "additionalCosts",
            {"a": {"price": 1}},
        ),
    ],
)
def test_of_duplicate_keys_the_last_wins(till, value, field, kept):
    assert till.one(value).snapshot[field] == kept


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ('{"customerSession": {}, "customerSession": 5}', "invalid_field"),
        ('{"customerSession": {"profileId": "b", "profileId": 5}}', "invalid_field"),
        ('{"customerSession": {}, "type": "update", "type": "x"}', "unknown_type"),
        ('{"customerSession": {}, "integrationId": "a", "integrationId": ""}', "missing_integration_id"),
        ('{"customerSession": {"additionalCosts": {"a": {"price": 1}, "a": {}}}}', "missing_price"),
    ],
)
def test_of_duplicate_keys_the_last_wins_also_when_it_is_wrong(till, value, code):
    assert till.one(value).code == code


# -------------------------------------------------------------------------------------------------------------- size


def padded(size: int) -> bytes:
    """Write a valid record of so many bytes."""
    head, tail = b'{"customerSession": {}, "responseContent": "', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize("limit", [100, 1 << 20])
def test_a_value_may_have_max_record_bytes_and_no_more(limit):
    till = Till() if limit == 1 << 20 else Till(max_record_bytes=limit)
    assert till.one(padded(limit)).event == "created"
    rejection = till.one(padded(limit + 1))
    assert (rejection.code, rejection.pointer) == ("record_too_large", "")
    assert rejection.raw == padded(limit + 1)


def test_a_snapshot_may_have_max_snapshot_bytes_and_no_more():
    def sized(limit: int, name: str) -> str:
        till = Till(max_snapshot_bytes=limit)
        outcome = till.update({"attributes": {name: "x"}})
        return outcome.what

    size = len(Till().update({"attributes": {"a": "x"}}).raw)
    assert sized(size, "a") == "created"
    assert sized(size - 1, "a") == "session_too_large"
    assert sized(size + 1, "é") == "created"
    assert sized(size, "é") == "session_too_large"


def test_the_default_limit_of_a_snapshot_is_1_mib(till):
    room = (1 << 20) - len(till.update({"attributes": {"a": ""}}, "s-1").raw)
    assert till.update({"attributes": {"a": "x" * room}}, "s-2").what == "created"
    attributes = {"a": "x" * (room - 500_000)}
    assert till.update({"attributes": attributes}, "s-3").what == "created"
    assert till.update({"attributes": {"b": "x" * 600_000}}, "s-3").what == "session_too_large"
    assert till.update({}, "s-3").snapshot["attributes"] == attributes


def test_a_profiles_first_session_counts_a_byte_more_for_it_may_be_demoted():
    size = len(Till().update({"profileId": "p"}).raw)
    assert Till(max_snapshot_bytes=size).update({"profileId": "p"}).what == "session_too_large"
    till = Till(max_snapshot_bytes=size + 1)
    assert till.update({"profileId": "p"}).snapshot["firstSession"] is True
    _created, demoted = till.send({"customerSession": {"profileId": "p"}, "occurredAt": "2026-01-01T00:00:00Z"}, "s-0")
    assert (demoted.event, len(demoted.raw)) == ("reclassified", size + 1)


def test_a_first_session_counts_its_byte_more_in_every_later_update_too():
    till = Till()
    till.update({"profileId": "p"})
    size = len(till.update({"referralCode": "r"}).raw)
    for limit, expected in ((size, "session_too_large"), (size + 1, "updated")):
        till = Till(max_snapshot_bytes=limit)
        till.update({"profileId": "p"})
        assert till.update({"referralCode": "r"}).what == expected


def test_an_update_that_would_make_a_session_too_large_leaves_it_as_it_was():
    till = Till(max_snapshot_bytes=1000)
    before = till.update({"attributes": {"a": 1}}).snapshot
    rejection = till.update({"attributes": {"b": "x" * 1000}, "state": "closed"})
    assert (rejection.code, rejection.pointer) == ("session_too_large", "")
    assert till.update({}).snapshot == {**before, "updateCount": 2}


def test_a_return_may_be_what_makes_a_session_too_large():
    size = len(Till().update({**cart(CUP), "state": "closed"}).raw)
    till = Till(max_snapshot_bytes=size)
    till.update({**cart(CUP), "state": "closed"})
    assert till.take_back({"position": 0}).code == "session_too_large"


# -------------------------------------------------------------------------------- what an update does to the session

REPLACED: list[tuple[str, Any, Any, Any]] = [
    ("evaluableCampaignIds", [1, 2], [3], []),
    ("couponCodes", ["a", "b"], ["c"], []),
    ("referralCode", "a", "b", ""),
    ("loyaltyCards", ["a"], ["b"], []),
    ("identifiers", ["a", "b"], ["c"], []),
    ("additionalCosts", {"a": {"price": 1.5}, "b": {"price": 2.5}}, {"c": {"price": 3.5}}, {}),
    (
        "experimentVariantAllocations",
        [{"experimentID": 1, "variantID": 2}, {"experimentID": 3, "variantID": 4}],
        [{"experimentID": 5, "variantID": 6}],
        [],
    ),
]


@pytest.mark.parametrize(("field", "old", "new", "discard"), REPLACED)
def test_a_field_is_kept_replaced_whole_and_discarded(till, field, old, new, discard):
    assert field not in till.update({}).snapshot
    assert till.update({field: old}).snapshot[field] == old
    assert till.update({}).snapshot[field] == old
    assert till.update({field: None}).snapshot[field] == old
    assert till.update({field: new}).snapshot[field] == new
    assert field not in till.update({field: discard}).snapshot
    assert field not in till.update({}).snapshot
    assert field not in till.update({field: discard}).snapshot


@pytest.mark.parametrize(("field", "_old", "_new", "discard"), REPLACED)
def test_a_field_may_be_discarded_before_it_was_ever_set(till, field, _old, _new, discard):
    assert field not in till.update({field: discard}).snapshot


def test_a_profile_is_kept_replaced_and_discarded(till):
    profiles = [None, "p", None, "q", "", None]
    sent = [till.update({"profileId": profile}).snapshot["profileId"] for profile in profiles]
    assert sent == ["", "p", "p", "q", "", ""]


def test_a_store_is_kept_and_replaced_and_cannot_be_discarded(till):
    assert till.update({"storeIntegrationId": "a"}).snapshot["storeIntegrationId"] == "a"
    assert till.update({"storeIntegrationId": None}).snapshot["storeIntegrationId"] == "a"
    assert till.update({"storeIntegrationId": "b"}).snapshot["storeIntegrationId"] == "b"
    rejection = till.update({"storeIntegrationId": ""})
    assert (rejection.code, rejection.pointer) == ("invalid_field", "/customerSession/storeIntegrationId")


def test_a_cart_is_kept_replaced_whole_and_emptied(till):
    assert till.update({}).snapshot["cartItems"] == []
    two = till.update(cart(CUP, PEN)).snapshot
    assert [item["sku"] for item in two["cartItems"]] == ["cup", "pen"]
    assert till.update({"cartItems": None}).snapshot["cartItems"] == two["cartItems"]
    one = till.update(cart(PEN)).snapshot
    assert [item["sku"] for item in one["cartItems"]] == ["pen"]
    empty = till.update(cart()).snapshot
    assert (empty["cartItems"], empty["total"]) == ([], 0)


def test_attributes_are_merged_key_by_key_and_removed_by_null(till):
    assert till.update({}).snapshot["attributes"] == {}
    assert till.update({"attributes": {"a": 1, "b": {"x": 1, "y": None}}}).snapshot["attributes"] == {
        "a": 1,
        "b": {"x": 1, "y": None},
    }
    assert till.update({"attributes": {}}).snapshot["attributes"] == {"a": 1, "b": {"x": 1, "y": None}}
    assert till.update({"attributes": {"b": {"z": 2}, "c": 0}}).snapshot["attributes"] == {
        "a": 1,
        "b": {"z": 2},
        "c": 0,
    }
    assert till.update({"attributes": {"a": None, "never": None}}).snapshot["attributes"] == {"b": {"z": 2}, "c": 0}


def test_an_attribute_that_is_null_is_not_there_from_the_start(till):
    assert till.update({"attributes": {"a": None, "b": False, "c": "", "d": 0}}).snapshot["attributes"] == {
        "b": False,
        "c": "",
        "d": 0,
    }


@pytest.mark.parametrize(
    ("fields", "name", "kept"),
    [
        ({"coupon": "X"}, "couponCodes", ["X"]),
        ({"coupon": ""}, "couponCodes", None),
        ({"coupon": None}, "couponCodes", ["a", "b"]),
        ({"coupon": "X", "couponCodes": None}, "couponCodes", ["X"]),
        ({"coupon": None, "couponCodes": ["Y"]}, "couponCodes", ["Y"]),
        ({"referral": "X"}, "referralCode", "X"),
        ({"referral": ""}, "referralCode", None),
        ({"referral": None}, "referralCode", "r"),
        ({"referral": "X", "referralCode": None}, "referralCode", "X"),
        ({"referral": None, "referralCode": "Y"}, "referralCode", "Y"),
    ],
)
def test_the_v1_names_mean_the_new_fields(till, fields, name, kept):
    till.update({"couponCodes": ["a", "b"], "referralCode": "r"})
    assert till.update(fields).snapshot.get(name) == kept


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"coupon": "X", "couponCodes": ["X"]}, {"coupon", "couponCodes"}),
        ({"coupon": "", "couponCodes": []}, {"coupon", "couponCodes"}),
        ({"referral": "X", "referralCode": "X"}, {"referral", "referralCode"}),
        ({"referral": "", "referralCode": ""}, {"referral", "referralCode"}),
    ],
)
def test_a_v1_name_together_with_the_new_name_is_ambiguous(till, fields, names):
    rejection = till.update(fields)
    assert rejection.code == "ambiguous_field"
    assert rejection.pointer in {f"/customerSession/{name}" for name in names}


def test_what_a_refused_record_says_is_not_applied_anywhere(till):
    before = till.update(EVERYTHING).snapshot
    for field, value in {"profileId": "other", "attributes": {"b": 2}, "state": "closed"}.items():
        till.update({field: value, "unknown": 1})
    assert till.update({}).snapshot == {**before, "updateCount": 2}


def test_a_broken_record_touches_no_other_session():
    network = Network()
    network.send({"customerSession": {"profileId": "p"}}, "s-1")
    for value in (b"{", b"", deep(70), b'{"customerSession": {"state": "x"}}'):
        network.send(value, "s-1")
        network.send(value, None)
    network.send({"customerSession": {}}, "s-1")
    assert len(network.rejections) == 8
    assert network.session["updateCount"] == 2
