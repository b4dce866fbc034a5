"""The rejection codes in the order in which the rules are checked, and the rejection messages.

A message states the rule and shows the offending value as JSON. It uses the words of JSON and of the contract, and
contains no text of a library.
"""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from msgspec import Raw
from msgspec.json import decode, format  # noqa: A004
from pydantic_core import ErrorDetails

from worker.domain.limits import AMOUNT_LIMIT, INTEGER_MIN
from worker.domain.model import (
    AdditionalCost,
    BareBody,
    CartItem,
    CustomerSession,
    ExperimentVariantAllocation,
    Product,
    Return,
    ReturnedCartItem,
    UpdateRecord,
)

ROWS: tuple[tuple[str, ...], ...] = (
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
"""Every rejection code, one row for each rule, in the order of the checks. The first rule that fails sets the code."""
ROW_OF = {code: row for row, codes in enumerate(ROWS) for code in codes}


class Rejection(NamedTuple):
    """The reason why an update record is refused: an expected result, so a value and not an exception.

    *pointer* is a JSON Pointer (RFC 6901) into the record's value, empty for the whole value.
    """

    code: str
    pointer: str
    message: str


_MAX_SHOWN = 100
"""Upper bound in characters of a value, or of a pointer, in a message."""
_MAX_COMPARED = 50
"""Upper bound in characters of an unknown field's name for which a message suggests a similar name."""

INTEGER = "an integer of 64 bits (-2^63 to 2^63-1)"
OBJECT = "The value must be one JSON object in UTF-8"
_TIME = 'a time like "2026-11-22T10:00:00Z": RFC 3339 with an offset, in the years 1970 to 9999 in UTC'
_STATES = '"open", "closed" or "cancelled"'
_REQUIRED = {
    "sku": "a string of at least 1 character",
    "quantity": "an integer of at least 1",
    "price": "a number",
    "name": "a string",
    "experimentID": "an integer",
    "variantID": "an integer",
    "returnedCartItems": "an array of objects",
}
"""The rule of each required field, by the field's name."""
_OBJECTS: dict[str, Any] = {
    "customerSession": CustomerSession,
    "return": Return,
    "product": Product,
    "cartItems": CartItem,
    "experimentVariantAllocations": ExperimentVariantAllocation,
    "returnedCartItems": ReturnedCartItem,
}
"""The types of objects with known fields, by the name of the field that holds the object or an array of it."""


# ------------------------------------------------------------------------------------------------ pointers and values


def escaped(name: object) -> str:
    """Return a name as a reference token of a JSON Pointer (RFC 6901)."""
    return str(name).replace("~", "~0").replace("/", "~1")


def placed(pointer: str, places: dict[str, str]) -> str:
    """Return *pointer* as a pointer into the record that arrived, by the *places* of a Request.

    >>> placed("/customerSession/cartItems/0", {"/customerSession": ""}), placed("/eventId", {"/eventId": "/id"})
    ('/cartItems/0', '/id')
    """
    for old, new in places.items():
        if pointer == old or pointer.startswith(f"{old}/"):
            return new + pointer[len(old) :]
    return pointer


def shown(value: Any) -> str:
    """Return a value as JSON, cut to 100 characters.

    >>> shown("Größe"), shown(None), shown({"a": True})
    ('"Größe"', 'null', '{"a":true}')
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))[:_MAX_SHOWN]
    except ValueError:
        return "a number that no double can hold"


def shown_text(text: bytes) -> str:
    """Return arbitrary bytes as a JSON string, cut to 100 characters."""
    return shown(text[: 4 * _MAX_SHOWN].decode(errors="replace"))


def shown_at(value: bytes, pointer: str) -> str:
    """Return the text at *pointer* in the JSON object *value*, cut to 100 characters.

    Only this text has all the digits of a number that no double can hold.

    >>> shown_at(b'{"a": [1, 1e400]}', "/a/1"), shown_at(b'{"a": [1, 2]}', "/a")
    ('1e400', '[1,2]')
    """
    text: Any = value
    for name in pointer.split("/")[1:]:
        if text.lstrip().startswith(b"["):
            text = bytes(decode(text, type=list[Raw])[int(name)])
        else:
            text = bytes(decode(text, type=dict[str, Raw])[name.replace("~1", "/").replace("~0", "~")])
    text = format(text, indent=-1)
    return shown(json.loads(text)) if b"\\" in text else text.decode()[:_MAX_SHOWN]


def names(value: bytes) -> list[str]:
    """Return the names of the fields of the JSON object *value*."""
    return list(decode(value, type=dict[str, Raw]))


# ------------------------------------------------------------------------------------------------------------ messages


def must_be(pointer: str, rule: str, value: str, code: str = "invalid_field") -> Rejection:
    """Return the rejection of *value* at *pointer*; `shown` wrote *value*."""
    return Rejection(code, pointer, f"{_cut_pointer(pointer)} must be {rule}, but it is {value}.")


def _cut_pointer(pointer: str) -> str:
    return pointer[-_MAX_SHOWN:] or "The value"


def malformed(why: str, value: bytes) -> Rejection:
    """Return the rejection of a value that is not a JSON object."""
    shows = f": {shown_text(value)}" if value else ""
    return Rejection("malformed_json", "", f"{OBJECT}, but {why}{shows}.")


def not_an_object(value: bytes) -> Rejection:
    """Return the rejection of JSON that is not an object."""
    text = format(value, indent=-1)
    advice = "; `session-worker send --split` sends each entry as one record" if text.startswith(b"[") else ""
    what = "an array" if advice else "another value"
    shows = text.decode()[:_MAX_SHOWN]
    return Rejection("malformed_json", "", f"{OBJECT}, but it is {what}: {shows}{advice}.")


def unlike_its_type(
    details: ErrorDetails, code: str, path: Sequence[str | int], pointer: str, value: bytes
) -> Rejection:
    """Return the rejection of a field that breaks the contract's table; *path* is its place in the table."""
    error, last = details["type"], str(path[-1])
    if code == "unknown_field":
        message = f"{_cut_pointer(pointer)} is not a field of the contract{_meant(path, pointer)}, and its value is "
        setting = "to accept and ignore unknown fields, set SESSION_WORKER_UNKNOWN_FIELDS=ignore"
        return Rejection(code, pointer, f"{message}{shown_at(value, pointer)}; {setting}.")
    if error == "missing":
        parent = pointer.rpartition("/")[0]
        rule = f"{_cut_pointer(pointer)} is required and must be {_REQUIRED[last]}"
        return Rejection(code, pointer, f"{rule}, but it is missing in {shown_at(value, parent)}.")
    given = shown_at(value, pointer)
    return must_be(pointer, expected(details, code, last), f"{given}{_advice(error, path, details['input'])}", code)


def _advice(error: str, path: Sequence[str | int], given: object) -> str:
    """Return how PHP writes an object for an array, or the reverse, and the remedy; empty if PHP is not the cause.

    >>> _advice("list_type", ["couponCodes"], {"0": "A", "2": "B"}), _advice("list_type", ["cartItems"], {"sku": "a"})
    ('; PHP writes an array with gaps in its keys as an object: remove the gaps with array_values', '')
    """
    if error == "list_type" and type(given) is dict:
        if not given:
            return "; PHP with JSON_FORCE_OBJECT writes an empty array as an object: remove the flag"
        if all(map(_PHP_INDEX.fullmatch, given)):
            return "; PHP writes an array with gaps in its keys as an object: remove the gaps with array_values"
    if error == "dict_type" and given == []:
        return "; PHP writes an empty array as []: cast the array to (object)"
    if error == "dict_type" and path[-1] in _MAPS and path[-2] != "additionalCosts" and type(given) is list:
        return (
            "; PHP writes an array with the keys 0 to n as a JSON array: use names as keys, or cast the array to "
            "(object) (do not use JSON_FORCE_OBJECT: it turns every array of the record into an object)"
        )
    return ""


_MAPS = ("additionalCosts", "attributes")
"""The fields that hold an object whose names the sender chooses."""
_PHP_INDEX = re.compile(r"-?[0-9]+")


def expected(details: ErrorDetails, code: str, last: str) -> str:
    """Return the rule that the value breaks."""
    error, limits = details["type"], details.get("ctx", {})
    if code == "number_out_of_range":
        return INTEGER if error == "integer" else f"a number with a magnitude below {AMOUNT_LIMIT}"
    if error == "integer":
        return "an integer" if limits["minimum"] == INTEGER_MIN else f"an integer of at least {limits['minimum']}"
    if last == "occurredAt":
        return _TIME
    if error == "string_too_long":
        return f"a string of at most {limits['max_length']} characters"
    if error == "too_long":
        return f"an array of at most {limits['max_length']} entries"
    return _RULES.get(error, "a value that the contract allows")


_RULES = {
    "string_type": "a string",
    "string_too_short": "a string of at least 1 character",
    "list_type": "an array",
    "dict_type": "an object",
    "float_type": "a number",
    "greater_than_equal": "a number of at least 0",
    "finite_number": "a number of at least 0",
    "bool_type": "true or false",
    "literal_error": _STATES,
}
"""The rule that a value breaks, by the error type of pydantic."""


def _meant(path: Sequence[str | int], pointer: str) -> str:
    """Return a suggestion of the known field that the sender probably meant, or an empty string."""
    name = str(path[-1])
    known = _known(path, pointer)
    if name in CustomerSession.__annotations__ and "customerSession" in known:
        return " (move it into customerSession)"
    likenesses = {_plain(field): field for field in known}
    near = get_close_matches(_plain(name), likenesses, n=1) if len(name) <= _MAX_COMPARED else []
    return f" (did you mean {likenesses[near[0]]}?)" if near else ""


def _plain(name: str) -> str:
    """Return a name in lower case without dashes, underscores and spaces."""
    return re.sub(r"[-_ ]", "", name).lower()


def _known(path: Sequence[str | int], pointer: str) -> frozenset[str]:
    """Return the known fields of the object that has an unknown field at *path*."""
    if pointer.count("/") == 1:
        of: Any = UpdateRecord if len(path) == 1 else BareBody
    elif len(path) > 2 and path[-3] == "additionalCosts":
        of = AdditionalCost
    else:
        of = _OBJECTS[str(path[-3] if isinstance(path[-2], int) else path[-2])]
    return frozenset(of.__required_keys__ | of.__optional_keys__)
