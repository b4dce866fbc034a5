"""Apply a return to a cart, all units or none."""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from worker.domain.model import ReturnedCartItem
from worker.domain.rejections import Rejection, shown

Line = dict[str, Any]


def take_back(lines: Sequence[Line], entries: Sequence[ReturnedCartItem]) -> list[Line] | Rejection:
    """Return the lines of a cart after a return of *entries*, or the rejection of an entry.

    An entry by sku takes units from the lines with this sku, first line first. An entry without a quantity takes all
    remaining units. *lines* are not changed. The cost grows with the sum of lines and entries, not with their product.

    >>> mugs = [{"sku": "mug", "quantity": 2, "returnedQuantity": 0, "remainingQuantity": 2}]
    >>> take_back(mugs, [{"sku": "mug", "quantity": 1}])[0]["remainingQuantity"]
    1
    >>> take_back(mugs, [{"position": 0, "quantity": 3}]).code
    'return_exceeds_remaining'
    """
    after = [{**line} for line in lines]
    by_sku: defaultdict[str, deque[Line]] = defaultdict(deque)
    remaining: defaultdict[str, int] = defaultdict(int)
    for line in after:
        by_sku[line["sku"]].append(line)
        remaining[line["sku"]] += line["remainingQuantity"]
    for index, entry in enumerate(entries):
        position, sku = entry.get("position"), entry.get("sku") or ""
        if position is None and sku in remaining:
            queue, rest = by_sku[sku], remaining[sku]
        elif position is not None and position < len(after):
            line = after[position]
            sku, queue, rest = line["sku"], deque((line,)), line["remainingQuantity"]
        else:
            name = f"sku {shown(sku)}" if position is None else f"position {position}"
            message = f"A return must name an item of the cart, but no item of {len(after)} has {name}."
            return Rejection("unknown_item", _pointer(index), message)
        quantity = entry.get("quantity") or rest
        if not 0 < quantity <= rest:
            asked = f"{quantity} units" if quantity else "all remaining units"
            message = (
                f"A return must take at most the {rest} remaining units of {shown(sku)}, but the entry takes {asked}."
            )
            return Rejection("return_exceeds_remaining", _pointer(index), message)
        remaining[sku] -= quantity
        while quantity:
            line = queue[0]
            taken = min(quantity, line["remainingQuantity"])
            line["returnedQuantity"] += taken
            line["remainingQuantity"] -= taken
            quantity -= taken
            if quantity:
                queue.popleft()
    return after


def _pointer(index: int) -> str:
    return f"/return/returnedCartItems/{index}"
