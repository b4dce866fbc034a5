"""Read an update record's value: the result is a Request, or the Rejection of the first rule that fails.

The fast path is one call of msgspec from bytes to Structs, then the few rules that types cannot express. A record that
the fast path refuses is parsed again, exactly and slowly. pydantic then checks every rule to find the first that fails.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from math import inf, isinf
from operator import attrgetter
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec
from msgspec import Raw, Struct, to_builtins
from msgspec.json import Decoder, Encoder
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from worker.codec.structs import struct_of
from worker.domain.instants import HOUR_MILLISECONDS, instant, to_instant, to_the_hour
from worker.domain.limits import (
    AMOUNT_LIMIT,
    INTEGER_MAX,
    INTEGER_MIN,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT,
    MAX_UNITS,
    Rules,
)
from worker.domain.model import (
    DIMENSIONS,
    IGNORED_ITEM_FIELDS,
    IGNORED_SESSION_FIELDS,
    SESSION_FIELDS,
    BareBody,
    Cart,
    CartItem,
    Changes,
    ExperimentVariantAllocation,
    Head,
    Integer,
    Kind,
    PlainUpdateRecord,
    Request,
    ReturnedCartItem,
    Text100,
    UpdateRecord,
)
from worker.domain.money import ATTOS_IN_A_NANO, attos, nanos, rounded
from worker.domain.rejections import (
    INTEGER,
    ROW_OF,
    Rejection,
    escaped,
    expected,
    malformed,
    must_be,
    names,
    not_an_object,
    placed,
    shown,
    shown_at,
    unlike_its_type,
)

FUTURE_MILLISECONDS = HOUR_MILLISECONDS
"""Upper bound in milliseconds of occurredAt after the record's Kafka timestamp."""

Envelope = Mapping[str, tuple[Any, str]]
"""The fields of Head that an event supplies, each with its pointer in the record that arrived."""

_RECORD: TypeAdapter[Any] = TypeAdapter(UpdateRecord)
_Record: Any = struct_of(PlainUpdateRecord)
_Head: Any = struct_of(Head)
_HEAD = frozenset(_Head.__struct_fields__)
_Changes: Any = struct_of(Changes)
_CHANGES: tuple[str, ...] = _Changes.__struct_fields__
_returned = attrgetter("return")  # a keyword of Python
_decode: Callable[[bytes], Any] = Decoder(_Record).decode
_decode_known: Callable[[bytes], Any] = Decoder(struct_of(PlainUpdateRecord, forbid_unknown_fields=False)).decode
_decode_echoed: Callable[[bytes], Any] = Decoder(struct_of(UpdateRecord)).decode
_decode_bare: Callable[[bytes], Any] = Decoder(struct_of(BareBody)).decode
_decode_known_bare: Callable[[bytes], Any] = Decoder(struct_of(BareBody, forbid_unknown_fields=False)).decode
_AS_THEY_ARE: dict[str, str] = {}
_BARE = {"/customerSession": ""}
"""The places of a bare body: the pointer of customerSession is the whole value."""
_WHOLE = frozenset(("type", "customerSession", "return"))
"""The fields that a bare body cannot have."""
_ELEMENTS: dict[tuple[str, str], tuple[TypeAdapter[Any], frozenset[str]]] = {
    (outer, inner): (TypeAdapter(element), frozenset(getattr(element, "__annotations__", ())))
    for outer, inner, element in (
        ("customerSession", "cartItems", CartItem),
        ("customerSession", "couponCodes", Text100),
        ("customerSession", "evaluableCampaignIds", Integer),
        ("customerSession", "experimentVariantAllocations", ExperimentVariantAllocation),
        ("return", "returnedCartItems", ReturnedCartItem),
    )
}
"""The lists that can be long, with the type of their elements and the known fields of this type."""
_NESTED = frozenset(("product", "additionalCosts"))
"""The fields of an element that are objects with known fields."""

_KINDS = ("update", "return", "reopen")


def read(
    value: bytes | None, key: bytes | None, timestamp: int, rules: Rules, envelope: Envelope | None = None
) -> Request | Rejection:
    """Return the request in the *value* and *key* of an update record, or its rejection.

    *timestamp* is the Kafka timestamp of the record's origin in milliseconds. The *envelope* supplies fields that the
    record and the key lack.

    >>> read(b'{"customerSession": {"cartItems": []}}', b"s-1", 1795372800000, Rules()).kind
    'update'
    >>> read(b'{"customerSession": {"cartItem": []}}', b"s-1", 1795372800000, Rules()).pointer
    '/customerSession/cartItem'
    """
    if value is None:
        return _deletion(key, timestamp)
    if len(value) > rules.max_record_bytes:
        return too_large(value, rules)
    places = _AS_THEY_ARE
    try:
        if is_nested_too_deep(value):
            return _judge(value, key, timestamp, rules, envelope)
        if rules.unknown_fields == "ignore":
            value.decode()  # msgspec does not check the UTF-8 of a field that it skips
            record = _decode_known(value)
            if record.type is None and record.customerSession is None and _returned(record) is None:
                record, places = _from_bare(_decode_known_bare(value)), _BARE
        else:
            try:
                record = _decode(value)
            except msgspec.ValidationError:
                record, places = _in_another_form(value)
        if envelope:
            places = _complete(record, key, envelope, places)
        if record.occurredAt is not None:
            record.occurredAt = to_instant(record.occurredAt)
    except (msgspec.MsgspecError, ValueError):
        return _judge(value, key, timestamp, rules, envelope)
    return _settle(record, key, timestamp, rules, (value, places))


_Text = tuple[bytes, dict[str, str]]
"""An update record as it arrived: its bytes, and the pointers of fields that are in another place."""


def _must_be(text: _Text, pointer: str, rule: str, code: str = "invalid_field") -> Rejection:
    """Return the rejection of the value at *pointer*."""
    place = placed(pointer, text[1])
    return must_be(place, rule, shown_at(text[0], place), code)


def too_large(value: bytes, rules: Rules) -> Rejection:
    """Return the rejection of a value over the limit."""
    allowed = f"at most {rules.max_record_bytes} bytes (SESSION_WORKER_MAX_RECORD_BYTES)"
    return Rejection("record_too_large", "", f"The value must have {allowed}, but it has {len(value)}.")


def _deletion(key: bytes | None, timestamp: int) -> Request | Rejection:
    integration_id = text_of(key)
    if not integration_id:
        message = f"A record without a value deletes the session of its key, but its key is {_shown_key(key)}."
        return Rejection("missing_integration_id", "", message)
    if len(integration_id) > MAX_TEXT:
        return _long_identity(integration_id, {})
    return Request("delete", integration_id, instant(timestamp))


# --------------------------------------------------------------------------------------- bare bodies and envelopes


def _in_another_form(value: bytes) -> tuple[Any, dict[str, str]]:
    """Return a record with ignored fields or a bare body as an update record, and its places."""
    try:
        record = _decode_echoed(value)
    except msgspec.ValidationError:
        return _from_bare(_decode_bare(value)), _BARE
    if record.customerSession is not None:  # JSON can repeat a name, and the last value can be null
        record.customerSession = _Changes(**{name: getattr(record.customerSession, name) for name in _CHANGES})
    return record, _AS_THEY_ARE


def _from_bare(bare: Any) -> Any:
    """Return a bare body as an update record. Raise ValueError for an object that is not a bare body."""
    changes = _Changes(**{name: getattr(bare, name) for name in _CHANGES})
    if changes == _Changes():
        raise ValueError("no field of a customerSession")
    return _Record(customerSession=changes, **{name: getattr(bare, name) for name in _HEAD})


def _complete(record: Any, key: bytes | None, envelope: Envelope, places: dict[str, str]) -> dict[str, str]:
    """Write the fields that only the envelope has into *record*; return the places. Raise ValueError for a bad value."""
    missing = _missing({name: getattr(record, name) for name in _HEAD}, key, envelope)
    msgspec.convert(missing, _Head)
    for name, given in missing.items():
        setattr(record, name, given)
    return {**places, **{f"/{name}": envelope[name][1] for name in missing}}


def _missing(given: dict[str, Any], key: bytes | None, envelope: Envelope) -> dict[str, Any]:
    """Return the fields that the envelope supplies because neither the record nor its key has them."""
    return {
        name: field
        for name, (field, _place) in envelope.items()
        if given.get(name) is None and not (name == "integrationId" and text_of(key))
    }


def _in_its_place(
    document: dict[str, Any], key: bytes | None, envelope: Envelope | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return any document as an update record, and the places of the fields that moved."""
    places = {}
    body = document.get("customerSession")
    if type(body) is dict:
        document = {**document, "customerSession": _without_ignored(body)}
    elif _is_bare(document):
        body = _without_ignored({name: document[name] for name in document.keys() - _HEAD - _WHOLE})
        document = {name: field for name, field in document.items() if name in _HEAD} | {"customerSession": body}
        places = _BARE
    if envelope:
        missing = _missing(document, key, envelope)
        document = {**document, **missing}
        places = {**places, **{f"/{name}": envelope[name][1] for name in missing}}
    return document, places


def _without_ignored(session: dict[str, Any]) -> dict[str, Any]:
    return {name: field for name, field in session.items() if name not in IGNORED_SESSION_FIELDS}


def _is_bare(document: dict[str, Any]) -> bool:
    is_whole = any(document.get(name) is not None for name in _WHOLE)
    return not is_whole and any(document.get(name) is not None for name in SESSION_FIELDS)


# -------------------------------------------------------------------------------------------------- row by row


def _settle(record: Any, key: bytes | None, timestamp: int, rules: Rules, text: _Text) -> Request | Rejection:
    """Return the request of a record with correct types, or the rejection of the first rule that fails."""
    kind, integration_id = _kind(record), _identity(record, key)
    refused = _head(record, kind, integration_id, key, timestamp, rules, text)
    return refused or _body(record, kind, integration_id, timestamp, text)


def _judge(
    value: bytes, key: bytes | None, timestamp: int, rules: Rules, envelope: Envelope | None = None
) -> Request | Rejection:
    """Return the result of a record that the fast path refused, with every rule checked in order."""
    extra: Literal["forbid", "ignore"] = "ignore" if rules.unknown_fields == "ignore" else "forbid"
    parsed = parse(value)
    if isinstance(parsed, Rejection):
        return parsed
    document, places = _in_its_place(parsed, key, envelope)
    text = value, places
    try:
        record = msgspec.convert(_RECORD.validate_python(document, extra=extra), _Record)
    except ValidationError:
        record = _unchecked(document)
        head = _head(record, _kind(record), _identity(record, key), key, timestamp, rules, text)
        first = min(_findings(document, extra), key=lambda found: ROW_OF[found.code])
        return head if head and ROW_OF[head.code] <= ROW_OF[first.code] else _rejection(first, text, envelope)
    return _settle(record, key, timestamp, rules, text)


def _unchecked(document: dict[str, Any]) -> Any:
    """Return a record with the known fields of a document, whatever their types are."""
    record = _Record(**{name: document[name] for name in _Record.__struct_fields__ if name in document})
    if type(changes := record.customerSession) is dict:
        record.customerSession = _Changes(**{name: changes[name] for name in _CHANGES if name in changes})
    return record


class _Finding(NamedTuple):
    """An error of pydantic: the rejection code, the place in the contract's table, and the details of pydantic."""

    code: str
    path: tuple[str | int, ...]
    details: ErrorDetails


def _findings(document: dict[str, Any], extra: Literal["forbid", "ignore"]) -> Iterator[_Finding]:
    """Yield every error that pydantic finds in *document*.

    The types stop at the first failing element of a list. So this function validates the elements one at a time. After
    the first invalid element it validates only elements that can have an unknown field: a megabyte of invalid elements
    must not delay its partition.
    """
    shell = {**document}
    for (outer, inner), (element_type, known) in _ELEMENTS.items():
        body = shell.get(outer)
        if type(body) is not dict or type(body.get(inner)) is not list:
            continue
        shell[outer] = {**body, inner: []}
        is_invalid = False
        for index, element in enumerate(body[inner]):
            if is_invalid and (type(element) is not dict or (element.keys() <= known and _NESTED.isdisjoint(element))):
                continue
            try:
                element_type.validate_python(element, extra=extra)
            except ValidationError as error:
                for details in _details(error):
                    found = _finding(details, (outer, inner, index))
                    is_invalid |= found.code == "invalid_field"
                    yield found
    try:
        _RECORD.validate_python(shell, extra=extra)
    except ValidationError as error:
        yield from (_finding(details, ()) for details in _details(error))


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False)


# ------------------------------------------------------------------------------------ rows that types cannot say


def _head(
    record: Any, kind: str | None, integration_id: Any, key: bytes | None, timestamp: int, rules: Rules, text: _Text
) -> Rejection | None:
    """Check identity, type, application and fields that exclude each other, in the order of the rules.

    The record may be unchecked, so this function trusts no type.
    """
    if integration_id == "":
        return _no_identity(record, key)
    if kind is None:
        return _no_kind(record, text)
    changes, returned, application_id = record.customerSession, _returned(record), record.applicationId
    if application_id is not None and application_id != rules.application_id and type(application_id) in (int, float):
        rule = f"{rules.application_id}, the application of this worker (SESSION_WORKER_APPLICATION_ID)"
        return _must_be(text, "/applicationId", rule, "wrong_application")
    if changes is not None and kind != "update":
        return _must_be(text, "/customerSession", f"omitted in a {kind}", "ambiguous_field")
    if returned is not None and kind != "return":
        return _must_be(text, "/return", f"omitted in a record of type {kind}", "ambiguous_field")
    if kind == "update":
        if changes is None:
            return Rejection("invalid_field", "/customerSession", _NEEDED.format("An update", "customerSession"))
        for old, new in _V1_NAMES if isinstance(changes, Struct) else ():
            if getattr(changes, old) is not None and getattr(changes, new) is not None:
                rule = f"omitted if {new} is present, because it is the v1 name of {new}"
                return _must_be(text, f"/customerSession/{old}", rule, "ambiguous_field")
    elif kind == "return" and returned is None:
        return Rejection("invalid_field", "/return", _NEEDED.format("A return", "return"))
    if record.occurredAt is None and timestamp < 0:
        needed = f"a time, because the record's Kafka timestamp {timestamp} is not a valid time"
        return must_be(placed("/occurredAt", text[1]), needed, "null")
    is_too_long = type(integration_id) is str and len(integration_id) > MAX_TEXT
    return _long_identity(integration_id, text[1]) if is_too_long else None


_NEEDED = "{} must have an object {}, but the field is missing or null."


def _no_identity(record: Any, key: bytes | None) -> Rejection:
    if record.integrationId is None:
        message = (
            f"A record needs an integrationId or a key, but integrationId is missing and the key is {_shown_key(key)}."
        )
        return Rejection("missing_integration_id", "", message)
    return must_be("/integrationId", "a string of 1 to 1000 characters", '""', "missing_integration_id")


def _shown_key(key: bytes | None) -> str:
    """Return a key that names no session, for a message."""
    return "null" if key is None else f"not UTF-8 (0x{key[:40].hex()})" if key else '""'


def _no_kind(record: Any, text: _Text) -> Rejection:
    if record.type is not None:
        return _must_be(text, "/type", '"update", "return" or "reopen"', "unknown_type")
    has = shown(names(text[0]))
    if record.customerSession is not None:
        message = f"A record with customerSession and return must have a type, but its fields are {has}."
    else:
        needs = "a type, a customerSession, a return, or fields of a session such as cartItems"
        message = f"A record must have {needs}, but its fields are {has}."
    return Rejection("unknown_type", "/type", message)


_V1_NAMES = (("coupon", "couponCodes"), ("referral", "referralCode"))


def _body(record: Any, kind: Kind | None, integration_id: str, timestamp: int, text: _Text) -> Request | Rejection:
    """Return the request after checks of numbers, counts, time and return entries, in the order of the rules."""
    changes: dict[str, Any] = {}
    asked = record.customerSession
    cart = cost_total = None
    if asked is not None:
        items, costs, attributes = asked.cartItems, asked.additionalCosts, asked.attributes
        units = 0
        if items is not None:
            cart, units, unfit = _read_cart(items)
            if unfit:
                return _must_be(text, unfit, _FIT, "number_out_of_range")
        if costs is not None:
            asked.additionalCosts = costs = costs or {}
            cost_total = rounded(*_read_costs(costs))
        if attributes:
            if unfit := _fit(attributes, "/customerSession/attributes"):
                return _must_be(text, unfit, _FIT, "number_out_of_range")
        elif attributes is not None:
            asked.attributes = {}
        if units > MAX_ITEMS and (refused := _judge_counts(len(items), units, text)):  # each item has at least one unit
            return refused
        asked.cartItems = None
        changes = to_builtins(asked)
    occurred_at = record.occurredAt
    if occurred_at is None:
        occurred_at = instant(timestamp)
    elif (
        occurred_at > to_the_hour((timestamp + FUTURE_MILLISECONDS) // HOUR_MILLISECONDS)
        and occurred_at > instant(timestamp + FUTURE_MILLISECONDS)
        and timestamp >= 0
    ):
        rule = f"at most one hour after the record's Kafka timestamp {instant(timestamp)}"
        return must_be(placed("/occurredAt", text[1]), rule, shown(occurred_at), "occurred_in_future")
    returned: Sequence[ReturnedCartItem] = ()
    if kind != "update":
        entries = _read_entries(record, text)
        if isinstance(entries, Rejection):
            return entries
        returned = entries
    event_id, dry, places = record.eventId, record.dry or False, text[1]
    return Request(
        kind or "update", integration_id, occurred_at, event_id, dry, changes, cart, cost_total, returned, places
    )


def _judge_counts(items: int, units: int, text: _Text) -> Rejection | None:
    where = placed("/customerSession/cartItems", text[1])
    if items > MAX_ITEMS:
        return Rejection("too_many_items", where, f"A cart must have at most {MAX_ITEMS} items, but it has {items}.")
    if units > MAX_UNITS:
        message = f"The quantities of a cart must add up to at most {MAX_UNITS}, but they add up to {units}."
        return Rejection("too_many_units", where, message)
    return None


def _read_entries(record: Any, text: _Text) -> Sequence[ReturnedCartItem] | Rejection:
    """Return the entries of a return; a reopen has no entries."""
    returned, where = _returned(record), "/return/returnedCartItems"
    if returned is None:
        return _must_be(text, "/dry", "false or omitted in a reopen", "dry_not_supported") if record.dry else ()
    entries: Sequence[ReturnedCartItem] = to_builtins(returned.returnedCartItems)
    if not entries:
        return _must_be(text, where, "an array of at least one entry", "empty_return")
    for index, entry in enumerate(entries):
        by_position, by_sku = "position" in entry, "sku" in entry
        if by_position and by_sku:
            return _must_be(text, f"{where}/{index}", "an object with a position or a sku, not both", "ambiguous_item")
        if not by_position and not by_sku:
            return _must_be(text, f"{where}/{index}", "an object with a position or a sku", "missing_item")
    return entries


# ------------------------------------------------------------------------------------------------- money in carts


def _read_cart(items: list[Any]) -> tuple[Cart, int, str]:
    """Return the cart of valid *items*, the sum of their units, and the pointer of the first unfit number."""
    item_total = item_costs = units = fine_total = fine_costs = 0
    for position, item in enumerate(items):
        quantity: int = item.quantity
        price: float = item.price
        units += quantity
        item.returnedQuantity = 0
        item.remainingQuantity = quantity
        item.position = position
        scaled = round(price * 1e9)
        if -1e6 < price < 1e6 and scaled / 1e9 == price:  # like nanos(), without the call
            if not scaled:
                item.price = 0.0
        else:
            scaled, fine = divmod(attos(price), ATTOS_IN_A_NANO)
            fine_total += fine * quantity
        item_total += scaled * quantity
        if not (
            item.product is item.weight is item.height is item.width is item.length is item.attributes
            is item.additionalCosts is item.catalogItemID is item.selectedPriceType is item.adjustmentReferenceId
            is item.adjustmentEffectiveFrom is item.adjustmentEffectiveUntil is item.prices is None
        ):  # fmt: skip
            if unfit := _read_rare(item):
                return _NO_CART, 0, f"/customerSession/cartItems/{position}{unfit}"
            if item.additionalCosts is not None:
                costs, fine = _read_costs(item.additionalCosts)
                item_costs += costs * quantity
                fine_costs += fine * quantity
    if fine_total or fine_costs:
        item_total, item_costs = rounded(item_total, fine_total), rounded(item_costs, fine_costs)
    return Cart(Raw(_encode(items)), item_total, item_costs), units, ""


_NO_CART = Cart(Raw(b"[]"), 0, 0)
_encode = Encoder().encode


def _read_rare(item: Any) -> str:
    """Convert the rare fields of an *item* to the snapshot's form in place; return the pointer of an unfit number."""
    for name in IGNORED_ITEM_FIELDS:
        setattr(item, name, None)
    for name in DIMENSIONS:
        if (size := getattr(item, name)) is not None:
            setattr(item, name, size + 0.0)
    if item.additionalCosts is not None:
        item.additionalCosts = item.additionalCosts or {}
    if item.attributes is None:
        return ""
    item.attributes = item.attributes or {}
    return _fit(item.attributes, "/attributes")


def _read_costs(costs: dict[str, Any]) -> tuple[int, int]:
    """Return the sum of additional costs as arguments of `rounded`; replace each negative zero in place."""
    total = fine_total = 0
    for cost in costs.values():
        scaled = nanos(cost.price)
        if scaled is None:
            scaled, fine = divmod(attos(cost.price), ATTOS_IN_A_NANO)
            fine_total += fine
        cost.price += 0.0
        total += scaled
    return total, fine_total


def _fit(values: Any, where: str) -> str:
    """Convert the numbers in *values* to the stored form in place.

    Return the pointer of the first number that neither 64 bits nor a double can hold; empty if all fit.
    """
    for name, inner in values.items() if type(values) is dict else enumerate(values):
        kind = type(inner)
        if kind in _ALWAYS_FIT:
            continue
        if kind is dict or kind is list:
            if unfit := _fit(inner, f"{where}/{escaped(name)}"):
                return unfit
        elif kind is float:
            if isinf(inner):
                return f"{where}/{escaped(name)}"
        elif not INTEGER_MIN <= inner <= INTEGER_MAX:
            if not _is_kept_by_a_double(inner):
                return f"{where}/{escaped(name)}"
            values[name] = float(inner)
    return ""


_ALWAYS_FIT = frozenset((str, bool, type(None)))
_FIT = (
    f"a number that a double can hold; if it is an integer, {INTEGER} or an integer of which a double keeps all digits"
)


def _is_kept_by_a_double(number: int) -> bool:
    """Return True if the shortest decimal of the double nearest to *number* has its value.

    >>> _is_kept_by_a_double(10**19), _is_kept_by_a_double(12345678901234567890), _is_kept_by_a_double(10**400)
    (True, False, False)
    """
    try:
        return int(Decimal(repr(float(number)))) == number
    except OverflowError:
        return False


# -------------------------------------------------------------------------------------------------- exact parsing

_PAIRS = re.compile(r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_LONE = re.compile(r"\\u[dD][89a-fA-F]")
_TO_BRACES = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse(value: bytes, max_depth: int = MAX_DEPTH) -> dict[str, Any] | Rejection:
    """Return the JSON object in *value*, with integers of any length, or its rejection."""
    if not value:
        return malformed("it is empty", value)
    if is_nested_too_deep(value, max_depth):
        return malformed(f"it nests more than {MAX_DEPTH} levels deep, or is truncated", value)
    try:
        text = value.decode()
        if _LONE.search(_PAIRS.sub("", text)):
            return malformed("a string in the value has a lone surrogate", value)
        document = json.loads(text, parse_constant=_no_constant, parse_int=_whole)
    except UnicodeDecodeError as error:
        return malformed(f"byte {error.start + 1} (0x{value[error.start]:02x}) is not UTF-8", value)
    except json.JSONDecodeError as error:
        return malformed(_json_error(text, error), value)
    except ValueError as error:
        return malformed(str(error), value)
    return document if type(document) is dict else not_an_object(value)


def _json_error(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return "it is truncated"
    return "it begins with a byte order mark" if text[0] == "\ufeff" else f"character {error.pos + 1} is not valid JSON"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _whole(digits: str) -> int | float:
    """Return an integer; infinity for an integer that no double can hold, because only "out of range" matters."""
    if len(digits) < _FEW_DIGITS:
        return int(digits)
    number = float(digits)
    return number if isinf(number) else int(digits)


_FEW_DIGITS = 300
"""Number of digits from which a double may not hold an integer."""


def is_nested_too_deep(value: bytes, max_depth: int = MAX_DEPTH) -> bool:
    """Return True if a JSON document nests deeper than allowed; undefined for any other text."""
    if value.count(b"{") + value.count(b"[") <= max_depth:
        return False
    without_escapes = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(without_escapes.split(b'"')[::2]).translate(_TO_BRACES, _NO_BRACKETS)
    for _level in range(max_depth):
        brackets = brackets.replace(b"{}", b"")  # removes the innermost level
    return bool(brackets)


# ------------------------------------------------------------------------------------------------- small questions


def _finding(details: ErrorDetails, where: tuple[str | int, ...]) -> _Finding:
    """Return the code and the place of an error of pydantic in the part of the record at *where*."""
    path, given = where + details["loc"], details["input"]
    error, last = details["type"], path[-1]
    if path == ("type",):
        code = "unknown_type"
    elif error == "extra_forbidden":
        code = "unknown_field"
    elif last == "price" and (error == "missing" or (error == "float_type" and given is None)):
        code = "missing_price"
    elif error in _NUMBER_ERRORS and _is_out_of_range(given, last):
        code = "number_out_of_range"
    else:
        code = "invalid_field"
    return _Finding(code, path, details)


def _rejection(found: _Finding, text: _Text, envelope: Envelope | None) -> Rejection:
    """Return the rejection of a finding, with the offending value."""
    code, path, details = found
    pointer = "".join(f"/{escaped(name)}" for name in path)
    place = placed(pointer, text[1])
    if envelope and pointer[1:] in envelope and pointer in text[1]:
        return must_be(place, expected(details, code, str(path[-1])), shown(details["input"]))
    return unlike_its_type(details, code, path, place, text[0])


_NUMBER_ERRORS = {"integer", "finite_number", "greater_than", "less_than", "greater_than_equal", "less_than_equal"}
_NEVER_NEGATIVE = {"quantity", "position", *DIMENSIONS}


def _is_out_of_range(given: object, name: int | str) -> bool:
    """Return True if an invalid number is outside the range of the contract's numbers."""
    if type(given) not in (int, float) or not isinstance(given, int | float):
        return False
    if given < 0 and name in _NEVER_NEGATIVE:
        return False
    if name == "price" or name in DIMENSIONS:
        return abs(given) >= AMOUNT_LIMIT
    return given in (inf, -inf) or (int(given) == given and not INTEGER_MIN <= given <= INTEGER_MAX)


def _kind(record: Any) -> Kind | None:
    """Return an update record's type, from the field `type` or from the other fields; None if it is ambiguous."""
    kind: Kind | None = record.type
    if kind is None:
        changes, returned = record.customerSession, _returned(record)
        if (changes is None) == (returned is None):
            return None
        return "update" if returned is None else "return"
    return kind if kind in _KINDS else None


def _identity(record: Any, key: bytes | None) -> Any:
    """Return the integrationId of the record, or its key; empty if it has neither."""
    return text_of(key) if record.integrationId is None else record.integrationId


def _long_identity(integration_id: str, places: dict[str, str]) -> Rejection:
    return must_be(placed("/integrationId", places), "a string of at most 1000 characters", shown(integration_id))


def text_of(key: bytes | None) -> str:
    """Return a key as text; empty if it names no session."""
    try:
        return key.decode() if key else ""
    except UnicodeDecodeError:
        return ""
