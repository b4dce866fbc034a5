"""The one list of what can become of a record, by the names under which stages count it.

Stages, the rejection ratio, summaries and the simulator use these names.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final, get_args

from worker.domain.lifecycle import Event
from worker.domain.rejections import ROWS

EVENTS: Final[tuple[Event, ...]] = get_args(Event)
"""The update record was accepted: what it did to its session."""
DRY_RUN: Final = "dry_run"
"""The update record was accepted and changed nothing, as it asked."""
DUPLICATE: Final = "duplicate"
"""An update record with this eventId and value was accepted before."""
ABSENT: Final = "absent"
"""The update record deletes a session that does not exist."""
SKIPPED: Final = "skipped"
"""The update record is for another application, and the operator skips those."""
REJECTED: Final[Mapping[str, str]] = {code: f"rejected.{code}" for codes in ROWS for code in codes}
"""The update record was rejected, by the rejection's code."""

FORWARDED: Final = "forwarded"
"""A stray was sent to the partition of its session, where its outcome is counted."""
RECLASSIFIED: Final = "reclassified"
"""A session was published again, because another session was its profile's first."""
UNREADABLE: Final = "unreadable"
"""A claim or a verdict that no stage wrote was passed over."""

OF_UPDATE_RECORDS: Final = frozenset({*EVENTS, DRY_RUN, DUPLICATE, ABSENT, SKIPPED, *REJECTED.values()})
"""Each update record has one of these."""

SNAPSHOT: Final = "snapshot"
"""Any of EVENTS, for those who ask only whether an update record was accepted."""

_CODES: Final = {name: code for code, name in REJECTED.items()}


def rejections(counts: Mapping[str, int]) -> Counter[str]:
    """Return the rejections among counted outcomes, by code.

    >>> rejections({"created": 3, "rejected.unknown_field": 2})
    Counter({'unknown_field': 2})
    """
    return Counter({_CODES[name]: count for name, count in counts.items() if name in _CODES})
