"""Adds prices exactly and refuses what a double cannot carry.

Amounts are integers of billionths (nanos) of the currency's unit: every decimal with at most nine decimal places is
one, sums are exact, and no Decimal is built (0.2 µs a price instead of 0.9).
"""

from decimal import Decimal
from itertools import repeat
from operator import mul, truediv

NANOS = 10**9
MAX_DIGITS = 15
"""Any decimal of at most this many significant digits survives the way into a double and back."""

_EXACT = 10**MAX_DIGITS
_LIMIT = 10**12
_PROVEN = 10**6
"""Amounts below this are below 10^15 in billionths."""


def nanos(amount: float) -> int | None:
    """Read *amount* as the shortest decimal that denotes it, in billionths.

    None when that decimal has more than 15 significant digits or 9 decimal places, or a magnitude of 10^12 and more.

    >>> nanos(0.1), nanos(-2.5), nanos(0.1 + 0.2), nanos(1e-10)
    (100000000, -2500000000, None, None)
    """
    if not -_LIMIT < amount < _LIMIT:
        return None
    scaled = round(amount * 1e9)
    # Below 10^15 a quotient that gives the double back is its one decimal of at most 15 digits, hence the shortest.
    if -_EXACT < scaled < _EXACT and scaled / 1e9 == amount:
        return scaled
    return _shortest(amount)


def all_nanos(amounts: list[float]) -> list[int] | None:
    """Read a column of *amounts*, in billionths; None when `nanos` gives None for any of them.

    >>> all_nanos([0.1, -2.5]), all_nanos([0.1, 1e-10])
    ([100000000, -2500000000], None)
    """
    if not amounts:
        return []
    if max(amounts) < _PROVEN and min(amounts) > -_PROVEN:
        scaled = list(map(round, map(mul, amounts, repeat(1e9))))
        if list(map(truediv, scaled, repeat(1e9))) == amounts:
            return scaled
    exact = [nanos(amount) for amount in amounts]
    return None if None in exact else [number for number in exact if number is not None]


def total_nanos(total: float) -> int:
    """Read back a total that `amount` wrote, in billionths; totals may be larger than prices may.

    >>> total_nanos(0.3), total_nanos(9e15)
    (300000000, 9000000000000000000000000)
    """
    return int(Decimal(repr(total)) * NANOS)


def amount(total: int) -> float | None:
    """Write *total* billionths as the double whose shortest decimal it is; None when that needs over 15 digits.

    >>> amount(3 * 100_000_000), amount(10**24), amount(10**15 + 1)
    (0.3, 1000000000000000.0, None)
    """
    if -_EXACT < total < _EXACT or len(str(abs(total)).rstrip("0")) <= MAX_DIGITS:
        return total / NANOS
    return None


def _shortest(amount: float) -> int | None:
    decimal = Decimal(repr(amount)).normalize()
    _sign, digits, exponent = decimal.as_tuple()
    if len(digits) > MAX_DIGITS or int(exponent) < -9:
        return None
    return int(decimal * NANOS)
