"""Add prices exactly, and round each total once.

Amounts are integers in billionths (nanos) of the currency's unit. Every decimal with at most nine decimal places is such
an integer, so sums are exact without a Decimal (0.2 µs a price instead of 0.9). A price with more decimal places is an
integer in billionths of a billionth (attos, 18 decimal places). A sum of such prices is rounded to billionths at the end.
"""

from decimal import ROUND_HALF_EVEN, Decimal

NANOS = 10**9
ATTOS_IN_A_NANO = 10**9
MAX_DIGITS = 15
"""Upper bound in significant digits of a decimal that a conversion to a double and back always preserves."""

PROVEN = 10**MAX_DIGITS
"""Exclusive upper bound of an integer n for which n / 10^9 == price proves that n is the shortest decimal of price."""


def nanos(price: float) -> int | None:
    """Return the shortest decimal of *price* in billionths; None if one division cannot prove it.

    >>> nanos(0.1), nanos(-2.5), nanos(0.1 + 0.2), nanos(1e-10)
    (100000000, -2500000000, None, None)
    """
    if -1e6 < price < 1e6:  # below PROVEN, in billionths
        scaled = round(price * 1e9)
        if scaled / 1e9 == price:
            return scaled
    return None


def attos(price: float) -> int:
    """Return the shortest decimal of *price* in billionths of a billionth; further digits are rounded half even.

    >>> attos(0.1 + 0.2), attos(5e-19), attos(1.5e-18)
    (300000000000000040, 0, 2)
    """
    return int(Decimal(repr(price)).scaleb(18).to_integral_value(ROUND_HALF_EVEN))


def rounded(whole: int, fine: int) -> int:
    """Return the sum of *whole* billionths and *fine* billionths of a billionth in billionths, rounded half even.

    >>> rounded(3, 500_000_000), rounded(4, 500_000_000), rounded(4, -500_000_001)
    (4, 4, 3)
    """
    if not fine:
        return whole
    quotient, rest = divmod(whole * ATTOS_IN_A_NANO + fine, ATTOS_IN_A_NANO)
    half = ATTOS_IN_A_NANO // 2
    return quotient + (rest > half or (rest == half and quotient % 2 == 1))


def total_nanos(total: float) -> int:
    """Return a total that `amount` wrote in billionths; totals can be larger than prices.

    >>> total_nanos(0.3), total_nanos(9e15)
    (300000000, 9000000000000000000000000)
    """
    exact = nanos(total)
    return int(Decimal(repr(total)) * NANOS) if exact is None else exact


def amount(total: int) -> float | None:
    """Return the double whose shortest decimal is *total* billionths; None if *total* has more than 15 digits.

    >>> amount(3 * 100_000_000), amount(10**24), amount(10**15 + 1)
    (0.3, 1000000000000000.0, None)
    """
    if -PROVEN < total < PROVEN or len(str(abs(total)).rstrip("0")) <= MAX_DIGITS:
        return total / NANOS
    return None


def decimal(total: int) -> str:
    """Return *total* billionths as a decimal with all digits, for messages.

    >>> decimal(1_500_000_000), decimal(-1)
    ('1.5', '-0.000000001')
    """
    whole, fraction = divmod(abs(total), NANOS)
    return f"{'-' * (total < 0)}{whole}.{fraction:09}".rstrip("0").rstrip(".")
