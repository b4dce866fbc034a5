"""Instants as snapshots write them: RFC 3339 in UTC with milliseconds."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_MILLISECONDS = 3_600_000
LATEST_MILLISECONDS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in milliseconds since 1970: the last instant that RFC 3339 can express."""


def instant(milliseconds: int) -> str:
    """Return *milliseconds* since 1970 in the snapshot's form; a time outside RFC 3339 becomes the nearest one inside.

    Times in this form compare as strings.

    >>> instant(1795372800000)
    '2026-11-22T18:40:00.000Z'
    >>> instant(-1)
    '1970-01-01T00:00:00.000Z'
    """
    hours, rest = divmod(milliseconds, HOUR_MILLISECONDS)
    if not 0 <= milliseconds <= LATEST_MILLISECONDS:
        return instant(0 if milliseconds < 0 else LATEST_MILLISECONDS)
    return f"{to_the_hour(hours)}{_OF_AN_HOUR[rest // 1000]}.{rest % 1000:03}Z"


_OF_AN_HOUR = tuple(f":{minute:02}:{second:02}" for minute in range(60) for second in range(60))


@lru_cache(maxsize=4096)
def to_the_hour(hours: int) -> str:
    """Return *hours* since 1970 as the beginning of an instant, which sorts before every instant in that hour."""
    moment = EPOCH + timedelta(hours=min(max(hours, 0), LATEST_MILLISECONDS // HOUR_MILLISECONDS))
    return moment.isoformat()[:13]


def to_instant(text: str) -> str:
    """Return an RFC 3339 time in the snapshot's form: UTC, truncated to milliseconds.

    Raise ValueError for a time that does not exist (a leap second, hour 24) or is outside 1970 to 9999 in UTC.

    >>> to_instant("2026-11-22t21:00:00.9999+01:00")
    '2026-11-22T20:00:00.999Z'
    """
    moment = datetime.fromisoformat(text.upper())
    if len(text) == 24 and text[10] == "T" and text[23] == "Z" and text >= "1970":
        return text
    try:
        moment = moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time outside the years 1 to 9999 in UTC") from error
    if moment < EPOCH:
        raise ValueError("a time before 1970")
    return f"{moment.isoformat(timespec='milliseconds')[:23]}Z"
