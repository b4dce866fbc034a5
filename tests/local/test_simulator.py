"""The simulated day: the same for the same seed, of any length, and everything in it that happens in a shop."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

import orjson
import pytest

from worker.domain.limits import Rules
from worker.local.simulator.broken import BROKEN, GIANTS
from worker.local.simulator.day import simulate, simulate_with_outcomes
from worker.local.simulator.shop import HOUR, MEBIBYTE, OPENING, SHARES
from worker.pipeline.replay import Replay

COUNT = 5000
REJECTED = "rejected."
SEEDS = (1, 2, 3)

Json = dict[str, Any]
HEAD = ("integrationId", "eventId", "occurredAt", "applicationId", "dry", "responseContent")


def unframed(record: Json) -> Json:
    """Return a record whose value is what was framed in it."""
    value = record["value"]
    is_framed = isinstance(value, str) and value.startswith("\x00") and value.endswith("}")
    return record | {"value": orjson.loads(value[5:])} if is_framed else record


def in_its_place(value: Json | None) -> Json | None:
    """Return an update record in which a bare body is a customerSession."""
    if value is None or not {"type", "customerSession", "return"}.isdisjoint(value):
        return value
    head = {name: field for name, field in value.items() if name in HEAD}
    return head | {"customerSession": {name: field for name, field in value.items() if name not in HEAD}}


class Told:
    """A day taken apart: what the good records say, by kind, and of each session in order."""

    def __init__(self, seed: int) -> None:
        day = list(simulate_with_outcomes(COUNT, seed))
        self.codes = Counter(outcome.removeprefix(REJECTED) for _, outcome in day if outcome.startswith(REJECTED))
        sent = [record for record, outcome in day if not outcome.startswith(REJECTED)]
        plain = [unframed(record) for record in sent]
        self.records = [record | {"value": in_its_place(record["value"])} for record in plain]
        self.framed = sum(isinstance(record["value"], str) for record in sent)
        self.bare = sum(one["value"] != other["value"] for one, other in zip(plain, self.records, strict=True))
        self.values: list[Json] = [record["value"] for record in self.records if record["value"] is not None]
        self.updates = [value["customerSession"] for value in self.values if "customerSession" in value]
        self.lines = [line for update in self.updates for line in update.get("cartItems", ())]
        self.entries = [
            entry for value in self.values if "return" in value for entry in value["return"]["returnedCartItems"]
        ]
        self.sessions: dict[str, list[Json]] = defaultdict(list)
        for record in self.records:
            if record["value"] and "customerSession" in record["value"] and "dry" not in record["value"]:
                self.sessions[record["key"]].append(record["value"]["customerSession"])

    def late(self) -> int:
        """Count the records that were made half an hour before they arrive, or earlier."""
        return sum(
            record["timestamp"] - datetime.fromisoformat(record["value"]["occurredAt"]).timestamp() * 1000 > HOUR / 2
            for record in self.records
            if record["value"] and "occurredAt" in record["value"]
        )

    def cancelled(self, before: str) -> int:
        """Count the sessions that an update cancels while they are *before*."""
        states = ([update["state"] for update in updates if "state" in update] for updates in self.sessions.values())
        return sum((["open", *of_session])[-2] == before for of_session in states if of_session[-1:] == ["cancelled"])

    def removals(self) -> int:
        """Count the carts that lack a line of the cart before."""
        carts = (
            [
                [(line["sku"], line["price"]) for line in update["cartItems"]]
                for update in updates
                if "cartItems" in update
            ]
            for updates in self.sessions.values()
        )
        return sum(after[: len(before)] != before for of_session in carts for before, after in pairwise(of_session))

    def profiles(self) -> list[list[str | None]]:
        """Give the profileId of every update, session by session."""
        return [[update.get("profileId") for update in updates] for updates in self.sessions.values()]

    def event_ids(self) -> Counter[str]:
        return Counter(value["eventId"] for value in self.values if "eventId" in value and "dry" not in value)


BEHAVIOURS: dict[str, Callable[[Told], int]] = {
    "online": lambda told: sum(
        update.get("attributes", {}).get("channel") in ("web", "app") for update in told.updates
    ),
    "one message": lambda told: sum(updates[0].get("state") == "closed" for updates in told.sessions.values()),
    "profile": lambda told: sum(any(of_session) for of_session in told.profiles()),
    "offline till": lambda told: told.late(),
    "eventIds": lambda told: len(told.event_ids()),
    "cancelled": lambda told: told.cancelled("open"),
    "coupon": lambda told: sum(bool(update.get("couponCodes")) for update in told.updates),
    "referral code": lambda told: sum("referralCode" in update for update in told.updates),
    "loyalty card": lambda told: sum("loyaltyCards" in update for update in told.updates),
    "identifiers": lambda told: sum("identifiers" in update for update in told.updates),
    "campaigns": lambda told: sum("evaluableCampaignIds" in update for update in told.updates),
    "experiment": lambda told: sum("experimentVariantAllocations" in update for update in told.updates),
    "shipping": lambda told: sum(bool(update.get("additionalCosts")) for update in told.updates),
    "profile later": lambda told: sum(not of_session[0] and any(of_session) for of_session in told.profiles()),
    "profile changed": lambda told: sum(len(set(of_session) - {None}) > 1 for of_session in told.profiles()),
    "v1 names": lambda told: sum(bool(update.get("coupon") or update.get("referral")) for update in told.updates),
    "reopened": lambda told: sum(value.get("type") == "reopen" for value in told.values),
    "returned": lambda told: sum("return" in value and "dry" not in value for value in told.values),
    "revoked": lambda told: told.cancelled("closed"),
    "deleted": lambda told: sum(record["value"] is None for record in told.records),
    "return by sku": lambda told: sum("sku" in entry for entry in told.entries),
    "return of all": lambda told: sum("quantity" not in entry for entry in told.entries),
    "return tried dry": lambda told: sum("return" in value and value.get("dry", False) for value in told.values),
    "line removed": lambda told: told.removals(),
    "coupon taken back": lambda told: sum(
        update.get("couponCodes") == [] or update.get("coupon") == "" for update in told.updates
    ),
    "shipping dropped": lambda told: sum(not update.get("additionalCosts", True) for update in told.updates),
    "attribute added": lambda told: sum("bags" in update.get("attributes", {}) for update in told.updates),
    "attribute removed": lambda told: sum(None in update.get("attributes", {}).values() for update in told.updates),
    "discount line": lambda told: sum(line["price"] < 0 for line in told.lines),
    "read-only fields": lambda told: sum("remainingQuantity" in line for line in told.lines),
    "session sent back": lambda told: sum("updateCount" in update for update in told.updates),
    "update tried dry": lambda told: sum(
        "customerSession" in value and value.get("dry", False) for value in told.values
    ),
    "type left out": lambda told: sum("type" not in value for value in told.values),
    "integrationId left out": lambda told: sum("integrationId" not in value for value in told.values),
    "occurredAt left out": lambda told: sum("occurredAt" not in value for value in told.values),
    "occurredAt with an offset": lambda told: sum("+01:00" in value.get("occurredAt", "") for value in told.values),
    "applicationId": lambda told: sum("applicationId" in value for value in told.values),
    "bare body": lambda told: told.bare,
    "framed": lambda told: told.framed,
    "traceparent": lambda told: sum("headers" in record for record in told.records),
    "duplicate": lambda told: sum(times > 1 for times in told.event_ids().values()),
    "broken": lambda told: told.codes.total(),
    "weighed": lambda told: sum("weight" in line for line in told.lines),
    "item attributes": lambda told: sum(bool(line.get("attributes")) for line in told.lines),
    "product": lambda told: sum("product" in line for line in told.lines),
    "dimensions": lambda told: sum("height" in line for line in told.lines),
    "divided price": lambda told: sum(len(repr(line["price"])) > 12 for line in told.lines),
    "empty array": lambda told: sum(line.get("attributes") == [] for line in told.lines),
}
"""How a day's records show each behaviour of SHARES: how often it was seen."""


@pytest.fixture(scope="module", params=SEEDS)
def told(request):
    return Told(request.param)


def test_every_behaviour_can_be_seen():
    assert BEHAVIOURS.keys() == SHARES.keys()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_day_of_5000_records_shows(behaviour, told):
    assert BEHAVIOURS[behaviour](told) > 0


def test_every_code_occurs_and_broken_records_are_about_one_in_a_hundred(told):
    assert told.codes.keys() == BROKEN.keys()
    assert 0.008 < told.codes.total() / COUNT < 0.012


def test_the_same_seed_gives_the_same_records_and_another_seed_others():
    assert list(simulate(COUNT, 1)) == list(simulate(COUNT, 1))
    assert list(simulate(COUNT, 1)) != list(simulate(COUNT, 2))


def test_simulate_gives_the_records_that_are_foretold():
    assert list(simulate(COUNT, 1)) == [record for record, _ in simulate_with_outcomes(COUNT, 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_becomes_of_each_record_is_what_was_foretold(seed):
    clock = itertools.count(1795372800000, 2000)
    for told_of in (simulate_with_outcomes(COUNT, seed), simulate_with_outcomes(COUNT, seed, lambda: next(clock))):
        replay = Replay(Rules())
        for record, outcome in told_of:
            published = [became(it) for found in replay.lines([orjson.dumps(record)]) for it in found]
            assert [it for it in published if it != "reclassified"] == ([] if outcome == "duplicate" else [outcome])


def became(record):
    headers = dict(record.headers)
    if code := headers.get("rejection-code"):
        return REJECTED + code.decode()
    kind = headers["ce_type"].decode()
    return "dry_run" if kind.endswith(".dry_run") else "reclassified" if "reclassified" in kind else "snapshot"


def test_a_clock_moves_a_day_and_changes_nothing_else():
    midnight = itertools.count(OPENING + 18 * HOUR - 10 * COUNT, 20)
    moved = list(simulate_with_outcomes(COUNT, 1, lambda: next(midnight)))
    stamps = [record["timestamp"] for record, _ in moved]
    assert stamps == list(range(stamps[0], stamps[0] + 20 * COUNT, 20))
    assert [without_times(*it) for it in moved] == [without_times(*it) for it in simulate_with_outcomes(COUNT, 1)]


def without_times(record, outcome):
    value = unframed(record)["value"]
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if name != "occurredAt"}
    return {**record, "value": value, "timestamp": None}, outcome


@pytest.mark.parametrize("count", [0, 1, 7, 199, 200, 201, 1000, 12_345])
def test_a_day_has_exactly_the_records_asked_for(count):
    assert sum(1 for _ in simulate(count, 1)) == count


@pytest.mark.parametrize("count", [100, COUNT, 20_000])
def test_timestamps_rise_through_the_opening_hours_whatever_the_count(count):
    timestamps = [record["timestamp"] for record in simulate(count, 1)]
    assert timestamps == sorted(timestamps)
    assert OPENING <= timestamps[0] < OPENING + HOUR
    assert OPENING + 15 * HOUR <= timestamps[-1] < OPENING + 16 * HOUR


def test_a_record_is_a_line_of_the_offline_form_without_partition_and_offset():
    for record in simulate(COUNT, 1):
        assert record.keys() - {"headers"} == {"key", "value", "timestamp"}
        assert isinstance(record["key"], str | None)
        assert isinstance(record["value"], dict | str | None)
        assert isinstance(record["timestamp"], int)
        assert all(isinstance(text, str) for text in record.get("headers", {}).values())


def test_a_record_has_the_size_of_a_receipt(told):
    sizes = [len(orjson.dumps(value)) for value in told.values]
    assert 400 < median(sizes) < 900
    assert max(sizes) < 10_000


@pytest.mark.parametrize("count", [1000, 30_000])
def test_giants_are_rare_and_just_over_the_limits(count):
    codes = ((record, outcome.removeprefix(REJECTED)) for record, outcome in simulate_with_outcomes(count, 1))
    giants = [(len(orjson.dumps(record["value"])), code) for record, code in codes if code in GIANTS]
    assert Counter(code for _, code in giants) == dict.fromkeys(GIANTS, max(1, count // 10_000))
    for size, code in giants:
        assert (size > MEBIBYTE) == (code == "record_too_large")
        assert MEBIBYTE - 200 < size < MEBIBYTE + 300


def test_a_record_sent_again_has_the_very_value_of_the_first(told):
    first: dict[str, Json] = {}
    for value in told.values:
        if "eventId" in value and "dry" not in value:
            assert first.setdefault(value["eventId"], value) == value


def test_dozens_of_sessions_are_in_progress_at_any_time():
    going_on: set[str] = set()
    numbers = []
    for record, outcome in simulate_with_outcomes(20_000, 1):
        value = record["value"] if outcome.startswith(REJECTED) else in_its_place(unframed(record)["value"])
        if outcome in ("snapshot", "duplicate") and value and "dry" not in value and "return" not in value:
            ended = value.get("customerSession", {}).get("state") in ("closed", "cancelled")
            (going_on.discard if ended else going_on.add)(record["key"])
        numbers.append(len(going_on))
    assert min(numbers[1000:]) > 40
    assert max(numbers) < 500
