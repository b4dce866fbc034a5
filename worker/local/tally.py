"""The counts of a live run: records sent, outcomes, and latencies.

The place of an update record is its partition and offset. This module matches the expected outcome of a record with the
outcome that was read, in either order: a snapshot can be read before the broker acknowledges its record. Matched pairs
are removed, so the memory does not grow while all outcomes are as expected.
"""

from collections import Counter, deque
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from worker.pipeline.outcomes import DRY_RUN, DUPLICATE, SNAPSHOT, rejections

Place = tuple[int, int]
"""The partition and offset of an update record."""

RECENT = 5000


class Latencies:
    """Durations in seconds with a resolution of 0.1 ms: all of them, or the most *recent*."""

    def __init__(self, recent: int | None = None) -> None:
        self._counts: Counter[int] = Counter()
        self._recent: deque[int] | None = None if recent is None else deque(maxlen=recent)

    def add(self, seconds: float) -> None:
        """Count a duration."""
        tenth = round(seconds * 10_000)
        if self._recent is not None:
            if len(self._recent) == self._recent.maxlen:
                self._counts[self._recent[0]] -= 1
            self._recent.append(tenth)
        self._counts[tenth] += 1

    def percentile(self, percent: float) -> float | None:
        """Return the smallest duration in milliseconds that *percent* of all do not exceed; None without durations."""
        rank = ceil(self._counts.total() * percent / 100)
        for tenth in sorted(self._counts):
            rank -= self._counts[tenth]
            if rank <= 0 < self._counts[tenth]:
                return tenth / 10
        return None


class Pace:
    """The times at which records are due: *rate* per second from *started*, so that delays do not add up."""

    def __init__(self, rate: float, started: float) -> None:
        self.rate = rate
        self.started = started

    def wait(self, sent: int, now: float) -> float:
        """Return the seconds from *now* until the next record is due after *sent* records; 0 if it is overdue.

        >>> Pace(500, started=10.0).wait(sent=3, now=10.002)
        0.004
        """
        return max(0.0, round(self.started + sent / self.rate - now, 6))


class Sighting(NamedTuple):
    """The expected or real *outcome* of an update record, and the time at which it was sent or read."""

    outcome: str
    at: float


class Reconciliation:
    """The counts of records and outcomes, and the records whose outcome is not the expected one."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        """The number of records sent, by expected outcome."""
        self.came: Counter[str] = Counter()
        """The number of records with an output, by outcome."""
        self.events: Counter[str] = Counter()
        """The number of snapshots by event, reclassified ones included."""
        self.wrong: list[str] = []
        self.latencies = Latencies()
        self.recent = Latencies(RECENT)
        self._pending: dict[Place, Sighting] = {}
        self._early: dict[Place, Sighting] = {}

    @property
    def on_the_way(self) -> int:
        """The number of records whose output has not arrived."""
        return len(self._pending)

    def acknowledge(self, place: Place, outcome: str, at: float) -> None:
        """Count a record that is on the input topic and was sent at *at*."""
        self.sent[outcome] += 1
        if outcome != DUPLICATE:
            self._meet(place, Sighting(outcome, at), self._early.pop(place, None))

    def receive(self, place: Place | None, outcome: str, event: str, at: float) -> None:
        """Count an output of the record at *place*, read at *at*; *event* is that of a snapshot."""
        if event:
            self.events[event] += 1
        if place is None:
            return
        self.came[outcome] += 1
        self._meet(place, self._pending.pop(place, None), Sighting(outcome, at))

    def _meet(self, place: Place, expected: Sighting | None, came: Sighting | None) -> None:
        if expected is None and came is not None:
            self._early[place] = came
        elif came is None and expected is not None:
            self._pending[place] = expected
        elif came is not None and expected is not None:
            if came.outcome != expected.outcome:
                self.wrong.append(f"{_named(place)}: expected {expected.outcome}, but the outcome is {came.outcome}")
            elif came.outcome == SNAPSHOT:
                self.latencies.add(came.at - expected.at)
                self.recent.add(came.at - expected.at)

    def flaws(self) -> Iterator[str]:
        """Yield the records with an unexpected outcome, after all outputs are read."""
        yield from self.wrong
        for place, (outcome, _at) in self._pending.items():
            yield f"{_named(place)}: expected {outcome}, but there is no output"
        for place, (outcome, _at) in self._early.items():
            yield f"{_named(place)}: the outcome {outcome} was not expected"


def outcomes(counts: Counter[str]) -> str:
    """Return the numbers of outputs by outcome as text; a duplicate has no output.

    >>> outcomes(Counter({"snapshot": 1, "rejected.unknown_field": 1000, "rejected.invalid_field": 2}))
    '1 snapshot, 1,002 rejections, 0 dry runs'
    """
    numbers = {"snapshot": counts[SNAPSHOT], "rejection": rejections(counts).total(), "dry run": counts[DRY_RUN]}
    return ", ".join(numbered(number, name) for name, number in numbers.items())


def numbered(number: int, name: str) -> str:
    """Return a number with a noun.

    >>> numbered(1, "record"), numbered(5000, "record")
    ('1 record', '5,000 records')
    """
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def place_of(event_id: str) -> Place:
    """Return the place of an update record from the ce_id of its output.

    >>> place_of("session-updates/3/17")
    (3, 17)
    """
    _topic, partition, offset = event_id.rsplit("/", 2)
    return int(partition), int(offset)


def _named(place: Place) -> str:
    return f"partition {place[0]}, offset {place[1]}"
