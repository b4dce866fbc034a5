"""Section 10, the messages: every way to every code shows the value, says what would be right, and speaks of JSON."""

import gzip
import re
from typing import Any, NamedTuple

import pytest
from msgspec import json

from tests.contract.conftest import CUP, PEN, SENT, Network, Till, cart, encoded
from worker.codec.records import ConsumerRecord
from worker.domain.model import AdditionalCost
from worker.domain.rejections import _OBJECTS, _REQUIRED, ROWS

FUTURE = "2027-01-01T00:00:00Z"
LONG = "x" * 1001
CLOUD = [("Content-Type", b"Application/CloudEvents+JSON; charset=utf-8")]
FRAME = b"\x00\x00\x00\x00\x07"
BANNED = re.compile(
    r"None|True|False|\bdict|dictionary|\blist\b|\btuple|\bbool\b|\bint\b|\bfloat\b|\bstr\b|\bbytes object"
    r"|Input should|Extra inputs|Field required|valid (string|integer|number|boolean|list)|Expecting|Invalid control"
    r"|pydantic|msgspec|orjson|Python|codec|utf-8'|regular expression|pattern|\[0-9\]|\\d|\(\?|<class|Error\b|Exception"
    r"|9223372036854775808"
)
"""Terms of Python, of its libraries and of regular expressions."""


class Way(NamedTuple):
    """One way to a code: the record, and what its rejection says."""

    code: str
    pointer: str
    shows: str
    """The offending value, as the message has it."""
    right: str
    """What would be right, as the message has it."""
    value: Any
    state: str = "none"
    key: Any = "s-1"
    headers: Any = ()
    rules: Any = {}
    timestamp: int = SENT


def session(**fields: Any) -> dict[str, Any]:
    return {"customerSession": fields}


def line(**fields: Any) -> dict[str, Any]:
    return session(**cart({**PEN, **fields}))


def back(*entries: Any) -> dict[str, Any]:
    return {"return": {"returnedCartItems": [*entries]}}


def event(**members: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "type": "t", "source": "s", **members}


S, ITEM = "/customerSession", "/customerSession/cartItems/0"

SIZES = [
    Way(
        "record_too_large",
        "",
        "101",
        "at most 100 bytes (SESSION_WORKER_MAX_RECORD_BYTES)",
        b"{" * 101,
        rules={"max_record_bytes": 100},
    ),
    Way("record_too_large", "", "101", "at most 100 bytes", FRAME + b"{" * 101, rules={"max_record_bytes": 100}),
    Way(
        "record_too_large",
        "",
        "28 bytes inflate to more",
        "at most 100 bytes",
        gzip.compress(b"{" * 5000, mtime=0)[:28],
        rules={"max_record_bytes": 100},
    ),
    Way(
        "session_too_large",
        "",
        "it would have",
        "at most 1000 bytes (SESSION_WORKER_MAX_SNAPSHOT_BYTES)",
        session(attributes={"a": LONG}),
        rules={"max_snapshot_bytes": 1000},
    ),
]
NO_JSON = [
    Way("malformed_json", "", "it is empty", "one JSON object in UTF-8", b""),
    Way("malformed_json", "", "it is empty", "one JSON object in UTF-8", b"\x00\x00"),
    Way("malformed_json", "", '"{\\"type\\":', "is truncated", b'{"type":'),
    Way("malformed_json", "", '"{\\"type\\": \\"upd', "is truncated", b'{"type": "upd'),
    Way("malformed_json", "", '"{]"', "character 2 is not valid JSON", b"{]"),
    Way("malformed_json", "", '"{} {}"', "character 4 is not valid JSON", b"{} {}"),
    Way("malformed_json", "", "\"{'type'", "character 2 is not valid JSON", b"{'type': None}"[:8]),
    Way("malformed_json", "", "byte 8 (0xff)", "is not UTF-8", b'{"type"\xff'),
    Way("malformed_json", "", '{\\"type\\":NaN}', "NaN is not valid JSON", b'{"type":NaN}'),
    Way("malformed_json", "", "-Infinity is not valid JSON", "one JSON object", b'{"type":-Infinity}'),
    Way(
        "malformed_json",
        "",
        "\ufeff{}",
        "begins with a byte order mark",
        b"\xef\xbb\xbf{}",
    ),
    Way("malformed_json", "", r"\\ud83d", "lone surrogate", rb'{"eventId":"\ud83d"}'),
    Way(
        "malformed_json",
        "",
        '"{\\"a\\":[[[',
        "nests more than 64 levels deep",
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    ),
    Way("malformed_json", "", "[1]", "`session-worker send --split`", b"[1]"),
    Way("malformed_json", "", "5", "one JSON object", b"5"),
    Way("malformed_json", "", '"update"', "one JSON object", b'"update"'),
    Way("malformed_json", "", "null", "one JSON object", b" null"),
    Way(
        "malformed_json",
        "",
        "the compressed data is corrupt",
        "one JSON object",
        gzip.compress(b"{}", mtime=0)[:-1] + b"x",
    ),
    Way("malformed_json", "", "is truncated", "one JSON object", gzip.compress(b"{}", mtime=0)[:-1]),
    Way(
        "malformed_json",
        "",
        "the compressed data is corrupt",
        "one JSON object",
        b"\x28\xb5\x2f\xfd" + b"\xff" * 40,
    ),
    Way("malformed_json", "", "more than 1000 members", "one JSON object", gzip.compress(b"", mtime=0) * 1001),
    Way("malformed_json", "", "[{}]", "`session-worker send --split`", event(data=[{}]), headers=CLOUD),
    Way("malformed_json", "", '"x"', "one JSON object", event(data="x"), headers=CLOUD),
    Way("malformed_json", "", "[]", "one JSON object", b"[]", headers=CLOUD),
    Way("malformed_json", "", '"{]"', "character 2 is not valid JSON", event(data_base64="e10="), headers=CLOUD),
]
IDENTITY = [
    Way(
        "missing_integration_id",
        "/integrationId",
        '""',
        "a string of 1 to 1000 characters",
        {"integrationId": "", **session()},
    ),
    Way("missing_integration_id", "", "the key is null", "needs an integrationId or a key", session(), key=None),
    Way("missing_integration_id", "", 'the key is ""', "needs an integrationId or a key", session(), key=b""),
    Way(
        "missing_integration_id",
        "",
        "not UTF-8 (0xff00)",
        "needs an integrationId or a key",
        session(),
        key=b"\xff\x00",
    ),
    Way(
        "missing_integration_id",
        "",
        "null",
        "needs an integrationId or a key",
        event(subject="", data=session()),
        key=None,
        headers=CLOUD,
    ),
    Way("missing_integration_id", "", "its key is null", "deletes the session of its key", None, key=None),
    Way("missing_integration_id", "", "not UTF-8 (0xff)", "deletes the session of its key", None, key=b"\xff"),
    Way("invalid_field", "/integrationId", '"xxx', "at most 1000 characters", None, key=LONG),
    Way("invalid_field", "/integrationId", '"xxx', "at most 1000 characters", session(), key=LONG),
    Way("invalid_field", "/integrationId", '"xxx', "at most 1000 characters", {"integrationId": LONG, **session()}),
    Way(
        "invalid_field",
        "/subject",
        '"xxx',
        "at most 1000 characters",
        event(subject=LONG, data=session()),
        key=None,
        headers=CLOUD,
    ),
    Way("invalid_field", "/subject", "[5]", "a string", event(subject=[5], data=session()), key=None, headers=CLOUD),
    Way("unknown_type", "/type", '"updat"', '"update", "return" or "reopen"', {"type": "updat", **session()}),
    Way("unknown_type", "/type", "true", '"update", "return" or "reopen"', {"type": True}),
    Way("unknown_type", "/type", "[]", "a type, a customerSession, a return, or fields of a session", {}),
    Way("unknown_type", "/type", '["cartItem","total"]', "a type, a customerSession", {"cartItem": [], "total": 5}),
    Way(
        "unknown_type", "/type", '["cartItems","type"]', "a type, a customerSession", {"cartItems": None, "type": None}
    ),
    Way(
        "unknown_type",
        "/type",
        '["eventId"]',
        "a type, a customerSession",
        {"eventId": "x"},
        rules={"unknown_fields": "ignore"},
    ),
    Way("unknown_type", "/type", '["customerSession","return"]', "must have a type", {**session(), **back()}),
    Way(
        "wrong_application",
        "/applicationId",
        "2",
        "must be 1, the application of this worker (SESSION_WORKER_APPLICATION_ID)",
        {"applicationId": 2, **session()},
    ),
    Way("wrong_application", "/applicationId", "2", "must be 1", {"applicationId": 2, "cartItems": []}),
]
IGNORE = "SESSION_WORKER_UNKNOWN_FIELDS=ignore"
UNKNOWN = [
    Way(
        "unknown_field",
        f"{S}/cartItem",
        '[{"sku":"cup"}]',
        "did you mean cartItems?",
        session(cartItem=[{"sku": "cup"}]),
    ),
    Way("unknown_field", f"{S}/profile_id", '"p"', "did you mean profileId?", session(profile_id="p")),
    Way("unknown_field", f"{S}/CouponCodes", "[]", "did you mean couponCodes?", session(CouponCodes=[])),
    Way("unknown_field", f"{S}/zzz", "{}", IGNORE, session(zzz={})),
    Way("unknown_field", f"{S}/a~1b~0c", "null", IGNORE, session(**{"a/b~c": None})),
    Way("unknown_field", "/cartItem", "1", "did you mean cartItems?", {"cartItem": 1, "state": "open"}),
    Way(
        "unknown_field",
        "/customersession",
        "{}",
        "did you mean customerSession?",
        {"type": "reopen", "customersession": {}},
    ),
    Way("unknown_field", "/eventID", '"e"', "did you mean eventId?", {"eventID": "e", **session()}),
    Way("unknown_field", "/cartItems", "[]", "move it into customerSession", {"cartItems": [], **session()}),
    Way("unknown_field", f"{ITEM}/Price", "2", "did you mean price?", line(Price=2)),
    Way("unknown_field", "/cartItems/0/Price", "2", "did you mean price?", cart({**PEN, "Price": 2})),
    Way("unknown_field", f"{ITEM}/product/nam", '"x"', "did you mean name?", line(product={"name": "x", "nam": "x"})),
    Way(
        "unknown_field",
        f"{ITEM}/additionalCosts/a/prize",
        "1",
        "did you mean price?",
        line(additionalCosts={"a": {"price": 1, "prize": 1}}),
    ),
    Way(
        "unknown_field",
        f"{S}/additionalCosts/product/prize",
        "1",
        "did you mean price?",
        session(additionalCosts={"product": {"price": 1, "prize": 1}}),
    ),
    Way(
        "unknown_field",
        f"{S}/experimentVariantAllocations/0/variantId",
        "1",
        "did you mean variantID?",
        session(experimentVariantAllocations=[{"experimentID": 1, "variantID": 1, "variantId": 1}]),
    ),
    Way(
        "unknown_field",
        "/return/returnedCartItem",
        "[]",
        "did you mean returnedCartItems?",
        {"return": {"returnedCartItem": []}},
    ),
    Way("unknown_field", "/return/returnedCartItems/0/skus", '"a"', "did you mean sku?", back({"skus": "a"})),
    Way("ambiguous_field", S, '{"state":"open"}', "omitted in a reopen", {"type": "reopen", **session(state="open")}),
    Way("ambiguous_field", S, "{}", "omitted in a return", {"type": "return", **session()}),
    Way("ambiguous_field", "/return", "{}", "omitted in a record of type update", {"type": "update", "return": {}}),
    Way("ambiguous_field", "/return", "{}", "omitted in a record of type reopen", {"type": "reopen", "return": {}}),
    Way("ambiguous_field", f"{S}/coupon", '"A"', "couponCodes is present", session(coupon="A", couponCodes=[])),
    Way("ambiguous_field", "/coupon", '"A"', "couponCodes is present", {"coupon": "A", "couponCodes": []}),
    Way("ambiguous_field", f"{S}/referral", '"A"', "referralCode is present", session(referral="A", referralCode="")),
]
TIME = '"2026-11-22T10:00:00Z": RFC 3339 with an offset, in the years 1970 to 9999'
FIELDS = [
    Way("invalid_field", S, "missing or null", "an object customerSession", {"type": "update"}),
    Way("invalid_field", "/return", "missing or null", "an object return", {"type": "return", "return": None}),
    Way("invalid_field", S, "5", "an object", {"type": "update", "customerSession": 5}),
    Way("invalid_field", S, "[]", "an object", {"customerSession": []}),
    Way("invalid_field", "/return", '"x"', "an object", {"return": "x"}),
    Way("invalid_field", "/return/returnedCartItems", "{}", "is required and must be an array", {"return": {}}),
    Way("invalid_field", "/return/returnedCartItems", "null", "an array", {"return": {"returnedCartItems": None}}),
    Way("invalid_field", "/return/returnedCartItems/0", "null", "an object", back(None)),
    Way(
        "invalid_field",
        "/return/returnedCartItems/0/position",
        "-1",
        "an integer of at least 0",
        back({"position": -1}),
    ),
    Way(
        "invalid_field",
        "/return/returnedCartItems/0/position",
        "true",
        "an integer of at least 0",
        back({"position": True}),
    ),
    Way(
        "invalid_field",
        "/return/returnedCartItems/1/quantity",
        "0",
        "an integer of at least 1",
        back({"sku": "a"}, {"sku": "a", "quantity": 0}),
    ),
    Way(
        "invalid_field", "/return/returnedCartItems/0/sku", '""', "a string of at least 1 character", back({"sku": ""})
    ),
    Way("invalid_field", "/integrationId", "5", "a string", {"integrationId": 5, **session()}),
    Way("invalid_field", "/eventId", "5", "a string", {"eventId": 5, **session()}),
    Way("invalid_field", "/eventId", '""', "a string of at least 1 character", {"eventId": "", **session()}),
    Way("invalid_field", "/eventId", '"xxx', "a string of at most 255 characters", {"eventId": "x" * 256, **session()}),
    Way("invalid_field", "/id", '""', "a string of at least 1 character", event(id="", data=session()), headers=CLOUD),
    Way("invalid_field", "/id", "7", "a string", event(id=7, data={"cartItems": []}), headers=CLOUD),
    Way("invalid_field", "/id", '"xxx', "at most 255 characters", event(id="x" * 256, data=session()), headers=CLOUD),
    Way(
        "invalid_field",
        "/eventId",
        '"xxx',
        "at most 255 characters",
        session(),
        headers=[("ce_id", b"x" * 256)],
        rules={"cloudevents": True},
    ),
    Way("invalid_field", "/occurredAt", '"22.11.2026"', TIME, {"occurredAt": "22.11.2026", **session()}),
    Way(
        "invalid_field",
        "/occurredAt",
        '"2026-11-22T10:00:00"',
        TIME,
        {"occurredAt": "2026-11-22T10:00:00", **session()},
    ),
    Way(
        "invalid_field",
        "/occurredAt",
        '"2026-02-30T10:00:00Z"',
        TIME,
        {"occurredAt": "2026-02-30T10:00:00Z", **session()},
    ),
    Way(
        "invalid_field",
        "/occurredAt",
        '"2026-11-22T24:00:00Z"',
        TIME,
        {"occurredAt": "2026-11-22T24:00:00Z", **session()},
    ),
    Way(
        "invalid_field",
        "/occurredAt",
        '"1969-12-31T23:59:59Z"',
        TIME,
        {"occurredAt": "1969-12-31T23:59:59Z", **session()},
    ),
    Way("invalid_field", "/occurredAt", "1795372800000", TIME, {"occurredAt": SENT, **session()}),
    Way("invalid_field", "/time", '"yesterday"', TIME, event(time="yesterday", data=session()), headers=CLOUD),
    Way(
        "invalid_field",
        "/time",
        "a number that no double can hold",
        TIME,
        b'{"time":1e999,"data":{"customerSession":{}}}',
        headers=CLOUD,
    ),
    Way(
        "invalid_field",
        "/occurredAt",
        '"yesterday"',
        TIME,
        session(),
        headers=[("ce_id", b"e"), ("ce_time", b"yesterday")],
        rules={"cloudevents": True},
    ),
    Way("invalid_field", "/occurredAt", "null", "Kafka timestamp -1 is not a valid time", session(), timestamp=-1),
    Way("invalid_field", "/data", "missing", '["specversion","type","source"]', event(), headers=CLOUD),
    Way("invalid_field", "/data", "null", "an object", event(data=None), headers=CLOUD),
    Way("invalid_field", "/data_base64", '"e30"', "standard Base64", event(data_base64="e30"), headers=CLOUD),
    Way("invalid_field", "/data_base64", '"ü"', "standard Base64", event(data_base64="ü"), headers=CLOUD),
    Way("invalid_field", "/data_base64", "7", "standard Base64", event(data_base64=7), headers=CLOUD),
    Way("invalid_field", "/applicationId", '"1"', "an integer", {"applicationId": "1", **session()}),
    Way("wrong_application", "/applicationId", "1.5", "must be 1", {"applicationId": 1.5, **session()}),
    Way("invalid_field", "/applicationId", "true", "an integer", {"applicationId": True, **session()}),
    Way("invalid_field", "/dry", '"true"', "true or false", {"dry": "true", **session()}),
    Way("invalid_field", "/dry", "1", "true or false", {"dry": 1, **session()}),
    Way("invalid_field", f"{S}/profileId", "5", "a string", session(profileId=5)),
    Way("invalid_field", "/profileId", "5", "a string", {"profileId": 5}),
    Way("invalid_field", f"{S}/profileId", '"xxx', "at most 1000 characters", session(profileId=LONG)),
    Way("invalid_field", f"{S}/storeIntegrationId", '""', "at least 1 character", session(storeIntegrationId="")),
    Way(
        "invalid_field", f"{S}/storeIntegrationId", '"xxx', "at most 1000 characters", session(storeIntegrationId=LONG)
    ),
    Way("invalid_field", f"{S}/evaluableCampaignIds", '"1"', "an array", session(evaluableCampaignIds="1")),
    Way("invalid_field", f"{S}/evaluableCampaignIds/1", '"1"', "an integer", session(evaluableCampaignIds=[1, "1"])),
    Way("invalid_field", f"{S}/evaluableCampaignIds/0", "2.5", "an integer", session(evaluableCampaignIds=[2.5])),
    Way("invalid_field", f"{S}/couponCodes", '{"0":"A"}', "an array", session(couponCodes={"0": "A"})),
    Way("invalid_field", f"{S}/couponCodes/0", "null", "a string", session(couponCodes=[None])),
    Way("invalid_field", f"{S}/couponCodes/0", '"xxx', "at most 100 characters", session(couponCodes=["x" * 101])),
    Way("invalid_field", f"{S}/referralCode", '"xxx', "at most 100 characters", session(referralCode="x" * 101)),
    Way("invalid_field", f"{S}/coupon", "[]", "a string", session(coupon=[])),
    Way("invalid_field", f"{S}/referral", "7", "a string", session(referral=7)),
    Way(
        "invalid_field",
        f"{S}/loyaltyCards",
        '["a","b"]',
        "an array of at most 1 entries",
        session(loyaltyCards=["a", "b"]),
    ),
    Way(
        "invalid_field",
        f"{S}/identifiers",
        '["i","i",',
        "an array of at most 5 entries",
        session(identifiers=["i"] * 6),
    ),
    Way("invalid_field", f"{S}/identifiers/0", "1", "a string", session(identifiers=[1])),
    Way("invalid_field", f"{S}/state", '"paid"', '"open", "closed" or "cancelled"', session(state="paid")),
    Way("invalid_field", f"{S}/state", "false", '"open", "closed" or "cancelled"', session(state=False)),
    Way("invalid_field", f"{S}/cartItems", "{}", "an array", session(cartItems={})),
    Way("invalid_field", ITEM, "null", "an object", session(cartItems=[None])),
    Way(
        "invalid_field",
        f"{ITEM}/sku",
        '{"quantity":1,"price":1}',
        "is required and must be a string",
        session(cartItems=[{"quantity": 1, "price": 1}]),
    ),
    Way("invalid_field", f"{ITEM}/sku", "null", "a string", line(sku=None)),
    Way("invalid_field", f"{ITEM}/sku", "7", "a string", line(sku=7)),
    Way(
        "invalid_field",
        f"{ITEM}/quantity",
        '{"sku":"a","price":1}',
        "is required and must be an integer of at least 1",
        session(cartItems=[{"sku": "a", "price": 1}]),
    ),
    Way("invalid_field", f"{ITEM}/quantity", '"1"', "an integer of at least 1", line(quantity="1")),
    Way("invalid_field", f"{ITEM}/quantity", "0", "an integer of at least 1", line(quantity=0)),
    Way("invalid_field", f"{ITEM}/quantity", "1.5", "an integer of at least 1", line(quantity=1.5)),
    Way("invalid_field", f"{ITEM}/quantity", "-1" + "0" * 20, "an integer of at least 1", line(quantity=-(10**20))),
    Way("invalid_field", f"{ITEM}/price", '"9.99"', "a number", line(price="9.99")),
    Way("invalid_field", f"{ITEM}/price", "true", "a number", line(price=True)),
    Way("invalid_field", f"{ITEM}/name", "5", "a string", line(name=5)),
    Way("invalid_field", f"{ITEM}/category", "{}", "a string", line(category={})),
    Way("invalid_field", f"{ITEM}/product", '"x"', "an object", line(product="x")),
    Way("invalid_field", f"{ITEM}/product/name", "{}", "is required and must be a string", line(product={})),
    Way("invalid_field", f"{ITEM}/product/name", "null", "a string", line(product={"name": None})),
    Way("invalid_field", f"{ITEM}/weight", "-0.5", "a number of at least 0", line(weight=-0.5)),
    Way("invalid_field", f"{ITEM}/height", '"1"', "a number", line(height="1")),
    Way("invalid_field", f"{ITEM}/width", "[]", "a number", line(width=[])),
    Way(
        "invalid_field",
        f"{ITEM}/length",
        "-1e400",
        "a number of at least 0",
        b'{"cartItems":[{"sku":"a","quantity":1,"price":1,"length":-1e400}]}'.replace(
            b'{"cart', b'{"customerSession":{"cart'
        )
        + b"}",
    ),
    Way("invalid_field", f"{ITEM}/attributes", "[1]", "an object", line(attributes=[1])),
    Way("invalid_field", f"{S}/attributes", '"x"', "an object", session(attributes="x")),
    Way("invalid_field", f"{S}/additionalCosts", '[{"price":1}]', "an object", session(additionalCosts=[{"price": 1}])),
    Way("invalid_field", f"{ITEM}/additionalCosts", "3", "an object", line(additionalCosts=3)),
    Way("invalid_field", f"{S}/additionalCosts/a", "null", "an object", session(additionalCosts={"a": None})),
    Way("invalid_field", f"{S}/additionalCosts/a", "[]", "an object", session(additionalCosts={"a": []})),
    Way(
        "invalid_field",
        f"{S}/additionalCosts/a/price",
        '"1"',
        "a number",
        session(additionalCosts={"a": {"price": "1"}}),
    ),
    Way(
        "invalid_field",
        f"{S}/experimentVariantAllocations/0",
        "1",
        "an object",
        session(experimentVariantAllocations=[1]),
    ),
    Way(
        "invalid_field",
        f"{S}/experimentVariantAllocations/0/variantID",
        '{"experimentID":1}',
        "is required and must be an integer",
        session(experimentVariantAllocations=[{"experimentID": 1}]),
    ),
    Way(
        "invalid_field",
        f"{S}/experimentVariantAllocations/0/experimentID",
        '"1"',
        "an integer",
        session(experimentVariantAllocations=[{"experimentID": "1", "variantID": 1}]),
    ),
]
GAPS = "PHP writes an array with gaps in its keys as an object: remove the gaps with array_values"
NUMBERED = "PHP writes an array with the keys 0 to n as a JSON array: use names as keys, or cast the array to (object) (do not use JSON_FORCE_OBJECT"
EMPTY = "PHP writes an empty array as []: cast the array to (object)"
FORCED = "PHP with JSON_FORCE_OBJECT writes an empty array as an object: remove the flag"
ALLOCATION = {"experimentID": 1, "variantID": 1}
PHP = [
    *(
        Way("invalid_field", f"{S}/{field}", '{"1":', GAPS, session(**{field: {"1": entry}}))
        for field, entry in {
            "couponCodes": "A",
            "loyaltyCards": "A",
            "identifiers": "A",
            "evaluableCampaignIds": 1,
            "cartItems": PEN,
            "experimentVariantAllocations": ALLOCATION,
        }.items()
    ),
    Way("invalid_field", "/couponCodes", '{"0":"A","2":"B"}', GAPS, {"couponCodes": {"0": "A", "2": "B"}}),
    Way("invalid_field", "/couponCodes", '{"-1":"A"}', GAPS, event(data={"couponCodes": {"-1": "A"}}), headers=CLOUD),
    Way(
        "invalid_field",
        "/return/returnedCartItems",
        '{"0":{"position":0}}',
        GAPS,
        {"return": {"returnedCartItems": {"0": {"position": 0}}}},
    ),
    Way("invalid_field", f"{S}/couponCodes", "{}", FORCED, session(couponCodes={})),
    Way("invalid_field", f"{S}/additionalCosts", '[{"price":1}]', NUMBERED, session(additionalCosts=[{"price": 1}])),
    Way("invalid_field", f"{ITEM}/additionalCosts", '[{"price":1}]', NUMBERED, line(additionalCosts=[{"price": 1}])),
    Way("invalid_field", "/attributes", '["web"]', NUMBERED, {"attributes": ["web"]}),
    Way("invalid_field", f"{ITEM}/attributes", "[1]", NUMBERED, line(attributes=[1])),
    Way("invalid_field", S, "[]", EMPTY, {"customerSession": []}),
    Way("invalid_field", "/return", "[]", EMPTY, {"return": []}),
    Way("invalid_field", f"{ITEM}/product", "[]", EMPTY, line(product=[])),
    Way("invalid_field", f"{S}/additionalCosts/a", "[]", EMPTY, session(additionalCosts={"a": []})),
]
"""What PHP writes for its arrays, where it is not what the contract wants."""
BITS = "an integer of 64 bits (-2^63 to 2^63-1)"
BELOW = "a magnitude below 1000000000000"
NUMBERS = [
    Way(
        "missing_price",
        f"{ITEM}/price",
        '{"sku":"a","quantity":1}',
        "is required and must be a number",
        session(cartItems=[{"sku": "a", "quantity": 1}]),
    ),
    Way("missing_price", f"{ITEM}/price", "null", "a number", line(price=None)),
    Way(
        "missing_price",
        "/additionalCosts/c/price",
        "{}",
        "is required and must be a number",
        {"additionalCosts": {"c": {}}},
    ),
    Way(
        "missing_price",
        f"{ITEM}/additionalCosts/c/price",
        "null",
        "a number",
        line(additionalCosts={"c": {"price": None}}),
    ),
    Way("number_out_of_range", f"{ITEM}/price", "1000000000000", BELOW, line(price=10**12)),
    Way("number_out_of_range", f"{ITEM}/price", "-1e12", BELOW, encoded(line(price=7)).replace(b"7", b"-1e12")),
    Way("number_out_of_range", f"{ITEM}/price", "1e400", BELOW, encoded(line(price=7)).replace(b"7", b"1e400")),
    Way("number_out_of_range", f"{ITEM}/price", "9" * 100, BELOW, encoded(line(price=7)).replace(b"7", b"9" * 400)),
    Way(
        "number_out_of_range",
        "/cartItems/0/weight",
        "1e12",
        BELOW,
        b'{"cartItems":[{"sku":"a","quantity":1,"price":1,"weight":1e12}]}',
    ),
    Way(
        "number_out_of_range",
        f"{S}/additionalCosts/a/price",
        "1e13",
        BELOW,
        b'{"customerSession":{"additionalCosts":{"a":{"price":1e13}}}}',
    ),
    Way("number_out_of_range", f"{ITEM}/quantity", "10000000000000000000", BITS, line(quantity=10**19)),
    Way(
        "number_out_of_range",
        f"{S}/evaluableCampaignIds/0",
        "-9223372036854775809"[:10],
        BITS,
        session(evaluableCampaignIds=[-(2**63) - 1]),
    ),
    Way(
        "wrong_application",
        "/applicationId",
        "10000000000000000000",
        "must be 1",
        {"applicationId": 10**19, **session()},
    ),
    Way(
        "number_out_of_range", "/return/returnedCartItems/0/position", "1" + "0" * 20, BITS, back({"position": 10**20})
    ),
    Way(
        "number_out_of_range",
        f"{S}/attributes/a",
        "12345678901234567890",
        "a double keeps all digits",
        session(attributes={"a": 12345678901234567890}),
    ),
    Way("number_out_of_range", "/attributes/a/1", "1e400", "a double can hold", b'{"attributes":{"a":[0,1e400]}}'),
    Way(
        "number_out_of_range",
        f"{ITEM}/attributes/b",
        "9" * 100,
        "a double can hold",
        encoded(line(attributes={"b": 7})).replace(b"7", b"9" * 5000),
    ),
    Way(
        "number_out_of_range",
        S,
        "1000000.000000001",
        "a session whose total has at most 15 significant digits",
        session(additionalCosts={"a": {"price": 1_000_000}, "b": {"price": 1e-9}}),
    ),
    Way(
        "number_out_of_range",
        "",
        "1234567.123456789",
        "total has at most 15 significant digits",
        cart({**PEN, "price": 1234567.123456789}),
    ),
    Way("too_many_items", f"{S}/cartItems", "1001", "at most 1000 items", session(**cart(*[PEN] * 1001))),
    Way("too_many_items", "/cartItems", "1001", "at most 1000 items", cart(*[PEN] * 1001)),
    Way("too_many_units", f"{S}/cartItems", "10001", "at most 10000", line(quantity=10_001)),
]
LATER = [
    Way(
        "occurred_in_future",
        "/occurredAt",
        '"2027-01-01T00:00:00.000Z"',
        "at most one hour after the record's Kafka timestamp 2026-11-22T18:40:00.000Z",
        {"occurredAt": FUTURE, **session()},
    ),
    Way(
        "occurred_in_future",
        "/time",
        '"2027-01-01T00:00:00.000Z"',
        "at most one hour after",
        event(time=FUTURE, data=session()),
        headers=CLOUD,
    ),
    Way("dry_not_supported", "/dry", "true", "false or omitted in a reopen", {"type": "reopen", "dry": True}, "closed"),
    Way("empty_return", "/return/returnedCartItems", "[]", "at least one entry", back(), "closed"),
    Way(
        "ambiguous_item",
        "/return/returnedCartItems/0",
        '{"position":0,"sku":"cup"}',
        "a position or a sku, not both",
        back({"position": 0, "sku": "cup"}),
        "closed",
    ),
    Way(
        "missing_item",
        "/return/returnedCartItems/0",
        '{"quantity":1}',
        "a position or a sku",
        back({"quantity": 1}),
        "closed",
    ),
    Way("event_id_reused", "/eventId", '"used"', "must be new", {"eventId": "used", **session()}, "open"),
    Way("event_id_reused", "/id", '"used"', "must be new", event(id="used", data=session()), "open", headers=CLOUD),
    Way("unknown_session", "", '"s-1"', "must name an existing session", {"type": "reopen"}),
    Way("unknown_session", "", '"s-1"', "must name an existing session", back({"position": 0})),
    Way(
        "invalid_state", f"{S}/state", '"cancelled"', '"open" or "closed" in a new session', session(state="cancelled")
    ),
    Way("invalid_state", "/state", '"cancelled"', '"open" or "closed" in a new session', {"state": "cancelled"}),
    Way(
        "invalid_state",
        f"{S}/state",
        '"partially_returned"',
        '"open" or "closed" in a new session',
        session(state="partially_returned"),
    ),
    Way(
        "invalid_state",
        f"{S}/state",
        '"partially_returned"',
        '"open", "closed" or "cancelled" in an update',
        session(state="partially_returned"),
        "open",
    ),
    Way(
        "session_not_open",
        "",
        "null",
        'state is "closed" accepts only an update with state "cancelled"',
        session(),
        "closed",
    ),
    Way("session_not_open", "", '"open"', 'state is "closed" accepts only', session(state="open"), "closed"),
    Way(
        "session_not_open",
        "",
        '"cancelled"',
        'state is "cancelled" accepts no update',
        session(state="cancelled"),
        "cancelled",
    ),
    Way("invalid_transition", "", '"open"', 'whose state is "closed"', {"type": "reopen"}, "open"),
    Way(
        "invalid_transition",
        "",
        '"cancelled"',
        'whose state is "closed" or "partially_returned"',
        back({"position": 0}),
        "cancelled",
    ),
    Way(
        "unknown_item",
        "/return/returnedCartItems/0",
        '"tea"',
        "must name an item of the cart",
        back({"sku": "tea"}),
        "closed",
    ),
    Way(
        "unknown_item",
        "/return/returnedCartItems/0",
        "position 7",
        "must name an item of the cart",
        back({"position": 7}),
        "closed",
    ),
    Way(
        "return_exceeds_remaining",
        "/return/returnedCartItems/0",
        "3",
        'at most the 2 remaining units of "cup"',
        back({"sku": "cup", "quantity": 3}),
        "closed",
    ),
    Way(
        "return_exceeds_remaining",
        "/return/returnedCartItems/1",
        "all remaining units",
        "at most the 0 remaining units",
        back({"position": 0}, {"position": 0}),
        "closed",
    ),
]
WAYS = [*SIZES, *NO_JSON, *IDENTITY, *UNKNOWN, *FIELDS, *PHP, *NUMBERS, *LATER]


def in_state(state: str, **rules: Any) -> Till:
    till = Till(**rules)
    if state != "none":
        till.one({"customerSession": cart(CUP, PEN), "eventId": "used"})
    if state in ("closed", "cancelled"):
        till.update({"state": state})
    return till


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.code} {way.pointer} {way.shows[:20]}")
def test_a_message_shows_the_value_and_says_what_would_be_right(way):
    till = in_state(way.state, **way.rules)
    rejection = till.one(way.value, way.key, headers=way.headers, timestamp=way.timestamp)
    message = rejection.headers["rejection-message"]
    assert (rejection.code, rejection.pointer) == (way.code, way.pointer), message
    assert way.shows in message
    assert way.right in message
    assert not BANNED.search(message), message
    assert "'" not in message.replace("worker's", "").replace("record's", "").replace(
        "session's", ""
    ) or b"'" in encoded(way.value)
    assert (IGNORE in message) == (way.code == "unknown_field")
    assert rejection.raw == encoded(way.value)


def test_the_message_of_a_record_without_origin_shows_its_headers():
    network = Network()
    network.put("session-updates-rekeyed", 0, ConsumerRecord(0, SENT, None, b"{}", [("a", b"1")]))
    (rejection,) = network.rejections
    message = rejection.headers["rejection-message"]
    assert (rejection.code, rejection.pointer) == ("missing_origin", "")
    assert '["a"]' in message
    assert "origin in its last headers" in message
    assert not BANNED.search(message)


def test_the_message_of_a_stray_that_is_too_large_shows_its_size():
    network = Network()
    network.send(session(), "s-1", network.away("s-1"), headers=[("a", b"x" * 65_536)])
    (rejection,) = network.rejections
    assert rejection.code == "record_too_large"
    assert "65536 bytes of key and headers" in rejection.headers["rejection-message"]
    assert "65540" in rejection.headers["rejection-message"]


def test_the_table_reaches_every_code():
    assert {way.code for way in WAYS} | {"missing_origin"} == {code for codes in ROWS for code in codes}


@pytest.mark.parametrize(
    "fields",
    [
        {"cartItems": PEN},
        {"couponCodes": "A"},
        {"additionalCosts": {"attributes": [1]}},
        {"additionalCosts": "4.9"},
        {"cartItems": [{**PEN, "product": ["pen"]}]},
    ],
    ids=str,
)
def test_value_that_php_does_not_write_gets_no_advice_for_php(fields):
    message = Till().update(fields).headers["rejection-message"]
    assert "PHP" not in message


def test_every_message_is_one_sentence_of_json_values():
    """What a message shows of a whole object is JSON."""
    rejection = Till().update({"state": {"a": [True, None, "ü"]}})
    shown = rejection.headers["rejection-message"].partition("but it is ")[2][:-1]
    assert json.decode(shown) == {"a": [True, None, "ü"]}


def test_every_required_field_has_words():
    required = {name for of in (*_OBJECTS.values(), AdditionalCost) for name in of.__required_keys__}
    assert required == set(_REQUIRED)
