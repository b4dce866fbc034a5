"""The worker against the oracle: a second, plain implementation of the contract that shares no code with it."""

import gzip
import random
import sys
from base64 import b64encode
from copy import deepcopy

import orjson
import pytest
from msgspec import structs

from tests.oracle import Oracle
from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.domain.rejections import ROW_OF
from worker.local.simulator.day import simulate
from worker.pipeline.replay import Replay

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FREE = {"rejection-message", "rejection-pointer", "__streams.errors.message"}
"""Headers whose text each implementation words for itself."""
CODES = {"rejection-code", "__streams.errors.exception"}
"""Within a row of the contract's table any code may be named."""


def comparable(record) -> tuple:
    fields = record if isinstance(record, dict) else structs.asdict(record)
    headers = []
    for name, value in fields["headers"]:
        if name not in FREE:
            headers.append((name, ROW_OF[value.decode()] if name in CODES else value))
    return (*(fields[name] for name in ("topic", "partition", "key", "value", "timestamp")), headers)


def reasons(published) -> set[tuple[str, str]]:
    """Return the code and the pointer of each rejection among published records."""
    found = set()
    for record in published:
        if record.topic == "session-rejections":
            headers = dict(record.headers)
            found.add((headers["rejection-code"].decode(), headers["rejection-pointer"].decode()))
    return found


class Both:
    """Folds each record with the worker and with the oracle, and holds one against the other."""

    def __init__(self) -> None:
        self.oracle = Oracle(v1=True, cloudevents=True)
        self.replay = Replay(Rules(cloudevents=True), "customer-sessions-v1")
        self.offset = 0

    def fold(self, key: str | None, value: bytes | None, timestamp: int, headers=()) -> list[tuple]:
        raw_key = None if key is None else key.encode()
        record = ConsumerRecord(self.offset, timestamp, raw_key, value, list(headers))
        self.offset += 1
        given = list(self.replay.fold(0, record))
        published = [comparable(one) for one in given]
        told = {"topic": "session-updates", "partition": 0, **structs.asdict(record)}
        assert published == [comparable(given) for given in self.oracle.fold(told)], value
        assert reasons(given) <= self.oracle.reasons, value
        return published


@pytest.mark.parametrize("seed", range(3))
def test_a_simulated_day_folds_alike(seed):
    both = Both()
    published = 0
    for line in simulate(5_000, seed):
        value = line["value"]
        raw = orjson.dumps(value) if isinstance(value, dict) else None if value is None else value.encode()
        headers = [(name, text.encode()) for name, text in line.get("headers", {}).items()]
        published += len(both.fold(line["key"], raw, line["timestamp"], headers))
    assert published > 4_900
    assert both.replay.counts()["duplicate"] == both.oracle.counts["duplicates"] > 0


# ------------------------------------------------------------------------------------------------- strange records

NUMBERS = [
    "0",
    "-1",
    "1.5",
    "2.0",
    "2e0",
    "1e3",
    "-0.0",
    "1e-10",
    "0.1234567891",
    "999999999999.5",
    "1e12",
    "1e16",
    "1e400",
]
NUMBERS += ["0.30000000000000004", "3.3333333333333335", "5e-10", "1.5e-9", "-2.5e-18", "5e-324", "1234567.123456789"]
NUMBERS += ["10000000000000000000", "12345678901234567890", "-1" + "0" * 308, "1" + "0" * 309, "999999999999.99999"]
NUMBERS += ["1" + "0" * 18, "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 30, "10001"]
OTHERS = ["null", '""', '"x"', '"cup"', "true", "[]", "{}", '["x"]', '{"price": 1}', "[1]", '"2026-11-22T10:00:00Z"']
OTHERS += [
    '"open"',
    '"closed"',
    '"cancelled"',
    '"partially_returned"',
    '"' + "y" * 101 + '"',
    '"' + "y" * 1001 + '"',
    "NaN",
]
OTHERS += ["[" * 63 + "]" * 63, '"\\ud800"', '"\\ud83d\\ude00"', '{"a": null}', '"2026-11-22T19:40:00.001Z"', "[null]"]
NAMES = [
    "type",
    "dry",
    "eventId",
    "occurredAt",
    "applicationId",
    "integrationId",
    "return",
    "responseContent",
    "cartItem",
]
NAMES += [
    "coupon",
    "couponCodes",
    "referral",
    "referralCode",
    "attributes",
    "price",
    "quantity",
    "position",
    "sku",
    "prices",
]
NAMES += [
    "additionalCosts",
    "weight",
    "product",
    "name",
    "evaluableCampaignIds",
    "loyaltyCards",
    "identifiers",
    "state",
    "customerSession",
    "cartItems",
    "profileId",
    "id",
    "created",
    "updateCount",
    "total",
    "closurePrediction",
    "discounts",
]

SEEDS: list[dict] = [
    {
        "type": "update",
        "eventId": "e-1",
        "occurredAt": "2026-11-22T10:00:00+01:00",
        "applicationId": 1,
        "customerSession": {
            "profileId": "p-1",
            "state": "open",
            "cartItems": [
                {"sku": "cup", "quantity": 2, "price": 9.99, "name": "Cup", "attributes": {"a": 1}},
                {
                    "sku": "tea",
                    "quantity": 1,
                    "price": 4.5,
                    "additionalCosts": {"deposit": {"price": 0.25}},
                    "weight": 0.5,
                },
            ],
            "additionalCosts": {"shipping": {"price": 4.9}},
            "attributes": {"channel": "till", "nested": {"b": [1, 2.5]}},
            "couponCodes": ["WINTER"],
            "evaluableCampaignIds": [1, 2],
            "experimentVariantAllocations": [{"experimentID": 1, "variantID": 2}],
        },
    },
    {"customerSession": {"state": "closed"}},
    {"customerSession": {"profileId": "p-2", "attributes": {"channel": None}, "identifiers": ["d"], "coupon": "X"}},
    {"return": {"returnedCartItems": [{"sku": "cup", "quantity": 1}, {"position": 1}]}},
    {"type": "reopen"},
    {"dry": True, "customerSession": {"profileId": "p-1", "cartItems": [{"sku": "cup", "quantity": 2, "price": 9.99}]}},
    {"coupon": "WINTER", "attributes": [], "additionalCosts": [], "updateCount": 3, "id": 1, "total": 9.5},
    {
        "eventId": "e-2",
        "integrationId": "s-1",
        "cartItems": [
            {"sku": "cup", "quantity": 3, "price": 3.3333333333333335, "attributes": []},
            {"sku": "pen", "quantity": 1, "price": 1e-10, "additionalCosts": {"a": {"price": 0.30000000000000004}}},
        ],
    },
]


class Written:
    """A JSON text as it will be written, for values that no Python object stands for."""

    def __init__(self, text: str) -> None:
        self.text = text


def write(value: object) -> str:
    if isinstance(value, Written):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{write(name)}:{write(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return orjson.dumps(value).decode()


def places(value: object, path: tuple = ()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, deeper in inner:
        yield (*path, name)
        yield from places(deeper, (*path, name))


def strange(record: dict, chance: random.Random) -> dict:
    """Change a record in one to three places: another value, a missing field, a field too many."""
    record = deepcopy(record)
    for _change in range(chance.choice([1, 1, 2, 3])):
        *path, last = chance.choice(list(places(record)))
        inside = record
        for name in path:
            inside = inside[name]
        value = Written(chance.choice(NUMBERS + OTHERS))
        match chance.choice(["replace", "replace", "remove", "add"]):
            case "replace":
                inside[last] = value
            case "remove":
                del inside[last]
            case "add" if isinstance(inside, dict):
                inside[chance.choice(NAMES)] = value
        if not record:
            break
    return record


@pytest.mark.parametrize("seed", range(20))
def test_strange_records_are_judged_alike(seed):
    chance = random.Random(seed)
    both = Both()
    outcomes: set[str] = set()
    for _record in range(1_000):
        record = chance.choice(SEEDS)
        if chance.random() < 0.8:
            record = strange(record, chance)
        key = chance.choice(["s-1", "s-2", "s-3", "", None, f"s-{chance.randrange(1000)}"])
        timestamp = -1 if chance.random() < 0.02 else 1_795_372_800_000 + chance.randrange(10)
        for outcome in both.fold(key, *wrapped(write(record), timestamp, chance)):
            outcomes.update(str(value) for name, value in outcome[-1] if name in {"ce_type", "rejection-code"})
    assert len(outcomes) > 15


STRUCTURED = ("Content-Type", b"application/cloudevents+json")
MEMBERS = ["null", '"e-1"', '"e-9"', '""', "5", '"2026-11-22T10:00:00+01:00"', '"s-1"', '"s-2"', "[]", "1e400"]


def wrapped(text: str, timestamp: int, chance: random.Random) -> tuple[bytes, int, list[tuple[str, bytes]]]:
    """Wrap a record in what producers wrap theirs in, sometimes wrongly."""
    value, headers = text.encode(), []
    drawn = chance.random()
    if drawn < 0.15:
        members = [f'"{name}": {chance.choice(MEMBERS)}' for name in ("id", "time", "subject") if chance.random() < 0.6]
        data = f'"data": {text}'
        if chance.random() < 0.3:
            data = f'"data_base64": "{b64encode(value).decode()}"'
        parts = [*members, data] if chance.random() < 0.9 else members
        chance.shuffle(parts)
        value, headers = ("{" + " , ".join(parts) + "}").encode(), [STRUCTURED]
    elif drawn < 0.25:
        texts = [json_text.strip('"').encode() for json_text in chance.choices(MEMBERS, k=3)]
        headers = list(zip(("ce_id", "ce_time", "ce_subject"), texts, strict=True))[: chance.randint(1, 3)]
    how = chance.choice(["", "", "", "gzip", "zstd"])
    if how:
        at = chance.randrange(len(value) + 1)
        compress = gzip.compress if how == "gzip" else zstd.compress
        value = compress(value[:at]) + compress(value[at:]) if chance.random() < 0.3 else compress(value)
    if chance.random() < 0.2:
        value = b"\x00\x00\x00\x00\x07" + value
    if chance.random() < 0.03:
        at = chance.randrange(len(value) + 1)
        value = value[:at] + chance.choice([b"", bytes([chance.randrange(256)])]) + value[at + 1 :]
    return value, timestamp, headers
