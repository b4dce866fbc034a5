"""Section 4, states: the whole table of states and requests, and returns."""

import pytest

from tests.contract.conftest import CUP, PEN, SENT, Outcome, Till, cart

MUG = {"sku": "mug", "quantity": 3, "price": 2.5}
STATES = ("none", "open", "closed", "partially_returned", "cancelled")
REQUESTS = (
    "update",
    "update to open",
    "update to closed",
    "update to cancelled",
    "update to partially_returned",
    "return",
    "reopen",
    "tombstone",
)
TABLE: dict[str, tuple[str, ...]] = {
    "none": (
        *("created", "created", "created", "invalid_state", "invalid_state"),
        *("unknown_session", "unknown_session", "nothing"),
    ),
    "open": (
        *("updated", "updated", "closed", "cancelled", "invalid_state"),
        *("invalid_transition", "invalid_transition", "deleted"),
    ),
    "closed": (
        *("session_not_open", "session_not_open", "session_not_open", "revoked", "invalid_state"),
        *("partially_returned", "reopened", "deleted"),
    ),
    "partially_returned": (
        *("session_not_open", "session_not_open", "session_not_open", "revoked", "invalid_state"),
        *("partially_returned", "invalid_transition", "deleted"),
    ),
    "cancelled": (
        *("session_not_open", "session_not_open", "session_not_open", "session_not_open", "invalid_state"),
        *("invalid_transition", "invalid_transition", "deleted"),
    ),
}
CELLS = [(state, request, TABLE[state][column]) for state in STATES for column, request in enumerate(REQUESTS)]
STATE_AFTER = {
    "created": "open",
    "updated": "open",
    "closed": "closed",
    "cancelled": "cancelled",
    "revoked": "cancelled",
    "partially_returned": "partially_returned",
    "reopened": "open",
}


def given(state: str) -> Till:
    """Bring a session into a state."""
    till = Till()
    if state == "none":
        return till
    till.update(cart(MUG, CUP))
    if state in ("closed", "partially_returned"):
        till.update({"state": "closed"})
    if state == "partially_returned":
        till.take_back({"position": 0, "quantity": 1})
    if state == "cancelled":
        till.update({"state": "cancelled"})
    return till


def ask(till: Till, request: str) -> list[Outcome]:
    kind, _to, state = request.partition(" to ")
    match kind:
        case "update":
            return till.send({"customerSession": {"state": state} if state else {}}, timestamp=SENT + 1)
        case "return":
            return till.send({"return": {"returnedCartItems": [{"position": 0, "quantity": 1}]}}, timestamp=SENT + 1)
        case "reopen":
            return till.send({"type": "reopen"}, timestamp=SENT + 1)
        case _:
            return till.send(None, timestamp=SENT + 1)


@pytest.mark.parametrize(("state", "request_", "expected"), CELLS)
def test_every_request_in_every_state_has_the_outcome_that_the_table_gives(state, request_, expected):
    outcomes = ask(given(state), request_)
    assert [outcome.what for outcome in outcomes] == ([] if expected == "nothing" else [expected])


@pytest.mark.parametrize(("state", "request_", "expected"), CELLS)
def test_the_table_also_says_the_state_after_and_what_is_refused_changes_nothing(state, request_, expected):
    till = given(state)
    before = _peek(till)
    ask(till, request_)
    after = _peek(till)
    if expected in ("deleted", "nothing"):
        assert after is None
    elif expected in STATE_AFTER:
        closed_at_once = expected == "created" and request_ == "update to closed"
        assert after["state"] == ("closed" if closed_at_once else STATE_AFTER[expected])
        assert after["updateCount"] == (before["updateCount"] + 1 if before else 1)
        assert after["updated"] == "2026-11-22T18:40:00.001Z"
    else:
        assert after == before


def _peek(till):
    return next(till.replay.sessions(), None)


@pytest.mark.parametrize("state", STATES)
def test_partially_returned_asked_for_by_an_update_is_an_invalid_state_with_its_pointer(state):
    rejection = given(state).update({"state": "partially_returned"})
    assert (rejection.code, rejection.pointer) == ("invalid_state", "/customerSession/state")


def test_the_whole_way_of_a_session():
    till = Till()
    steps = [
        till.update(cart(MUG)),
        till.update({"state": "closed"}),
        till.reopen(),
        till.update({"state": "closed"}),
        till.take_back({"sku": "mug", "quantity": 1}),
        till.take_back({"sku": "mug"}),
        till.update({"state": "cancelled"}),
    ]
    assert [step.event for step in steps] == [
        *("created", "closed", "reopened", "closed", "partially_returned", "partially_returned", "revoked"),
    ]
    assert [step.snapshot["updateCount"] for step in steps] == [1, 2, 3, 4, 5, 6, 7]


def test_a_reopened_session_takes_updates_again(till):
    till.update({"state": "closed", **cart(MUG)})
    reopened = till.reopen().snapshot
    assert reopened["state"] == "open"
    assert len(reopened["cartItems"]) == 1
    assert till.update(cart(PEN)).snapshot["total"] == 1


# --------------------------------------------------------------------------------------------------------- returns

SHELF = [
    {"sku": "mug", "quantity": 3, "price": 2.5},
    {"sku": "pen", "quantity": 1, "price": 1},
    {"sku": "mug", "quantity": 2, "price": 2},
]


@pytest.fixture
def sold():
    """A closed session of three mugs, a pen and two more mugs."""
    till = Till()
    till.update({"state": "closed", **cart(*SHELF)})
    return till


RETURNS: list[tuple[str, list[dict[str, object]], list[int]]] = [
    ("a position and a quantity", [{"position": 0, "quantity": 2}], [2, 0, 0]),
    ("a position alone: all that remains", [{"position": 0}], [3, 0, 0]),
    ("the last position", [{"position": 2, "quantity": 1}], [0, 0, 1]),
    ("a sku of one line", [{"sku": "pen"}], [0, 1, 0]),
    ("a sku of two lines, the first first", [{"sku": "mug", "quantity": 2}], [2, 0, 0]),
    ("a sku over the end of a line", [{"sku": "mug", "quantity": 4}], [3, 0, 1]),
    ("a sku alone: all lines", [{"sku": "mug"}], [3, 0, 2]),
    ("a null quantity: all", [{"sku": "mug", "quantity": None}], [3, 0, 2]),
    ("one entry after the other", [{"position": 0, "quantity": 2}, {"sku": "mug", "quantity": 2}], [3, 0, 1]),
    ("the same line twice", [{"position": 0, "quantity": 1}, {"position": 0, "quantity": 2}], [3, 0, 0]),
    ("a part, then the rest", [{"sku": "mug", "quantity": 1}, {"sku": "mug"}], [3, 0, 2]),
    ("from behind, then by sku", [{"position": 2}, {"sku": "mug", "quantity": 3}], [3, 0, 2]),
    ("everything", [{"sku": "pen"}, {"sku": "mug"}], [3, 1, 2]),
    ("exactly what remains", [{"sku": "mug", "quantity": 5}], [3, 0, 2]),
]


@pytest.mark.parametrize(("entries", "taken"), [row[1:] for row in RETURNS], ids=[row[0] for row in RETURNS])
def test_a_return_takes_units_off_the_lines_it_names(sold, entries, taken):
    snapshot = sold.take_back(*entries).snapshot
    assert snapshot["state"] == "partially_returned"
    assert [item["returnedQuantity"] for item in snapshot["cartItems"]] == taken
    left = [line["quantity"] - units for line, units in zip(SHELF, taken, strict=True)]
    assert [item["remainingQuantity"] for item in snapshot["cartItems"]] == left


REFUSED: list[tuple[str, list[dict[str, object]], str, str]] = [
    ("nothing", [], "empty_return", ""),
    ("a position and a sku", [{"position": 0, "sku": "mug"}], "ambiguous_item", "/0"),
    ("neither", [{"quantity": 1}], "missing_item", "/0"),
    ("an empty entry", [{}], "missing_item", "/0"),
    ("neither, behind a good one", [{"position": 0}, {}], "missing_item", "/1"),
    ("no such sku", [{"sku": "tea"}], "unknown_item", "/0"),
    ("an empty sku", [{"sku": ""}], "invalid_field", "/0/sku"),
    ("a sku in another case", [{"sku": "Mug"}], "unknown_item", "/0"),
    ("no such position", [{"position": 3}], "unknown_item", "/0"),
    ("the largest position", [{"position": 2**63 - 1}], "unknown_item", "/0"),
    ("more than the line has", [{"position": 0, "quantity": 4}], "return_exceeds_remaining", "/0"),
    ("more than all lines have", [{"sku": "mug", "quantity": 6}], "return_exceeds_remaining", "/0"),
    ("a great deal more", [{"sku": "mug", "quantity": 2**63 - 1}], "return_exceeds_remaining", "/0"),
    ("more, in two entries", [{"sku": "mug", "quantity": 3}] * 2, "return_exceeds_remaining", "/1"),
    ("what was taken by sku", [{"sku": "mug"}, {"position": 2}], "return_exceeds_remaining", "/1"),
    (
        "what was taken by position",
        [{"position": 0}, {"position": 2}, {"sku": "mug"}],
        "return_exceeds_remaining",
        "/2",
    ),
    ("all of what is gone", [{"position": 1}, {"position": 1}], "return_exceeds_remaining", "/1"),
]


@pytest.mark.parametrize(("entries", "code", "pointer"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_return_that_names_what_is_not_there_is_refused_whole(sold, entries, code, pointer):
    before = _peek(sold)
    rejection = sold.take_back(*entries)
    assert (rejection.code, rejection.pointer) == (code, f"/return/returnedCartItems{pointer}")
    assert _peek(sold) == before


def test_what_an_earlier_return_took_is_gone(sold):
    sold.take_back({"sku": "mug", "quantity": 4})
    assert sold.take_back({"sku": "mug", "quantity": 2}).code == "return_exceeds_remaining"
    assert sold.take_back({"position": 0}).code == "return_exceeds_remaining"
    assert [item["returnedQuantity"] for item in sold.take_back({"sku": "mug"}).snapshot["cartItems"]] == [3, 0, 2]
    assert sold.take_back({"sku": "mug"}).code == "return_exceeds_remaining"


def test_returning_everything_still_gives_partially_returned(sold):
    assert sold.take_back({"sku": "mug"}, {"sku": "pen"}).snapshot["state"] == "partially_returned"
    assert sold.update({"state": "cancelled"}).event == "revoked"


def test_a_return_on_an_empty_cart_names_no_line(till):
    till.update({"state": "closed"})
    assert till.take_back({"position": 0}).code == "unknown_item"
    assert till.take_back({"sku": "mug"}).code == "unknown_item"


def test_nothing_leaves_cancelled_but_by_deletion(till):
    till.update({})
    till.update({"state": "cancelled"})
    (deleted,) = till.delete()
    assert deleted.event == "deleted"
    assert till.update({}).event == "created"


def test_a_reopened_session_that_is_closed_again_can_be_returned(till):
    till.update({"state": "closed", **cart(MUG)})
    till.reopen()
    till.update({"state": "closed"})
    assert till.take_back({"position": 0}).event == "partially_returned"
