"""Update records that break a rule, for each rejection code."""

from collections.abc import Callable
from typing import Any

from worker.local.simulator.shop import HOUR, MEBIBYTE, SHARES, Day, Json, Script, Step, Target, Visit, _written
from worker.pipeline.outcomes import REJECTED


def _update(day: Day, visit: Visit, **changes: Any) -> Json:
    """Return an update without eventId, which changes nothing in the visit."""
    value = {"type": "update", "integrationId": visit.integration_id, "occurredAt": day.occurred_at(visit)}
    return value | {"customerSession": changes}


def _add(day: Day, visit: Visit, times: int = 1, **fields: Any) -> Json:
    """Return an update that adds *times* lines with these *fields*."""
    line = {"sku": "dairy-01", "quantity": 1, "price": 1.29} | fields
    return _update(day, visit, cartItems=[*visit.cart, *[line] * times])


def _return(visit: Visit, *entries: Json) -> Json:
    return {"type": "return", "integrationId": visit.integration_id, "return": {"returnedCartItems": list(entries)}}


def _reopen(visit: Visit) -> Json:
    return {"type": "reopen", "integrationId": visit.integration_id}


NOT_JSON = (
    '{"type":"update","customerSession":{"cartItems":[{"sku":"fruit-01","quant',
    '{"customerSession":{"attributes":' + '{"a":' * 63 + "1" + "}" * 65,  # one level too deep
    r'{"customerSession":{"attributes":{"name":"\ud83d"}}}',
    '{"customerSession":{"additionalCosts":{"shipping":{"price":NaN}}}}',
    '\ufeff{"type":"reopen"}',
    '["reopen"]',
    '\x00\x00\x00\x00\x07{"type":',
    "",
)
BROKEN: dict[str, tuple[Target, *tuple[Callable[[Day, Visit], Any], ...]]] = {
    "record_too_large": ("open", lambda d, v: _update(d, v, attributes={"journal": "x" * MEBIBYTE})),
    "malformed_json": ("open", lambda d, _: d.draw.choice(NOT_JSON)),
    "missing_integration_id": (
        "nobody",
        lambda d, v: _update(d, v, state="closed"),
        lambda *_: {"type": "update", "customerSession": {"state": "closed"}},
        lambda *_: None,
    ),
    "unknown_type": (
        "open",
        lambda d, v: _update(d, v, state="closed") | {"type": "purchase"},
        lambda _, v: {"integrationId": v.integration_id, "eventId": "1"},
    ),
    "wrong_application": ("open", lambda d, v: _add(d, v) | {"applicationId": 999}),
    "unknown_field": (
        "open",
        lambda d, v: _update(d, v, cartItem=v.cart),
        lambda d, v: _add(d, v, colour="gold"),
        lambda _, v: _reopen(v) | {"reason": "typing error"},
    ),
    "ambiguous_field": (
        "closed",
        lambda d, v: _update(d, v, coupon="WÜRZE10", couponCodes=["WÜRZE10"]),
        lambda d, v: _update(d, v, referral="FREUND-1", referralCode="FREUND-2"),
        lambda d, v: _update(d, v, state="cancelled") | _return(v, {"position": 0}),
    ),
    "invalid_field": (
        "open",
        lambda d, v: _add(d, v, quantity="2"),
        lambda d, v: _add(d, v, quantity=0),
        lambda d, v: _add(d, v, sku=""),
        lambda d, v: _add(d, v, weight=-0.1),
        lambda d, v: _update(d, v, couponCodes=["Ü" * 101]),
        lambda d, v: _update(d, v, loyaltyCards=["LC1", "LC2"]),
        lambda d, v: _update(d, v, storeIntegrationId=""),
        lambda d, v: _update(d, v, profileId=4711),
        lambda d, v: _update(d, v, state="paid"),
        lambda d, v: _update(d, v) | {"occurredAt": "22.11.2026 10:00"},
        lambda d, v: _update(d, v) | {"dry": "yes"},
        lambda _, v: {
            "integrationId": v.integration_id,
            "cartItems": [{"sku": "dairy-01", "quantity": "2", "price": 1}],
        },
        lambda d, v: _update(d, v, attributes=["channel", "till"]),
        lambda _, v: {"type": "update", "integrationId": v.integration_id},
    ),
    "missing_price": (
        "open",
        lambda d, v: _add(d, v, price=None),
        lambda d, v: _update(d, v, cartItems=[{"sku": "dairy-01", "quantity": 1}]),
        lambda d, v: _update(d, v, additionalCosts={"shipping": {}}),
    ),
    "number_out_of_range": (
        "open",
        lambda d, v: _add(d, v, price=1e12),
        lambda d, v: _add(d, v, price=-1e300),
        lambda d, v: _add(d, v, times=9, price=999_999_999_999.999),  # each price is valid, their total is out of range
        lambda d, v: _update(d, v, attributes={"counter": 2**63}),
        lambda *_: '{"type":"update","customerSession":{"attributes":{"counter":1e400}}}',
    ),
    "too_many_items": ("open", lambda d, v: _add(d, v, times=1001)),
    "too_many_units": ("open", lambda d, v: _add(d, v, times=2, quantity=5001)),
    "occurred_in_future": ("open", lambda d, v: _update(d, v) | {"occurredAt": _written(d.now + 2 * HOUR - 1, "5Z")}),
    "dry_not_supported": ("closed", lambda _, v: _reopen(v) | {"dry": True}),
    "empty_return": ("closed", lambda _, v: _return(v)),
    "ambiguous_item": ("closed", lambda _, v: _return(v, {"position": 0, "sku": v.cart[0]["sku"]})),
    "missing_item": ("closed", lambda _, v: _return(v, {"quantity": 1})),
    "event_id_reused": ("numbered", lambda d, v: _update(d, v, state="closed") | {"eventId": v.event_id}),
    "unknown_session": ("stranger", lambda _, v: _return(v, {"position": 0}), lambda _, v: _reopen(v)),
    "invalid_state": (
        "stranger",
        lambda d, v: _update(d, v, state="cancelled"),
        lambda d, v: _update(d, v, state="partially_returned"),
    ),
    "session_not_open": ("closed", _add, lambda d, v: _update(d, v, state="closed")),
    "invalid_transition": ("open", lambda _, v: _return(v, {"position": 0}), lambda _, v: _reopen(v)),
    "unknown_item": ("closed", lambda _, v: _return(v, {"sku": "?"}), lambda _, v: _return(v, {"position": 999})),
    "return_exceeds_remaining": ("closed", lambda _, v: _return(v, {"position": 0, "quantity": 100})),
    "session_too_large": ("open", lambda d, v: _update(d, v, attributes={"journal": "x" * (MEBIBYTE - 200)})),
}
"""Every rejection code that a file can cause: the target session of the record, and the values that cause the code.

The record of `session_too_large` is within the limit of a record; with the rest of the session, the snapshot exceeds it.
"""
GIANTS = ("record_too_large", "session_too_large")
"""Records of 1 MiB, which are sent less often than the others."""


def _break(day: Day, code: str) -> Json:
    target, *variants = BROKEN[code]
    visit = day.aim(target)
    return day.sealed(visit, day.draw.choice(variants)(day, visit))


def send_broken(day: Day) -> Script:
    """Yield broken records forever: every code once in random order, then in another order."""
    codes = [code for code in BROKEN if code not in GIANTS]
    while True:
        day.draw.shuffle(codes)
        for code in codes:
            yield Step(_break(day, code), (0.5 + day.draw.random()) / SHARES["broken"] - 1, REJECTED[code])


def send_giant(day: Day, code: str) -> Script:
    yield Step(_break(day, code), 0, REJECTED[code])
