"""Returns: what was sold is what came back and what remains, and a refused return leaves no trace."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.rejections import Rejection
from worker.domain.returns import take_back

unhurried = settings(deadline=None)
SKUS = st.sampled_from(["cup", "mug", "pen", ""])


@st.composite
def carts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw the lines of a cart, of which some units came back before."""
    lines: list[dict[str, Any]] = []
    for sku, quantity in draw(st.lists(st.tuples(SKUS, st.integers(1, 6)), max_size=7)):
        returned = draw(st.integers(0, quantity))
        remaining = quantity - returned
        lines.append({"sku": sku, "quantity": quantity, "returnedQuantity": returned, "remainingQuantity": remaining})
    return lines


QUANTITIES = st.none() | st.integers(1, 8) | st.just(2**63 - 1)
ENTRIES: st.SearchStrategy[list[Any]] = st.lists(
    st.fixed_dictionaries({"position": st.integers(0, 8)}, optional={"quantity": QUANTITIES, "sku": st.none()})
    | st.fixed_dictionaries({"sku": SKUS | st.just("tea")}, optional={"quantity": QUANTITIES, "position": st.none()}),
    max_size=6,
)


def one_by_one(lines: list[dict[str, Any]], entries: list[Any]) -> list[int] | tuple[str, int]:
    """Take units back one at a time: what remains of each line, or the code and the entry that is refused."""
    left = [line["remainingQuantity"] for line in lines]
    for number, entry in enumerate(entries):
        position, sku = entry.get("position"), entry.get("sku")
        if position is not None:
            named = [position] if position < len(lines) else []
        else:
            named = [place for place, line in enumerate(lines) if line["sku"] == sku]
        if not named:
            return "unknown_item", number
        units = [place for place in named for _unit in range(left[place])]
        asked = entry.get("quantity")
        if not units or (asked is not None and asked > len(units)):
            return "return_exceeds_remaining", number
        for place in units[:asked]:
            left[place] -= 1
    return left


@unhurried
@given(carts(), ENTRIES)
def test_units_are_taken_line_by_line_all_of_them_or_none(lines, entries):
    given_lines, given_entries = deepcopy(lines), deepcopy(entries)
    after = take_back(lines, entries)
    assert (lines, entries) == (given_lines, given_entries)
    expected = one_by_one(lines, entries)
    if isinstance(after, Rejection):
        code, number = expected
        assert (after.code, after.pointer) == (code, f"/return/returnedCartItems/{number}")
        return
    assert [line["remainingQuantity"] for line in after] == expected
    for line, before in zip(after, lines, strict=True):
        assert line["returnedQuantity"] + line["remainingQuantity"] == line["quantity"]
        assert line["returnedQuantity"] >= before["returnedQuantity"]
        assert (line["sku"], line["quantity"], list(line)) == (before["sku"], before["quantity"], list(before))


@unhurried
@given(carts(), ENTRIES, ENTRIES)
def test_two_returns_take_what_one_of_both_lists_takes(lines, first, second):
    together = take_back(lines, [*first, *second])
    between = take_back(lines, first)
    after = between if isinstance(between, Rejection) else take_back(between, second)
    assert isinstance(together, Rejection) == isinstance(after, Rejection)
    if not isinstance(together, Rejection):
        assert together == after


def test_ten_thousand_entries_on_a_thousand_lines_are_taken_in_time():
    """The cost grows with lines and entries, not with their product: a product would be ten million steps."""
    lines = [{"sku": "a", "quantity": 10, "returnedQuantity": 0, "remainingQuantity": 10} for _line in range(1000)]
    after = take_back(lines, [{"sku": "a", "quantity": 1}] * 10_000)
    assert not isinstance(after, Rejection)
    assert sum(line["remainingQuantity"] for line in after) == 0
    refused = take_back(lines, [{"sku": "a", "quantity": 1}] * 10_001)
    assert isinstance(refused, Rejection)
    assert refused.pointer == "/return/returnedCartItems/10000"


ABSENT: list[Any] = [{"sku": "é" * 500}, {"position": 2**63 - 1}]


@pytest.mark.parametrize("entry", ABSENT)
def test_the_message_says_which_line_is_not_there(entry):
    refused = take_back([], [entry])
    assert isinstance(refused, Rejection)
    assert ("é" * 99 if "sku" in entry else str(2**63 - 1)) in refused.message
    assert "é" * 100 not in refused.message


@pytest.mark.parametrize(("quantity", "asked"), [(None, "all remaining units"), (3, "3 units")])
def test_the_message_says_what_is_too_much_and_what_remains(quantity, asked):
    line = {"sku": "é" * 500, "quantity": 2, "returnedQuantity": 2, "remainingQuantity": 0}
    entry: Any = {"position": 0, "quantity": quantity}
    refused = take_back([line], [entry])
    assert isinstance(refused, Rejection)
    assert refused.message.endswith(f'the 0 remaining units of "{"é" * 99}, but the entry takes {asked}.')
