"""Section 3, update: what creates a session, what an open one takes, what one that is not open ignores."""

import pytest

from tests.contract.conftest import CUP, HOUR, PEN, SENT, SENT_AT, cart

EARLIER = "2026-11-22T10:00:00.000Z"
LATER = "2026-11-22T19:00:00.000Z"


def test_the_smallest_update_creates_an_open_session_with_every_field_that_is_always_there(till):
    created = till.update({}, "s-1", offset=6, partition=3)
    assert created.event == "created"
    assert created.snapshot == {
        "id": 3 * 2**40 + 6 + 1,
        "created": SENT_AT,
        "integrationId": "s-1",
        "applicationId": 1,
        "profileId": "",
        "state": "open",
        "cartItems": [],
        "attributes": {},
        "firstSession": True,
        "updateCount": 1,
        "total": 0,
        "cartItemTotal": 0,
        "additionalCostTotal": 0,
        "cartItemAdditionalCostTotal": 0,
        "updated": SENT_AT,
    }


def test_a_session_may_be_created_closed_with_all_its_fields(till):
    created = till.update({"state": "closed", "profileId": "p", **cart(CUP, PEN)})
    assert (created.event, created.snapshot["state"]) == ("created", "closed")
    assert created.snapshot["total"] == 10
    assert created.snapshot["profileId"] == "p"
    assert "ignored-fields" not in created.headers


@pytest.mark.parametrize("state", ["cancelled", "partially_returned"])
def test_no_session_begins_in_another_state(till, state):
    rejection = till.update({"state": state, **cart(CUP)})
    assert (rejection.code, rejection.pointer) == ("invalid_state", "/customerSession/state")
    assert till.update({}).event == "created"


def test_an_update_that_closes_or_cancels_an_open_session_applies_its_other_fields_too(till):
    for state in ("closed", "cancelled"):
        till.update(cart(PEN), state)
        moved = till.update({"state": state, "referralCode": "r", **cart(CUP)}, state)
        assert (moved.event, moved.snapshot["state"], moved.snapshot["referralCode"]) == (state, state, "r")
        assert moved.snapshot["total"] == 9
        assert "ignored-fields" not in moved.headers


def test_an_older_occurred_at_holds_no_update_back_and_only_leaves_updated_as_it_is(till):
    till.update({"referralCode": "a", "couponCodes": ["a"]})
    older = till.one({"customerSession": {"referralCode": "b"}, "occurredAt": EARLIER})
    assert older.event == "updated"
    assert older.snapshot["referralCode"] == "b"
    assert older.snapshot["couponCodes"] == ["a"]
    assert (older.snapshot["updated"], older.snapshot["created"]) == (SENT_AT, SENT_AT)
    assert older.snapshot["updateCount"] == 2
    assert older.headers["ce_time"] == EARLIER


def test_update_records_apply_in_order_of_arrival_whatever_they_say_of_the_time(till):
    for number, occurred_at in enumerate((LATER, EARLIER, SENT_AT)):
        till.one({"customerSession": {"attributes": {"last": number}}, "occurredAt": occurred_at})
    final = till.update({}, timestamp=SENT - HOUR).snapshot
    assert final["attributes"] == {"last": 2}
    assert (final["created"], final["updated"]) == (LATER, LATER)


def test_a_closed_session_that_is_cancelled_takes_nothing_else_and_names_what_it_ignored(till):
    closed = till.update({"state": "closed", "profileId": "p", "attributes": {"a": 1}, **cart(CUP)}).snapshot
    revoked = till.update(
        {
            "state": "cancelled",
            "referral": "r",
            "cartItems": [],
            "attributes": {"a": 2},
            "profileId": "q",
            "coupon": "",
            "additionalCosts": {},
            "identifiers": None,
            "loyaltyCards": [],
        },
        timestamp=SENT + 1,
    )
    assert revoked.event == "revoked"
    ignored = "additionalCosts,attributes,cartItems,coupon,loyaltyCards,profileId,referral"
    assert revoked.headers["ignored-fields"] == ignored
    expected = {**closed, "state": "cancelled", "updateCount": 2, "updated": "2026-11-22T18:40:00.001Z"}
    assert revoked.snapshot == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("profileId", ""),
        ("storeIntegrationId", "s"),
        ("evaluableCampaignIds", []),
        ("experimentVariantAllocations", []),
        ("couponCodes", []),
        ("referralCode", ""),
        ("loyaltyCards", []),
        ("cartItems", []),
        ("additionalCosts", {}),
        ("identifiers", []),
        ("attributes", {}),
        ("coupon", ""),
        ("referral", ""),
    ],
)
@pytest.mark.parametrize("returned", [False, True])
def test_each_field_beside_a_cancellation_is_named_as_ignored_even_when_it_is_empty(till, name, value, returned):
    till.update({"state": "closed", **cart(CUP)})
    if returned:
        till.take_back({"position": 0, "quantity": 1})
    revoked = till.update({"state": "cancelled", name: value})
    assert (revoked.event, revoked.headers["ignored-fields"]) == ("revoked", name)


def test_a_cancellation_alone_has_no_header_of_ignored_fields(till):
    till.update({"state": "closed"})
    assert "ignored-fields" not in till.update({"state": "cancelled", "profileId": None}).headers


def test_what_a_cancellation_ignores_is_not_judged_against_the_session(till):
    """Totals that no double carries would be refused, but nothing of that cart is applied."""
    till.update({"state": "closed"})
    huge = {"sku": "a", "quantity": 5000, "price": 999_999_999_999.999}
    assert till.update({"state": "cancelled", **cart(huge, {**huge, "price": 0.000000001})}).event == "revoked"


def test_what_a_cancellation_ignores_must_still_be_valid(till):
    till.update({"state": "closed"})
    assert till.update({"state": "cancelled", "profileId": 5}).code == "invalid_field"


@pytest.mark.parametrize("how", ["closed", "partially_returned", "cancelled"])
def test_a_session_that_is_not_open_takes_no_other_update(till, how):
    till.update(cart(CUP))
    till.update({"state": "cancelled" if how == "cancelled" else "closed"})
    if how == "partially_returned":
        till.take_back({"position": 0, "quantity": 1})
    for session in ({}, {"state": "open"}, {"state": "closed"}, {"attributes": {"a": 1}}, {"state": None}):
        rejection = till.update(session)
        assert (rejection.code, rejection.pointer) == ("session_not_open", "")


def test_a_refused_update_counts_for_nothing(till):
    till.update({"state": "closed"})
    till.update({}, timestamp=SENT + 1)
    revoked = till.update({"state": "cancelled"}).snapshot
    assert (revoked["updateCount"], revoked["updated"]) == (2, SENT_AT)
