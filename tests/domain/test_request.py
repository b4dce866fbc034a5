"""Reading: any bytes give a request or a rejection, and the fast path says what the exact one says."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.codec.update import Envelope, _judge, read
from worker.domain.limits import Rules
from worker.domain.model import Request
from worker.domain.rejections import ROW_OF, Rejection

unhurried = settings(deadline=None)
KEYS = st.none() | st.binary(max_size=5) | st.just(b"s-1") | st.text(max_size=5).map(str.encode)
TIMES = st.integers(-(2**63), 2**63 - 1) | st.just(1_795_372_800_000)


def judged(
    value: bytes,
    key: bytes | None = b"s-1",
    timestamp: int = 0,
    rules: Rules | None = None,
    envelope: Envelope | None = None,
) -> Request | Rejection:
    """Read a value; whatever it is, that is an answer, and the exact path gives the same."""
    rules = rules or Rules()
    answer = read(value, key, timestamp, rules, envelope)
    assert isinstance(answer, Request | Rejection)
    if isinstance(answer, Rejection):
        assert answer.code in ROW_OF
        assert answer.pointer == "" or answer.pointer.startswith("/")
        assert answer.message.encode().endswith(b".")
        assert answer.pointer.encode() or not answer.pointer
    if len(value) <= rules.max_record_bytes:
        exact = _judge(value, key, timestamp, rules, envelope)
        if isinstance(answer, Rejection) and isinstance(exact, Rejection):
            assert answer[:2] == exact[:2]
        else:
            assert msgspec.json.encode(answer) == msgspec.json.encode(exact)
    return answer


# --------------------------------------------------------------------------------------------------- any bytes at all


@unhurried
@given(st.binary(max_size=200), KEYS, TIMES)
def test_any_bytes_are_answered(value, key, timestamp):
    judged(value, key, timestamp)


@unhurried
@given(st.text(alphabet='{}[]":,0123456789.eE+-\\untrfalse \n\ud7ff\uffff', max_size=60), KEYS)
def test_any_text_that_looks_like_json_is_answered(text, key):
    judged(text.encode(), key)


# ------------------------------------------------------------------------------------------------ records gone wrong

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 3)
    | st.sampled_from(
        [2**63, -(2**63) - 1, 10**303, 10**400, 1e12, 0.1, 1e-10, -0.0, 2.0, 1.5, float("inf"), float("nan")]
    )
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(
        ["", "x" * 101, "x" * 1001, "open", "closed", "update", "2026-11-22t10:00:00.000Z", "1970-01-01T00:00:00Z"]
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw something good most of the time."""
    return st.one_of(good, good, good, good, good, ANYTHING)


def an_object(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    optional = {name: mostly(values) for name, values in fields.items()}
    known = st.fixed_dictionaries({}, optional=optional)
    unknown = st.dictionaries(st.sampled_from(["x", "price", "sku", "type"]), ANYTHING, max_size=1)
    return st.one_of(known, known, known, st.builds(lambda one, other: {**one, **other}, known, unknown))


PRICES = st.sampled_from([0, 1, 0.1, -2.5, 999_999_999_999.999, 9.99, 0.1 + 0.2, 10 / 3, 5e-324])
COSTS = st.dictionaries(st.sampled_from(["a", "price", "~/"]), mostly(an_object({"price": PRICES})), max_size=2)
ITEM = {
    "sku": st.just("a"),
    "quantity": st.sampled_from([1, 2.0, 10_000]),
    "price": PRICES,
    "name": st.text(max_size=2),
    "product": an_object({"name": st.just("n")}),
    "weight": PRICES,
    "attributes": st.dictionaries(st.text(max_size=2), ANYTHING, max_size=2),
    "additionalCosts": COSTS | st.just([]),
    "position": ANYTHING,
    "prices": ANYTHING,
}
REQUIRED_ITEM = st.builds(
    lambda least, more: {**least, **more},
    st.just({"sku": "b", "quantity": 1, "price": 1}),
    an_object(ITEM),
)
SESSION = {
    "profileId": st.just("p"),
    "storeIntegrationId": st.just("s"),
    "evaluableCampaignIds": st.lists(mostly(st.integers(-3, 3)), max_size=3),
    "couponCodes": st.lists(mostly(st.just("c")), max_size=3),
    "referralCode": st.just("r"),
    "loyaltyCards": st.lists(mostly(st.just("l")), max_size=1),
    "identifiers": st.lists(mostly(st.just("i")), max_size=5),
    "state": st.sampled_from(["open", "closed", "cancelled", "partially_returned"]),
    "cartItems": st.lists(mostly(REQUIRED_ITEM), max_size=3),
    "additionalCosts": COSTS,
    "attributes": st.dictionaries(st.text(max_size=2), ANYTHING, max_size=2),
    "experimentVariantAllocations": st.lists(
        mostly(st.fixed_dictionaries({"experimentID": st.integers(0, 3), "variantID": st.just(2.0)})), max_size=2
    ),
    "coupon": st.just("c"),
    "referral": st.just("r"),
    "id": ANYTHING,
    "total": ANYTHING,
    "applicationId": ANYTHING,
}
ENTRIES = st.lists(
    mostly(an_object({"position": st.integers(0, 3), "sku": st.just("a"), "quantity": st.integers(1, 3)})), max_size=3
)
HEAD = {
    "integrationId": st.just("s-1"),
    "eventId": st.just("e"),
    "occurredAt": st.sampled_from(["1970-01-01T00:00:00Z", "2026-11-22T10:00:00.5+01:00"]),
    "applicationId": st.sampled_from([1, 1.0]),
    "dry": st.booleans(),
}
RECORD = {
    **HEAD,
    "type": st.sampled_from(["update", "return", "reopen"]),
    "customerSession": an_object(SESSION),
    "return": an_object({"returnedCartItems": ENTRIES}),
    "responseContent": ANYTHING,
}
ALMOST = st.one_of(
    an_object(RECORD),
    an_object({**SESSION, **HEAD, "type": st.none(), "customerSession": st.none()}),
    mostly(an_object(SESSION)).map(lambda session: {"customerSession": session}),
    mostly(ENTRIES).map(lambda entries: {"return": {"returnedCartItems": entries}}),
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Draw the text of a record, with escapes and spaces as producers differ in them."""
    document = draw(ALMOST)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r ")]))
    return json.dumps(document, ensure_ascii=draw(st.booleans()), separators=separators).encode(errors="surrogatepass")


GIVEN = {"eventId": "/id", "occurredAt": "/time", "integrationId": "/subject"}
ENVELOPES = st.none() | st.fixed_dictionaries(
    {}, optional={name: st.tuples(mostly(HEAD[name]), st.just(place)) for name, place in GIVEN.items()}
)
"""What an event gives; nothing of it is null or an empty integrationId."""


def is_an_envelope(envelope: dict[str, Any] | None) -> bool:
    given = (envelope or {}).items()
    return not any(field is None or (name == "integrationId" and field == "") for name, (field, _place) in given)


@unhurried
@given(texts(), KEYS, TIMES, st.sampled_from(["reject", "ignore"]), ENVELOPES.filter(is_an_envelope))
def test_any_record_is_answered(value, key, timestamp, unknown, envelope):
    judged(value, key, timestamp, Rules(unknown_fields=unknown), envelope)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Draw the text of a record of which pieces were replaced."""
    value = draw(texts())
    for _time in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(value)))
        end = min(len(value), start + draw(st.integers(0, 6)))
        value = value[:start] + draw(PIECES) + value[end:]
    return value


PIECES = st.binary(max_size=2) | st.sampled_from(
    [
        *(b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b"1.0", b"1.", b"9" * 400, b"0.1e-9", b"null", b"true"),
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'\\"', b"\\\\", b"\\u0041", b"\\ud83d", b"\\ude00"),
        *(b"\\ud83d\\ude00", b"\xed\xa0\xbd", b"\xff", b"\xef\xbb\xbf", b"\x00", b"\x1f", b"/", b"\\/", b"//"),
        *(b'"customerSession":{},', b'"type":"update",', b'"price":1,', b'"sku":"z",', b'"x":1,', b"[" * 64, b"]" * 64),
    ]
)


@unhurried
@given(mutants(), KEYS)
def test_any_record_that_was_damaged_is_answered(value, key):
    judged(value, key)


@st.composite
def doubled(draw: st.DrawFn) -> bytes:
    """Draw a record in which objects name a field twice."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            pairs = list(value.items())
            pairs += [(name, draw(ANYTHING | st.just(inner))) for name, inner in pairs if draw(st.booleans())]
            return (
                "{"
                + ",".join(f"{json.dumps(name)}:{written(inner)}" for name, inner in draw(st.permutations(pairs)))
                + "}"
            )
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        return json.dumps(value)

    return written(draw(ALMOST)).encode()


@unhurried
@given(doubled())
def test_of_a_field_that_is_named_twice_the_last_wins_on_both_paths(value):
    judged(value)


def test_ignored_field_in_a_session_that_a_later_null_replaces():
    value = b'{"customerSession":{"profileId":"p","applicationId":null},"customerSession":null}'
    rejection = judged(value)
    assert isinstance(rejection, Rejection)
    assert rejection.code == "unknown_type"
    reopened = judged(value[:-1] + b',"type":"reopen"}')
    assert not isinstance(reopened, Rejection)


# -------------------------------------------------------------------------------------------------- deep, long, broken


@pytest.mark.parametrize("levels", [10, 62, 63, 64, 65, 66, 200, 1000, 50_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"), ('["]",', "]"), ('{"}":1,"b":', "}")]
)
def test_nesting_is_answered_at_any_depth(levels, opening, closing):
    a_pair = sum(opening.replace('"]"', "").replace('"}"', "").count(mark) for mark in "[{")
    nested = opening * (levels // a_pair) + "0" + closing * (levels // a_pair)
    depth = levels // a_pair * a_pair
    inside = judged(f'{{"customerSession":{{}},"responseContent":{nested}}}'.encode())
    expected = "malformed_json" if depth > 63 else None
    assert (inside.code if isinstance(inside, Rejection) else None) == expected
    torn = judged(f'{{"customerSession":{{}},"responseContent":{opening * levels}'.encode())
    assert isinstance(torn, Rejection)
    assert torn.code == "malformed_json"


@pytest.mark.parametrize(
    "number",
    [
        "9" * 300,
        "9" * 4299,
        "9" * 4301,
        "9" * 100_000,
        "-" + "9" * 100_000,
        "1e99999999999",
        "0." + "1" * 100_000,
        "1" * 50 + "." + "0" * 5000,
        "1e-99999999999",
    ],
    ids=lambda text: f"{text[:6]} of {len(text)}",
)
@pytest.mark.parametrize(
    "template",
    [
        '{"customerSession":{"attributes":{"a":#}}}',
        '{"customerSession":{"cartItems":[{"sku":"a","quantity":#,"price":1}]}}',
        '{"customerSession":{"cartItems":[{"sku":"a","quantity":1,"price":#}]}}',
        '{"customerSession":{"evaluableCampaignIds":[#]}}',
        '{"customerSession":{},"applicationId":#}',
        '{"customerSession":{},"responseContent":#}',
        '{"return":{"returnedCartItems":[{"position":#}]}}',
        "#",
    ],
)
def test_numbers_of_any_length_are_answered(template, number):
    judged(template.replace("#", number).encode())


@pytest.mark.parametrize("place", ["customerSession", "integrationId", "type", "x"])
def test_a_string_of_ten_megabytes_is_answered(place):
    rules = Rules(max_record_bytes=1 << 24)
    value = json.dumps({"customerSession": {}, place: "x" * 10_000_000}).encode()
    refused = judged(value, rules=rules)
    assert isinstance(refused, Rejection)
    assert refused.code == {"type": "unknown_type", "x": "unknown_field"}.get(place, "invalid_field")
    assert len(refused.message) < 400
    default = judged(value)
    assert isinstance(default, Rejection)
    assert default.code == "record_too_large"


@pytest.mark.parametrize(
    "value", [b"", b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}", b"\xff", b"\x00", b"null", b"[]", b'""', b"0"]
)
def test_what_holds_no_object_is_malformed(value):
    refused = judged(value)
    assert isinstance(refused, Rejection)
    assert (refused.code, refused.pointer) == ("malformed_json", "")


MIB = 1 << 20


def filled(head: str, element: str, tail: str) -> bytes:
    """Write a record of nearly a mebibyte, most of it the same element."""
    count = (MIB - len(head) - len(tail)) // (len(element) + 1)
    return (head + ",".join([element] * count) + tail).encode()


def filled_map(head: str, element: str, tail: str) -> bytes:
    members = ",".join(
        f'"{number:06d}":{element}' for number in range((MIB - len(head) - len(tail)) // (len(element) + 10))
    )
    return (head + members + tail).encode()


LISTS = [
    *(
        ("customerSession", name)
        for name in (
            *("cartItems", "couponCodes", "evaluableCampaignIds", "experimentVariantAllocations"),
            *("loyaltyCards", "identifiers"),
        )
    ),
    ("return", "returnedCartItems"),
]


@pytest.mark.parametrize("element", ["[]", "true", '{"x":1}'])
@pytest.mark.parametrize(("outer", "name"), LISTS)
def test_a_mebibyte_of_broken_elements_is_refused(outer, name, element):
    value = filled(f'{{"{outer}":{{"{name}":[', element, "]}}")
    refused = read(value, b"s-1", 0, Rules())
    assert isinstance(refused, Rejection)
    holds_objects = name in ("cartItems", "experimentVariantAllocations", "returnedCartItems")
    assert refused.code == ("unknown_field" if holds_objects and "x" in element else "invalid_field")
    assert refused.pointer.startswith(f"/{outer}/{name}")


@pytest.mark.parametrize(
    ("head", "element", "tail", "code"),
    [
        ('{"customerSession":{"additionalCosts":{', "1", "}}}", "invalid_field"),
        ('{"customerSession":{"additionalCosts":{', "{}", "}}}", "missing_price"),
        ('{"customerSession":{"additionalCosts":{', '{"price":1e12}', "}}}", "number_out_of_range"),
        ('{"customerSession":{', "1", "}}", "unknown_field"),
        ('{"customerSession":{},', "1", "}", "unknown_field"),
        ('{"customerSession":{"cartItems":[{', "1", "}]}}", "unknown_field"),
        ('{"customerSession":{"attributes":{', "[1e999]", "}}}", "number_out_of_range"),
    ],
)
def test_a_mebibyte_of_broken_members_is_refused(head, element, tail, code):
    refused = read(filled_map(head, element, tail), b"s-1", 0, Rules())
    assert isinstance(refused, Rejection)
    assert refused.code == code


@pytest.mark.parametrize("price", ["1", "0.1", "1e-10", "1e12"])
def test_a_mebibyte_of_items_is_refused_for_what_is_wrong_first(price):
    items = filled('{"customerSession":{"cartItems":[', f'{{"sku":"a","quantity":1,"price":{price}}}', "]}}")
    refused = read(items, b"s-1", 0, Rules())
    assert isinstance(refused, Rejection)
    assert refused.code == ("number_out_of_range" if price == "1e12" else "too_many_items")


def test_a_mebibyte_of_brackets_is_refused():
    for value in (
        b"[" * MIB,
        b"{" * MIB,
        b'{"a":[' * (MIB // 6),
        b'{"a":"' + b'\\"[' * (MIB // 3 - 5) + b'"}',
        b"]" * MIB,
    ):
        refused = read(value, b"s-1", 0, Rules())
        assert isinstance(refused, Rejection)
        assert refused.code == ("unknown_type" if value.endswith(b'"}') else "malformed_json")


# ------------------------------------------------------------------------------------------------------ small things


@unhurried
@given(KEYS, TIMES)
@example(b"x" * 1001, 0)
def test_a_tombstone_is_a_deletion_or_names_no_session(key, timestamp):
    answer = read(None, key, timestamp, Rules())
    try:
        name = (key or b"").decode()
    except UnicodeDecodeError:
        name = ""
    if name and len(name) <= 1000:
        assert isinstance(answer, Request)
        assert (answer.kind, answer.integration_id) == ("delete", name)
    else:
        assert isinstance(answer, Rejection)
        assert answer.code == ("invalid_field" if name else "missing_integration_id")


def test_a_request_holds_the_cart_in_the_snapshots_form():
    item = {"price": -0.0, "quantity": 2.0, "sku": "a", "weight": -0.0, "prices": 5, "name": None, "position": 9}
    costs = {"c": {"price": -0.0}}
    value = json.dumps({"customerSession": {"cartItems": [{**item, "additionalCosts": costs}], "referral": None}})
    request = read(value.encode(), b"s-1", 0, Rules())
    assert isinstance(request, Request)
    assert request.cart is not None
    assert repr(msgspec.json.decode(request.cart.items)) == repr(
        [
            {
                "sku": "a",
                "quantity": 2,
                "returnedQuantity": 0,
                "remainingQuantity": 2,
                "price": 0.0,
                "weight": 0.0,
                "position": 0,
                "additionalCosts": {"c": {"price": 0.0}},
            }
        ]
    )
    assert (request.cart.item_total, request.cart.cost_total, request.cost_total) == (0, 0, None)


@pytest.mark.parametrize("name", ["a/b", "a~b", "~1", "", "ü", '"'])
def test_a_pointer_escapes_what_rfc_6901_escapes(name):
    refused = read(json.dumps({"customerSession": {name: 1}}).encode(), b"s-1", 0, Rules())
    assert isinstance(refused, Rejection)
    assert refused.pointer == "/customerSession/" + name.replace("~", "~0").replace("/", "~1")
