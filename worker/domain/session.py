"""Fold one request into a session: the result is the new session or a Rejection.

The functions are pure. They never change the given session; the new session shares parts with it.
"""

from typing import Any

from msgspec import Raw, Struct, json, structs

from worker.domain.lifecycle import MOVES, Event, refusal, states_before
from worker.domain.limits import Rules
from worker.domain.model import Kind, Request, Session, State
from worker.domain.money import MAX_DIGITS, amount, decimal, total_nanos
from worker.domain.rejections import Rejection, must_be, placed, shown
from worker.domain.returns import take_back


class FoldResult(Struct, frozen=True, gc=False):
    """The result of an accepted request: the new session, the event, and the names of ignored fields.

    *claims* is True if the session has a profile and must claim to be its first session. Its firstSession stays False
    until a verdict arrives.
    """

    session: Session
    event: Event
    ignored: tuple[str, ...]
    claims: bool


def fold(session: Session | None, request: Request, session_id: int, rules: Rules) -> FoldResult | Rejection:
    """Return the result of an update, return or reopen on *session*; None creates a session with the id *session_id*.

    >>> request = Request("update", "s-1", "2026-11-22T10:00:00.000Z", changes={"profileId": ""})
    >>> folded = fold(None, request, 1, Rules())
    >>> folded.event, folded.session.state, folded.session.firstSession
    ('created', 'open', True)
    >>> fold(None, Request("reopen", "s-1", "2026-11-22T10:00:00.000Z"), 1, Rules()).code
    'unknown_session'
    """
    if request.kind == "update":
        return _update(session, request, session_id, rules)
    if request.kind == "return":
        return _return(session, request)
    if request.kind == "reopen":
        return _moved(session, request, "open")
    raise ValueError("a deletion cannot be folded into a session")


def v1_view(session: Session) -> dict[str, Any]:
    """Return a session in the older form, a SnapshotV1."""
    return {
        "integrationId": session.integrationId,
        "created": session.created,
        "applicationId": session.applicationId,
        "profileId": session.profileId,
        "coupon": session.couponCodes[0] if session.couponCodes else "",
        "referral": session.referralCode or "",
        "state": session.state,
        "cartItems": session.cartItems,
        "identifiers": session.identifiers or [],
        "total": session.total,
        "attributes": session.attributes,
        "firstSession": session.firstSession,
        "updateCount": session.updateCount,
        "discounts": {},
        "updated": session.updated,
    }


# ------------------------------------------------------------------------------------------- one function a kind


def _update(session: Session | None, request: Request, session_id: int, rules: Rules) -> FoldResult | Rejection:
    changes = request.changes
    if session is None:
        return _created(request, session_id, rules)
    folded = _moved(session, request, changes.get("state") or "open")
    if isinstance(folded, Rejection):
        return folded
    after = folded.session
    if session.state != "open":
        names = [name for name in changes if name != "state"]
        if request.cart is not None:
            names.append("cartItems")
        return structs.replace(folded, ignored=tuple(sorted(names)))
    if refused := _apply(after, request):
        return refused
    if after.profileId == session.profileId:
        return folded
    has_profile = bool(after.profileId)
    after.firstSession = not has_profile
    return FoldResult(after, folded.event, (), has_profile)


def _created(request: Request, session_id: int, rules: Rules) -> FoldResult | Rejection:
    state: State = request.changes.get("state") or "open"
    event = MOVES.get((None, "update", state))
    if event is None:
        return _refused(request, None, state)
    session = Session(
        id=session_id,
        created=request.occurred_at,
        integrationId=request.integration_id,
        applicationId=rules.application_id,
        profileId="",
        state=state,
        cartItems=_EMPTY,
        attributes={},
        firstSession=True,
        updateCount=1,
        total=0.0,
        cartItemTotal=0.0,
        additionalCostTotal=0.0,
        cartItemAdditionalCostTotal=0.0,
        updated=request.occurred_at,
    )
    if refused := _apply(session, request):
        return refused
    has_profile = bool(session.profileId)
    session.firstSession = not has_profile
    return FoldResult(session, event, (), has_profile)


_EMPTY = Raw(b"[]")


def _return(session: Session | None, request: Request) -> FoldResult | Rejection:
    folded = _moved(session, request, "partially_returned")
    if isinstance(folded, Rejection):
        return folded
    lines = take_back(json.decode(folded.session.cartItems), request.returned)
    if isinstance(lines, Rejection):
        return lines
    folded.session.cartItems = Raw(json.encode(lines))
    return folded


# ------------------------------------------------------------------------------------------------- their parts


def _moved(session: Session | None, request: Request, asked: State) -> FoldResult | Rejection:
    """Return the session in the state *asked* with the request counted, or the rejection of the move."""
    kind: Kind = request.kind  # type: ignore[assignment]
    state = session.state if session else None
    event = MOVES.get((state, kind, asked))
    if session is None or event is None:
        return _refused(request, state, asked)
    updated = max(session.updated, request.occurred_at)
    after = structs.replace(session, state=asked, updateCount=session.updateCount + 1, updated=updated)
    return FoldResult(after, event, (), False)


def _refused(request: Request, state: State | None, asked: State) -> Rejection:
    kind: Kind = request.kind  # type: ignore[assignment]
    code = refusal(state, kind, asked)
    if code == "unknown_session":
        name = shown(request.integration_id)
        return Rejection(
            code, "", f"A {kind} must name an existing session, but no session has the integrationId {name}."
        )
    if code == "invalid_transition":
        states = " or ".join(shown(before) for before in states_before(kind, asked))
        return Rejection(
            code, "", f"A {kind} needs a session whose state is {states}, but the state is {shown(state)}."
        )
    if code == "invalid_state":
        allowed = (
            '"open" or "closed" in a new session' if state is None else '"open", "closed" or "cancelled" in an update'
        )
        return must_be(placed("/customerSession/state", request.places), allowed, shown(asked), code)
    given = shown(request.changes.get("state"))
    rule = "no update" if state == "cancelled" else 'only an update with state "cancelled"'
    message = f"A session whose state is {shown(state)} accepts {rule}, but the state in the update is {given}."
    return Rejection(code, "", message)


def _apply(session: Session, request: Request) -> Rejection | None:
    """Write the changes of an update into *session* in place; return a rejection if no double can hold a total."""
    for name, value in request.changes.items():
        if name == "state":
            continue
        if name == "attributes":
            merged = {**session.attributes, **value}
            if None in value.values():
                merged = {key: kept for key, kept in merged.items() if kept is not None}
            session.attributes = merged
        elif name == "profileId":
            session.profileId = value
        elif name == "coupon":
            if not value or not session.couponCodes or session.couponCodes[0] != value:
                session.couponCodes = [value] if value else None
        elif name == "referral":
            session.referralCode = value or None
        else:
            setattr(session, name, value or None)
    return None if request.cart is None and request.cost_total is None else _write_totals(session, request)


def _write_totals(session: Session, request: Request) -> Rejection | None:
    """Write a new cart and the totals into *session* in place; a part that the request omits keeps its total."""
    cart, cost_total = request.cart, request.cost_total
    if cart is not None:
        session.cartItems, item_total, item_cost_total = cart.items, cart.item_total, cart.cost_total
    else:
        item_total = total_nanos(session.cartItemTotal)
        item_cost_total = total_nanos(session.cartItemAdditionalCostTotal)
    if cost_total is None:
        cost_total = total_nanos(session.additionalCostTotal)
    total = item_total + cost_total + item_cost_total
    written: tuple[Any, ...] = amount(total), amount(item_total), amount(cost_total), amount(item_cost_total)
    if None in written:
        totals, which = (total, item_total, cost_total, item_cost_total), written.index(None)
        rule = f"a session whose {_TOTALS[which]} has at most {MAX_DIGITS} significant digits"
        return must_be(placed("/customerSession", request.places), rule, decimal(totals[which]), "number_out_of_range")
    session.total, session.cartItemTotal, session.additionalCostTotal, session.cartItemAdditionalCostTotal = written
    return None


_TOTALS = ("total", "cartItemTotal", "additionalCostTotal", "cartItemAdditionalCostTotal")
