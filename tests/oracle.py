"""The contract once more, folded slowly: the second opinion that tests and the fault suite's verifier compare with.

It imports nothing of the worker, keeps one table of sessions and one of profiles, and settles every question on the
spot. It reads in the contract's order: bytes, numbers and times; what a record may carry without looking at any
state (section 2); the moves of a session (3, 4); and the fold itself (6 to 10).

>>> oracle = Oracle()
>>> body = b'{"eventId": "e1", "customerSession": {"cartItems": [{"sku": "cup", "quantity": 3, "price": 0.1}]}}'
>>> record = {"partition": 0, "offset": 6, "timestamp": 0, "key": b"s-1", "value": body, "headers": []}
>>> [snapshot] = oracle.fold(record)
>>> oracle.sessions["s-1"]["id"], oracle.sessions["s-1"]["total"], dict(snapshot["headers"])["ce_type"]
(7, 0.3, b'customersession.created')
>>> oracle.fold(record), oracle.counts["duplicates"]
([], 1)
"""

import base64
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any, Literal, NoReturn

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Record = dict[str, Any]
Session = dict[str, Any]
Request = dict[str, Any]
Claim = tuple[str, str]
"""A session's `created`, as written, and its integrationId."""


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SNAPSHOT_FIELDS = words("""
    id created integrationId applicationId profileId storeIntegrationId evaluableCampaignIds
    experimentVariantAllocations couponCodes referralCode loyaltyCards state cartItems additionalCosts
    identifiers attributes firstSession updateCount total cartItemTotal additionalCostTotal
    cartItemAdditionalCostTotal updated
""")
DISCARDABLE = words("""
    evaluableCampaignIds experimentVariantAllocations couponCodes referralCode loyaltyCards additionalCosts
    identifiers
""")
"""Absent from the snapshot once set to `[]`, `{}` or `""`."""
ITEM_FIELDS = words("""
    name sku quantity returnedQuantity remainingQuantity price category product weight height width length
    position attributes additionalCosts
""")
SESSION_FIELDS = words("""
    profileId storeIntegrationId evaluableCampaignIds couponCodes referralCode loyaltyCards identifiers state
    cartItems additionalCosts attributes experimentVariantAllocations coupon referral
""")
READ_ONLY_SESSION_FIELDS = words("""
    id created integrationId applicationId firstSession updateCount total cartItemTotal additionalCostTotal
    cartItemAdditionalCostTotal updated closurePrediction discounts
""")
READ_ONLY_ITEM_FIELDS = words("""
    position returnedQuantity remainingQuantity catalogItemID selectedPriceType adjustmentReferenceId
    adjustmentEffectiveFrom adjustmentEffectiveUntil prices
""")
RECORD_FIELDS = words("""
    type integrationId eventId occurredAt applicationId dry customerSession return responseContent
""")

# Section 10: the first failing row names the code.
ROWS = """
    record_too_large
    missing_origin
    malformed_json
    missing_integration_id
    unknown_type
    wrong_application
    unknown_field ambiguous_field
    invalid_field
    missing_price number_out_of_range
    too_many_items too_many_units
    occurred_in_future
    dry_not_supported
    empty_return ambiguous_item missing_item
    event_id_reused
    unknown_session invalid_state session_not_open invalid_transition
    unknown_item return_exceeds_remaining
    session_too_large
"""
ROW = {code: row for row, codes in enumerate(ROWS.strip().splitlines()) for code in words(codes)}
REJECTION_HEADERS = words("""
    rejection-code rejection-pointer rejection-message
    __streams.errors.topic __streams.errors.partition __streams.errors.offset
    __streams.errors.exception __streams.errors.message
""")

EVENT_POINTERS = {"eventId": "/id", "occurredAt": "/time", "integrationId": "/subject"}
"""Where an envelope gives the fields that its record lacks (section 2)."""
REMEMBERED_EVENTS = 32
MAX_DEPTH = 64
MAX_MEMBERS = 1000
MAX_TRACEPARENT_BYTES = 512
INT64 = (-(2**63), 2**63 - 1)
INFINITY = float("inf")
HOUR = 3_600_000
LAST_MOMENT = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z."""


class Refused(Exception):
    """An update record that the rules refuse."""

    def __init__(self, code: str, pointer: str = "", rule: str = "", *found: Any) -> None:
        shown = f", but it is {encoded(found[0])[:100]}" if found else ""
        super().__init__(f"{pointer or 'The record'} {rule}{shown}.")
        self.code, self.pointer = code, pointer


# ------------------------------------------------------------------------------------------------------ bytes in, out

TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


def parsed(raw: bytes, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Read a record's JSON object; raise *malformed_json*.

    A number beyond a double comes back as an infinity, an integer of more digits than a double has as ±10^400.
    """
    try:
        text = raw.decode()
        value = json.loads(text, parse_int=_integer, parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise Refused("malformed_json", "", "must be a JSON object")
        depth = 0
        for token in TOKEN.findall(text):  # also what a later duplicate key hides
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token, 0)
            if depth > max_depth:
                raise Refused("malformed_json", "", f"may be nested {MAX_DEPTH} levels deep")
            if "\\u" in token:
                json.loads(token).encode()
    except (ValueError, RecursionError) as error:
        raise Refused("malformed_json", "", "must be JSON in UTF-8") from error
    return value


def _integer(digits: str) -> int:
    too_long = len(digits) > 400
    return int(digits) if not too_long else -(10**400) if digits.startswith("-") else 10**400


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


scalar = json.JSONEncoder(ensure_ascii=False).encode


def encoded(value: Any) -> str:
    """Write compact JSON."""
    if isinstance(value, dict):
        return "{" + ",".join([f"{scalar(name)}:{encoded(field)}" for name, field in value.items()]) + "}"
    if isinstance(value, list):
        return "[" + ",".join([encoded(entry) for entry in value]) + "]"
    return shortest(value) if isinstance(value, float) else scalar(value)


def shortest(number: float) -> str:
    """Write a double with the fewest digits, in the form of the msgspec that requirements.lock names.

    >>> [shortest(number) for number in (30.0, 0.3, 0.0001, -1.5e-05, 1e-07, 1e15, 1e16, 1.25e+300)]
    ['30.0', '0.3', '0.0001', '-0.000015', '1e-7', '1000000000000000.0', '1e16', '1.25e300']
    """
    text = repr(number)
    if "e" not in text:
        return text
    digits, power = text.split("e")
    if int(power) == -5:  # repr turns to exponents one digit earlier
        return "-" * (number < 0) + "0.0000" + digits.lstrip("-").replace(".", "")
    return f"{digits}e{int(power)}"


# ---------------------------------------------------------------------------------------------------------- wrappings


def unwrapped(
    raw: bytes, headers: list[tuple[str, bytes | None]], most: int, *, binary: bool
) -> tuple[bytes, dict[str, Any]]:
    """Take off what may be around a record: its own text, and what an event gives of its fields."""
    if raw[:1] == b"\0":
        raw = raw[5:]
    if raw[:2] == b"\x1f\x8b":
        raw = inflated(raw, most, lambda: zlib.decompressobj(31))
    elif raw[:4] == b"\x28\xb5\x2f\xfd":
        raw = inflated(raw, most, zstd_decoder)
    if len(raw) > most:
        raise Refused("record_too_large", "", f"may have {most} bytes")
    given = {name: content for name, content in headers if content is not None}
    if is_structured(headers):
        return enveloped(raw)
    event: dict[str, Any] = {}
    if binary and "ce_id" in given:
        names = (("eventId", "ce_id"), ("occurredAt", "ce_time"))
        event = {name: given[of].decode(errors="backslashreplace") for name, of in names if of in given}
        event["integrationId"] = key_text(given.get("ce_subject"))
    return raw, event


def is_structured(headers: list[tuple[str, bytes | None]]) -> bool:
    """Return True if the value is the envelope of a CloudEvent."""
    given = {name: content for name, content in headers if content is not None}
    types = [content for name, content in given.items() if name.lower() == "content-type"]
    return bool(types) and types[-1].lower()[:28] == b"application/cloudevents+json"


def zstd_decoder() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})


def inflated(raw: bytes, most: int, decoder: Callable[[], Any]) -> bytes:
    text: bytes = b""
    try:
        for _member in range(MAX_MEMBERS):
            one = decoder()
            text += one.decompress(raw, most + 1 - len(text))
            if len(text) > most:
                raise Refused("record_too_large", "", f"may have {most} bytes")
            if not one.eof:
                break
            raw = one.unused_data
            if not raw:
                return text
    except (zlib.error, zstd.ZstdError) as error:
        raise Refused("malformed_json", "", "may not be damaged") from error
    raise Refused("malformed_json", "", f"must be whole and have at most {MAX_MEMBERS} members")


def enveloped(raw: bytes) -> tuple[bytes, dict[str, Any]]:
    envelope = parsed(raw, MAX_DEPTH + 1)
    event = {name: envelope.get(of) for name, of in (("eventId", "id"), ("occurredAt", "time"))}
    event["integrationId"] = envelope.get("subject")
    if envelope.get("data") is not None:
        return text_of(raw.decode(), "data").encode(), event
    encoded_data = envelope.get("data_base64")
    if encoded_data is None:
        raise Refused("invalid_field", "/data", "must be an object")
    if not isinstance(encoded_data, str) or not BASE64.fullmatch(encoded_data):
        raise Refused("invalid_field", "/data_base64", "must be Base64", encoded_data)
    return base64.b64decode(encoded_data), event


BASE64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
LENIENT = json.JSONDecoder(parse_int=_integer)


def text_of(text: str, wanted: str) -> str:
    """The text of the last member of that name in an object.

    >>> text_of('{"a": 1, "b" : [1,  2] }', "b")
    '[1,  2]'
    """
    found, at = "", text.index("{") + 1
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        name, at = LENIENT.raw_decode(text, at)
        at = text.index(":", at) + 1
        at += len(text[at:]) - len(text[at:].lstrip())
        start, (_value, at) = at, LENIENT.raw_decode(text, at)
        found = text[start:at] if name == wanted else found
        rest = text[at:].lstrip()
        if rest[0] == "}":
            return found
        at = len(text) - len(rest) + 1


def whole(value: dict[str, Any]) -> dict[str, Any]:
    """A record in which a bare body stands where it belongs."""
    outer = ("type", "customerSession", "return")
    if any(value.get(name) is not None for name in outer):
        return value
    if all(value.get(name) is None for name in SESSION_FIELDS):
        return value
    beside = {name: field for name, field in value.items() if name in RECORD_FIELDS and name not in outer}
    body = {name: field for name, field in value.items() if name not in RECORD_FIELDS}
    return {**beside, "customerSession": body}


# ------------------------------------------------------------------------------------------------------ exact numbers


def significant_digits(number: Decimal) -> int:
    """Count the digits that a decimal needs.

    >>> significant_digits(Decimal("0.30")), significant_digits(Decimal("1200")), significant_digits(Decimal(0))
    (1, 2, 0)
    """
    return len("".join(map(str, number.as_tuple().digits)).strip("0"))


def decimal(number: float) -> Decimal:
    """Read a double as the shortest decimal that denotes it; what is behind the 18th decimal place is rounded."""
    return places(Decimal(repr(number)), 18)


def places(number: Decimal, count: int) -> Decimal:
    """Round half even to *count* decimal places.

    >>> places(Decimal("2.5"), 0), places(Decimal("3.5"), 0)
    (Decimal('2'), Decimal('4'))
    """
    return number.quantize(Decimal(1).scaleb(-count), ROUND_HALF_EVEN, Context(prec=400))


def keeps(number: int) -> bool:
    """Whether a double keeps every digit of an integer.

    >>> keeps(10**19), keeps(12345678901234567890)
    (True, False)
    """
    try:
        return Decimal(repr(float(number))) == number
    except OverflowError:
        return False


def totals(session: Session) -> dict[str, float]:
    """Add up a session's prices exactly, and round each sum once; raise *number_out_of_range*."""

    def costs(of: dict[str, Any]) -> Decimal:
        return sum((decimal(cost["price"]) for cost in of.get("additionalCosts", {}).values()), Decimal(0))

    with localcontext(Context(prec=400)):
        items = session["cartItems"]
        cart_items = places(sum((decimal(item["price"]) * item["quantity"] for item in items), Decimal(0)), 9)
        item_costs = places(sum((costs(item) * item["quantity"] for item in items), Decimal(0)), 9)
        session_costs = places(costs(session), 9)
        sums = {
            "total": cart_items + session_costs + item_costs,
            "cartItemTotal": cart_items,
            "additionalCostTotal": session_costs,
            "cartItemAdditionalCostTotal": item_costs,
        }
    for name, amount in sums.items():
        if significant_digits(amount) > 15:
            raise Refused("number_out_of_range", "/customerSession", f"makes a {name} of more than 15 digits")
    return {name: float(amount) + 0.0 for name, amount in sums.items()}


# -------------------------------------------------------------------------------------------------------------- times

RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII | re.IGNORECASE
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(text: str) -> int | None:
    """Read a time as milliseconds since 1970, cut; None for what is not one or lies outside 1970 to 9999 in UTC.

    >>> milliseconds("1970-01-01t02:00:00.0019+01:59"), milliseconds("1970-01-01T00:00:00+00:01")
    (60001, None)
    """
    match = RFC_3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, offset_hour, offset_minute = match[7] or "", match[8], int(match[9] or 0), int(match[10] or 0)
    if max(hour, offset_hour) > 23 or max(minute, second, offset_minute) > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - EPOCH.toordinal()
    except ValueError:
        return None
    minutes = (days * 24 + hour) * 60 + minute - (offset_hour * 60 + offset_minute) * (-1 if sign == "-" else 1)
    moment = (minutes * 60 + second) * 1000 + int((fraction + "000")[:3])
    return moment if 0 <= moment <= LAST_MOMENT else None


def written(moment: int) -> str:
    """Write a time as a snapshot does.

    >>> written(1795341600000)
    '2026-11-22T10:00:00.000Z'
    """
    return (EPOCH + timedelta(milliseconds=moment)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ------------------------------------------------------------------------------- section 2: what needs no session state


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Reader:
    """Reads one record's fields into plain values, and notes every rule they break.

    After a note the value returned is a stand-in that nobody will use.
    """

    def __init__(self, *, unknown_fields: str, is_timeless: bool) -> None:
        self.rejects_unknown = unknown_fields == "reject"
        self.is_timeless = is_timeless
        self.notes: list[Refused] = []

    def note(self, code: str, pointer: str, rule: str, *found: Any) -> None:
        self.notes.append(Refused(code, pointer, rule, *found))

    def fields(self, value: Any, known: tuple[str, ...], pointer: str) -> dict[str, Any]:
        """The fields of an object that are known and not null."""
        if not isinstance(value, dict):
            self.note("invalid_field", pointer, "must be an object", value)
            return {}
        for name in value:
            if name not in known and self.rejects_unknown:
                self.note("unknown_field", f"{pointer}/{escaped(name)}", "is no field of the contract")
        return {name: field for name, field in value.items() if name in known and field is not None}

    def text(self, value: Any, pointer: str, least: int = 0, most: float = INFINITY) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most:
            self.note("invalid_field", pointer, f"must be a string of {least} to {most} characters", value)
            return ""
        return value

    def array(self, value: Any, pointer: str, most: float = INFINITY) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            self.note("invalid_field", pointer, f"must be a list of at most {most}", value)
            return []
        return value

    def texts(self, value: Any, pointer: str, most: float = INFINITY, most_characters: float = INFINITY) -> list[str]:
        entries = enumerate(self.array(value, pointer, most))
        return [self.text(entry, f"{pointer}/{index}", most=most_characters) for index, entry in entries]

    def whole(self, value: Any, pointer: str, least: float = -INFINITY) -> int:
        beyond_double = value in (INFINITY, -INFINITY)
        if not is_number(value) or value < least or not (beyond_double or value == int(value)):
            self.note("invalid_field", pointer, f"must be an integer of at least {least}", value)
            return 0
        if not INT64[0] <= value <= INT64[1]:
            self.note("number_out_of_range", pointer, "must fit in 64 bits", value)
            return 0
        return int(value)

    def amount(self, value: Any, pointer: str, least: float = -INFINITY) -> float:
        """Read a price or a dimension (section 5)."""
        if not is_number(value) or value < least:
            self.note("invalid_field", pointer, f"must be a number of at least {least}", value)
            return 0.0
        if abs(value) < 10**12 and abs(float(value)) < 10**12:
            return float(value) + 0.0  # no -0.0
        self.note("number_out_of_range", pointer, "must be below 10^12", value)
        return 0.0

    def price(self, fields: dict[str, Any], pointer: str) -> float:
        if "price" in fields:
            return self.amount(fields["price"], f"{pointer}/price")
        self.note("missing_price", f"{pointer}/price", "is required")
        return 0.0

    def costs(self, value: Any, pointer: str) -> dict[str, dict[str, float]]:
        if value == []:
            return {}
        if not isinstance(value, dict):
            self.note("invalid_field", pointer, "must be an object", value)
            return {}
        read = {}
        for name, cost in value.items():
            at = f"{pointer}/{escaped(name)}"
            read[name] = {"price": self.price(self.fields(cost, ("price",), at), at)}
        return read

    def attributes(self, value: Any, pointer: str) -> dict[str, Any]:
        if value == []:
            return {}
        if not isinstance(value, dict):
            self.note("invalid_field", pointer, "must be an object", value)
            return {}
        return {name: self.free(field, f"{pointer}/{escaped(name)}") for name, field in value.items()}

    def free(self, value: Any, pointer: str) -> Any:
        """Read what JSON allows; an integer that only a double holds becomes one."""
        if isinstance(value, dict):
            return {name: self.free(field, f"{pointer}/{escaped(name)}") for name, field in value.items()}
        if isinstance(value, list):
            return [self.free(entry, f"{pointer}/{index}") for index, entry in enumerate(value)]
        if isinstance(value, float) and abs(value) == INFINITY:
            self.note("number_out_of_range", pointer, "must be a double", value)
        elif isinstance(value, int) and not INT64[0] <= value <= INT64[1]:
            if keeps(value):
                return float(value)
            self.note("number_out_of_range", pointer, "must fit in 64 bits or a double", value)
        return value

    def product(self, value: Any, pointer: str) -> dict[str, str]:
        return {"name": self.text(self.fields(value, ("name",), pointer).get("name"), f"{pointer}/name")}

    def item(self, value: Any, pointer: str, position: int) -> dict[str, Any]:
        fields = self.fields(value, ITEM_FIELDS + READ_ONLY_ITEM_FIELDS, pointer)
        item: dict[str, Any] = {
            "sku": self.text(fields.get("sku"), f"{pointer}/sku", least=1),
            "quantity": self.whole(fields.get("quantity"), f"{pointer}/quantity", least=1),
            "price": self.price(fields, pointer),
            "position": position,
            "returnedQuantity": 0,
        }
        item["remainingQuantity"] = item["quantity"]
        optional: tuple[tuple[str, Callable[[Any, str], Any]], ...] = (
            ("name", self.text),
            ("category", self.text),
            ("product", self.product),
            ("weight", lambda value, at: self.amount(value, at, least=0)),
            ("height", lambda value, at: self.amount(value, at, least=0)),
            ("width", lambda value, at: self.amount(value, at, least=0)),
            ("length", lambda value, at: self.amount(value, at, least=0)),
            ("attributes", self.attributes),
            ("additionalCosts", self.costs),
        )
        for name, read in optional:
            if name in fields:
                item[name] = read(fields[name], f"{pointer}/{name}")
        return {name: item[name] for name in ITEM_FIELDS if name in item}

    def items(self, value: Any, pointer: str) -> list[dict[str, Any]]:
        given = self.array(value, pointer)
        items = [self.item(item, f"{pointer}/{position}", position) for position, item in enumerate(given)]
        if len(items) > 1000:
            self.note("too_many_items", pointer, "may have 1000 items")
        if sum(item["quantity"] for item in items) > 10_000:
            self.note("too_many_units", pointer, "may have 10,000 units")
        return items

    def allocations(self, value: Any, pointer: str) -> list[dict[str, int]]:
        names = ("experimentID", "variantID")
        read = []
        for index, allocation in enumerate(self.array(value, pointer)):
            fields = self.fields(allocation, names, f"{pointer}/{index}")
            read.append({name: self.whole(fields.get(name), f"{pointer}/{index}/{name}") for name in names})
        return read

    def campaigns(self, value: Any, pointer: str) -> list[int]:
        return [self.whole(entry, f"{pointer}/{index}") for index, entry in enumerate(self.array(value, pointer))]

    def state(self, value: Any, pointer: str) -> str:
        if value not in ("open", "closed", "cancelled", "partially_returned"):  # the last: invalid_state, a later row
            self.note("invalid_field", pointer, "must be open, closed or cancelled", value)
        return str(value)

    def session(self, value: Any, pointer: str) -> tuple[dict[str, Any], list[str]]:
        """Read `customerSession`: its fields under their new names, and the names that were written."""
        readers: dict[str, Callable[[Any, str], Any]] = {
            "profileId": lambda value, at: self.text(value, at, most=1000),
            "storeIntegrationId": lambda value, at: self.text(value, at, least=1, most=1000),
            "evaluableCampaignIds": self.campaigns,
            "couponCodes": lambda value, at: self.texts(value, at, most_characters=100),
            "referralCode": lambda value, at: self.text(value, at, most=100),
            "loyaltyCards": lambda value, at: self.texts(value, at, most=1),
            "identifiers": lambda value, at: self.texts(value, at, most=5),
            "state": self.state,
            "cartItems": self.items,
            "additionalCosts": self.costs,
            "attributes": self.attributes,
            "experimentVariantAllocations": self.allocations,
            "coupon": lambda value, at: self.text(value, at, most=100),
            "referral": lambda value, at: self.text(value, at, most=100),
        }
        given = self.fields(value, SESSION_FIELDS + READ_ONLY_SESSION_FIELDS, pointer)
        given = {name: field for name, field in given.items() if name in readers}
        for old, new in (("coupon", "couponCodes"), ("referral", "referralCode")):
            if old in given and new in given:
                self.note("ambiguous_field", f"{pointer}/{old}", f"may not stand beside {new}")
        read = {name: readers[name](field, f"{pointer}/{name}") for name, field in given.items()}
        if read.get("coupon") == "":
            read["couponCodes"] = []
            del read["coupon"]
        if "referral" in read:
            read["referralCode"] = read.pop("referral")
        return read, sorted(given)

    def entries(self, value: Any, pointer: str) -> list[dict[str, Any]]:
        """Read `return`."""
        given = self.fields(value, ("returnedCartItems",), pointer).get("returnedCartItems")
        pointer = f"{pointer}/returnedCartItems"
        read = []
        for index, entry in enumerate(self.array(given, pointer)):
            at = f"{pointer}/{index}"
            fields = self.fields(entry, ("position", "sku", "quantity"), at)
            if "position" in fields:
                fields["position"] = self.whole(fields["position"], f"{at}/position", least=0)
            if "sku" in fields:
                self.text(fields["sku"], f"{at}/sku", least=1)
            if "quantity" in fields:
                fields["quantity"] = self.whole(fields["quantity"], f"{at}/quantity", least=1)
            if "position" in fields and "sku" in fields:
                self.note("ambiguous_item", at, "may have position or sku, not both")
            if "position" not in fields and "sku" not in fields:
                self.note("missing_item", at, "must have position or sku")
            read.append(fields)
        if given == []:
            self.note("empty_return", pointer, "must name at least one item")
        return read

    def moment(self, value: Any, sent: int) -> int:
        """Read `occurredAt`."""
        moment = milliseconds(value) if isinstance(value, str) else None
        if moment is None:
            self.note("invalid_field", "/occurredAt", "must be an RFC 3339 time from 1970 on", value)
            return sent
        if moment > sent + HOUR and not self.is_timeless:
            self.note("occurred_in_future", "/occurredAt", "may be 1 hour after the record's timestamp", value)
        return moment

    def record(self, value: dict[str, Any], kind: str, integration_id: Any, sent: int) -> Request:
        fields = self.fields(value, RECORD_FIELDS, "")
        for name, owner in (("customerSession", "update"), ("return", "return")):
            if name in fields and kind != owner:
                self.note("ambiguous_field", f"/{name}", f"may not be part of a record of type {kind}")
        if "applicationId" in fields and not is_number(fields["applicationId"]):
            self.note("invalid_field", "/applicationId", "must be an integer", fields["applicationId"])
        dry = fields.get("dry", False)
        if not isinstance(dry, bool):
            self.note("invalid_field", "/dry", "must be true or false", dry)
        if dry is True and kind == "reopen":
            self.note("dry_not_supported", "/dry", "may not be true on a reopen")
        if self.is_timeless and "occurredAt" not in fields:
            self.note("invalid_field", "/occurredAt", "is missing, and the record has no timestamp of its own")
        request: Request = {
            "type": kind,
            "integrationId": self.text(integration_id, "/integrationId", 1, 1000),
            "eventId": self.text(fields["eventId"], "/eventId", 1, 255) if "eventId" in fields else None,
            "occurredAt": self.moment(fields["occurredAt"], sent) if "occurredAt" in fields else sent,
            "dry": dry,
        }
        if kind == "update":
            request["session"], request["named"] = self.session(fields.get("customerSession"), "/customerSession")
        if kind == "return":
            request["entries"] = self.entries(fields.get("return"), "/return")
        return request


def key_text(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None


def kind_of(given: dict[str, Any]) -> str:
    """What a record asks for, from its fields that are not null."""
    if "type" not in given:
        told = [kind for name, kind in (("customerSession", "update"), ("return", "return")) if name in given]
        if len(told) != 1:
            raise Refused("unknown_type", "/type", "is missing, and the record does not tell it")
        return told[0]
    kind = given["type"]
    if kind not in ("update", "return", "reopen"):
        raise Refused("unknown_type", "/type", "must be update, return or reopen", kind)
    return str(kind)


# ----------------------------------------------------------------------------- sections 3 and 4: the moves of a session


def merged(session: Session, change: dict[str, Any]) -> Session:
    """An open session after every field of an update."""
    change = dict(change)
    if "coupon" in change:
        coupon = change.pop("coupon")
        if session.get("couponCodes", [])[:1] != [coupon]:
            change["couponCodes"] = [coupon]
    attributes = {**session["attributes"], **change.get("attributes", {})}
    after = {**session, **change}
    after["attributes"] = {name: value for name, value in attributes.items() if value is not None}
    for name in DISCARDABLE:
        if name in after and not after[name]:
            del after[name]
    return after


def updated(before: Session | None, new: Session, request: Request) -> tuple[Session, str, list[str]]:
    """Update *before*, or start from *new*: the session, its event, and the names of what was ignored."""
    change = request["session"]
    wanted = change.get("state")
    if wanted == "partially_returned":
        raise Refused("invalid_state", "/customerSession/state", "is reached by a return, not by an update")
    if before is None:
        if wanted == "cancelled":
            raise Refused("invalid_state", "/customerSession/state", "may be open or closed for a new session")
        return merged(new, change), "created", []
    if before["state"] == "open":
        after = merged(before, change)
        return after, {"open": "updated", "closed": "closed", "cancelled": "cancelled"}[after["state"]], []
    if wanted == "cancelled" and before["state"] in ("closed", "partially_returned"):
        return {**before, "state": "cancelled"}, "revoked", [name for name in request["named"] if name != "state"]
    raise Refused("session_not_open", "", f"comes too late: the session is {before['state']}")


def returned(before: Session, entries: list[dict[str, Any]]) -> tuple[Session, str, list[str]]:
    if before["state"] not in ("closed", "partially_returned"):
        raise Refused("invalid_transition", "", f"cannot return items: the session is {before['state']}")
    items = [dict(item) for item in before["cartItems"]]
    for index, entry in enumerate(entries):
        at = f"/return/returnedCartItems/{index}"
        if "position" in entry:
            lines = [item for item in items if item["position"] == entry["position"]]
        else:
            lines = [item for item in items if item["sku"] == entry["sku"]]
        if not lines:
            raise Refused("unknown_item", at, "names no line of the cart")
        remaining = sum(line["remainingQuantity"] for line in lines)
        wanted = entry.get("quantity", remaining)
        if remaining == 0 or wanted > remaining:
            raise Refused("return_exceeds_remaining", at, f"wants more than the {remaining} units that remain")
        for line in lines:
            taken = min(wanted, line["remainingQuantity"])
            wanted -= taken
            line["returnedQuantity"] += taken
            line["remainingQuantity"] -= taken
    return {**before, "cartItems": items, "state": "partially_returned"}, "partially_returned", []


def reopened(before: Session) -> tuple[Session, str, list[str]]:
    if before["state"] != "closed":
        raise Refused("invalid_transition", "", f"cannot reopen: the session is {before['state']}")
    return {**before, "state": "open"}, "reopened", []


# ----------------------------------------------------------------------------------------- sections 6 to 10: the fold


def order(claim: Claim) -> tuple[str, bytes]:
    return claim[0], claim[1].encode()


def digest(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(hashlib.blake2b(data, digest_size=12).digest())


def in_v1(session: Session) -> dict[str, Any]:
    return {
        **{name: session[name] for name in ("integrationId", "created", "applicationId", "profileId")},
        "coupon": session.get("couponCodes", [""])[0],
        "referral": session.get("referralCode", ""),
        "state": session["state"],
        "cartItems": session["cartItems"],
        "identifiers": session.get("identifiers", []),
        **{name: session[name] for name in ("total", "attributes", "firstSession", "updateCount")},
        "discounts": {},
        "updated": session["updated"],
    }


class Oracle:
    """Folds update records one by one; each is given with its origin, none is a stray."""

    def __init__(
        self,
        *,
        application_id: int = 1,
        unknown_fields: Literal["reject", "ignore"] = "reject",
        other_applications: Literal["reject", "skip"] = "reject",
        max_record_bytes: int = 1_048_576,
        max_snapshot_bytes: int = 1_048_576,
        cloudevents: bool = False,
        v1: bool = False,
    ) -> None:
        self.application_id = application_id
        self.unknown_fields = unknown_fields
        self.other_applications = other_applications
        self.max_record_bytes = max_record_bytes
        self.max_snapshot_bytes = max_snapshot_bytes
        self.cloudevents = cloudevents
        self.v1 = v1
        self.sessions: dict[str, Session] = {}
        self.profiles: dict[str, Claim] = {}
        """Each profile's smallest claim ever."""
        self.events: dict[str, list[tuple[str, bytes]]] = {}
        """Per session the last accepted eventIds, oldest first, with the bytes they came with as a digest."""
        self.counts = {"duplicates": 0, "skipped": 0}
        self.reasons: set[tuple[str, str]] = set()
        """The codes and pointers that the last record's rejection may name: all of its first failing row (section 10)."""
        self._origins: dict[str, str] = {}
        """Where parts of the record under way stood when it arrived, as pointers."""

    def fold(self, record: Record) -> list[Record]:
        """Apply one record and return what is published, in order."""
        self._origins, self.reasons = {}, set()
        try:
            return self._delete(record) if record["value"] is None else self._apply(record)
        except Refused as refused:
            refused.pointer = self._as_arrived(refused.pointer)
            self.reasons.add((refused.code, refused.pointer))
            return [self._rejection(record, refused)]

    def _as_arrived(self, pointer: str) -> str:
        """Return a pointer into the value as it arrived (section 2: envelopes and bare bodies)."""
        for inside, outside in self._origins.items():
            if pointer == inside or pointer.startswith(f"{inside}/"):
                return outside + pointer.removeprefix(inside)
        return pointer

    def forget(self, profile_id: str) -> None:
        """Forget a profile, as a null on `profile-claims` asks (section 9)."""
        self.profiles.pop(profile_id, None)

    def _delete(self, record: Record) -> list[Record]:
        integration_id = key_text(record["key"])
        if not integration_id:
            raise Refused("missing_integration_id", "", "must have the integrationId as its key")
        if len(integration_id) > 1000:
            raise Refused("invalid_field", "", "must have a key of at most 1000 characters")
        if integration_id not in self.sessions:
            return []
        del self.sessions[integration_id]
        self.events.pop(integration_id, None)
        headers = self._headers(record, self._sent(record), "deleted")
        return self._published(record, record["partition"], integration_id, None, headers)

    def _apply(self, record: Record) -> list[Record]:
        request = self._read(record)
        if request is None:
            self.counts["skipped"] += 1
            return []
        integration_id, dry = request["integrationId"], request["dry"]
        events = self.events.get(integration_id, [])
        event = (request["eventId"], digest(request["text"]))
        if not dry and event in events:
            self.counts["duplicates"] += 1
            return []
        if not dry and request["eventId"] in [event_id for event_id, _ in events]:
            raise Refused("event_id_reused", "/eventId", "came before, with another value", request["eventId"])

        before, after, kind, ignored = self._moved(record, request)
        after["updated"] = max(after["updated"], written(request["occurredAt"]))
        after["updateCount"] += 1
        after |= totals(after)
        claim, profile_id = (after["created"], integration_id), after["profileId"]
        smallest = self.profiles.get(profile_id, claim)
        claims = profile_id != "" and (before is None or before["profileId"] != profile_id)
        if profile_id == "":
            after["firstSession"] = True
        elif claims:
            after["firstSession"] = order(claim) <= order(smallest)
        session = {name: after[name] for name in SNAPSHOT_FIELDS if name in after}
        size = len(encoded(session).encode()) + (profile_id != "" and session["firstSession"])
        if size > self.max_snapshot_bytes:
            raise Refused("session_too_large", "", f"would make a snapshot over {self.max_snapshot_bytes} bytes")

        # Accepted.
        if dry:
            headers = self._headers(record, request["occurredAt"], f"{kind}.dry_run")
            snapshot = self._snapshot(record, record["partition"], integration_id, session, headers)
            return [{**snapshot, "topic": "session-dry-runs"}]
        self.sessions[integration_id] = session
        if request["eventId"] is not None:
            self.events[integration_id] = [*events, event][-REMEMBERED_EVENTS:]
        headers = self._headers(record, request["occurredAt"], kind, ignored, integration_id)
        published = self._published(record, record["partition"], integration_id, session, headers)
        if claims and session["firstSession"]:
            self.profiles[profile_id] = claim
            published += self._reclassified(record, request, profile_id, smallest)
        return published

    def _read(self, record: Record) -> Request | None:
        """Read a record and make every refusal that needs no state; None for one to be skipped."""
        text, event = unwrapped(record["value"], record["headers"], self.max_record_bytes, binary=self.cloudevents)
        arrived = parsed(text)
        value = whole(arrived)
        if value is not arrived:
            self._origins["/customerSession"] = ""
        key = key_text(record["key"])
        for name, field in event.items():
            if field is not None and value.get(name) is None and not (name == "integrationId" and (key or field == "")):
                value[name] = field
                if is_structured(record["headers"]):
                    self._origins[f"/{name}"] = EVENT_POINTERS[name]
        given = {name: field for name, field in value.items() if field is not None}
        integration_id = given.get("integrationId", key)
        if integration_id is None or integration_id == "":
            pointer = "" if integration_id is None or "integrationId" not in given else "/integrationId"
            raise Refused("missing_integration_id", pointer, "must be given, here or as the key")
        kind = kind_of(given)
        application_id = given.get("applicationId")
        if is_number(application_id) and application_id != self.application_id:
            if self.other_applications == "skip":
                return None
            raise Refused("wrong_application", "/applicationId", f"must be {self.application_id}", application_id)
        reader = Reader(unknown_fields=self.unknown_fields, is_timeless=record["timestamp"] < 0)
        request = reader.record(value, kind, integration_id, self._sent(record))
        if reader.notes:
            first = min(reader.notes, key=lambda note: ROW[note.code])
            row = [note for note in reader.notes if ROW[note.code] == ROW[first.code]]
            self.reasons = {(note.code, self._as_arrived(note.pointer)) for note in row}
            raise first
        return {**request, "text": text}

    def _moved(self, record: Record, request: Request) -> tuple[Session | None, Session, str, list[str]]:
        """The session before and after, the event's name, and what was ignored."""
        before = self.sessions.get(request["integrationId"])
        if request["type"] == "update":
            before = None if request["dry"] else before
            return before, *updated(before, self._new_session(record, request), request)
        if before is None:
            raise Refused("unknown_session", "", "is for a session that does not exist")
        if request["type"] == "return":
            return before, *returned(before, request["entries"])
        return before, *reopened(before)

    def _new_session(self, record: Record, request: Request) -> Session:
        created = written(request["occurredAt"])
        return {
            "id": record["partition"] * 2**40 + record["offset"] + 1,
            "created": created,
            "integrationId": request["integrationId"],
            "applicationId": self.application_id,
            "profileId": "",
            "state": "open",
            "cartItems": [],
            "attributes": {},
            "updateCount": 0,
            "updated": created,
        }

    def _reclassified(self, record: Record, request: Request, profile_id: str, displaced: Claim) -> list[Record]:
        """Publish the session that *displaced* stands for as no longer first, if there is one still."""
        created, integration_id = displaced
        session = self.sessions.get(integration_id)
        still_there = session is not None and (session["created"], session["profileId"]) == (created, profile_id)
        if session is None or not still_there or integration_id == request["integrationId"]:
            return []
        session = {**session, "firstSession": False}
        self.sessions[integration_id] = session
        headers = self._headers(record, request["occurredAt"], "reclassified", remembering=integration_id)
        return self._published(record, (session["id"] - 1) >> 40, integration_id, session, headers)

    def _published(
        self, record: Record, partition: int, key: str, session: Session | None, headers: list[tuple[str, bytes]]
    ) -> list[Record]:
        published = [self._snapshot(record, partition, key, session, headers)]
        if self.v1:
            view = None if session is None else in_v1(session)
            v1_headers = [(name, b"v1." + value if name == "ce_type" else value) for name, value in headers]
            v1_record = self._snapshot(record, partition, key, view, v1_headers)
            published.append({**v1_record, "topic": "customer-sessions-v1"})
        return published

    def _snapshot(
        self, record: Record, partition: int, key: str, value: Session | None, headers: list[tuple[str, bytes]]
    ) -> Record:
        return {
            "topic": "customer-sessions",
            "partition": partition,
            "key": key.encode(),
            "value": None if value is None else encoded(value).encode(),
            "timestamp": record["timestamp"],
            "headers": headers,
        }

    def _headers(
        self,
        record: Record,
        moment: int,
        kind: str,
        ignored: list[str] | None = None,
        remembering: str | None = None,
    ) -> list[tuple[str, bytes]]:
        """The headers of a snapshot, *remembering* the events of that session."""
        origin = f"{record.get('topic', 'session-updates')}/{record['partition']}/{record['offset']}"
        texts = {
            "ce_specversion": "1.0",
            "ce_id": f"{origin}/reclassified" if kind == "reclassified" else origin,
            "ce_source": f"/applications/{self.application_id}",
            "ce_time": written(moment),
            "content-type": "application/json",
            "ce_type": f"customersession.{kind}",
        }
        headers = [(name, text.encode()) for name, text in texts.items()]
        traces = [value for name, value in record["headers"] if name == "traceparent"]
        if traces and traces[-1] is not None and len(traces[-1]) <= MAX_TRACEPARENT_BYTES:
            headers.append(("traceparent", traces[-1]))
        if ignored:
            headers.append(("ignored-fields", ",".join(ignored).encode()))
        events = self.events.get(remembering, []) if remembering is not None else []
        if events:
            headers.append(("worker-events", b"".join(digest(name.encode()) + value for name, value in events)))
        return headers

    def _rejection(self, record: Record, refused: Refused) -> Record:
        texts = (
            refused.code,
            refused.pointer,
            str(refused),
            record.get("topic", "session-updates"),
            str(record["partition"]),
            str(record["offset"]),
            refused.code,
            str(refused),
        )
        raw = [(name, value) for name, value in record["headers"] if name not in REJECTION_HEADERS]
        reasons = [(name, text.encode()) for name, text in zip(REJECTION_HEADERS, texts, strict=True)]
        return {
            "topic": "session-rejections",
            "partition": record["partition"],
            "key": record["key"],
            "value": record["value"],
            "timestamp": record["timestamp"],
            "headers": raw + reasons,
        }

    @staticmethod
    def _sent(record: Record) -> int:
        timestamp: int = record["timestamp"]
        return min(max(timestamp, 0), LAST_MOMENT)
