"""The shops on the simulated day: their goods, their customers, and the state that the scripts share."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from worker.domain.instants import instant
from worker.pipeline.outcomes import SNAPSHOT

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
"""The share of each behaviour; the comment above a group names the whole."""
MIDNIGHT = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)
HOUR = 3_600_000
OPENING = MIDNIGHT + 6 * HOUR
MEBIBYTE = 1 << 20
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
    """The place of a visit: a till of a store, or the web shop."""

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
    """Return the cart items of the day: a new line costs 2.3 µs, a line from this list 0.5 µs."""
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


Target = Literal["nobody", "stranger", "open", "closed", "numbered"]
"""The target of a broken record: no key, a session that does not exist, or one with a state or with eventIds."""


@dataclass(slots=True)
class Visit:
    """The shop's view of one session; *state* is the expected state, None before creation and after deletion."""

    integration_id: str
    register: Register
    started: int = 0
    late: int = 0
    """Delay of its records in milliseconds."""
    profile: str = ""
    numbered: bool = False
    state: Literal["open", "closed", "cancelled", "partially_returned"] | None = None
    cart: list[Json] = field(default_factory=list)
    remaining: list[int] = field(default_factory=list)
    event_id: str = ""
    """The last accepted record."""
    sent: int = 0


class Step(NamedTuple):
    """One record of a script, the ticks until the next step, and the expected outcome of the record."""

    record: Json
    wait: float
    outcome: str = SNAPSHOT
    """SNAPSHOT, DRY_RUN, DUPLICATE, or one of REJECTED (pipeline/outcomes.py)."""


Script = Iterator[Step]


class Day:
    """The shops on the simulated day: the random numbers, the time, and the latest visits."""

    def __init__(self, draw: random.Random, opening: int = OPENING) -> None:
        self.draw = draw
        self.opening = self.now = opening
        self.shelf = stock_shelf(draw)
        self.recent: deque[Visit] = deque(maxlen=400)
        self.visits = 0

    def may(self, behaviour: str) -> bool:
        """Return True with the probability of *behaviour*."""
        return self.draw.random() < SHARES[behaviour]

    def wait(self, mean: float) -> float:
        """Return a random wait in ticks."""
        return self.draw.expovariate(1 / mean)

    def enter(self) -> Visit:
        """Return a new visit of a guest or of a customer with a profile."""
        self.visits += 1
        register = self.draw.choice(ONLINE if self.may("online") else REGISTERS)
        visit = Visit(f"{register.prefix}-{self.visits:06d}", register, self.now, numbered=self.may("eventIds"))
        if self.may("offline till"):
            self._hold_up(visit)
        elif self.may("profile"):
            visit.profile = self.some_profile()
        return visit

    def some_profile(self) -> str:
        """Return a random profile; a few of them are frequent."""
        return f"customer-{int(PROFILES * self.draw.random() ** 3):05d}"

    def _hold_up(self, visit: Visit) -> None:
        """Date a visit before that of another session with the same profile whose records arrived first."""
        known = [other for other in self.recent if other.profile]
        if known:
            other = self.draw.choice(known)
            visit.profile = other.profile
            visit.started = self.opening + int((other.started - self.opening) * self.draw.random())
            visit.late = self.now - visit.started

    def occurred_at(self, visit: Visit) -> str:
        """Return the time of the record at the till: up to two seconds ago, or the offline time of the till ago."""
        moment = self.now - visit.late - int(2000 * self.draw.random())
        if self.may("occurredAt with an offset"):
            return _written(moment + HOUR, f"{moment % 1000:03d}417+01:00")
        return _written(moment, f"{moment % 1000:03d}Z")

    def record(self, visit: Visit, kind: str, body: Any, *, dry: bool = False) -> Json:
        """Return an update record that the worker accepts; *body* is the customerSession or the returnedCartItems."""
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
        """Return a record with *value* and the session's key; its timestamp is set when it is sent."""
        record: Json = {"key": visit.integration_id or None, "value": value, "timestamp": self.now}
        if self.may("traceparent"):
            trace = f"{self.draw.getrandbits(192) | 1 << 191:048x}"
            record["headers"] = {"traceparent": f"00-{trace[:32]}-{trace[32:]}-01"}
        return record

    def aim(self, target: Target) -> Visit:
        """Return the visit that is the target of a broken record."""
        if target == "nobody":
            return Visit("", REGISTERS[0])
        if target == "stranger":
            return self.enter()
        if target == "numbered":
            return self.draw.choice([visit for visit in self.recent if visit.state and visit.event_id])
        return self.draw.choice([visit for visit in self.recent if visit.state == target])


def _written(moment: int, rest: str) -> str:
    """Return a moment in RFC 3339; *rest* follows the decimal point."""
    return f"{instant(moment)[:20]}{rest}"
