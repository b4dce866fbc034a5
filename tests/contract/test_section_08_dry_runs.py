"""Section 8, dry runs: what would be published, and no state changes."""

import pytest

from tests.contract.conftest import CUP, HOUR, PEN, SENT, SENT_AT, TRACE, Till, cart


def dry(session: dict[str, object] | None = None) -> dict[str, object]:
    return {"customerSession": session or {}, "dry": True}


def dry_return(*entries: dict[str, object]) -> dict[str, object]:
    return {"return": {"returnedCartItems": [*entries]}, "dry": True}


@pytest.mark.parametrize("state", ["none", "open", "closed", "cancelled"])
def test_a_dry_update_is_evaluated_alone_as_if_no_session_existed(till, state):
    if state != "none":
        till.update({"profileId": "q", "attributes": {"a": 1}, **cart(CUP)})
        till.update({"state": state})
    outcome = till.one(dry({"attributes": {"b": 2}, **cart(PEN)}), offset=70, partition=1, timestamp=SENT + HOUR)
    assert (outcome.topic, outcome.event, outcome.key) == ("session-dry-runs", "created.dry_run", b"s-1")
    assert outcome.snapshot == {
        "id": 2**40 + 71,
        "created": "2026-11-22T19:40:00.000Z",
        "integrationId": "s-1",
        "applicationId": 1,
        "profileId": "",
        "state": "open",
        "cartItems": [
            {**PEN, "returnedQuantity": 0, "remainingQuantity": 1, "position": 0},
        ],
        "attributes": {"b": 2},
        "firstSession": True,
        "updateCount": 1,
        "total": 1,
        "cartItemTotal": 1,
        "additionalCostTotal": 0,
        "cartItemAdditionalCostTotal": 0,
        "updated": "2026-11-22T19:40:00.000Z",
    }


def test_a_dry_update_changes_no_state(till):
    before = till.update({**cart(CUP), "profileId": "p"}).snapshot
    till.one(dry({"profileId": "q", "state": "closed", "attributes": {"a": 1}, **cart()}))
    assert till.update({}).snapshot == {**before, "updateCount": 2}
    till.one(dry(), "s-2")
    assert till.update({}, "s-2").event == "created"


def test_a_dry_run_has_the_headers_of_what_it_would_have_published(till):
    outcome = till.one(dry(), offset=3, headers=[("traceparent", TRACE.encode())], timestamp=SENT)
    assert outcome.headers == {
        "ce_specversion": "1.0",
        "ce_id": "session-updates/0/3",
        "ce_source": "/applications/1",
        "ce_time": SENT_AT,
        "ce_type": "customersession.created.dry_run",
        "content-type": "application/json",
        "traceparent": TRACE,
    }
    assert outcome.timestamp == SENT


@pytest.mark.parametrize("state", ["open", "closed"])
def test_a_dry_update_may_ask_for_the_states_a_session_may_begin_in(till, state):
    till.update({"state": "closed"})
    outcome = till.one(dry({"state": state}))
    assert (outcome.event, outcome.snapshot["state"]) == ("created.dry_run", state)


@pytest.mark.parametrize("state", ["cancelled", "partially_returned"])
def test_a_dry_update_may_not_ask_for_another_state_whatever_the_session_is_in(till, state):
    till.update({})
    assert till.one(dry({"state": state})).code == "invalid_state"


def test_a_dry_return_is_evaluated_against_the_session_without_changing_it(till):
    closed = till.update({"state": "closed", "profileId": "p", **cart(CUP)}).snapshot
    for _again in range(2):
        outcome = till.one(dry_return({"position": 0}), timestamp=SENT + 1)
        assert (outcome.topic, outcome.event) == ("session-dry-runs", "partially_returned.dry_run")
        item = {**closed["cartItems"][0], "returnedQuantity": 2, "remainingQuantity": 0}
        assert outcome.snapshot == {
            **closed,
            "state": "partially_returned",
            "cartItems": [item],
            "updateCount": 2,
            "updated": "2026-11-22T18:40:00.001Z",
        }
    real = till.take_back({"position": 0}).snapshot
    assert (real["updateCount"], real["cartItems"]) == (2, [item])


@pytest.mark.parametrize(
    ("state", "entry", "code"),
    [
        ("none", {"position": 0}, "unknown_session"),
        ("open", {"position": 0}, "invalid_transition"),
        ("cancelled", {"position": 0}, "invalid_transition"),
        ("closed", {"position": 9}, "unknown_item"),
        ("closed", {"position": 0, "quantity": 3}, "return_exceeds_remaining"),
    ],
)
def test_a_dry_return_is_refused_like_a_real_one(till, state, entry, code):
    if state != "none":
        till.update(cart(CUP))
        till.update({"state": state})
    rejection = till.one(dry_return(entry))
    assert (rejection.topic, rejection.code) == ("session-rejections", code)


@pytest.mark.parametrize("state", ["none", "open", "closed"])
def test_a_dry_reopen_is_not_supported(till, state):
    if state != "none":
        till.update({"state": state})
    rejection = till.one({"type": "reopen", "dry": True})
    assert (rejection.code, rejection.pointer) == ("dry_not_supported", "/dry")
    assert till.one({"type": "reopen", "dry": False}).what != "dry_not_supported"


@pytest.mark.parametrize(
    ("session", "code"),
    [
        ({"x": 1}, "unknown_field"),
        (cart({"sku": "a", "quantity": 1}), "missing_price"),
        ({"additionalCosts": {"a": {"price": 999_999_999_999.999}, "b": {"price": 1e-9}}}, "number_out_of_range"),
        ({"attributes": {"a": "x" * 1000}}, "session_too_large"),
    ],
)
def test_a_rejected_dry_run_is_a_rejection(session, code):
    rejection = Till(max_snapshot_bytes=1000).one(dry(session))
    assert (rejection.topic, rejection.code) == ("session-rejections", code)


@pytest.mark.parametrize("value", [False, None])
def test_dry_is_false_by_default(till, value):
    assert till.one({"customerSession": {}, "dry": value}).topic == "customer-sessions"


def test_a_dry_run_is_counted_as_one(till):
    till.one(dry())
    till.one(dry({"profileId": "p"}))
    assert till.counts() == {"dry_run": 2}


def test_a_dry_run_of_a_stray_is_published_at_home(network):
    network.send({**dry(), "integrationId": "s-1"}, None, network.away("s-1"))
    (outcome,) = network.published("session-dry-runs")
    assert (outcome.partition, outcome.key) == (network.home("s-1"), b"s-1")
    assert outcome.snapshot["id"] == network.away("s-1") * 2**40 + 1
