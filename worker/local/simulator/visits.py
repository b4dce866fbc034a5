"""A visit to a shop, from the first update record to its returns."""

import random
from collections.abc import Callable

from worker.domain.instants import instant
from worker.local.simulator.shop import OPENING, Day, Json, Script, Step, Visit
from worker.pipeline.outcomes import DRY_RUN, DUPLICATE

CART, RETRY, HOURS = 250.0, 4.0, 700.0
"""Mean waits in ticks: between two updates of a cart, before a re-sent record, before a customer comes back."""

AT_FIRST: dict[str, Callable[[random.Random], Json]] = {
    "coupon": lambda draw: {"couponCodes": [f"HERBST-{draw.randrange(9000):04d}", "WÜRZE10"][: draw.randint(1, 2)]},
    "referral code": lambda draw: {"referralCode": f"FREUND-{draw.randrange(9000):04d}"},
    "loyalty card": lambda draw: {"loyaltyCards": [f"LC{draw.randrange(10**8):08d}"]},
    "identifiers": lambda draw: {"identifiers": [f"device-{draw.getrandbits(48):012x}", "91.12.0.7"]},
    "campaigns": lambda draw: {"evaluableCampaignIds": sorted(draw.sample(range(100, 140), 3))},
    "experiment": lambda draw: {"experimentVariantAllocations": [{"experimentID": 7, "variantID": draw.randint(1, 2)}]},
    "shipping": lambda draw: {"additionalCosts": {"shipping": {"price": draw.choice((0, 2.9, 4.95))}}},
}
"""Fields beside the cart in the first record of a visit."""
UNDERWAY: dict[str, Callable[[random.Random], Json]] = {
    "coupon taken back": lambda draw: draw.choice(({"couponCodes": []}, {"coupon": ""})),
    "shipping dropped": lambda draw: {"additionalCosts": draw.choice(({}, []))},
    "attribute added": lambda draw: {"attributes": {"receipt": "e-mail", "bags": draw.randint(0, 3)}},
    "attribute removed": lambda draw: {"attributes": {draw.choice(("cashier", "language", "receipt")): None}},
}
"""Fields beside the cart in a later update of an open session."""


def visit_shop(day: Day) -> Script:
    """Yield one visit: a cart that grows with each update until it is closed, or a receipt in one message."""
    visit = day.enter()
    day.recent.append(visit)
    changes = _first_changes(day, visit)
    if day.may("one message"):
        if visit.profile:
            changes["profileId"] = visit.profile
        yield from _close(day, visit, changes)
    else:
        is_known = not (visit.profile and day.may("profile later"))
        if is_known and visit.profile:
            changes["profileId"] = visit.profile
        visit.state = "open"
        yield from _send_cart(day, visit, changes)
        while day.draw.random() < 0.6:
            yield from _send_cart(day, visit, _later_changes(day, visit))
        if day.may("cancelled"):
            visit.state = "cancelled"
            yield from _deliver(day, day.record(visit, "update", {"state": "cancelled"}), HOURS)
            return
        changes = _later_changes(day, visit)
        if not is_known:
            changes["profileId"] = visit.profile
        yield from _close(day, visit, changes)
    yield from _come_back(day, visit)


def _first_changes(day: Day, visit: Visit) -> Json:
    register = visit.register
    changes: Json = {"storeIntegrationId": register.store, "attributes": register.attributes}
    for behaviour, say in AT_FIRST.items():
        if day.may(behaviour):
            changes |= say(day.draw)
    if ("couponCodes" in changes or "referralCode" in changes) and day.may("v1 names"):
        if coupons := changes.pop("couponCodes", None):
            changes["coupon"] = coupons[0]
        if referral := changes.pop("referralCode", None):
            changes["referral"] = referral
    return changes


def _later_changes(day: Day, visit: Visit) -> Json:
    changes: Json = {}
    for behaviour, say in UNDERWAY.items():
        if day.may(behaviour):
            changes |= say(day.draw)
    if visit.profile and day.may("profile changed"):
        visit.profile = changes["profileId"] = day.draw.choice(("", day.some_profile()))
    return changes


def _send_cart(day: Day, visit: Visit, changes: Json, wait: float = CART) -> Script:
    """Add lines to the cart and yield *changes* with the whole cart, sometimes first as a dry run."""
    cart = [*visit.cart, *day.draw.choices(day.shelf, k=day.draw.randint(1, 2))]
    if len(cart) > 3 and day.may("line removed"):
        del cart[day.draw.randrange(len(cart))]
    if day.may("discount line"):
        cart.append({"sku": "discount", "name": "Rabatt 5 %", "quantity": 1, "price": -day.draw.randint(10, 400) / 100})
    visit.cart = cart
    changes["cartItems"] = _echoed(cart) if day.may("read-only fields") else cart
    if day.may("session sent back"):
        changes |= _SENT_BACK
    if day.may("update tried dry"):
        yield Step(day.record(visit, "update", changes, dry=True), day.wait(RETRY), DRY_RUN)
    yield from _deliver(day, day.record(visit, "update", changes), wait)


_SENT_BACK: Json = {"id": 5, "created": instant(OPENING), "firstSession": True, "updateCount": 1, "total": 9.99}
"""Read-only fields of a session that a client echoes; their values do not matter."""


def _echoed(cart: list[Json]) -> list[Json]:
    """Return a cart with the read-only fields that a till echoes."""
    return [
        line | {"position": position, "returnedQuantity": 0, "remainingQuantity": line["quantity"], "catalogItemID": 0}
        for position, line in enumerate(cart)
    ]


def _close(day: Day, visit: Visit, changes: Json) -> Script:
    changes["state"] = "closed"
    for step in _send_cart(day, visit, changes, HOURS):
        if "dry" not in step.record["value"]:
            visit.state, visit.remaining = "closed", [line["quantity"] for line in visit.cart]
        yield step


def _come_back(day: Day, visit: Visit) -> Script:
    """Yield the later records of a closed session: a reopen, a return, a cancellation, a deletion, mostly none."""
    if day.may("reopened"):
        visit.state = "open"
        yield from _deliver(day, day.record(visit, "reopen", None), CART)
        yield from _close(day, visit, _later_changes(day, visit))
    while any(visit.remaining) and day.may("returned"):
        if day.may("return tried dry"):
            entries, _ = _returned(day, visit)
            yield Step(day.record(visit, "return", entries, dry=True), day.wait(RETRY), DRY_RUN)
        entries, visit.remaining = _returned(day, visit)
        visit.state = "partially_returned"
        yield from _deliver(day, day.record(visit, "return", entries), HOURS)
    if day.may("revoked"):
        visit.state = "cancelled"
        ignored: Json = day.draw.choice(({}, {"couponCodes": []}, {"attributes": {"why": "Betrug"}, "cartItems": []}))
        yield from _deliver(day, day.record(visit, "update", {"state": "cancelled"} | ignored), HOURS)
    if day.may("deleted"):
        visit.state = None
        yield Step(day.sealed(visit, None), HOURS)


def _returned(day: Day, visit: Visit) -> tuple[list[Json], list[int]]:
    """Return the entries of a random return, and the remaining units of each line."""
    remaining = visit.remaining.copy()
    entries: list[Json] = []
    kept = [position for position, quantity in enumerate(remaining) if quantity]
    for position in day.draw.sample(kept, k=min(len(kept), day.draw.randint(1, 2))):
        if not remaining[position]:
            continue  # the entry before took all units of this sku
        entry: Json = {"position": position}
        lines = [position]
        if day.may("return by sku"):
            sku = visit.cart[position]["sku"]
            entry = {"sku": sku}
            lines = [at for at, line in enumerate(visit.cart) if line["sku"] == sku and remaining[at]]
        if day.may("return of all"):
            for line_position in lines:
                remaining[line_position] = 0
        else:
            entry["quantity"] = day.draw.randint(1, remaining[lines[0]])
            remaining[lines[0]] -= entry["quantity"]
        entries.append(entry)
    return entries, remaining


def _deliver(day: Day, record: Json, wait: float) -> Script:
    """Yield a record, and sometimes the same bytes again, like a till without a response."""
    if "eventId" in record["value"] and day.may("duplicate"):
        yield Step(record, day.wait(RETRY))
        yield Step(record.copy(), day.wait(wait), DUPLICATE)
    else:
        yield Step(record, day.wait(wait))
