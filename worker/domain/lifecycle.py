"""The table of states and allowed moves.

A move is (state before, kind of update record, state after). A session that does not exist has the state None.
A move that is not in the table is refused with the code that `refusal` returns.
"""

from typing import Literal

from worker.domain.model import Kind, State

Event = Literal["created", "updated", "closed", "cancelled", "revoked", "partially_returned", "reopened", "deleted"]

MOVES: dict[tuple[State | None, Kind, State], Event] = {
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


def refusal(state: State | None, kind: Kind, asked: State) -> str:
    """Return the code that refuses a move which is not in the table.

    >>> refusal(None, "return", "partially_returned"), refusal("closed", "update", "open")
    ('unknown_session', 'session_not_open')
    """
    if kind != "update":
        return "unknown_session" if state is None else "invalid_transition"
    if state is None or asked == "partially_returned":
        return "invalid_state"
    return "session_not_open"


def states_before(kind: Kind, asked: State) -> list[State]:
    """Return the states of a session from which *kind* leads to the state *asked*.

    >>> states_before("return", "partially_returned")
    ['closed', 'partially_returned']
    """
    return [before for before, by, after in MOVES if before is not None and (by, after) == (kind, asked)]
