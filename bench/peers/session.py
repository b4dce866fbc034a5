"""A plain fold for the two peers in Python, so that only the frameworks differ."""

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
_MERGED = ("attributes", "cartItems")


def fold(session: Json | None, update: Json, *, partition: int, offset: int, milliseconds: int) -> Json:
    """Return the snapshot of a stored session and an update record; the stored session is not changed."""
    given = {name: value for name, value in update["customerSession"].items() if value is not None}
    at = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    session = session or {
        "id": (partition << 40) + offset + 1,
        "created": at,
        "integrationId": update["integrationId"],
        "applicationId": 1,
        "profileId": "",
        "state": "open",
        "cartItems": [],
        "attributes": {},
        "updateCount": 0,
        "updated": at,
    }
    changed = session | {name: value for name, value in given.items() if name not in _MERGED}
    if "attributes" in given:
        merged = session["attributes"] | given["attributes"]
        changed["attributes"] = {name: value for name, value in merged.items() if value is not None}
    if "cartItems" in given:
        changed["cartItems"] = [
            item | {"returnedQuantity": 0, "remainingQuantity": item["quantity"], "position": position}
            for position, item in enumerate(given["cartItems"])
        ]
    changed["updateCount"] += 1
    changed["updated"] = max(session["updated"], at)
    changed.update(totals(changed))
    return changed


def totals(session: Json) -> dict[str, float]:
    """Return a sum in whole cents: such sums are exact, and the quotient by 100 is the nearest double."""
    items = costs = 0
    for item in session["cartItems"]:
        items += item["quantity"] * _cents(item)
        if more := item.get("additionalCosts"):
            costs += item["quantity"] * sum(map(_cents, more.values()))
    own = sum(map(_cents, session.get("additionalCosts", {}).values()))
    return {
        "total": (items + costs + own) / 100,
        "cartItemTotal": items / 100,
        "additionalCostTotal": own / 100,
        "cartItemAdditionalCostTotal": costs / 100,
    }


def _cents(priced: Json) -> int:
    price: float = priced["price"]
    return round(price * 100)
