"""The oracle held against the contract by hand: every expected byte here was worked out on paper, not by running it."""

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import Oracle, Record, milliseconds, shortest

SENT = 1_795_341_600_000
SENT_AT = "2026-11-22T10:00:00.000Z"
REASONS = ("rejection-message", "rejection-pointer", "__streams.errors.message")

EMPTY = (
    b'{"id":1,"created":"2026-11-22T10:00:00.000Z","integrationId":"s-1","applicationId":1,"profileId":"",'
    b'"state":"open","cartItems":[],"attributes":{},"firstSession":true,"updateCount":1,"total":0.0,'
    b'"cartItemTotal":0.0,"additionalCostTotal":0.0,"cartItemAdditionalCostTotal":0.0,'
    b'"updated":"2026-11-22T10:00:00.000Z"}'
)


def record(value: Any, offset: int = 0, **fields: Any) -> Record:
    body = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return {"partition": 0, "offset": offset, "timestamp": SENT, "key": b"s-1", "headers": [], **fields, "value": body}


def folded(oracle: Oracle, *values: Any, **fields: Any) -> list[str]:
    """Feed records one after the other and say what each of them did."""
    return [outcome(out) for offset, value in enumerate(values) for out in oracle.fold(record(value, offset, **fields))]


def outcome(published: Record) -> str:
    headers = dict(published["headers"])
    name = headers["rejection-code"] if published["topic"] == "session-rejections" else headers["ce_type"]
    return str(name.decode().removeprefix("customersession."))


def update(**session: Any) -> dict[str, Any]:
    return {"customerSession": session}


def back(*entries: Any) -> dict[str, Any]:
    return {"return": {"returnedCartItems": list(entries)}}


def item(sku: str = "cup", quantity: Any = 1, price: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"sku": sku, "quantity": quantity, "price": price, **fields}


def at(moment: str, profile: str = "p", **fields: Any) -> dict[str, Any]:
    return {"occurredAt": moment, "customerSession": {"profileId": profile, **fields}}


# --------------------------------------------------------------------------------------------------- what is published


def test_the_smallest_update_creates_an_open_session():
    assert Oracle().fold(record(b'{"customerSession":{}}')) == [
        {
            "topic": "customer-sessions",
            "partition": 0,
            "key": b"s-1",
            "value": EMPTY,
            "timestamp": SENT,
            "headers": [
                ("ce_specversion", b"1.0"),
                ("ce_id", b"session-updates/0/0"),
                ("ce_source", b"/applications/1"),
                ("ce_time", b"2026-11-22T10:00:00.000Z"),
                ("content-type", b"application/json"),
                ("ce_type", b"customersession.created"),
            ],
        }
    ]


def test_every_field_has_its_place():
    body = """{"occurredAt": "2026-11-22t11:00:00.98765+01:00", "applicationId": 7.0, "dry": null, "responseContent": [[]],
      "integrationId": "č/1", "customerSession": {
        "identifiers": ["till"], "additionalCosts": {"ship": {"price": 4.90}}, "state": "closed", "loyaltyCards": ["L"],
        "attributes": {"b": 2.0, "a": null, "c": [1, 1e-7, null, {"x": 1e16}]}, "referral": "R", "coupon": "C",
        "experimentVariantAllocations": [{"variantID": 2, "experimentID": 1e0}], "evaluableCampaignIds": [3.0, -4],
        "storeIntegrationId": "store", "profileId": "p",
        "cartItems": [
          {"price": 4.5, "quantity": 2e0, "sku": "cup", "additionalCosts": {"wrap": {"price": 0.1}, "card": {"price": 0.2}},
           "attributes": {"n": null}, "length": 4, "width": 3, "height": 2, "weight": 1e-9, "position": "9", "prices": {},
           "product": {"name": ""}, "category": "", "name": "Cup \\u00e9\\n"},
          {"sku": "less", "quantity": 1, "price": -1.50, "name": null, "attributes": {}, "additionalCosts": {}}]}}"""
    [snapshot] = Oracle(application_id=7).fold(record(body.encode(), 41, partition=3))
    assert (snapshot["partition"], snapshot["key"]) == (3, "č/1".encode())
    assert (
        snapshot["value"].decode()
        == '{"id":3298534883370,"created":"2026-11-22T10:00:00.987Z","integrationId":"č/1","applicationId":7,'
        '"profileId":"p","storeIntegrationId":"store","evaluableCampaignIds":[3,-4],'
        '"experimentVariantAllocations":[{"experimentID":1,"variantID":2}],"couponCodes":["C"],"referralCode":"R",'
        '"loyaltyCards":["L"],"state":"closed","cartItems":[{"name":"Cup é\\n","sku":"cup","quantity":2,'
        '"returnedQuantity":0,"remainingQuantity":2,"price":4.5,"category":"","product":{"name":""},"weight":1e-9,'
        '"height":2.0,"width":3.0,"length":4.0,"position":0,"attributes":{"n":null},'
        '"additionalCosts":{"wrap":{"price":0.1},"card":{"price":0.2}}},{"sku":"less","quantity":1,'
        '"returnedQuantity":0,"remainingQuantity":1,"price":-1.5,"position":1,"attributes":{},"additionalCosts":{}}],'
        '"additionalCosts":{"ship":{"price":4.9}},"identifiers":["till"],'
        '"attributes":{"b":2.0,"c":[1,1e-7,null,{"x":1e16}]},"firstSession":true,"updateCount":1,"total":13.0,'
        '"cartItemTotal":7.5,"additionalCostTotal":4.9,"cartItemAdditionalCostTotal":0.6,'
        '"updated":"2026-11-22T10:00:00.987Z"}'
    )


def test_a_closed_session_is_returned_and_revoked_with_its_totals_as_sold():
    oracle = Oracle()
    sold = update(state="closed", cartItems=[item("cup", 2, 0.1), item("pen"), item("cup", 3, 0.1)])
    late = {"occurredAt": "2026-11-22T11:00:00Z", **back({"sku": "cup", "quantity": 3})}
    revoke = update(state="cancelled", profileId="p", coupon="", cartItems=[], attributes=None)
    assert folded(oracle, sold, late) == ["created", "partially_returned"]
    [revoked] = oracle.fold(record(revoke, 2))
    assert revoked["headers"][5:] == [
        ("ce_type", b"customersession.revoked"),
        ("ignored-fields", b"cartItems,coupon,profileId"),
    ]
    assert revoked["value"] == (
        b'{"id":1,"created":"2026-11-22T10:00:00.000Z","integrationId":"s-1","applicationId":1,"profileId":"",'
        b'"state":"cancelled","cartItems":['
        b'{"sku":"cup","quantity":2,"returnedQuantity":2,"remainingQuantity":0,"price":0.1,"position":0},'
        b'{"sku":"pen","quantity":1,"returnedQuantity":0,"remainingQuantity":1,"price":1.0,"position":1},'
        b'{"sku":"cup","quantity":3,"returnedQuantity":1,"remainingQuantity":2,"price":0.1,"position":2}],'
        b'"attributes":{},"firstSession":true,"updateCount":3,"total":1.5,"cartItemTotal":1.5,'
        b'"additionalCostTotal":0.0,"cartItemAdditionalCostTotal":0.0,"updated":"2026-11-22T11:00:00.000Z"}'
    )


def test_an_open_session_keeps_what_is_left_out_and_drops_what_is_discarded():
    oracle = Oracle()
    full: dict[str, Any] = {
        "profileId": "p",
        "storeIntegrationId": "s",
        "evaluableCampaignIds": [1],
        "couponCodes": ["c"],
        "referralCode": "r",
        "loyaltyCards": ["l"],
        "identifiers": ["i"],
        "cartItems": [item()],
        "additionalCosts": {"ship": {"price": 1}},
        "attributes": {"a": 1, "b": {"deep": None}},
        "experimentVariantAllocations": [{"experimentID": 1, "variantID": 1}],
    }
    oracle.fold(record(update(**full)))
    created = oracle.sessions["s-1"]
    oracle.fold(record(update(**dict.fromkeys(full)), 1))
    assert oracle.sessions["s-1"] == {**created, "updateCount": 2}
    gone = {name: type(value)() for name, value in full.items() if name not in ("storeIntegrationId", "attributes")}
    oracle.fold(record(update(**gone, attributes={"a": None, "c": 2, "b": 3}), 2))
    assert set(created) - set(oracle.sessions["s-1"]) == set(gone) - {"profileId", "cartItems"}
    assert list(oracle.sessions["s-1"]["attributes"].items()) == [("b", 3), ("c", 2)]
    assert [oracle.sessions["s-1"][name] for name in ("profileId", "cartItems", "total")] == ["", [], 0.0]


def test_updated_never_goes_back_and_ce_time_does():
    oracle = Oracle()
    folded(oracle, update())
    [older] = oracle.fold(record({"type": "update", "occurredAt": "1970-01-01T00:00:00Z", "customerSession": {}}, 1))
    assert (oracle.sessions["s-1"]["updated"], dict(older["headers"])["ce_time"]) == (
        SENT_AT,
        b"1970-01-01T00:00:00.000Z",
    )


def test_a_tombstone_deletes_and_a_later_update_starts_anew():
    oracle = Oracle(v1=True)
    headers = [("traceparent", b"1"), ("worker-events", b"x"), ("traceparent", b"2")]
    assert oracle.fold(record(None)) == []
    folded(oracle, {"eventId": "e", **update()})
    deleted, deleted_in_v1 = oracle.fold(record(None, 1, headers=headers, timestamp=-1))
    assert (deleted["key"], deleted["value"], deleted["timestamp"]) == (b"s-1", None, -1)
    assert deleted["headers"][1:] == [
        ("ce_id", b"session-updates/0/1"),
        ("ce_source", b"/applications/1"),
        ("ce_time", b"1970-01-01T00:00:00.000Z"),
        ("content-type", b"application/json"),
        ("ce_type", b"customersession.deleted"),
        ("traceparent", b"2"),
    ]
    assert (deleted_in_v1["topic"], deleted_in_v1["value"]) == ("customer-sessions-v1", None)
    assert folded(oracle, {"eventId": "e", **update()}) == ["created", "v1.customersession.created"]


def test_the_v1_view():
    oracle = Oracle(v1=True)
    _, view = oracle.fold(record(update(couponCodes=["A", "B"], referralCode="R", identifiers=["i"], state="closed")))
    assert view["headers"][5] == ("ce_type", b"v1.customersession.created")
    assert view["value"] == (
        b'{"integrationId":"s-1","created":"2026-11-22T10:00:00.000Z","applicationId":1,"profileId":"","coupon":"A",'
        b'"referral":"R","state":"closed","cartItems":[],"identifiers":["i"],"total":0.0,"attributes":{},'
        b'"firstSession":true,"updateCount":1,"discounts":{},"updated":"2026-11-22T10:00:00.000Z"}'
    )


def test_a_rejection_is_raw_and_says_why():
    headers = [("rejection-code", b"old"), ("a", b"1"), ("__streams.errors.offset", b"old"), ("a", b"\xff")]
    [rejected] = Oracle().fold(record(b"\xff", 9, partition=2, key=None, headers=headers, timestamp=5, topic="updates"))
    assert {name: rejected[name] for name in ("topic", "partition", "key", "value", "timestamp")} == {
        "topic": "session-rejections",
        "partition": 2,
        "key": None,
        "value": b"\xff",
        "timestamp": 5,
    }
    assert [header for header in rejected["headers"] if header[0] not in REASONS] == [
        ("a", b"1"),
        ("a", b"\xff"),
        ("rejection-code", b"malformed_json"),
        ("__streams.errors.topic", b"updates"),
        ("__streams.errors.partition", b"2"),
        ("__streams.errors.offset", b"9"),
        ("__streams.errors.exception", b"malformed_json"),
    ]


# --------------------------------------------------------------------------------------------------------- duplicates


def test_a_duplicate_is_dropped_before_the_state_is_asked_and_other_bytes_are_refused():
    oracle = Oracle()
    close = {"eventId": "e", **update(state="closed")}
    assert folded(oracle, close, close) == ["created"]
    assert oracle.counts == {"duplicates": 1, "skipped": 0}
    assert folded(oracle, {**close, "occurredAt": SENT_AT}) == ["event_id_reused"]
    assert folded(oracle, {**close, "dry": True}) == ["created.dry_run"]


def test_only_the_last_32_accepted_are_remembered():
    oracle = Oracle()
    for number in range(33):
        folded(oracle, {"eventId": f"e{number}", **update()})
        folded(oracle, {"eventId": f"refused{number}", **update(state="partially_returned")})
    assert folded(oracle, {"eventId": "e1", **update()}) == []
    assert folded(oracle, {"eventId": "e0", **update()}) == ["updated"]


def test_remembered_events_travel_in_a_header():
    oracle = Oracle()
    oracle.fold(record(b'{"eventId":"e1","customerSession":{}}'))
    [second] = oracle.fold(record(b'{"eventId":"e2","customerSession":{}}', 1))
    # printf e1 | b2sum -l 96 | cut -c 1-24 | xxd -r -p | basenc --base64url
    events = b"Ch_fkE5v1zQeUgfpQGZX8Pj0SzFKdLk03P-2eOe6rKfJrqpJTpWUhzbnRGQx0kRM"
    assert second["headers"][6:] == [("worker-events", events)]


# ------------------------------------------------------------------------------------------------------------ dry runs


def test_a_dry_run_changes_nothing():
    oracle = Oracle()
    folded(oracle, at("2026-11-22T10:00:00Z", state="closed", cartItems=[item()]))
    before = dict(oracle.sessions), dict(oracle.profiles)
    later = {**at("2026-11-22T10:00:01Z"), "dry": True}
    earlier = {**at("2026-11-22T09:00:00Z"), "dry": True}
    give_back = {**back({"position": 0}), "dry": True}
    [second], [first], [returned] = [oracle.fold(record(value, 7)) for value in (later, earlier, give_back)]
    assert [json.loads(dry["value"])["firstSession"] for dry in (second, first, returned)] == [False, True, True]
    assert [json.loads(dry["value"])["id"] for dry in (second, first, returned)] == [8, 8, 1]
    assert [json.loads(dry["value"])["updateCount"] for dry in (second, first, returned)] == [1, 1, 2]
    assert second["topic"] == "session-dry-runs"
    assert outcome(returned) == "partially_returned.dry_run"
    assert (oracle.sessions, oracle.profiles) == before


# ------------------------------------------------------------------------------------------------------- firstSession


def test_an_earlier_session_takes_the_place_of_the_first():
    oracle = Oracle(v1=True)
    oracle.fold(record({"eventId": "e1", **at("2026-11-22T10:00:00Z")}, 5, key=b"s-1", partition=1))
    claimed = oracle.fold(record(at("2026-11-22T09:00:00Z"), 6, key=b"s-2", timestamp=SENT + 1))
    assert [outcome(out).removeprefix("v1.customersession.") for out in claimed] == [
        "created",
        "created",
        "reclassified",
        "reclassified",
    ]
    demoted = claimed[2]
    assert (demoted["partition"], demoted["key"], demoted["timestamp"]) == (1, b"s-1", SENT + 1)
    assert dict(demoted["headers"])["ce_id"] == b"session-updates/0/6/reclassified"
    assert dict(demoted["headers"])["ce_time"] == b"2026-11-22T09:00:00.000Z"
    assert dict(demoted["headers"])["worker-events"].startswith(b"Ch_fkE5v1zQeUgfp")
    assert json.loads(demoted["value"]) == {
        **json.loads(EMPTY),
        "id": 2**40 + 6,
        "profileId": "p",
        "firstSession": False,
    }
    assert oracle.profiles == {"p": ("2026-11-22T09:00:00.000Z", "s-2")}


def test_claims_outlive_their_sessions():
    oracle = Oracle()
    folded(oracle, at("2026-11-22T09:00:00Z"), None, at("2026-11-22T10:00:00Z"))
    assert not oracle.sessions["s-1"]["firstSession"]
    assert folded(oracle, update(profileId=""), update(profileId="q"), update(profileId="p")) == ["updated"] * 3
    assert not oracle.sessions["s-1"]["firstSession"]
    assert oracle.profiles["q"] == ("2026-11-22T10:00:00.000Z", "s-1")
    assert folded(oracle, at("2026-11-22T08:00:00Z", "q"), key=b"s-2") == ["created"]
    oracle.forget("p")
    assert folded(oracle, at("2026-11-22T11:00:00Z"), key=b"s-3") == ["created"]
    assert oracle.sessions["s-3"]["firstSession"]


def test_at_one_moment_the_smaller_integration_id_in_utf_8_is_first():
    oracle = Oracle()
    for key in ("s-2", "s-10", "\U0001f600", "\uffff"):
        folded(oracle, at("2026-11-22T09:00:00Z"), key=key.encode())
    assert [key for key, session in oracle.sessions.items() if session["firstSession"]] == ["s-10"]
    folded(oracle, at("2026-11-22T09:00:00Z", "q"), key="\U0001f601".encode())
    assert folded(oracle, at("2026-11-22T09:00:00Z", "q"), key="\ufffe".encode()) == ["created", "reclassified"]


@pytest.mark.parametrize("seed", range(20))
def test_any_interleaving_of_sessions_ends_in_the_same_answer(seed: int):
    chance = random.Random(seed)
    feeds = []
    for number in range(6):
        feed = [
            record(
                chance.choice([None, at(f"2026-11-22T0{chance.randrange(9)}:00:00Z", chance.choice("pq") * number)]),
                offset,
                partition=number,
                key=b"s-%d" % number,
            )
            for offset in range(8)
        ]
        feeds.append(feed)
    answers = []
    for _ in range(5):
        turns = [number for number, feed in enumerate(feeds) for _ in feed]
        chance.shuffle(turns)
        left = [iter(feed) for feed in feeds]
        oracle = Oracle()
        values: dict[bytes, bytes | None] = {}
        for turn in turns:
            values |= {out["key"]: out["value"] for out in oracle.fold(next(left[turn]))}
        answers.append((values, oracle.profiles))
    assert all(answer == answers[0] for answer in answers)


# ------------------------------------------------------------------------------------------------------------- refusals

DEEP = b"[" * 62 + b"]" * 62
OPEN = [update(cartItems=[item("cup", 2)])]
CLOSED = [update(state="closed", cartItems=[item("cup", 2), item("pen"), item("cup", 1)])]
RETURNED = [*CLOSED, back({"sku": "cup"})]
CANCELLED = [*CLOSED, update(state="cancelled")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", "malformed_json"),
        (b"[]", "malformed_json"),
        (b'\xef\xbb\xbf{"customerSession":{}}', "malformed_json"),
        (b'{"customerSession":{"attributes":{"a":NaN}}}', "malformed_json"),
        (b'{"customerSession":{"attributes":{"a":"\\ud800"}}}', "malformed_json"),
        (b'{"customerSession":{"attributes":{"a":"\\\\ud800"}}}', "created"),
        (b'{"customerSession":{"attributes":{"a":"\\ud83d\\ude00"}}}', "created"),
        (b'{"responseContent":{"\\udc00":1},"responseContent":1,"customerSession":{}}', "malformed_json"),
        (b'{"customerSession":{"attributes":' + b'{"a":' + DEEP[1:-1] + b"}}}", "created"),
        (b'{"customerSession":{"attributes":' + b'{"a":' + DEEP + b"}}}", "malformed_json"),
        (b'{"responseContent":[[' + DEEP + b"]]" + b',"responseContent":1,"customerSession":{}}', "malformed_json"),
        (b'{"customerSession":{},"customerSession":{"state":"open"}}', "created"),
        ({"integrationId": "", **update()}, "missing_integration_id"),
        ({"integrationId": 5, **update()}, "invalid_field"),
        ({"integrationId": "x" * 1000, **update()}, "created"),
        ({"integrationId": "x" * 1001, **update()}, "invalid_field"),
        ({}, "unknown_type"),
        ({"type": "Update", **update()}, "unknown_type"),
        ({"type": None, **update(), **back({"position": 0})}, "unknown_type"),
        ({"type": "update", **update(), **back({"position": 0})}, "ambiguous_field"),
        ({"type": "reopen", **update()}, "ambiguous_field"),
        ({"type": "update"}, "invalid_field"),
        ({"applicationId": 2, "foo": 1, **update()}, "wrong_application"),
        ({"applicationId": "1", **update()}, "invalid_field"),
        ({"foo": 1, "eventId": "", **update()}, "unknown_field"),
        (update(cartItem=[]), "unknown_field"),
        (update(coupon="A", couponCodes=[]), "ambiguous_field"),
        (update(coupon="A", couponCodes=None), "created"),
        (update(identifiers=["i"] * 6), "invalid_field"),
        (update(couponCodes=[None]), "invalid_field"),
        (update(couponCodes=["\U0001f600" * 100]), "created"),
        (update(evaluableCampaignIds=[True]), "invalid_field"),
        (update(evaluableCampaignIds=[2**63]), "number_out_of_range"),
        (update(state="shut"), "invalid_field"),
        (update(state="cancelled"), "invalid_state"),
        (update(state="partially_returned"), "invalid_state"),
        (update(cartItems=[item(quantity=0)]), "invalid_field"),
        (update(cartItems=[item(quantity=1.5)]), "invalid_field"),
        (update(cartItems=[item(quantity="1")]), "invalid_field"),
        (update(cartItems=[item(price=None)]), "missing_price"),
        (update(cartItems=[item(price="1")]), "invalid_field"),
        (update(cartItems=[item(weight=-1)]), "invalid_field"),
        (update(cartItems=[item(price=999999999999)]), "created"),
        (update(cartItems=[item(price=1e12)]), "number_out_of_range"),
        (update(cartItems=[item(price=1e-10)]), "created"),
        (update(cartItems=[item(price=1234567.123456789)]), "number_out_of_range"),
        (update(cartItems=[item(price=0.1 + 0.2)]), "created"),
        (b'{"customerSession":{"attributes":{"a":[1e400]}}}', "number_out_of_range"),
        (update(attributes={"a": -(2**63)}), "created"),
        (update(attributes={"a": -(2**63) - 1}), "number_out_of_range"),
        (update(attributes={"a": {"b": [10**30]}}), "created"),
        (update(attributes={"a": -(10**30)}), "created"),
        (update(attributes={"a": 10**400}), "number_out_of_range"),
        (update(attributes={"a": 12345678901234567890}), "number_out_of_range"),
        (update(attributes=[]), "created"),
        (update(attributes=[1]), "invalid_field"),
        (update(cartItems={}), "invalid_field"),
        (update(cartItems=[None]), "invalid_field"),
        (update(cartItems=[item(additionalCosts=[])]), "created"),
        (update(cartItems=[item(position=2**80)]), "created"),
        (update(additionalCosts={"a": {}}), "missing_price"),
        (update(additionalCosts={"a": None}), "invalid_field"),
        (update(cartItems=[item()] * 1000), "created"),
        (update(cartItems=[item()] * 1001), "too_many_items"),
        (update(cartItems=[item(quantity=9999), item()]), "created"),
        (update(cartItems=[item(quantity=10000), item()]), "too_many_units"),
        (update(cartItems=[item(price=999999999999), item(price=0.0001)]), "number_out_of_range"),
        ({"occurredAt": "2026-11-22T11:00:00.0009Z", **update()}, "created"),
        ({"occurredAt": "2026-11-22T11:00:00.001Z", **update()}, "occurred_in_future"),
        ({"occurredAt": "2026-11-22 10:00:00Z", **update()}, "invalid_field"),
        ({"type": "reopen", "dry": 1}, "invalid_field"),
        ({"type": "reopen", "dry": True}, "dry_not_supported"),
        (back(), "empty_return"),
        (back({}), "missing_item"),
        (back({"position": 0, "sku": "cup"}), "ambiguous_item"),
        (back({"position": 0}), "unknown_session"),
        ({"type": "reopen"}, "unknown_session"),
    ],
)
def test_what_a_record_without_a_session_comes_to(value: Any, expected: str):
    assert folded(Oracle(), value) == [expected]


@pytest.mark.parametrize(
    ("given_first", "value", "expected"),
    [
        (OPEN, update(state="closed"), "closed"),
        (OPEN, update(state="cancelled"), "cancelled"),
        (OPEN, update(state="open"), "updated"),
        (OPEN, {"type": "reopen"}, "invalid_transition"),
        (OPEN, back({"position": 0}), "invalid_transition"),
        (CLOSED, update(), "session_not_open"),
        (CLOSED, update(state="closed"), "session_not_open"),
        (CLOSED, update(state="cancelled"), "revoked"),
        (CLOSED, {"type": "reopen"}, "reopened"),
        (CLOSED, back({"position": 3}), "unknown_item"),
        (CLOSED, back({"sku": "hat"}), "unknown_item"),
        (CLOSED, back({"sku": "cup", "quantity": 4}), "return_exceeds_remaining"),
        (CLOSED, back({"position": 1}, {"sku": "pen"}), "return_exceeds_remaining"),
        (RETURNED, back({"position": 0}), "return_exceeds_remaining"),
        (RETURNED, back({"sku": "pen"}), "partially_returned"),
        (RETURNED, update(state="cancelled"), "revoked"),
        (RETURNED, {"type": "reopen"}, "invalid_transition"),
        (CANCELLED, update(state="cancelled"), "session_not_open"),
        (CANCELLED, back({"position": 0}), "invalid_transition"),
        (CANCELLED, update(state="partially_returned"), "invalid_state"),
    ],
)
def test_what_comes_of_a_session(given_first: list[Any], value: Any, expected: str):
    oracle = Oracle()
    folded(oracle, *given_first)
    before = dict(oracle.sessions)
    assert folded(oracle, value) == [expected]
    refused = "_" in expected and expected != "partially_returned"
    assert (oracle.sessions == before) == refused


@pytest.mark.parametrize("key", [None, b"", b"\xff"])
@pytest.mark.parametrize("value", [None, b'{"customerSession":{}}'])
def test_a_record_needs_an_integration_id(key: bytes | None, value: bytes | None):
    assert folded(Oracle(), value, key=key) == ["missing_integration_id"]


@pytest.mark.parametrize("value", [None, update()])
def test_a_key_has_at_most_1000_characters(value: Any):
    assert folded(Oracle(), value, key="é".encode() * 1001) == ["invalid_field"]


def test_settings_decide_about_unknown_fields_other_applications_and_sizes():
    assert folded(Oracle(unknown_fields="ignore"), update(cartItem=[], cartItems=[item(foo=1)])) == ["created"]
    skipping = Oracle(other_applications="skip")
    assert folded(skipping, {"applicationId": 2, "foo": 1, **update()}) == []
    assert skipping.counts == {"duplicates": 0, "skipped": 1}
    body = b'{"customerSession":{}}'
    assert folded(Oracle(max_record_bytes=len(body)), body) == ["created"]
    assert folded(Oracle(max_record_bytes=len(body) - 1), body) == ["record_too_large"]
    assert folded(Oracle(max_snapshot_bytes=len(EMPTY)), body) == ["created"]
    assert folded(Oracle(max_snapshot_bytes=len(EMPTY) - 1), body) == ["session_too_large"]
    assert folded(Oracle(max_snapshot_bytes=len(EMPTY) + 2), update(profileId="p")) == ["created"]
    too_small = Oracle(max_snapshot_bytes=len(EMPTY) + 1)
    assert folded(too_small, update(profileId="p")) == ["session_too_large"]
    assert too_small.profiles == {}


def test_a_traceparent_is_passed_on_up_to_512_bytes():
    [kept] = Oracle().fold(record(update(), headers=[("traceparent", b"x" * 513), ("traceparent", b"x" * 512)]))
    [dropped] = Oracle().fold(record(update(), headers=[("traceparent", b"x" * 512), ("traceparent", b"x" * 513)]))
    assert (kept["headers"][6:], dropped["headers"][6:]) == ([("traceparent", b"x" * 512)], [])


# --------------------------------------------------------------------------------------------------- times and numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.9999Z", None),
        ("1970-01-01T00:59:00.5+00:59", 500),
        ("9999-12-31T23:59:59.99999z", 253_402_300_799_999),
        ("9999-12-31T23:59:59-00:01", None),
        ("2024-02-29T00:00:00-00:00", 1_709_164_800_000),
        ("2023-02-29T00:00:00Z", None),
        ("2024-02-29T24:00:00Z", None),
        ("2024-02-29T23:59:60Z", None),
        ("2024-02-29T00:00:00", None),
        ("2024-02-29T00:00:00.Z", None),
        ("2024-02-29T00:00:00+24:00", None),
        ("2024-02-29T00:00:00Z\n", None),
        ("٢٠٢٤-02-29T00:00:00Z", None),
    ],
)
def test_times(text: str, expected: int | None):
    assert milliseconds(text) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_are_written_as_msgspec_writes_them(number: float):
    assert shortest(number) == msgspec.json.encode(number).decode()


def test_totals_are_exact_and_never_minus_zero():
    oracle = Oracle()
    folded(oracle, b'{"customerSession":{"cartItems":[{"sku":"a","quantity":1e1,"price":-0.0}]}}')
    assert b'"price":0.0' in json.dumps(oracle.sessions["s-1"], separators=(",", ":")).encode()
    lines = [item(quantity=3, price=0.1), item(quantity=7, price=1.005), item(quantity=10, price=-0.7)]
    folded(oracle, update(cartItems=lines))
    assert oracle.sessions["s-1"]["total"] == 0.335
