"""Adds prices exactly and refuses what a double cannot carry.

Amounts are integers of billionths (nanos) of the currency's unit: every decimal with at most nine decimal places is
one, sums are exact, and no Decimal is built (0.2 µs a price instead of 0.9).
"""

from decimal import Decimal

NANOS = 10**9
MAX_DIGITS = 15
"""Any decimal of at most this many significant digits survives the way into a double and back."""

PROVEN = 10**MAX_DIGITS
"""Below this, a quotient by 10^9 that gives a double back is its one decimal of at most 15 digits: the shortest."""
_LIMIT = 10**12


def nanos(amount: float) -> int | None:
    """Read *amount* as the shortest decimal that denotes it, in billionths.

    None when that decimal has more than 15 significant digits or 9 decimal places, or a magnitude of 10^12 and more.

    >>> nanos(0.1), nanos(-2.5), nanos(0.1 + 0.2), nanos(1e-10)
    (100000000, -2500000000, None, None)
    """
    if -1e6 < amount < 1e6:  # below PROVEN, in billionths
        scaled = round(amount * 1e9)
        if scaled / 1e9 == amount:
            return scaled
    return _shortest(amount) if -_LIMIT < amount < _LIMIT else None


def total_nanos(total: float) -> int:
    """Read back a total that `amount` wrote, in billionths; totals may be larger than prices may.

    >>> total_nanos(0.3), total_nanos(9e15)
    (300000000, 9000000000000000000000000)
    """
    exact = nanos(total)
    return int(Decimal(repr(total)) * NANOS) if exact is None else exact


def amount(total: int) -> float | None:
    """Write *total* billionths as the double whose shortest decimal it is; None when that needs over 15 digits.

    >>> amount(3 * 100_000_000), amount(10**24), amount(10**15 + 1)
    (0.3, 1000000000000000.0, None)
    """
    if -PROVEN < total < PROVEN or len(str(abs(total)).rstrip("0")) <= MAX_DIGITS:
        return total / NANOS
    return None


def _shortest(amount: float) -> int | None:
    decimal = Decimal(repr(amount)).normalize()
    _sign, digits, exponent = decimal.as_tuple()
    if len(digits) > MAX_DIGITS or int(exponent) < -9:
        return None
    return int(decimal * NANOS)
