"""Prices are read exactly or refused; totals equal the sum of fractions."""

import json
from fractions import Fraction
from math import nextafter

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.codec.update import read
from worker.domain.limits import Rules
from worker.domain.model import Request
from worker.domain.money import MAX_DIGITS, NANOS, amount, attos, decimal, nanos, rounded, total_nanos
from worker.domain.rejections import Rejection
from worker.domain.session import fold

unhurried = settings(deadline=None)
LIMIT = 10**12


def digits_of(number: Fraction) -> int:
    """Count the significant digits of a decimal."""
    while number.denominator > 1:
        number *= 10
    return len(str(abs(number.numerator)).rstrip("0")) or 1


def expected_attos(price: float) -> int:
    """Read a price by its shortest decimal, with fractions: what the contract says, and slowly."""
    return round(Fraction(repr(price)) * NANOS * NANOS)  # a Fraction is rounded half even


def expected_nanos(price: float) -> int | None:
    """Read what `nanos` reads: below a million, with at most 9 decimal places."""
    billionths = Fraction(repr(price)) * NANOS
    return int(billionths) if abs(price) < 1e6 and billionths.denominator == 1 else None


@st.composite
def decimals(draw: st.DrawFn) -> Fraction:
    """Draw a decimal of at most 15 digits, 9 places and a magnitude below 10^12."""
    places = draw(st.integers(0, 9))
    most = min(10**MAX_DIGITS, LIMIT * 10**places) - 1
    return Fraction(draw(st.integers(-most, most)), 10**places)


@unhurried
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.0)
@example(-0.0)
@example(0.1)
@example(0.1 + 0.2)
@example(5e-324)
@example(1e-9)
@example(1e-10)
@example(999_999_999_999.999)
@example(999_999_999_999.9999)
@example(1e12)
@example(-1e12)
@example(1.7976931348623157e308)
@example(999_999.999999999)
@example(1_000_000.000000001)
def test_a_double_is_read_as_its_shortest_decimal_or_not_at_all(price):
    assert nanos(price) == expected_nanos(price)
    assert attos(price) == expected_attos(price)


@unhurried
@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30) | st.integers(-3, 3).map(lambda n: n * 5 * 10**8))
def test_a_sum_is_rounded_half_even(whole, fine):
    assert rounded(whole, fine) == round(whole + Fraction(fine, NANOS))


@unhurried
@given(decimals())
def test_every_decimal_of_15_digits_is_read_exactly(price):
    exact = nanos(float(price))
    assert attos(float(price)) == price * NANOS * NANOS
    assert exact in (None, price * NANOS)
    assert exact is not None or abs(price) >= 10**6


@unhurried
@given(st.integers(-(10**30), 10**30))
def test_a_total_is_written_in_full_for_a_person(total):
    assert Fraction(decimal(total)) * NANOS == total


@unhurried
@given(decimals(), st.sampled_from([float("inf"), float("-inf")]), st.integers(1, 3))
def test_a_double_beside_a_decimal_is_not_taken_for_it(price, towards, steps):
    beside = float(price)
    for _step in range(steps):
        beside = nextafter(beside, towards)
    assert nanos(beside) == expected_nanos(beside)
    assert nanos(beside) != price * NANOS


@unhurried
@given(
    st.integers(-(10**30), 10**30)
    | st.builds(lambda n, zeros: n * 10**zeros, st.integers(-(10**16), 10**16), st.integers(0, 15))
)
@example(0)
@example(10**15)
@example(10**15 - 1)
@example(10**15 + 1)
@example(-(10**15) - 1)
@example((10**15 - 1) * 10**12)
def test_a_total_is_written_as_the_double_of_exactly_its_decimal_or_not_at_all(total):
    written = amount(total)
    if digits_of(Fraction(total, NANOS)) > MAX_DIGITS:
        assert written is None
    else:
        assert written is not None
        assert Fraction(repr(written)) * NANOS == total
        assert total_nanos(written) == total
        assert repr(written) != "-0.0"


NOISE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda price: Fraction(repr(price)))
"""Prices of any number of digits, as JavaScript and line prices divided by quantities make them."""
PRICES = decimals() | NOISE
COSTS = st.dictionaries(st.sampled_from(["post", "wrap", "", "é"]), PRICES, max_size=3)
ITEMS = st.lists(st.tuples(PRICES, st.integers(1, 1000), COSTS), max_size=8)
CENTS = st.integers(-99_999, 999_999).map(lambda cents: Fraction(cents, 100))
CENT_COSTS = st.dictionaries(st.sampled_from(["post", "wrap"]), CENTS, max_size=2)
CARTS = st.tuples(ITEMS, COSTS) | st.tuples(
    st.lists(st.tuples(CENTS, st.integers(1, 200), CENT_COSTS), max_size=40), CENT_COSTS
)


def spelled(price: Fraction) -> float:
    return float(price)


def record_of(items, costs) -> bytes:
    """Write an update of a cart and of the session's costs."""
    lines = [
        {
            "sku": f"sku-{number}",
            "quantity": quantity,
            "price": float(price),
            "additionalCosts": {name: {"price": float(cost)} for name, cost in own.items()},
        }
        for number, (price, quantity, own) in enumerate(items)
    ]
    session = {"cartItems": lines, "additionalCosts": {name: {"price": float(cost)} for name, cost in costs.items()}}
    return json.dumps({"customerSession": session}).encode()


def totals_of(items, costs) -> dict[str, Fraction]:
    items = [(to_18_places(price), quantity, [*map(to_18_places, own.values())]) for price, quantity, own in items]
    exact = {
        "cartItemTotal": sum((price * quantity for price, quantity, _own in items), Fraction(0)),
        "additionalCostTotal": sum(map(to_18_places, costs.values()), Fraction(0)),
        "cartItemAdditionalCostTotal": sum(
            (quantity * sum(own, Fraction(0)) for _price, quantity, own in items), Fraction(0)
        ),
    }
    parts = {name: Fraction(round(total * NANOS), NANOS) for name, total in exact.items()}
    return {"total": sum(parts.values(), Fraction(0)), **parts}


def to_18_places(price: Fraction) -> Fraction:
    return Fraction(round(price * NANOS * NANOS), NANOS * NANOS)


@unhurried
@given(CARTS)
def test_the_totals_of_any_cart_are_the_sums_of_fractions(drawn):
    items, costs = drawn
    request = read(record_of(items, costs), b"s-1", 0, Rules())
    assert isinstance(request, Request)
    folded = fold(None, request, 1, Rules())
    expected = totals_of(items, costs)
    if any(digits_of(total) > MAX_DIGITS for total in expected.values()):
        assert isinstance(folded, Rejection)
        assert folded.code == "number_out_of_range"
        return
    assert not isinstance(folded, Rejection)
    written = json.loads(msgspec.json.encode(folded.session))
    assert {name: Fraction(repr(written[name])) for name in expected} == expected


@unhurried
@given(CARTS, CARTS, st.booleans())
def test_totals_stay_exact_when_an_update_replaces_only_a_part(before, after, replaces_cart):
    """What the session keeps is read back from the total it was written as."""
    first = read(record_of(*before), b"s-1", 0, Rules())
    document = json.loads(record_of(*after))
    del document["customerSession"]["additionalCosts" if replaces_cart else "cartItems"]
    second = read(json.dumps(document).encode(), b"s-1", 0, Rules())
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    session = fold(None, first, 1, Rules())
    if isinstance(session, Rejection):
        assert session.code == "number_out_of_range"
        return
    mixed = (after[0], before[1]) if replaces_cart else (before[0], after[1])
    expected = totals_of(*mixed)
    folded = fold(session.session, second, 2, Rules())
    if any(digits_of(total) > MAX_DIGITS for total in expected.values()):
        assert isinstance(folded, Rejection)
    else:
        assert not isinstance(folded, Rejection)
        assert {name: Fraction(repr(getattr(folded.session, name))) for name in expected} == expected


@pytest.mark.parametrize(("total", "written"), [(300_000_000, 0.3), (0, 0.0), (10**24, 1e15), (-1, -1e-9)])
def test_a_total_is_written_in_the_units_of_the_currency(total, written):
    assert amount(total) == written
