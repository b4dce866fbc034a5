"""The POS simulator: a day of a retailer's update records, the same for the same seed.

Time has two measures. A tick is one record: waits are counted in ticks, so that as many sessions are in progress in a
short day as in a long one. The clock spreads the ticks over the opening hours of one fixed day.

Each customer's visit is a script, a generator of steps: a record, and the ticks until the script goes on. A queue
holds the scripts by the tick at which they are due; a tick at which none is due begins a new visit. One script never
ends: at intervals it sends a broken record at some visit, in turns through the rejection codes, so that none is left
to chance.

A record that is not broken is never refused. Records share parts (lines of a cart, a duplicate its whole value) and
may be read, but not changed.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import product
from typing import Any, Literal, NamedTuple

import orjson

from worker.domain.instants import instant
from worker.pipeline.outcomes import DRY_RUN, DUPLICATE, REJECTED, SNAPSHOT

# ------------------------------------------------------------------------------------------------ what happens how often

SHARES: dict[str, float] = {
    # of visits
    "online": 0.25,
    "one message": 0.30,
    "profile": 0.40,
    "offline till": 0.03,  # its records arrive hours late, so a profile's first session changes
    "eventIds": 0.70,
    "cancelled": 0.06,
    # of visits, in the first record
    "coupon": 0.15,
    "referral code": 0.06,
    "loyalty card": 0.15,
    "identifiers": 0.08,
    "campaigns": 0.08,
    "experiment": 0.04,
    "shipping": 0.15,
    # of visits with a profile and several records
    "profile later": 0.30,
    "profile changed": 0.05,
    # of coupons and referral codes
    "v1 names": 0.30,
    # of closed sessions, afterwards
    "reopened": 0.04,
    "returned": 0.12,
    "revoked": 0.04,
    "deleted": 0.015,
    # of a return's entries
    "return by sku": 0.40,
    "return of all": 0.40,
    # of returns
    "return tried dry": 0.30,
    # of a cart's updates
    "line removed": 0.10,
    "coupon taken back": 0.02,
    "shipping dropped": 0.02,
    "attribute added": 0.10,
    "attribute removed": 0.04,
    "discount line": 0.06,
    "read-only fields": 0.06,
    "session sent back": 0.04,
    "update tried dry": 0.02,
    # of records
    "type left out": 0.30,
    "integrationId left out": 0.30,
    "occurredAt left out": 0.15,
    "occurredAt with an offset": 0.10,
    "applicationId": 0.30,
    "bare body": 0.15,  # of updates
    "framed": 0.05,
    "traceparent": 0.20,
    "duplicate": 0.02,  # of those with an eventId
    "broken": 0.01,
    # of the lines on the shelf
    "weighed": 0.60,  # of fruit and cheese; others are sold by the piece
    "item attributes": 0.12,
    "product": 0.08,
    "dimensions": 0.08,
    "divided price": 0.08,  # of lines of several pieces: the price of the line divided by its quantity
    "empty array": 0.06,  # where an object is meant, as PHP writes it
}
"""How often each behaviour occurs; the comment above a group says of what it is a share."""

CART, RETRY, HOURS = 250.0, 4.0, 700.0
"""Mean waits in ticks: between two updates of a cart, before a re-sent record, before a customer comes back."""

QUIET_TICKS = 200
"""Nothing broken is sent before this tick: there must be open and closed sessions to aim at."""
TICKS_PER_GIANT = 10_000
"""Of each of GIANTS one record is sent in so many ticks, and one in a shorter day."""

MIDNIGHT = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)
HOUR = 3_600_000
OPENING = MIDNIGHT + 6 * HOUR
RUSH = (2, 3, 5, 6, 7, 9, 9, 7, 6, 7, 8, 10, 9, 6, 4, 2)
"""How many records each hour from OPENING on has, in proportion."""

MEBIBYTE = 1 << 20

# ----------------------------------------------------------------------------------------------- what there is to buy

CATALOGUE = {
    "fruit": "Äpfel Elstar 2.99, Bananen 1.79, Birnen 3.49, Trauben 4.99, Möhren 1.49, Fenchel 3.29",
    "cheese": "Gruyère 26.90, Comté 31.90, Gouda 12.90, Brie 16.90, Feta 14.90, Żółty ser 11.90",
    "bakery": "Brötchen 0.45, Croissant 1.29, Roggenbrot 3.79, Baguette 1.99, Brezel 0.89, Krapfen 1.60",
    "dairy": "Milch 1 l 1.29, Butter 250 g 2.39, Skyr 1.89, Sahne 1.19, Eier 10 St. 3.29, Quark 0.99",
    "drinks": "Cola 1 l 1.49, Mate 1.19, Wasser 0.69, Pils 0.99, Apfelsaft 1.79, Limonade 1.39",
    "pantry": "Nudeln 1.59, Reis 2.49, Mehl 0.89, Öl 5.99, Tomaten 400 g 1.09, Salz 0.59",
    "coffee": "Crema 1 kg 14.99, Espresso 8.99, Filter 6.49, Tee 3.49, Kakao 2.79, Tasse 抹茶 12.50",
    "household": "Spülmittel 1.49, Schwamm 0.99, Kerze 3.99, Batterien 5.49, Tragetasche 0.20, Folie 2.29",
    "beauty": "Seife 1.19, Shampoo 3.45, Creme 7.95, Zahnpasta 1.45, Parfum Été 59.90, Kamm 2.50",
    "garden": "Rosen 9.99, Erde 20 l 6.99, Topf 12.99, Schere 24.99, Samen 1.99, Schlauch 39.95",
}
"""Category to its products with their prices: per kilogram for fruit and cheese, per piece for all others."""

TOWNS = ("Berlin", "Köln", "München", "Zürich", "Łódź", "Århus", "Genève", "Wien", "Hamburg", "Malmö", "Brno", "Liège")
CASHIERS = ("Jürgen", "Žofie", "Anna", "Søren", "Łukasz", "Élodie", "Mia", "Paweł", "Noor", "Zoë", "Tom", "Åsa", "王芳")
REGISTERS_PER_STORE = 6
PROFILES = 20_000
LINES_ON_THE_SHELF = 3000

Json = dict[str, Any]


class Register(NamedTuple):
    """Where a visit takes place: a till of a store, or the web shop."""

    prefix: str
    store: str
    attributes: Json


REGISTERS = tuple(
    Register(
        prefix=f"{town[:3].lower()}-{number}",
        store=f"store-{index:02d}",
        attributes={"channel": "till", "store": town, "register": number, "cashier": CASHIERS[(index + number) % 13]},
    )
    for index, town in enumerate(TOWNS, start=1)
    for number in range(1, REGISTERS_PER_STORE + 1)
)
ONLINE = (
    Register("web", "online", {"channel": "web", "language": "de", "newsletter": False}),
    Register("app", "online", {"channel": "app", "language": "pl", "version": "4.2.0"}),
)


def stock_shelf(draw: random.Random) -> list[Json]:
    """Draw the cart items of the day once: a line costs 2.3 µs to make anew, 0.5 µs to take from here."""
    return [_line(draw, category) for category in draw.choices(tuple(CATALOGUE), k=LINES_ON_THE_SHELF)]


def _line(draw: random.Random, category: str) -> Json:
    products = CATALOGUE[category].split(", ")
    number = int(len(products) * draw.random() ** 1.5)
    name, _, price = products[number].rpartition(" ")
    line: Json = {"sku": f"{category}-{number + 1:02d}", "name": name, "quantity": 1, "price": float(price)}
    line["category"] = category
    if category in ("fruit", "cheese") and draw.random() < SHARES["weighed"]:
        grams = draw.randint(80, 1800)
        exact = grams * round(line["price"] * 100) / 100_000
        line |= {"price": exact if draw.random() < 0.5 else round(exact, 2), "weight": grams / 1000}
    else:
        line["quantity"] = draw.choice((1, 1, 1, 1, 2, 2, 3, 6))
        if line["quantity"] > 1 and draw.random() < SHARES["divided price"]:
            line["price"] = round(line["price"] * line["quantity"] * 0.9, 2) / line["quantity"]
    if category == "drinks":
        line["additionalCosts"] = {"deposit": {"price": draw.choice((0.08, 0.15, 0.25))}}
    if draw.random() < SHARES["item attributes"]:
        line["attributes"] = {"origin": draw.choice(("Südtirol", "España", "NL")), "organic": draw.random() < 0.5}
    if draw.random() < SHARES["product"]:
        line["product"] = {"name": f"{name} (family)"}
    if draw.random() < SHARES["dimensions"]:
        line |= {"height": draw.randint(5, 40), "width": draw.randint(20, 300) / 10, "length": 12.5}
    if draw.random() < SHARES["empty array"]:
        line = {"attributes": [], "additionalCosts": []} | line
    return line


# ------------------------------------------------------------------------------------------------- who comes to buy

Target = Literal["nobody", "stranger", "open", "closed", "numbered"]
"""What a broken record is aimed at: no key, a session that does not exist, a session of that state or with eventIds."""


@dataclass(slots=True)
class Visit:
    """What the shop knows of one session; *state* is what the worker makes of it, None before and after its life."""

    integration_id: str
    register: Register
    started: int = 0
    late: int = 0
    """How many milliseconds its records are held up."""
    profile: str = ""
    numbered: bool = False
    state: Literal["open", "closed", "cancelled", "partially_returned"] | None = None
    cart: list[Json] = field(default_factory=list)
    remaining: list[int] = field(default_factory=list)
    event_id: str = ""
    """The latest that was accepted."""
    sent: int = 0


class Step(NamedTuple):
    """One record of a script, the ticks until the script goes on, and what will become of the record."""

    record: Json
    wait: float
    outcome: str = SNAPSHOT
    """SNAPSHOT, DRY_RUN, DUPLICATE, or one of REJECTED (pipeline/outcomes.py)."""


Script = Iterator[Step]


class Day:
    """The shops on that day: the source of all chance, the time, and the latest visits."""

    def __init__(self, draw: random.Random, opening: int = OPENING) -> None:
        self.draw = draw
        self.opening = self.now = opening
        self.shelf = stock_shelf(draw)
        self.recent: deque[Visit] = deque(maxlen=400)
        self.visits = 0

    def may(self, behaviour: str) -> bool:
        """Draw whether *behaviour* occurs, with its share."""
        return self.draw.random() < SHARES[behaviour]

    def wait(self, mean: float) -> float:
        """Draw a wait in ticks."""
        return self.draw.expovariate(1 / mean)

    def enter(self) -> Visit:
        """Begin a visit, of a guest or a customer with a profile."""
        self.visits += 1
        register = self.draw.choice(ONLINE if self.may("online") else REGISTERS)
        visit = Visit(f"{register.prefix}-{self.visits:06d}", register, self.now, numbered=self.may("eventIds"))
        if self.may("offline till"):
            self._hold_up(visit)
        elif self.may("profile"):
            visit.profile = self.some_profile()
        return visit

    def some_profile(self) -> str:
        """Draw a profile; few of them come often."""
        return f"customer-{int(PROFILES * self.draw.random() ** 3):05d}"

    def _hold_up(self, visit: Visit) -> None:
        """Move a visit before that of another session with the same profile, whose records were here first."""
        known = [other for other in self.recent if other.profile]
        if known:
            other = self.draw.choice(known)
            visit.profile = other.profile
            visit.started = self.opening + int((other.started - self.opening) * self.draw.random())
            visit.late = self.now - visit.started

    def occurred_at(self, visit: Visit) -> str:
        """Write when the till made the record that arrives now: up to two seconds ago, or as long as it was offline."""
        moment = self.now - visit.late - int(2000 * self.draw.random())
        if self.may("occurredAt with an offset"):
            return _written(moment + HOUR, f"{moment % 1000:03d}417+01:00")
        return _written(moment, f"{moment % 1000:03d}Z")

    def record(self, visit: Visit, kind: str, body: Any, *, dry: bool = False) -> Json:
        """Write an update record that the worker accepts; *body* is the customerSession, or the returnedCartItems."""
        value: Json = {}
        is_bare = kind == "update" and self.may("bare body")
        if not is_bare and (body is None or not self.may("type left out")):
            value["type"] = kind
        if not self.may("integrationId left out"):
            value["integrationId"] = visit.integration_id
        if self.may("applicationId"):
            value["applicationId"] = 1
        if visit.numbered and not dry:
            visit.sent += 1
            value["eventId"] = visit.event_id = f"{visit.integration_id}/{visit.sent}"
        if visit.late or not self.may("occurredAt left out"):
            value["occurredAt"] = self.occurred_at(visit)
        if dry:
            value["dry"] = True
        if is_bare:
            value |= body
        elif kind == "update":
            value["customerSession"] = body
        elif kind == "return":
            value["return"] = {"returnedCartItems": body}
        return self.sealed(visit, value)

    def sealed(self, visit: Visit, value: Any) -> Json:
        """Put *value* under the session's key; the timestamp is set when the record is sent."""
        record: Json = {"key": visit.integration_id or None, "value": value, "timestamp": self.now}
        if self.may("traceparent"):
            trace = f"{self.draw.getrandbits(192) | 1 << 191:048x}"
            record["headers"] = {"traceparent": f"00-{trace[:32]}-{trace[32:]}-01"}
        return record

    def aim(self, target: Target) -> Visit:
        """Choose the visit that a broken record is sent at."""
        if target == "nobody":
            return Visit("", REGISTERS[0])
        if target == "stranger":
            return self.enter()
        if target == "numbered":
            return self.draw.choice([visit for visit in self.recent if visit.state and visit.event_id])
        return self.draw.choice([visit for visit in self.recent if visit.state == target])


def _written(moment: int, rest: str) -> str:
    """Write a moment in RFC 3339; *rest* is what follows the second and its point."""
    return f"{instant(moment)[:20]}{rest}"


# --------------------------------------------------------------------------------------------------- the scripts

AT_FIRST: dict[str, Callable[[random.Random], Json]] = {
    "coupon": lambda draw: {"couponCodes": [f"HERBST-{draw.randrange(9000):04d}", "WÜRZE10"][: draw.randint(1, 2)]},
    "referral code": lambda draw: {"referralCode": f"FREUND-{draw.randrange(9000):04d}"},
    "loyalty card": lambda draw: {"loyaltyCards": [f"LC{draw.randrange(10**8):08d}"]},
    "identifiers": lambda draw: {"identifiers": [f"device-{draw.getrandbits(48):012x}", "91.12.0.7"]},
    "campaigns": lambda draw: {"evaluableCampaignIds": sorted(draw.sample(range(100, 140), 3))},
    "experiment": lambda draw: {"experimentVariantAllocations": [{"experimentID": 7, "variantID": draw.randint(1, 2)}]},
    "shipping": lambda draw: {"additionalCosts": {"shipping": {"price": draw.choice((0, 2.9, 4.95))}}},
}
"""What the first record of a visit may say beside its cart."""

UNDERWAY: dict[str, Callable[[random.Random], Json]] = {
    "coupon taken back": lambda draw: draw.choice(({"couponCodes": []}, {"coupon": ""})),
    "shipping dropped": lambda draw: {"additionalCosts": draw.choice(({}, []))},
    "attribute added": lambda draw: {"attributes": {"receipt": "e-mail", "bags": draw.randint(0, 3)}},
    "attribute removed": lambda draw: {"attributes": {draw.choice(("cashier", "language", "receipt")): None}},
}
"""What a later update of an open session may say beside its cart."""


def visit_shop(day: Day) -> Script:
    """Play one visit: a cart that grows from update to update and is closed, or a receipt in one message."""
    visit = day.enter()
    day.recent.append(visit)
    changes = _first_changes(day, visit)
    if day.may("one message"):
        if visit.profile:
            changes["profileId"] = visit.profile
        yield from _close(day, visit, changes)
    else:
        told = not (visit.profile and day.may("profile later"))
        if told and visit.profile:
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
        if not told:
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
    """Put some lines into the cart and send *changes* with all of it, now and then as a dry run before."""
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
"""Read-only fields of a session that a client got in an answer; what they hold does not matter."""


def _echoed(cart: list[Json]) -> list[Json]:
    """Add the read-only fields that a till gets in answers and sends back."""
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
    """Play what happens to a closed session: it is reopened, returned to, cancelled, deleted, mostly none of these."""
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
    """Choose what a customer brings back: the entries of the return, and what then remains of each line."""
    remaining = visit.remaining.copy()
    entries: list[Json] = []
    kept = [position for position, quantity in enumerate(remaining) if quantity]
    for position in day.draw.sample(kept, k=min(len(kept), day.draw.randint(1, 2))):
        if not remaining[position]:
            continue  # the entry before took all of its sku
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
    """Send a record; a till that got no answer sends the same bytes again."""
    if "eventId" in record["value"] and day.may("duplicate"):
        yield Step(record, day.wait(RETRY))
        yield Step(record.copy(), day.wait(wait), DUPLICATE)
    else:
        yield Step(record, day.wait(wait))


# ------------------------------------------------------------------------------------------- the broken records


def _update(day: Day, visit: Visit, **changes: Any) -> Json:
    """Write an update without eventId: a rejection leaves no trace in what the visit knows of itself."""
    value = {"type": "update", "integrationId": visit.integration_id, "occurredAt": day.occurred_at(visit)}
    return value | {"customerSession": changes}


def _add(day: Day, visit: Visit, times: int = 1, **fields: Any) -> Json:
    """Write an update that adds a line with these *fields*, *times* over."""
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
        lambda d, v: _add(d, v, times=9, price=999_999_999_999.999),  # each is fine, their total is not
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
"""Every rejection code that a file can bring about: what the record is aimed at, and the values that bring it about.

`session_too_large` keeps just within the limit of a record; with what the session has besides, its snapshot does not.
"""

GIANTS = ("record_too_large", "session_too_large")
"""Records of 1 MiB: too big to be sent as often as the others."""


def _break(day: Day, code: str) -> Json:
    target, *variants = BROKEN[code]
    visit = day.aim(target)
    return day.sealed(visit, day.draw.choice(variants)(day, visit))


def _send_broken(day: Day) -> Script:
    """Break every rule once, in an order drawn anew, again and again."""
    codes = [code for code in BROKEN if code not in GIANTS]
    while True:
        day.draw.shuffle(codes)
        for code in codes:
            yield Step(_break(day, code), (0.5 + day.draw.random()) / SHARES["broken"] - 1, REJECTED[code])


def _send_giant(day: Day, code: str) -> Script:
    yield Step(_break(day, code), 0, REJECTED[code])


# ------------------------------------------------------------------------------------------------------- the day


def _clock(count: int, draw: random.Random) -> Iterator[int]:
    """Yield *count* rising timestamps in milliseconds, spread over the opening hours."""
    done = passed = 0
    for hour, weight in enumerate(RUSH):
        passed += weight
        records = count * passed // sum(RUSH) - done
        done += records
        for number in range(records):
            yield OPENING + hour * HOUR + int((number + draw.random()) * HOUR / records)


def _framed(value: Json) -> str:
    """Write a value as Confluent's serializers do: the byte 0, the id of a schema in four bytes, then the JSON."""
    return "\x00\x00\x00\x00\x07" + orjson.dumps(value).decode()


def simulate_with_outcomes(count: int, seed: int, clock: Callable[[], int] | None = None) -> Iterator[tuple[Json, str]]:
    """Yield *count* update records in the form of the contract's section 11, each with what will become of it.

    The outcome is SNAPSHOT, DRY_RUN, DUPLICATE, or one of REJECTED (pipeline/outcomes.py). The worker's application_id is taken to be
    1 and its sizes to be the defaults. A day of less than 5,000 records may lack some codes.

    With a *clock*, which gives milliseconds since 1970, records bear the time at which they are taken from here. Their
    times apart they are the same.
    """
    draw = random.Random(seed)
    day = Day(draw, OPENING if clock is None else clock())
    waiting: list[tuple[float, int, Script]] = [(QUIET_TICKS, -1, _send_broken(day))]
    spells = max(1, count // TICKS_PER_GIANT)
    for number, giant in product(range(spells), GIANTS):
        due = max(QUIET_TICKS, count * (number + 0.1 + 0.8 * draw.random()) / spells)
        heappush(waiting, (due, -1 - len(waiting), _send_giant(day, giant)))
    for tick, moment in enumerate(_clock(count, draw)):
        day.now = moment if clock is None else clock()
        step = None
        while step is None:
            script = heappop(waiting)[2] if waiting[0][0] <= tick else visit_shop(day)
            step = next(script, None)
        record, wait, outcome = step
        if isinstance(record["value"], dict) and day.may("framed"):
            record = record | {"value": _framed(record["value"])}
        record["timestamp"] = day.now
        heappush(waiting, (tick + 1 + wait, tick, script))
        yield record, outcome


def simulate(count: int, seed: int) -> Iterator[Json]:
    """Yield *count* update records of one day, as dicts of key, value, timestamp and sometimes headers.

    >>> first = next(simulate(1000, seed=1))
    >>> first["key"] is not None and first["timestamp"] >= OPENING
    True
    >>> list(simulate(1000, seed=1)) == list(simulate(1000, seed=1))
    True
    """
    return (record for record, _ in simulate_with_outcomes(count, seed))
