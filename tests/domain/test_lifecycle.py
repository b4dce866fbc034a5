"""The table of states and moves, and that no path leaves it."""

from itertools import product
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.codec.update import read
from worker.domain.instants import instant
from worker.domain.lifecycle import MOVES, Event, refusal
from worker.domain.limits import Rules
from worker.domain.model import Kind, Request, Session, State
from worker.domain.rejections import Rejection
from worker.domain.session import fold

unhurried = settings(deadline=None)
STATES: tuple[State, ...] = get_args(State)
KINDS: tuple[Kind, ...] = get_args(Kind)

TABLE = {
    (None, "update", "open"): "created",
    (None, "update", "closed"): "created",
    ("open", "update", "open"): "updated",
    ("open", "update", "closed"): "closed",
    ("open", "update", "cancelled"): "cancelled",
    ("closed", "update", "cancelled"): "revoked",
    ("closed", "return", "partially_returned"): "partially_returned",
    ("closed", "reopen", "open"): "reopened",
    ("partially_returned", "return", "partially_returned"): "partially_returned",
    ("partially_returned", "update", "cancelled"): "revoked",
}
"""The contract's section 4, with the event that section 6 gives each move."""


def test_the_moves_are_those_of_the_contract():
    assert MOVES == TABLE


def test_every_event_is_one_that_a_move_or_a_deletion_brings_about():
    assert set(get_args(Event)) == set(MOVES.values()) | {"deleted"}


def test_nothing_leaves_cancelled():
    assert not [move for move in MOVES if move[0] == "cancelled"]


ASKED: dict[Kind, tuple[State, ...]] = {"update": STATES, "return": ("partially_returned",), "reopen": ("open",)}
REFUSED = [
    (state, kind, asked)
    for state, kind in product((None, *STATES), KINDS)
    for asked in ASKED[kind]
    if (state, kind, asked) not in TABLE
]


@pytest.mark.parametrize(("state", "kind", "asked"), REFUSED)
def test_every_other_move_is_refused_with_its_code(state, kind, asked):
    if kind != "update":
        expected = "unknown_session" if state is None else "invalid_transition"
    elif state is None or asked == "partially_returned":
        expected = "invalid_state"
    else:
        expected = "session_not_open"
    assert refusal(state, kind, asked) == expected


RECORDS = [
    *(b'{"customerSession": {"state": "%s"}}' % state.encode() for state in STATES),
    b'{"customerSession": {}}',
    b'{"customerSession": {"cartItems": [{"sku": "a", "quantity": 2, "price": 1}]}}',
    b'{"return": {"returnedCartItems": [{"sku": "a", "quantity": 1}]}}',
    b'{"return": {"returnedCartItems": [{"position": 0}]}}',
    b'{"type": "reopen"}',
    None,
]


@unhurried
@given(st.lists(st.sampled_from(RECORDS), max_size=40))
def test_no_sequence_of_records_leaves_the_table(records):
    session: Session | None = None
    for number, record in enumerate(records):
        request = read(record, b"s-1", number, Rules())
        assert isinstance(request, Request)
        if request.kind == "delete":
            session = None
            continue
        state = session.state if session else None
        folded = fold(session, request, number + 1, Rules())
        if isinstance(folded, Rejection):
            asked = {"return": "partially_returned", "reopen": "open"}.get(request.kind)
            move = (state, request.kind, asked or request.changes.get("state") or "open")
            assert move not in TABLE or folded.code in ("unknown_item", "return_exceeds_remaining")
            continue
        after = folded.session
        assert TABLE[state, request.kind, after.state] == folded.event
        assert after.updateCount == (session.updateCount if session else 0) + 1
        assert after.id == (session.id if session else number + 1)
        assert after.created == (session.created if session else instant(number))
        session = after
