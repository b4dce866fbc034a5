"""Feeds update records to a replay or a driver, and holds everything that comes out against its form in the contract."""

import json
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, NamedTuple

import pytest
from pydantic import TypeAdapter

from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.domain.limits import Rules
from worker.domain.model import Snapshot, SnapshotV1
from worker.pipeline.replay import Replay
from worker.testing import Fault, StreamDriver, Update

SENT = 1_795_372_800_000
"""The Kafka timestamp of records sent without one."""
SENT_AT = "2026-11-22T18:40:00.000Z"
HOUR = 3_600_000
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MAX_OVERHEAD = 128 << 10
"""What every output topic leaves for keys and headers beside a value at its limit."""

CUP = {"sku": "cup", "quantity": 2, "price": 4.5}
PEN = {"sku": "pen", "quantity": 1, "price": 1}

SNAPSHOT_ORDER = [
    "id",
    "created",
    "integrationId",
    "applicationId",
    "profileId",
    "storeIntegrationId",
    "evaluableCampaignIds",
    "experimentVariantAllocations",
    "couponCodes",
    "referralCode",
    "loyaltyCards",
    "state",
    "cartItems",
    "additionalCosts",
    "identifiers",
    "attributes",
    "firstSession",
    "updateCount",
    "total",
    "cartItemTotal",
    "additionalCostTotal",
    "cartItemAdditionalCostTotal",
    "updated",
    "closurePrediction",
]
ITEM_ORDER = [
    "name",
    "sku",
    "quantity",
    "returnedQuantity",
    "remainingQuantity",
    "price",
    "category",
    "product",
    "weight",
    "height",
    "width",
    "length",
    "position",
    "attributes",
    "additionalCosts",
]
V1_ORDER = [
    "integrationId",
    "created",
    "applicationId",
    "profileId",
    "coupon",
    "referral",
    "state",
    "cartItems",
    "identifiers",
    "total",
    "attributes",
    "firstSession",
    "updateCount",
    "discounts",
    "updated",
]
ROWS = (
    ("record_too_large",),
    ("missing_origin",),
    ("malformed_json",),
    ("missing_integration_id",),
    ("unknown_type",),
    ("wrong_application",),
    ("unknown_field", "ambiguous_field"),
    ("invalid_field",),
    ("missing_price", "number_out_of_range"),
    ("too_many_items", "too_many_units"),
    ("occurred_in_future",),
    ("dry_not_supported",),
    ("empty_return", "ambiguous_item", "missing_item"),
    ("event_id_reused",),
    ("unknown_session", "invalid_state", "session_not_open", "invalid_transition"),
    ("unknown_item", "return_exceeds_remaining"),
    ("session_too_large",),
)
REJECTION_HEADERS = (
    "rejection-code",
    "rejection-pointer",
    "rejection-message",
    "__streams.errors.topic",
    "__streams.errors.partition",
    "__streams.errors.offset",
    "__streams.errors.exception",
    "__streams.errors.message",
)
EVENTS = [
    "created",
    "updated",
    "closed",
    "cancelled",
    "revoked",
    "partially_returned",
    "reopened",
    "deleted",
    "reclassified",
    "created.dry_run",
    "partially_returned.dry_run",
]

SNAPSHOT = TypeAdapter(Snapshot)
_V1 = TypeAdapter(SnapshotV1)


class Outcome(NamedTuple):
    """A published record, its headers as text; *key* and *raw*, its value, are bytes or None."""

    topic: str
    partition: int
    key: Any
    raw: Any
    timestamp: int
    headers: dict[str, str]

    @property
    def what(self) -> str:
        """Name the event of a snapshot or the code of a rejection."""
        return self.headers.get("rejection-code") or self.event

    @property
    def event(self) -> str:
        return self.headers["ce_type"].removeprefix("customersession.")

    @property
    def code(self) -> str:
        return self.headers["rejection-code"]

    @property
    def pointer(self) -> str:
        return self.headers["rejection-pointer"]

    @property
    def snapshot(self) -> dict[str, Any]:
        snapshot: dict[str, Any] = json.loads(self.raw)
        return snapshot


class Till:
    """Sends update records to a replay, one at a time; the offsets of a partition rise by one."""

    def __init__(self, *, v1_topic: str | None = None, **rules: Any) -> None:
        self.rules = Rules(**rules)
        self.replay = Replay(self.rules, v1_topic)
        self._offsets: dict[int, int] = {}

    def send(
        self,
        value: dict[str, Any] | bytes | str | None,
        key: str | bytes | None = "s-1",
        *,
        timestamp: int = SENT,
        partition: int = 0,
        offset: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """Send an update record as it stands and give all that is published."""
        offset = self._offsets.get(partition, 0) if offset is None else offset
        self._offsets[partition] = offset + 1
        key = key.encode() if isinstance(key, str) else key
        record = ConsumerRecord(offset, timestamp, key, encoded(value), tuple(headers))
        return checked(self.replay.fold(partition, record), self.rules)

    def one(self, value: dict[str, Any] | bytes | str | None, key: str | bytes | None = "s-1", **more: Any) -> Outcome:
        """Send an update record that publishes one record."""
        (outcome,) = self.send(value, key, **more)
        return outcome

    def update(self, session: dict[str, Any] | None = None, key: str = "s-1", **more: Any) -> Outcome:
        """Send an update of a session."""
        return self.one({"customerSession": session or {}}, key, **more)

    def take_back(self, *entries: dict[str, Any], key: str = "s-1", **more: Any) -> Outcome:
        """Send a return."""
        return self.one({"return": {"returnedCartItems": [*entries]}}, key, **more)

    def reopen(self, key: str = "s-1", **more: Any) -> Outcome:
        return self.one({"type": "reopen"}, key, **more)

    def delete(self, key: str = "s-1", **more: Any) -> list[Outcome]:
        return self.send(None, key, **more)

    def counts(self) -> dict[str, int]:
        return dict(self.replay.counts())


class Network:
    """Sends update records over partitions, and reads every topic afterwards."""

    def __init__(self, partitions: int = 4, *, v1_topic: str | None = None, **rules: Any) -> None:
        self.rules = Rules(**rules)
        self.driver = StreamDriver(partitions, self.rules, v1_topic=v1_topic)
        self.topology = self.driver.topology

    def home(self, key: str) -> int:
        return self.topology.home(key.encode(), -1)

    def away(self, key: str) -> int:
        """Name a partition where *key* is not at home."""
        return (self.home(key) + 1) % 4

    def send(
        self,
        value: dict[str, Any] | bytes | str | None,
        key: str | bytes | None = "s-1",
        partition: int | None = None,
        *,
        timestamp: int = SENT,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Send an update record and let it be processed."""
        self.driver.feed([Update(encoded(value), key, partition, timestamp, tuple(headers))])

    def strike(self, fault: Fault) -> None:
        self.driver.feed([fault])

    def put(self, topic: str, partition: int, record: ConsumerRecord) -> None:
        """Put a record on an inner topic, as someone else than the worker would, and let it be processed."""
        produced = ProducerRecord(topic, partition, record.key, record.value, record.timestamp, record.headers)
        self.driver.inject(produced)
        self.driver.run()

    def published(self, topic: str) -> list[Outcome]:
        return checked(self.driver.published(topic), self.rules)

    @property
    def snapshots(self) -> list[Outcome]:
        return self.published("customer-sessions")

    @property
    def rejections(self) -> list[Outcome]:
        return self.published("session-rejections")

    @property
    def strays(self) -> list[Outcome]:
        return self.published("session-updates-rekeyed")

    @property
    def session(self) -> dict[str, Any]:
        """Give the one session that there is."""
        (session,) = self.driver.sessions().values()
        return session


@pytest.fixture
def till():
    return Till()


@pytest.fixture
def network():
    return Network()


def encoded(value: dict[str, Any] | bytes | str | None) -> Any:
    """Write a value as its producer would; text and bytes stand for themselves."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return value.encode() if isinstance(value, str) else value


def cart(*items: dict[str, Any]) -> dict[str, Any]:
    return {"cartItems": [*items]}


# ------------------------------------------------------------------------------------------------ what must hold


def checked(records: Iterable[ProducerRecord], rules: Rules) -> list[Outcome]:
    """Hold published records against the contract and give them in a form to ask."""
    outcomes = []
    for record in records:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        outcome = Outcome(record.topic, record.partition, record.key, record.value, record.timestamp, headers)
        if "rejection-code" in headers and record.topic == "session-rejections":
            _check_rejection(record, outcome, rules)
        elif record.topic in ("customer-sessions", "session-dry-runs"):
            _check_snapshot(record, outcome, rules)
        elif headers.get("ce_type", "").startswith("v1."):
            _check_v1(outcome)
        outcomes.append(outcome)
    return outcomes


def _check_snapshot(record: ProducerRecord, outcome: Outcome, rules: Rules) -> None:
    headers = outcome.headers
    assert len(headers) == len(record.headers), "a header stands there twice"
    must = {"ce_specversion", "ce_id", "ce_source", "ce_time", "content-type", "ce_type"}
    may = {"traceparent", "ignored-fields"}
    assert must <= headers.keys()
    assert all(name in must | may or name.startswith("worker-") for name in headers)
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_source"] == f"/applications/{rules.application_id}"
    assert headers["content-type"] == "application/json"
    assert outcome.event in EVENTS
    assert outcome.event.endswith(".dry_run") == (record.topic == "session-dry-runs")
    assert (record.value is None) == (outcome.event == "deleted")
    assert _frame(record) <= MAX_OVERHEAD
    if record.value is None:
        return
    assert len(record.value) <= rules.max_snapshot_bytes
    SNAPSHOT.validate_json(record.value, strict=True)
    snapshot = outcome.snapshot
    assert snapshot["integrationId"].encode() == record.key
    assert snapshot["applicationId"] == rules.application_id
    assert 0 < snapshot["id"] < 1 << 53
    assert list(snapshot) == [name for name in SNAPSHOT_ORDER if name in snapshot]
    assert snapshot["profileId"] or snapshot["firstSession"]
    for position, item in enumerate(snapshot["cartItems"]):
        assert list(item) == [name for name in ITEM_ORDER if name in item]
        assert item["position"] == position
        assert item["returnedQuantity"] + item["remainingQuantity"] == item["quantity"]
    totals = totals_of(snapshot)
    assert {name: Decimal(repr(snapshot[name])) for name in totals} == totals
    prices = [item["price"] for item in snapshot["cartItems"]]
    assert not any(repr(amount) in ("-0.0", "-0") for amount in [*prices, *(snapshot[name] for name in totals)])


def totals_of(snapshot: dict[str, Any]) -> dict[str, Decimal]:
    """Add a snapshot's prices up as section 5 says, with decimals."""
    items, costs = snapshot["cartItems"], snapshot.get("additionalCosts", {})

    def price(of: dict[str, Any]) -> Decimal:
        return rounded(Decimal(repr(of["price"])), 18)

    exact = {
        "cartItemTotal": sum((price(item) * item["quantity"] for item in items), Decimal(0)),
        "additionalCostTotal": sum(map(price, costs.values()), Decimal(0)),
        "cartItemAdditionalCostTotal": sum(
            (item["quantity"] * price(cost) for item in items for cost in item.get("additionalCosts", {}).values()),
            Decimal(0),
        ),
    }
    totals = {name: rounded(total, 9) for name, total in exact.items()}
    return {"total": sum(totals.values(), Decimal(0)), **totals}


def rounded(number: Decimal, places: int) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, Context(prec=100))


def _check_rejection(record: ProducerRecord, outcome: Outcome, rules: Rules) -> None:
    headers = outcome.headers
    names = [name for name, _value in record.headers if name.startswith(("rejection-", "__streams.errors."))]
    assert len(names) == len(set(names))
    assert set(REJECTION_HEADERS) <= set(names)
    assert any(outcome.code in codes for codes in ROWS)
    assert headers["__streams.errors.exception"] == outcome.code
    message = headers["rejection-message"]
    assert headers["__streams.errors.message"] == message
    assert message.endswith(".")
    assert len(message) < 500, "the offending value is cut"
    assert outcome.pointer == "" or outcome.pointer.startswith("/")
    assert len(record.value or b"") + _frame(record) <= rules.max_record_bytes + MAX_OVERHEAD


def _check_v1(outcome: Outcome) -> None:
    if outcome.raw is not None:
        _V1.validate_json(outcome.raw, strict=True)
        assert list(outcome.snapshot) == V1_ORDER


def _frame(record: ProducerRecord) -> int:
    return len(record.key or b"") + sum(len(name) + len(value or b"") + 10 for name, value in record.headers)
