"""Section 6, the snapshot: its fields in their order, its headers, and that nothing but the records decides its bytes."""

import json
import random
import re
from itertools import pairwise
from typing import Any

import pytest

from tests.contract.conftest import (
    CUP,
    ITEM_ORDER,
    PEN,
    SENT,
    SENT_AT,
    SNAPSHOT_ORDER,
    TRACE,
    V1_ORDER,
    Network,
    Till,
    cart,
    checked,
    encoded,
)
from worker.domain.limits import Rules
from worker.testing import StreamDriver, Update

FULL_ITEM: dict[str, Any] = {
    "additionalCosts": {"wrap": {"price": 0.5}},
    "attributes": {"colour": "red"},
    "length": 1.5,
    "width": 2.5,
    "height": 3.5,
    "weight": 4.5,
    "product": {"name": "Cup"},
    "category": "kitchen",
    "price": 9.99,
    "quantity": 2,
    "sku": "cup",
    "name": "Blue cup",
}
FULL_SESSION: dict[str, Any] = {
    "attributes": {"z": 1, "a": 2},
    "identifiers": ["till-1"],
    "additionalCosts": {"post": {"price": 4}},
    "cartItems": [FULL_ITEM],
    "state": "open",
    "loyaltyCards": ["card"],
    "referralCode": "friend",
    "couponCodes": ["TEN"],
    "experimentVariantAllocations": [{"experimentID": 1, "variantID": 2}],
    "evaluableCampaignIds": [3],
    "storeIntegrationId": "store",
    "profileId": "p",
}


def test_all_fields_stand_in_the_contracts_order_however_they_came(till):
    """Without a model there is no closurePrediction."""
    snapshot = till.update(FULL_SESSION).snapshot
    assert list(snapshot) == [name for name in SNAPSHOT_ORDER if name != "closurePrediction"]
    assert list(snapshot["cartItems"][0]) == ITEM_ORDER


def test_fields_that_come_later_or_come_back_take_their_place_in_the_order():
    till = Till()
    till.update({})
    for name, value in FULL_SESSION.items():
        till.update({name: value})
    for name, discard in {"couponCodes": [], "loyaltyCards": [], "additionalCosts": {}, "referralCode": ""}.items():
        till.update({name: discard})
        till.update({name: FULL_SESSION[name]})
    snapshot = till.update({}).snapshot
    assert list(snapshot) == [name for name in SNAPSHOT_ORDER if name != "closurePrediction"]


def test_a_snapshot_carries_what_was_sent(till):
    snapshot = till.update(FULL_SESSION).snapshot
    assert snapshot["cartItems"] == [{**FULL_ITEM, "position": 0, "returnedQuantity": 0, "remainingQuantity": 2}]
    for name in set(FULL_SESSION) - {"cartItems"}:
        assert snapshot[name] == FULL_SESSION[name]


def test_an_items_empty_object_stays_empty_and_an_empty_string_is_a_value(till):
    item = {**PEN, "name": "", "category": "", "product": {"name": ""}, "attributes": {}, "additionalCosts": {}}
    (kept,) = till.update(cart(item)).snapshot["cartItems"]
    assert {name: kept[name] for name in item} == item


def test_optional_fields_of_an_item_are_absent_unless_they_are_set(till):
    (item,) = till.update(cart(PEN)).snapshot["cartItems"]
    assert list(item) == ["sku", "quantity", "returnedQuantity", "remainingQuantity", "price", "position"]


def test_positions_count_the_items_from_zero(till):
    snapshot = till.update(cart(PEN, {**CUP, "position": 7}, PEN)).snapshot
    assert [item["position"] for item in snapshot["cartItems"]] == [0, 1, 2]


def test_the_value_is_a_pure_session_in_compact_json(till):
    raw = till.update({"attributes": {"a b": "ü, :"}, **cart(CUP)}).raw
    assert raw == json.dumps(json.loads(raw), ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("partition", "offset", "expected"),
    [
        (0, 0, 1),
        (0, 1, 2),
        (0, 2**40 - 1, 2**40),
        (1, 0, 2**40 + 1),
        (5, 99, 5 * 2**40 + 100),
        (8191, 0, 8191 * 2**40 + 1),
        (8191, 2**40 - 2, 2**53 - 1),
    ],
)
def test_the_id_comes_from_the_record_that_created_the_session(till, partition, offset, expected):
    assert till.update({}, partition=partition, offset=offset).snapshot["id"] == expected
    assert till.update({}, partition=3, offset=12).snapshot["id"] == expected


def test_created_stays_and_updated_never_goes_back(till):
    times = [
        "2026-11-22T12:00:00.0019Z",
        "2026-11-22T11:00:00Z",
        "2026-11-22T12:00:00.002Z",
        "2026-11-22T14:00:00.001+02:00",
        "2026-11-22T13:00:00Z",
    ]
    snapshots = [till.one({"customerSession": {}, "occurredAt": time}).snapshot for time in times]
    assert {snapshot["created"] for snapshot in snapshots} == {"2026-11-22T12:00:00.001Z"}
    assert [snapshot["updated"] for snapshot in snapshots] == [
        "2026-11-22T12:00:00.001Z",
        "2026-11-22T12:00:00.001Z",
        "2026-11-22T12:00:00.002Z",
        "2026-11-22T12:00:00.002Z",
        "2026-11-22T13:00:00.000Z",
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", snapshot["updated"]) for snapshot in snapshots)


def test_returns_and_reopenings_move_updated_and_the_count_like_updates_do(till):
    till.update({"state": "closed", **cart(CUP)})
    reopened = till.reopen(timestamp=SENT + 1).snapshot
    assert (reopened["updateCount"], reopened["updated"]) == (2, "2026-11-22T18:40:00.001Z")
    till.update({"state": "closed"})
    returned = till.take_back({"position": 0}, timestamp=SENT + 2).snapshot
    assert (returned["updateCount"], returned["updated"]) == (4, "2026-11-22T18:40:00.002Z")
    older = till.one({"customerSession": {"state": "cancelled"}, "occurredAt": "2026-11-22T00:00:00Z"}).snapshot
    assert (older["updateCount"], older["updated"]) == (5, "2026-11-22T18:40:00.002Z")


# --------------------------------------------------------------------------------------------------------- headers


def the_way_to(event: str, till: Till, **more: Any) -> Any:
    """Bring about an event at offset 5 of partition 2 and give its record."""
    now: dict[str, Any] = {"offset": 5, "partition": 2, **more}
    match event:
        case "created":
            return till.update({}, **now)
        case "created closed":
            return till.update({"state": "closed"}, **now)
    till.update(cart(CUP))
    match event:
        case "updated":
            return till.update({}, **now)
        case "closed" | "cancelled":
            return till.update({"state": event}, **now)
        case "deleted":
            return till.delete(**now)[0]
    till.update({"state": "closed"})
    match event:
        case "revoked":
            return till.update({"state": "cancelled"}, **now)
        case "partially_returned":
            return till.take_back({"position": 0, "quantity": 1}, **now)
        case "reopened":
            return till.reopen(**now)
    till.take_back({"position": 0, "quantity": 1})
    if event == "partially_returned again":
        return till.take_back({"position": 0, "quantity": 1}, **now)
    assert event == "revoked after a return"
    return till.update({"state": "cancelled"}, **now)


TYPES = {
    "created": "customersession.created",
    "created closed": "customersession.created",
    "updated": "customersession.updated",
    "closed": "customersession.closed",
    "cancelled": "customersession.cancelled",
    "revoked": "customersession.revoked",
    "revoked after a return": "customersession.revoked",
    "partially_returned": "customersession.partially_returned",
    "partially_returned again": "customersession.partially_returned",
    "reopened": "customersession.reopened",
    "deleted": "customersession.deleted",
}


@pytest.mark.parametrize("event", TYPES)
def test_every_event_has_its_type_and_the_headers_of_a_cloud_event(event):
    outcome = the_way_to(event, Till(application_id=42), timestamp=SENT + 3)
    assert outcome.headers == {
        "ce_specversion": "1.0",
        "ce_id": "session-updates/2/5",
        "ce_source": "/applications/42",
        "ce_time": "2026-11-22T18:40:00.003Z",
        "ce_type": TYPES[event],
        "content-type": "application/json",
    }
    assert outcome.timestamp == SENT + 3
    assert outcome.topic == "customer-sessions"
    assert (outcome.raw is None) == (event == "deleted")


@pytest.mark.parametrize("event", TYPES)
def test_a_trace_that_came_in_goes_out_with_every_event(event):
    outcome = the_way_to(event, Till(), headers=[("a", b"b"), ("traceparent", TRACE.encode())])
    assert outcome.headers["traceparent"] == TRACE
    assert "a" not in outcome.headers


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([], None),
        ([("traceparent", b"")], ""),
        ([("traceparent", b"x" * 512)], "x" * 512),
        ([("traceparent", b"x" * 513)], None),
        ([("traceparent", b"x" * 1_000_000)], None),
        ([("Traceparent", TRACE.encode())], None),
        ([("traceparent", None)], None),
    ],
)
@pytest.mark.parametrize("profile", ["", "p"])
def test_a_trace_is_passed_on_up_to_512_bytes_also_through_a_claim(till, headers, kept, profile):
    assert till.update({"profileId": profile}, headers=headers).headers.get("traceparent") == kept


def test_ce_time_is_the_records_own_occurred_at_and_the_timestamp_the_records_own(till):
    till.update({})
    record = {"customerSession": {}, "occurredAt": "2026-11-22T08:00:00.5+01:00"}
    outcome = till.one(record, timestamp=SENT + 9)
    assert outcome.headers["ce_time"] == "2026-11-22T07:00:00.500Z"
    assert outcome.timestamp == SENT + 9


def test_a_reclassified_snapshot_tells_of_the_claiming_record_in_its_own_partition(till):
    earlier, trace = "2026-11-22T08:00:00.000Z", [("traceparent", TRACE.encode())]
    first = till.one({"customerSession": {"profileId": "p"}, "eventId": "e"}, "s-1", partition=1, timestamp=SENT - 5)
    record = {"customerSession": {"profileId": "p"}, "occurredAt": earlier}
    _created, again = till.send(record, "s-2", partition=6, offset=4, timestamp=SENT + 5, headers=trace)
    private = {name: value for name, value in first.headers.items() if name.startswith("worker-")}
    assert again.headers == {
        "ce_specversion": "1.0",
        "ce_id": "session-updates/6/4/reclassified",
        "ce_source": "/applications/1",
        "ce_time": earlier,
        "ce_type": "customersession.reclassified",
        "content-type": "application/json",
        "traceparent": TRACE,
        **private,
    }
    assert (again.partition, again.key, again.timestamp) == (1, b"s-1", SENT + 5)
    assert again.snapshot == {**first.snapshot, "firstSession": False}


def test_a_session_is_reclassified_in_its_own_partition_also_at_the_largest_offset(till):
    till.one({"customerSession": {"profileId": "p"}}, "s-1", partition=1, offset=2**40 - 1)
    _created, again = till.send({"customerSession": {"profileId": "p"}}, "s-0", partition=5)
    assert (again.event, again.key, again.partition) == ("reclassified", b"s-1", 1)


def test_private_state_travels_in_headers_that_begin_with_worker_and_never_in_the_value(till):
    with_event = till.one({"customerSession": {}, "eventId": "e-1"}, "s-1", offset=1)
    without = till.update({}, "s-1", offset=2, partition=1)
    other = till.update({}, "s-2", offset=3)
    private = [name for name in with_event.headers if name.startswith("worker-")]
    assert len(private) == 1
    assert without.headers[private[0]] == with_event.headers[private[0]]
    assert not any(name.startswith("worker-") for name in other.headers)
    assert set(with_event.snapshot) == set(without.snapshot)


# ------------------------------------------------------------------------------------------------------ determinism


def traffic(seed: int) -> list[Update]:
    """Make update records of 12 sessions and 4 profiles; each session arrives through one partition, right or wrong."""
    chance = random.Random(seed)
    ways = [chance.choice((None, None, 0, 1, 2, 3)) for _session in range(12)]
    updates = []
    for number in range(200):
        session = chance.randrange(12)
        fields: dict[str, Any] = {"attributes": {f"a{chance.randrange(9)}": chance.choice((None, number))}}
        if chance.random() < 0.3:
            fields["profileId"] = chance.choice(("", "p-1", "p-2", "p-3", "p-4"))
        if chance.random() < 0.3:
            fields["cartItems"] = [
                {"sku": "a", "quantity": chance.randrange(1, 9), "price": chance.randrange(999) / 100}
            ]
        if chance.random() < 0.1:
            fields["state"] = "closed"
        value: dict[str, Any] | None = {"customerSession": fields}
        kind = chance.random()
        if kind < 0.05:
            value = None
        elif kind < 0.15:
            value = {"type": "reopen"}
        elif kind < 0.25:
            value = {"return": {"returnedCartItems": [{"sku": "a", "quantity": 1}]}}
        elif kind < 0.3:
            value = {"customerSession": {"cartItem": []}}
        updates.append(Update(value, f"s-{session}", ways[session], SENT + chance.randrange(9_000) - number))
    return updates


def finals(driver: StreamDriver) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in driver.published("customer-sessions")}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_final_values_are_the_same_bytes_in_every_interleaving_and_offline(seed):
    updates = traffic(seed)
    till = Till()
    topology = Network().topology
    expected: dict[Any, Any] = {}
    for update in updates:
        assert isinstance(update.key, str)
        partition = topology.home(update.key.encode(), 0) if update.partition is None else update.partition
        value = update.value
        for outcome in till.send(value, update.key, timestamp=update.timestamp or 0, partition=partition):
            if outcome.topic == "customer-sessions":
                expected[outcome.key] = outcome.raw
    assert len(expected) == 12
    for interleaving in (None, *range(4)):
        choose = None if interleaving is None else random.Random(interleaving).randrange
        driver = StreamDriver(4, Rules(), choose=choose)
        driver.feed([update._replace(value=encoded(update.value)) for update in updates])
        assert finals(driver) == expected
        checked(driver.published("customer-sessions"), Rules())


def test_no_batch_boundary_shows_in_what_is_published():
    updates = [update._replace(partition=None) for update in traffic(9)]
    at_once, one_by_one = StreamDriver(1), StreamDriver(1)
    at_once.feed(updates)
    for update in updates:
        one_by_one.feed([update])
    assert finals(at_once) == finals(one_by_one)


def test_offsets_and_partitions_aside_it_does_not_matter_where_a_session_lives(till):
    raws = [till.update({**FULL_SESSION, "profileId": ""}, f"s-{n}", partition=n).snapshot for n in range(3)]
    for one, other in pairwise(raws):
        assert {**one, "id": 0, "integrationId": ""} == {**other, "id": 0, "integrationId": ""}


# ---------------------------------------------------------------------------------------------------------- v1 view


@pytest.fixture
def v1():
    return Till(v1_topic="customer-sessions-v1")


def test_without_the_setting_there_is_no_v1_view(till):
    assert [outcome.topic for outcome in till.send({"customerSession": {}})] == ["customer-sessions"]


def test_the_v1_view_shows_the_same_session_in_the_older_form(v1):
    new, old = v1.send({"customerSession": FULL_SESSION})
    assert (new.topic, old.topic) == ("customer-sessions", "customer-sessions-v1")
    v2 = new.snapshot
    assert list(old.snapshot) == V1_ORDER
    assert old.snapshot == {
        "integrationId": "s-1",
        "created": SENT_AT,
        "applicationId": 1,
        "profileId": "p",
        "coupon": "TEN",
        "referral": "friend",
        "state": "open",
        "cartItems": v2["cartItems"],
        "identifiers": ["till-1"],
        "total": v2["total"],
        "attributes": {"z": 1, "a": 2},
        "firstSession": True,
        "updateCount": 1,
        "discounts": {},
        "updated": SENT_AT,
    }


def test_the_v1_view_of_a_bare_session_has_all_its_fields(v1):
    _new, old = v1.send({"customerSession": {}})
    assert (old.snapshot["coupon"], old.snapshot["referral"], old.snapshot["profileId"]) == ("", "", "")
    assert (old.snapshot["identifiers"], old.snapshot["cartItems"], old.snapshot["discounts"]) == ([], [], {})


def test_the_v1_coupon_is_the_first_of_several(v1):
    _new, old = v1.send({"customerSession": {"couponCodes": ["b", "a"]}})
    assert old.snapshot["coupon"] == "b"


@pytest.mark.parametrize(
    "value",
    [
        {"customerSession": {"attributes": {"a": 1}}, "eventId": "e"},
        {"customerSession": {"state": "closed"}},
        None,
    ],
)
def test_the_v1_record_has_the_same_key_partition_timestamp_and_headers(v1, value):
    v1.send({"customerSession": {}}, "s-1", partition=3)
    trace = [("traceparent", TRACE.encode())]
    new, old = v1.send(value, "s-1", partition=3, timestamp=SENT + 4, headers=trace)
    assert (old.key, old.partition, old.timestamp) == (new.key, new.partition, new.timestamp)
    assert old.headers == {**new.headers, "ce_type": "v1." + new.headers["ce_type"]}
    assert (old.raw is None) == (value is None)


def test_the_v1_view_follows_a_reclassification(v1):
    v1.send({"customerSession": {"profileId": "p"}}, "s-1")
    record = {"customerSession": {"profileId": "p"}, "occurredAt": "2026-01-01T00:00:00Z"}
    published = v1.send(record, "s-2")
    types = [(outcome.topic, outcome.key, outcome.headers["ce_type"]) for outcome in published]
    assert types == [
        ("customer-sessions", b"s-2", "customersession.created"),
        ("customer-sessions-v1", b"s-2", "v1.customersession.created"),
        ("customer-sessions", b"s-1", "customersession.reclassified"),
        ("customer-sessions-v1", b"s-1", "v1.customersession.reclassified"),
    ]
    assert [outcome.snapshot["firstSession"] for outcome in published] == [True, True, False, False]


@pytest.mark.parametrize("profile", ["", "p"])
def test_dry_runs_and_rejections_have_no_v1_view(v1, profile):
    dry = v1.send({"customerSession": {"profileId": profile}, "dry": True})
    assert [outcome.topic for outcome in dry] == ["session-dry-runs"]
    refused = v1.send({"customerSession": {"x": 1}})
    assert [outcome.topic for outcome in refused] == ["session-rejections"]
