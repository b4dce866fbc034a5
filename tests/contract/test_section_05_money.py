"""Section 5, money: which prices are read, and totals that are exact decimals."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.contract.conftest import Till, cart

ITEM = '{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": #}]}}'
ITEM_COST = '{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": 0, "additionalCosts": {"c": {"price": #}}}]}}'
COST = '{"customerSession": {"additionalCosts": {"c": {"price": #}}}}'
WEIGHT = '{"customerSession": {"cartItems": [{"sku": "a", "quantity": 1, "price": 0, "weight": #}]}}'
PLACES = {
    "item": (ITEM, "/customerSession/cartItems/0/price", "cartItemTotal"),
    "item cost": (ITEM_COST, "/customerSession/cartItems/0/additionalCosts/c/price", "cartItemAdditionalCostTotal"),
    "cost": (COST, "/customerSession/additionalCosts/c/price", "additionalCostTotal"),
}
READ = [
    ("0", "0"),
    ("0.0", "0"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("1e-400", "0"),
    ("-1e-400", "0"),
    ("1", "1"),
    ("1.0", "1"),
    ("1e0", "1"),
    ("30", "30"),
    ("3e1", "30"),
    ("0.1", "0.1"),
    ("-2.5", "-2.5"),
    ("0.30", "0.3"),
    ("0.000000001", "0.000000001"),
    ("1e-9", "0.000000001"),
    ("-0.000000001", "-0.000000001"),
    ("0.123456789", "0.123456789"),
    ("123456.123456789", "123456.123456789"),
    ("999999.999999999", "999999.999999999"),
    ("999999999999", "999999999999"),
    ("999999999999.999", "999999999999.999"),
    ("-999999999999.999", "-999999999999.999"),
    ("99999999999.9999", "99999999999.9999"),
    ("100000000000", "100000000000"),
    ("1e11", "100000000000"),
    ("1234567890.12345", "1234567890.12345"),
    ("0.1000000000000000055511151231257827", "0.1"),
    ("1.0000000000000000000001", "1"),
]
REFUSED = [
    "1e12",
    "1000000000000",
    "-1000000000000",
    "999999999999.99999",
    "1e15",
    "1e300",
    "1e400",
    "-1e400",
    "9223372036854775808",
    "9" * 400,
    "9" * 5000,
]
NOISE = [
    ("0.30000000000000004", "0.3"),
    ("-0.30000000000000004", "-0.3"),
    ("2.9999999999999996", "3"),
    ("0.1234567891", "0.123456789"),
    ("0.0000000001", "0"),
    ("-1e-10", "0"),
    ("5e-324", "0"),
    ("0.0000000005", "0"),
    ("0.0000000015", "0.000000002"),
    ("0.0000000025", "0.000000002"),
    ("-0.0000000015", "-0.000000002"),
    ("0.000000000500000001", "0.000000001"),
    ("0.00000000050000000000001", "0"),
    ("0.0000000005000000001", "0"),  # what is behind the 18th decimal place is not read
    ("3.3333333333333335", "3.333333333"),
    ("666.6666666666666", "666.666666667"),
]
"""Prices of more than 9 decimal places, and the total of one unit."""
TOO_FINE = ["1234567.123456789", "1000000.000000001", "12345678901.12345", "123456789012.3456", "999999999999.9999"]
"""Prices that are read, but make a total of more than 15 digits."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("written", "read"), READ)
def test_a_price_is_the_shortest_decimal_that_denotes_its_double(till, place, written, read):
    template, _pointer, total = PLACES[place]
    snapshot = till.one(template.replace("#", written)).snapshot
    assert Decimal(repr(snapshot[total])) == Decimal(repr(snapshot["total"])) == Decimal(read)


@pytest.mark.parametrize("written", REFUSED, ids=lambda text: text[:20])
@pytest.mark.parametrize("place", PLACES)
def test_a_price_that_is_too_great_is_out_of_range(till, place, written):
    template, pointer, _total = PLACES[place]
    rejection = till.one(template.replace("#", written))
    assert (rejection.code, rejection.pointer) == ("number_out_of_range", pointer)
    assert written[:100] in rejection.headers["rejection-message"]


@pytest.mark.parametrize(("written", "total"), NOISE)
@pytest.mark.parametrize("place", PLACES)
def test_a_price_of_many_places_is_published_as_it_is_and_its_total_rounded(till, place, written, total):
    template, pointer, name = PLACES[place]
    snapshot = till.one(template.replace("#", written)).snapshot
    assert Decimal(repr(snapshot[name])) == Decimal(repr(snapshot["total"])) == Decimal(total)
    assert repr(snapshot[name]) != "-0.0"
    price = snapshot
    for step in pointer.split("/")[2:]:
        price = price[int(step) if step.isdecimal() else step]
    assert price == float(written)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("written", TOO_FINE)
def test_a_price_that_makes_a_total_of_over_15_digits_is_refused(till, place, written):
    template, _pointer, total = PLACES[place]
    rejection = till.one(template.replace("#", written))
    assert (rejection.code, rejection.pointer) == ("number_out_of_range", "/customerSession")
    message = rejection.headers["rejection-message"]
    assert written in message
    assert "total" in message or total in message


@pytest.mark.parametrize(
    ("price", "quantity", "total"),
    [
        ("0.1", 3, "0.3"),
        ("3.3333333333333335", 3, "10.0"),
        ("6.666666666666667", 3, "20.0"),
        ("0.14285714285714285", 7, "1.0"),
        ("0.30000000000000004", 10_000, "3000.0"),
        ("0.0000000001", 5, "0.0"),
        ("0.0000000001", 15, "2e-9"),
        ("0.000000000000000001", 10_000, "0.0"),
        ("0.0000000000000000005", 10_000, "0.0"),
        ("999999999999.9999", 10_000, "9999999999999999.0"),
    ],
)
def test_a_line_price_divided_by_its_quantity_adds_up_again(till, price, quantity, total):
    item = f'{{"sku": "a", "quantity": {quantity}, "price": {price}}}'
    outcome = till.one(f'{{"cartItems": [{item}]}}')
    if len(total.strip("0.").replace(".", "")) > 15:
        assert outcome.code == "number_out_of_range"
    else:
        assert f'"cartItemTotal":{total},' in outcome.raw.decode()


def test_each_total_is_rounded_once_and_the_sum_is_of_what_is_published(till):
    """Three sums of 0.4 billionths each round to 0, although they are 1.2 together."""
    cost = {"c": {"price": 4e-10}}
    snapshot = till.update(
        {**cart({"sku": "a", "quantity": 1, "price": 4e-10, "additionalCosts": cost}), "additionalCosts": cost}
    ).snapshot
    assert [snapshot[name] for name in ("cartItemTotal", "additionalCostTotal", "total")] == [0.0, 0.0, 0.0]
    several = till.update(cart(*[{"sku": "a", "quantity": 1, "price": 4e-10}] * 3)).snapshot
    assert (several["cartItemTotal"], several["total"]) == (1e-9, 1e-9)


def test_a_total_that_an_update_leaves_alone_stays_the_rounded_one(till):
    till.update({"additionalCosts": {"c": {"price": 0.1234567891}}})
    snapshot = till.update(cart({"sku": "a", "quantity": 1, "price": 1})).snapshot
    assert (snapshot["additionalCostTotal"], snapshot["total"]) == (0.123456789, 1.123456789)


@pytest.mark.parametrize("field", ["weight", "height", "width", "length"])
@pytest.mark.parametrize(("written", "read"), [row for row in READ if Decimal(row[1]) >= 0])
def test_an_items_dimensions_are_read_like_prices(till, field, written, read):
    (item,) = till.one(WEIGHT.replace("weight", field).replace("#", written)).snapshot["cartItems"]
    assert Decimal(repr(item[field])) == Decimal(read)
    assert not repr(item[field]).startswith("-")


@pytest.mark.parametrize("field", ["weight", "height", "width", "length"])
@pytest.mark.parametrize("written", [written for written, _total in NOISE if written[0] != "-"] + TOO_FINE)
def test_an_items_dimensions_may_have_any_digits(till, field, written):
    (item,) = till.one(WEIGHT.replace("weight", field).replace("#", written)).snapshot["cartItems"]
    assert item[field] == float(written)


@pytest.mark.parametrize("field", ["weight", "height", "width", "length"])
@pytest.mark.parametrize("written", [text for text in REFUSED if text[0] != "-"], ids=lambda text: text[:20])
def test_an_items_dimensions_are_refused_like_prices(till, field, written):
    rejection = till.one(WEIGHT.replace("weight", field).replace("#", written))
    assert (rejection.code, rejection.pointer) == ("number_out_of_range", f"/customerSession/cartItems/0/{field}")


@pytest.mark.parametrize(
    ("session", "pointer"),
    [
        (cart({"sku": "a", "quantity": 1}), "/customerSession/cartItems/0/price"),
        (cart({"sku": "a", "quantity": 1, "price": None}), "/customerSession/cartItems/0/price"),
        (
            cart({"sku": "a", "quantity": 1, "price": 1}, {"sku": "a", "quantity": 1, "price": None}),
            "/customerSession/cartItems/1/price",
        ),
        (
            cart({"sku": "a", "quantity": 1, "price": 1, "additionalCosts": {"c": {}}}),
            "/customerSession/cartItems/0/additionalCosts/c/price",
        ),
        ({"additionalCosts": {"c": {"price": None}}}, "/customerSession/additionalCosts/c/price"),
        ({"additionalCosts": {"price": {}}}, "/customerSession/additionalCosts/price/price"),
    ],
)
def test_a_missing_price_is_named(till, session, pointer):
    rejection = till.update(session)
    assert (rejection.code, rejection.pointer) == ("missing_price", pointer)


# ---------------------------------------------------------------------------------------------------------- totals


def test_the_four_totals_are_what_the_contract_says_they_are(till):
    snapshot = till.update(
        {
            **cart(
                {
                    "sku": "a",
                    "quantity": 3,
                    "price": 0.1,
                    "additionalCosts": {"wrap": {"price": 0.7}, "card": {"price": -0.2}},
                },
                {"sku": "b", "quantity": 2, "price": 20, "additionalCosts": {}},
                {"sku": "rebate", "quantity": 1, "price": -5.05},
            ),
            "additionalCosts": {"post": {"price": 4.9}, "gift": {"price": 0}},
        }
    ).snapshot
    assert snapshot["cartItemTotal"] == 35.25
    assert snapshot["additionalCostTotal"] == 4.9
    assert snapshot["cartItemAdditionalCostTotal"] == 1.5
    assert snapshot["total"] == 41.65


@pytest.mark.parametrize(
    ("prices", "total"),
    [
        ([(0.1, 3)], "0.3"),
        ([(0.1, 1), (0.2, 1)], "0.3"),
        ([(1.1, 3)], "3.3"),
        ([(4.35, 100)], "435"),
        ([(0.07, 100)], "7"),
        ([(1.005, 1000)], "1005"),
        ([(0.1, 10)], "1"),
        ([(10, 3)], "30"),
        ([(999_999_999_999, 1000)], "999999999999000"),
        ([(100_000_000_000, 10_000)], "1000000000000000"),
        ([(900_000_000_000, 10_000)], "9000000000000000"),
        ([(0.000000001, 10_000)], "0.00001"),
        ([(5, 1), (-5, 1)], "0"),
        ([(-5, 2)], "-10"),
        ([(0.3, 1), (-0.1, 1), (-0.2, 1)], "0"),
        ([(999_999_999_999.999, 1), (-999_999_999_999, 1)], "0.999"),
        ([(999_999_999_999.999, 1), (0.001, 1)], "1000000000000"),
    ],
)
def test_totals_are_exact_and_written_as_the_shortest_number(till, prices, total):
    items = [{"sku": "a", "quantity": quantity, "price": price} for price, quantity in prices]
    raw = till.update(cart(*items)).raw.decode()
    written = json.loads(raw, parse_float=Decimal, parse_int=Decimal)
    assert written["total"] == written["cartItemTotal"] == Decimal(total)
    digits = raw.partition('"total":')[2].partition(",")[0].removesuffix(".0")
    assert digits != "-0"
    assert (
        len(digits.lstrip("-0.").replace(".", "").rstrip("0")) == len(Decimal(total).normalize().as_tuple().digits)
        or total == "0"
    )


def test_totals_of_two_hundred_lines_do_not_drift(till):
    items: list[dict[str, Any]] = [
        {"sku": f"a-{n}", "quantity": n + 1, "price": round(0.01 + n * 0.37, 2)} for n in range(100)
    ]
    items += [{"sku": f"b-{n}", "quantity": 1, "price": round(-0.1 * n, 1)} for n in range(100)]
    exact = sum((Decimal(repr(item["price"])) * item["quantity"] for item in items), Decimal(0))
    assert Decimal(repr(till.update(cart(*items)).snapshot["total"])) == exact


TOO_LONG: list[tuple[str, dict[str, object]]] = [
    ("cartItemTotal", cart({"sku": "a", "quantity": 1001, "price": 999_999_999_999.999})),
    (
        "cartItemTotal",
        cart({"sku": "a", "quantity": 1, "price": 999_999_999_999.999}, {"sku": "b", "quantity": 1, "price": 0.0001}),
    ),
    ("additionalCostTotal", {"additionalCosts": {"a": {"price": 999_999_999_999.999}, "b": {"price": 1e-9}}}),
    (
        "cartItemAdditionalCostTotal",
        cart({"sku": "a", "quantity": 7, "price": 0, "additionalCosts": {"c": {"price": 999_999_999_999.999}}}),
    ),
    (
        "total",
        {
            **cart({"sku": "a", "quantity": 1, "price": 999_999_999_999.999}),
            "additionalCosts": {"a": {"price": 1e-9}},
        },
    ),
]


@pytest.mark.parametrize(("_which", "session"), TOO_LONG)
def test_a_total_that_needs_more_than_15_digits_is_out_of_range(till, _which, session):
    before = till.update({**cart({"sku": "x", "quantity": 1, "price": 1}), "additionalCosts": {"y": {"price": 2}}})
    rejection = till.update(session)
    assert rejection.code == "number_out_of_range"
    assert rejection.pointer.startswith("/customerSession")
    after = till.update({}).snapshot
    assert after == {**before.snapshot, "updateCount": 2}


def test_a_total_may_overflow_by_what_the_session_had_before():
    till = Till()
    assert till.update(cart({"sku": "a", "quantity": 1, "price": 999_999_999_999.999})).event == "created"
    assert till.update({"additionalCosts": {"a": {"price": 0.0001}}}).code == "number_out_of_range"
    assert till.update({"additionalCosts": {"a": {"price": 0.001}}}).snapshot["total"] == 10**12


def test_each_part_is_kept_when_an_update_replaces_another(till):
    item = {"sku": "a", "quantity": 3, "price": 0.1, "additionalCosts": {"w": {"price": 0.2}}}
    till.update({**cart(item), "additionalCosts": {"post": {"price": 0.4}}})
    steps = [
        ({}, (0.3, 0.4, 0.6, 1.3)),
        ({"additionalCosts": {"post": {"price": 0.5}}}, (0.3, 0.5, 0.6, 1.4)),
        (cart({**item, "quantity": 1}), (0.1, 0.5, 0.2, 0.8)),
        ({"additionalCosts": {}}, (0.1, 0, 0.2, 0.3)),
        (cart({"sku": "b", "quantity": 1, "price": 7}), (7, 0, 0, 7)),
        (cart(), (0, 0, 0, 0)),
    ]
    for session, expected in steps:
        after = till.update(session).snapshot
        names = ("cartItemTotal", "additionalCostTotal", "cartItemAdditionalCostTotal", "total")
        assert tuple(after[name] for name in names) == expected


def test_large_totals_survive_later_updates(till):
    till.update(cart({"sku": "a", "quantity": 10_000, "price": 900_000_000_000}))
    after = till.update({"additionalCosts": {"a": {"price": 0}}, "referralCode": "r"}).snapshot
    assert after["total"] == after["cartItemTotal"] == 9 * 10**15


def test_totals_are_as_sold_and_a_return_does_not_change_them(till):
    item = {"sku": "a", "quantity": 3, "price": 0.1, "additionalCosts": {"w": {"price": 0.2}}}
    sold = till.update({"state": "closed", **cart(item), "additionalCosts": {"post": {"price": 4}}}).snapshot
    returned = till.take_back({"sku": "a"}).snapshot
    for name in ("total", "cartItemTotal", "additionalCostTotal", "cartItemAdditionalCostTotal"):
        assert returned[name] == sold[name]
    assert returned["cartItems"][0]["price"] == 0.1
    assert (returned["cartItems"][0]["returnedQuantity"], returned["cartItems"][0]["remainingQuantity"]) == (3, 0)


def test_totals_are_before_discounts(till):
    plain = till.update(cart({"sku": "a", "quantity": 1, "price": 10}), "s-1").snapshot
    coupon = till.update({**cart({"sku": "a", "quantity": 1, "price": 10}), "couponCodes": ["TEN"]}, "s-2").snapshot
    assert plain["total"] == coupon["total"] == 10
