"""Reads an update record's value: a Request, or the Rejection of the first failing row.

The good path is one call of msgspec from bytes to Structs, then the few rules that types cannot say. What that does not
take is parsed a second time, exactly and slowly, and pydantic judges every rule, so that the first failing row is found.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from math import inf, isinf
from operator import attrgetter
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import Raw, Struct, to_builtins
from msgspec.json import Decoder, Encoder
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from worker.domain.model import (
    AMOUNT_LIMIT,
    DIMENSIONS,
    HOUR_MILLISECONDS,
    IGNORED_ITEM_FIELDS,
    INTEGER_MAX,
    INTEGER_MIN,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_UNITS,
    ROW_OF,
    Cart,
    CartItem,
    CustomerSession,
    ExperimentVariantAllocation,
    Integer,
    Kind,
    Rejection,
    Request,
    ReturnedCartItem,
    Rules,
    Text100,
    UpdateRecord,
    instant,
    to_instant,
    to_the_hour,
)
from worker.domain.money import nanos
from worker.domain.structs import struct_of

FUTURE_MILLISECONDS = HOUR_MILLISECONDS
"""How far occurredAt may lie after the record's Kafka timestamp."""

_RECORD: TypeAdapter[Any] = TypeAdapter(UpdateRecord)
_Record: Any = struct_of(UpdateRecord)
_Changes: Any = struct_of(CustomerSession)
_CHANGES: tuple[str, ...] = _Changes.__struct_fields__
_returned = attrgetter("return")  # a keyword of Python
_decode: Callable[[bytes], Any] = Decoder(_Record).decode
_decode_known: Callable[[bytes], Any] = Decoder(struct_of(UpdateRecord, forbid_unknown_fields=False)).decode
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
"""The lists that may be long, with the type of their elements and the fields that it knows."""
_NESTED = frozenset(("product", "additionalCosts"))
"""The fields of an element that are objects with known fields themselves."""

_KINDS = ("update", "return", "reopen")


def read(value: bytes | None, key: bytes | None, timestamp: int, rules: Rules) -> Request | Rejection:
    """Read the *value* and *key* of an update record whose Kafka timestamp (its origin's) is *timestamp* milliseconds.

    >>> read(b'{"customerSession": {"cartItems": []}}', b"s-1", 1795372800000, Rules()).kind
    'update'
    >>> read(b'{"customerSession": {"cartItem": []}}', b"s-1", 1795372800000, Rules()).pointer
    '/customerSession/cartItem'
    """
    if value is None:
        return _deletion(key, timestamp)
    if len(value) > rules.max_record_bytes:
        return too_large(value, rules)
    try:
        if _is_nested_too_deep(value):
            return _judge(value, key, timestamp, rules)
        if rules.unknown_fields == "ignore":
            value.decode()  # where a field is passed over, nobody looks whether it is UTF-8
            record = _decode_known(value)
        else:
            record = _decode(value)
        if record.occurredAt is not None:
            record.occurredAt = to_instant(record.occurredAt)
    except (msgspec.MsgspecError, ValueError):
        return _judge(value, key, timestamp, rules)
    return _settle(record, key, timestamp, rules)


def too_large(value: bytes, rules: Rules) -> Rejection:
    """Refuse a value over the limit."""
    message = f"The value has {len(value)} bytes, more than the {rules.max_record_bytes} allowed."
    return Rejection("record_too_large", "", message)


def _deletion(key: bytes | None, timestamp: int) -> Request | Rejection:
    integration_id = _text(key)
    if not integration_id:
        return Rejection("missing_integration_id", "", "A tombstone needs the session's integrationId as its key.")
    if len(integration_id) > 1000:
        return _long_identity()
    return Request("delete", integration_id, instant(timestamp))


def _settle(record: Any, key: bytes | None, timestamp: int, rules: Rules) -> Request | Rejection:
    """Judge the rest of a record whose types are right."""
    kind, integration_id = _kind(record), _identity(record, key)
    return _head(record, kind, integration_id, rules) or _body(record, kind, integration_id, timestamp)


def _judge(value: bytes, key: bytes | None, timestamp: int, rules: Rules) -> Request | Rejection:
    """Read a doubtful record again, every rule in its row."""
    extra: Literal["forbid", "ignore"] = "ignore" if rules.unknown_fields == "ignore" else "forbid"
    document = _parse(value)
    if isinstance(document, Rejection):
        return document
    try:
        record = msgspec.convert(_RECORD.validate_python(document, extra=extra), _Record)
    except ValidationError:
        record = _unchecked(document)
        head = _head(record, _kind(record), _identity(record, key), rules)
        findings = [head, *_findings(document, extra)] if head else _findings(document, extra)
        return min(findings, key=lambda found: ROW_OF[found.code])
    return _settle(record, key, timestamp, rules)


def _unchecked(document: dict[str, Any]) -> Any:
    """Put the known fields of a document where those of a record are, whatever they hold."""
    record = _Record(**{name: document[name] for name in _Record.__struct_fields__ if name in document})
    if type(changes := record.customerSession) is dict:
        record.customerSession = _Changes(**{name: changes[name] for name in _CHANGES if name in changes})
    return record


def _findings(document: dict[str, Any], extra: Literal["forbid", "ignore"]) -> Iterator[Rejection]:
    """Find everything that pydantic holds against *document*.

    The types stop at a list's first failing element. Here the elements are judged one at a time, and once one of them
    is invalid, only those that may have an unknown field: a megabyte of broken ones must not hold up its partition.
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
    return error.errors(include_url=False, include_context=False)


# ------------------------------------------------------------------------------------ rows that types cannot say


def _head(record: Any, kind: str | None, integration_id: Any, rules: Rules) -> Rejection | None:
    """Judge identity, type, application and fields that exclude each other, in the order of their rows.

    The record may be an unchecked one, so nothing here trusts a type.
    """
    if integration_id == "":
        pointer = "/integrationId" if record.integrationId == "" else ""
        message = "integrationId is empty, or left out with a key that is null, empty or not UTF-8."
        return Rejection("missing_integration_id", pointer, message)
    if kind is None:
        message = f"type is {_cut(record.type)}: neither update, return nor reopen, nor do the fields tell it."
        return Rejection("unknown_type", "/type", message)
    changes, returned, application_id = record.customerSession, _returned(record), record.applicationId
    if application_id is not None and application_id != rules.application_id and type(application_id) in (int, float):
        message = f"applicationId is {_cut(application_id)}, this worker's is {rules.application_id}."
        return Rejection("wrong_application", "/applicationId", message)
    if changes is not None and kind != "update":
        return Rejection("ambiguous_field", "/customerSession", f"A {kind} takes no customerSession.")
    if returned is not None and kind != "return":
        return Rejection("ambiguous_field", "/return", f"A record of type {kind} takes no return.")
    if kind == "update":
        if changes is None:
            return Rejection("invalid_field", "/customerSession", "An update needs a customerSession.")
        for old, new in _V1_NAMES if isinstance(changes, Struct) else ():
            if getattr(changes, old) is not None and getattr(changes, new) is not None:
                message = f"{old} is the v1 name of {new}: give one of them."
                return Rejection("ambiguous_field", f"/customerSession/{old}", message)
    elif kind == "return" and returned is None:
        return Rejection("invalid_field", "/return", "A return needs a return with its returnedCartItems.")
    return _long_identity() if type(integration_id) is str and len(integration_id) > 1000 else None


_V1_NAMES = (("coupon", "couponCodes"), ("referral", "referralCode"))


def _body(record: Any, kind: Kind | None, integration_id: str, timestamp: int) -> Request | Rejection:
    """Judge numbers, counts, time and the entries of a return, in the order of their rows, and make the request."""
    changes: dict[str, Any] = {}
    asked = record.customerSession
    cart = cost_total = None
    if asked is not None:
        items, costs, attributes = asked.cartItems, asked.additionalCosts, asked.attributes
        units = 0
        if items is not None:
            cart, units, unfit = _read_cart(items)
            if unfit:
                return _out_of_range(unfit)
        if costs is not None:
            cost_total, unfit = _read_costs(costs, "/customerSession/additionalCosts")
            if unfit:
                return _out_of_range(unfit)
        if attributes and (unfit := _unfit(attributes, "/customerSession/attributes")):
            return _out_of_range(unfit)
        if units > MAX_ITEMS and (refused := _judge_counts(len(items), units)):  # no item has less than one unit
            return refused
        asked.cartItems = None
        changes = to_builtins(asked)
    occurred_at = record.occurredAt
    if occurred_at is None:
        occurred_at = instant(timestamp)
    elif occurred_at > to_the_hour((timestamp + FUTURE_MILLISECONDS) // HOUR_MILLISECONDS) and occurred_at > instant(
        timestamp + FUTURE_MILLISECONDS
    ):
        message = f"occurredAt is {occurred_at}, over an hour after the record's own {instant(timestamp)}."
        return Rejection("occurred_in_future", "/occurredAt", message)
    dry = record.dry or False
    if dry and kind == "reopen":
        return Rejection("dry_not_supported", "/dry", "A reopen cannot be tried dry.")
    returned: Sequence[ReturnedCartItem] = ()
    if kind == "return":
        returned = to_builtins(_returned(record).returnedCartItems)
        if refused := _judge_entries(returned):
            return refused
    return Request(
        kind or "update", integration_id, occurred_at, record.eventId, dry, changes, cart, cost_total, returned
    )


def _judge_counts(items: int, units: int) -> Rejection | None:
    if items > MAX_ITEMS:
        message = f"The cart has {items} items, more than {MAX_ITEMS}."
        return Rejection("too_many_items", "/customerSession/cartItems", message)
    if units > MAX_UNITS:
        message = f"The quantities add up to {units}, more than {MAX_UNITS}."
        return Rejection("too_many_units", "/customerSession/cartItems", message)
    return None


def _judge_entries(entries: Sequence[ReturnedCartItem]) -> Rejection | None:
    where = "/return/returnedCartItems"
    if not entries:
        return Rejection("empty_return", where, "A return needs at least one entry.")
    for index, entry in enumerate(entries):
        by_position, by_sku = "position" in entry, "sku" in entry
        if by_position and by_sku:
            return Rejection("ambiguous_item", f"{where}/{index}", "The entry names a position and a sku: give one.")
        if not by_position and not by_sku:
            return Rejection("missing_item", f"{where}/{index}", "The entry names neither a position nor a sku.")
    return None


# ------------------------------------------------------------------------------------------------- money in carts


def _read_cart(items: list[Any]) -> tuple[Cart, int, str]:
    """Write valid *items* as a snapshot does; also give their units, and where an unfit number is."""
    item_total = item_costs = units = 0
    for position, item in enumerate(items):
        quantity: int = item.quantity
        price: float = item.price
        units += quantity
        item.returnedQuantity = 0
        item.remainingQuantity = quantity
        item.position = position
        scaled = round(price * 1e9)
        if not (-1e6 < price < 1e6 and scaled / 1e9 == price):  # as nanos() has it, without the call
            exact = nanos(price)
            if exact is None:
                return _NO_CART, 0, f"/customerSession/cartItems/{position}/price"
            scaled = exact
        if not scaled:
            item.price = 0.0
        item_total += scaled * quantity
        if not (
            item.product is item.weight is item.height is item.width is item.length is item.attributes
            is item.additionalCosts is item.catalogItemID is item.selectedPriceType is item.adjustmentReferenceId
            is item.adjustmentEffectiveFrom is item.adjustmentEffectiveUntil is item.prices is None
        ):  # fmt: skip
            costs, unfit = _read_rare(item)
            if unfit:
                return _NO_CART, 0, f"/customerSession/cartItems/{position}{unfit}"
            item_costs += costs * quantity
    return Cart(Raw(_encode(items)), item_total, item_costs), units, ""


_NO_CART = Cart(Raw(b"[]"), 0, 0)
_encode = Encoder().encode


def _read_rare(item: Any) -> tuple[int, str]:
    """Drop the ignored fields of an *item*, in place; give its additional costs and where an unfit number is."""
    for name in IGNORED_ITEM_FIELDS:
        setattr(item, name, None)
    for name in DIMENSIONS:
        if (size := getattr(item, name)) is not None:
            if nanos(size) is None:
                return 0, f"/{name}"
            setattr(item, name, size + 0.0)
    if item.attributes is not None and (unfit := _unfit(item.attributes, "/attributes")):
        return 0, unfit
    return (0, "") if item.additionalCosts is None else _read_costs(item.additionalCosts, "/additionalCosts")


def _read_costs(costs: dict[str, Any], where: str) -> tuple[int, str]:
    """Add up additional costs, in billionths, and write them without a negative zero, in place."""
    total = 0
    for name, cost in costs.items():
        scaled = nanos(cost.price)
        if scaled is None:
            return 0, f"{where}/{_escaped(name)}/price"
        cost.price += 0.0
        total += scaled
    return total, ""


def _unfit(value: Any, where: str) -> str:
    """Point to the first number below *value* that neither 64 bits nor a double can hold; empty when there is none."""
    for name, inner in value.items() if type(value) is dict else enumerate(value):
        kind = type(inner)
        if kind in _ALWAYS_FIT:
            continue
        if kind is dict or kind is list:
            if unfit := _unfit(inner, f"{where}/{_escaped(name)}"):
                return unfit
        elif isinf(inner) if kind is float else not INTEGER_MIN <= inner <= INTEGER_MAX:
            return f"{where}/{_escaped(name)}"
    return ""


_ALWAYS_FIT = frozenset((str, bool, type(None)))


def _out_of_range(pointer: str) -> Rejection:
    message = "The number has more digits or a greater magnitude than totals can carry exactly."
    return Rejection("number_out_of_range", pointer, message)


# -------------------------------------------------------------------------------------------------- exact parsing

_PAIRS = re.compile(r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_LONE = re.compile(r"\\u[dD][89a-fA-F]")
_TO_BRACES = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _parse(value: bytes) -> dict[str, Any] | Rejection:
    """Parse JSON as the contract understands it, integers of any length and all."""
    try:
        if _is_nested_too_deep(value):
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        text = value.decode()
        if _LONE.search(_PAIRS.sub("", text)):
            raise ValueError("a string holds a lone surrogate")
        document = json.loads(text, parse_constant=_no_constant, parse_int=_whole)
    except UnicodeDecodeError as error:
        return Rejection("malformed_json", "", f"The value is not UTF-8: byte {error.start} is wrong.")
    except ValueError as error:
        return Rejection("malformed_json", "", f"The value is not a JSON document: {error}.")
    if type(document) is not dict:
        return Rejection("malformed_json", "", f"The value is not a JSON object: {_cut(document)}.")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int | float:
    """Read an integer; one of hundreds of digits is infinite, since only its being out of range matters."""
    return int(digits) if len(digits) < 300 else inf


def _is_nested_too_deep(value: bytes) -> bool:
    """Tell whether a JSON document is nested deeper than allowed; for anything else the answer means nothing."""
    if value.count(b"{") + value.count(b"[") <= MAX_DEPTH:
        return False
    without_escapes = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(without_escapes.split(b'"')[::2]).translate(_TO_BRACES, _NO_BRACKETS)
    for _level in range(MAX_DEPTH):
        brackets = brackets.replace(b"{}", b"")  # takes the innermost level off
    return bool(brackets)


# ------------------------------------------------------------------------------------------------- small questions


def _finding(details: ErrorDetails, where: tuple[str | int, ...]) -> Rejection:
    """Name the code and the place of what pydantic found in the part of the record at *where*."""
    names, given = where + details["loc"], details["input"]
    pointer = "".join(f"/{_escaped(name)}" for name in names)
    error, last = details["type"], names[-1]
    if names == ("type",):
        code = "unknown_type"
    elif error == "extra_forbidden":
        code = "unknown_field"
    elif last == "price" and (error == "missing" or (error == "float_type" and given is None)):
        code = "missing_price"
    elif error in _NUMBER_ERRORS and _is_out_of_range(given, last):
        code = "number_out_of_range"
    else:
        code = "invalid_field"
    what = "is missing" if error == "missing" else f"is {_cut(given)}"
    return Rejection(code, pointer, f"{pointer[-100:]} {what}: {details['msg']}.")


_NUMBER_ERRORS = {"integer", "finite_number", "greater_than", "less_than", "greater_than_equal", "less_than_equal"}
_NEVER_NEGATIVE = {"quantity", "position", *DIMENSIONS}


def _is_out_of_range(given: object, name: int | str) -> bool:
    """Tell whether a number that failed is one that the contract's numbers cannot hold, however it is meant."""
    if type(given) not in (int, float) or not isinstance(given, int | float):
        return False
    if given < 0 and name in _NEVER_NEGATIVE:
        return False
    if name == "price" or name in DIMENSIONS:
        return abs(given) >= AMOUNT_LIMIT
    return isinf(given) or (int(given) == given and not INTEGER_MIN <= given <= INTEGER_MAX)


def _kind(record: Any) -> Kind | None:
    """Tell an update record's type, from its field or from what else it has; None when nothing tells it."""
    kind: Kind | None = record.type
    if kind is None:
        changes, returned = record.customerSession, _returned(record)
        if (changes is None) == (returned is None):
            return None
        return "update" if returned is None else "return"
    return kind if kind in _KINDS else None


def _identity(record: Any, key: bytes | None) -> Any:
    """Give the integrationId: the record's own, or its key; empty when there is none."""
    return _text(key) if record.integrationId is None else record.integrationId


def _long_identity() -> Rejection:
    return Rejection("invalid_field", "/integrationId", "The integrationId, or the key in its place, is too long.")


def _text(key: bytes | None) -> str:
    try:
        return key.decode() if key else ""
    except UnicodeDecodeError:
        return ""


def _escaped(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")


def _cut(value: object) -> str:
    """Show an offending value in at most 100 characters."""
    return repr(value)[:100]
