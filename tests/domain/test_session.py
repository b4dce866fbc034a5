"""The fold: pure, the same from any point on, and in the snapshot's order."""

import json
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from pydantic import TypeAdapter

from worker.codec.update import read
from worker.domain.limits import Rules
from worker.domain.model import Request, Session, Snapshot
from worker.domain.rejections import Rejection
from worker.domain.session import FoldResult, fold, v1_view

unhurried = settings(deadline=None)
SNAPSHOT = TypeAdapter(Snapshot)
SOME: dict[str, st.SearchStrategy[Any]] = {
    "profileId": st.sampled_from(["", "p", "q"]),
    "storeIntegrationId": st.sampled_from(["a", "b"]),
    "evaluableCampaignIds": st.lists(st.integers(1, 3), max_size=2),
    "couponCodes": st.lists(st.sampled_from("ab"), max_size=2),
    "referralCode": st.sampled_from(["", "r"]),
    "loyaltyCards": st.lists(st.just("l"), max_size=1),
    "identifiers": st.lists(st.just("i"), max_size=2),
    "state": st.sampled_from(["open", "closed", "cancelled"]),
    "cartItems": st.lists(
        st.fixed_dictionaries(
            {"sku": st.sampled_from("ab"), "quantity": st.integers(1, 3), "price": st.sampled_from([0.1, 2, -0.5])},
            optional={"additionalCosts": st.just({"c": {"price": 0.3}}), "name": st.none() | st.just("n")},
        ),
        max_size=3,
    ),
    "additionalCosts": st.dictionaries(st.sampled_from("xy"), st.just({"price": 1.1}), max_size=2),
    "attributes": st.dictionaries(st.sampled_from("klm"), st.none() | st.integers(0, 3) | st.just([None]), max_size=3),
    "experimentVariantAllocations": st.lists(st.just({"experimentID": 1, "variantID": 2}), max_size=1),
}
UPDATES = st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in SOME.items()}).map(
    lambda session: {"customerSession": session}
)
RETURNS = st.lists(
    st.fixed_dictionaries({"sku": st.sampled_from("ab")}, optional={"quantity": st.integers(1, 2)}),
    min_size=1,
    max_size=2,
).map(lambda entries: {"return": {"returnedCartItems": entries}})
VALUES = UPDATES | UPDATES | RETURNS | st.just({"type": "reopen"})
RECORDS = st.lists(st.tuples(VALUES, st.integers(0, 100)), max_size=20)


def request_of(value: dict[str, Any], timestamp: int) -> Request:
    request = read(json.dumps(value).encode(), b"s-1", timestamp, Rules())
    assert isinstance(request, Request), request
    return request


def folded(session: Session | None, value: dict[str, Any], timestamp: int = 0) -> FoldResult | Rejection:
    return fold(session, request_of(value, timestamp), 7, Rules())


def must(outcome: FoldResult | Rejection) -> FoldResult:
    assert isinstance(outcome, FoldResult), outcome
    return outcome


@unhurried
@given(RECORDS)
def test_the_fold_never_changes_the_session_it_is_given(records):
    session: Session | None = None
    for value, timestamp in records:
        before = deepcopy(session)
        outcome = folded(session, value, timestamp)
        assert session == before
        if isinstance(outcome, FoldResult):
            assert msgspec.json.encode(session) == msgspec.json.encode(before)
            session = outcome.session


@unhurried
@given(RECORDS, st.integers(0, 20))
def test_from_any_point_on_the_written_session_is_all_that_is_needed(records, point):
    """A session read back from its bytes folds on to the same bytes: a restored worker loses nothing."""
    whole: Session | None = None
    restored: Session | None = None
    for number, (value, timestamp) in enumerate(records):
        if number == point:
            restored = restored and msgspec.json.decode(msgspec.json.encode(restored), type=Session)
        outcomes = [folded(session, value, timestamp) for session in (whole, restored)]
        if isinstance(outcomes[0], Rejection):
            assert outcomes[0] == outcomes[1]
        else:
            whole, restored = must(outcomes[0]).session, must(outcomes[1]).session
            assert msgspec.json.encode(whole) == msgspec.json.encode(restored)


@unhurried
@given(RECORDS)
def test_the_fields_of_a_session_keep_the_snapshots_order(records):
    session: Session | None = None
    for value, timestamp in records:
        outcome = folded(session, value, timestamp)
        if isinstance(outcome, FoldResult):
            session = outcome.session
            written = msgspec.json.encode(session)
            names = list(json.loads(written))
            assert names == [name for name in Snapshot.__annotations__ if name in names]
            SNAPSHOT.validate_json(written, strict=True)
            assert session.updated >= session.created


@unhurried
@given(RECORDS)
def test_a_claim_is_asked_for_exactly_when_the_session_gets_another_profile(records):
    session: Session | None = None
    for value, timestamp in records:
        before = session.profileId if session else ""
        outcome = folded(session, value, timestamp)
        if isinstance(outcome, FoldResult):
            session = outcome.session
            assert outcome.claims == (session.profileId not in ("", before))
            if outcome.claims or session.profileId == "":
                assert session.firstSession == (not outcome.claims)


def test_an_answer_is_kept_as_long_as_the_profile_is():
    session = must(folded(None, {"customerSession": {"profileId": "p"}})).session
    for answer in (True, False):
        known = structs.replace(session, firstSession=answer)
        after = must(folded(known, {"customerSession": {"profileId": "p", "state": "closed"}})).session
        assert after.firstSession is answer
        assert must(folded(after, {"type": "reopen"})).session.firstSession is answer


def test_a_new_sessions_id_is_the_one_it_is_given():
    assert must(folded(None, {"customerSession": {}})).session.id == 7


def test_a_deletion_leaves_nothing_to_fold():
    request = read(None, b"s-1", 0, Rules())
    assert isinstance(request, Request)
    with pytest.raises(ValueError, match="deletion"):
        fold(None, request, 1, Rules())


@pytest.mark.parametrize("name", ["cartItemTotal", "additionalCostTotal", "cartItemAdditionalCostTotal", "total"])
def test_the_message_names_the_total_that_is_too_long(name):
    long, short = 999_999_999_999.999, 1e-9
    plain = [{"sku": "a", "quantity": 1, "price": price} for price in (long, short)]
    costly = [
        {"sku": "a", "quantity": 1, "price": 0, "additionalCosts": {"c": {"price": item["price"]}}} for item in plain
    ]
    sessions: dict[str, dict[str, Any]] = {
        "cartItemTotal": {"cartItems": plain, "additionalCosts": {"a": {"price": -short}}},
        "additionalCostTotal": {
            "additionalCosts": {"a": {"price": long}, "b": {"price": short}},
            "cartItems": [{"sku": "a", "quantity": 1, "price": -short}],
        },
        "cartItemAdditionalCostTotal": {"cartItems": costly, "additionalCosts": {"a": {"price": -short}}},
        "total": {"cartItems": plain[:1], "additionalCosts": {"a": {"price": short}}},
    }
    refused = folded(None, {"customerSession": sessions[name]})
    assert isinstance(refused, Rejection)
    assert (refused.code, refused.message.split()[6]) == ("number_out_of_range", name)


def test_a_refused_update_leaves_the_session_as_it_was():
    session = must(folded(None, {"customerSession": {"attributes": {"a": 1}}})).session
    before = deepcopy(session)
    costs = {"a": {"price": 999_999_999_999.999}, "b": {"price": 1e-9}}
    refused = folded(session, {"customerSession": {"attributes": {"a": 2}, "additionalCosts": costs}})
    assert isinstance(refused, Rejection)
    assert session == before


@unhurried
@given(RECORDS)
def test_the_v1_view_shows_the_same_session(records):
    session: Session | None = None
    for value, timestamp in records:
        outcome = folded(session, value, timestamp)
        if isinstance(outcome, FoldResult):
            session = outcome.session
            view = v1_view(session)
            shared = set(view) - {"coupon", "referral", "identifiers", "discounts"}
            assert {name: view[name] for name in shared} == {name: getattr(session, name) for name in shared}
            assert view["coupon"] == next(iter(session.couponCodes or []), "")
            assert view["referral"] == (session.referralCode or "")
            assert view["identifiers"] == (session.identifiers or [])
            assert view["discounts"] == {}
