"""What was sent, what came of it, and how long that took: the counts of a live run.

An update record is known by its place, its partition and offset. What is foretold of it and what comes of it meet here
in whatever order they are heard of: a snapshot may be read before its record's offset is acknowledged. Then both are
forgotten, so what is held does not grow with the run, as long as all is as foretold.
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
    """Durations in seconds, to a tenth of a millisecond: all of them, or the most *recent*."""

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
        """Give the smallest duration that *percent* of all do not exceed, in milliseconds; None when there are none."""
        rank = ceil(self._counts.total() * percent / 100)
        for tenth in sorted(self._counts):
            rank -= self._counts[tenth]
            if rank <= 0 < self._counts[tenth]:
                return tenth / 10
        return None


class Pace:
    """Tells when a record is due: *rate* a second from *started* on, so that no delay adds to the next."""

    def __init__(self, rate: float, started: float) -> None:
        self.rate = rate
        self.started = started

    def wait(self, sent: int, now: float) -> float:
        """Give the seconds from *now* until the next record is due, when so many were sent; none when that is past.

        >>> Pace(500, started=10.0).wait(sent=3, now=10.002)
        0.004
        """
        return max(0.0, round(self.started + sent / self.rate - now, 6))


class Sighting(NamedTuple):
    """Word of an update record: its *outcome*, as the simulator foretells it, when it was sent or came out."""

    outcome: str
    at: float


class Reconciliation:
    """Counts what is sent and what comes out, and finds for each record whether that is what was foretold."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        """What was foretold of the records that were sent, by outcome."""
        self.came: Counter[str] = Counter()
        """What came out, by outcome."""
        self.events: Counter[str] = Counter()
        """The snapshots that came out, by what happened; those that are published again too."""
        self.wrong: list[str] = []
        self.latencies = Latencies()
        self.recent = Latencies(RECENT)
        self._pending: dict[Place, Sighting] = {}
        self._early: dict[Place, Sighting] = {}

    @property
    def on_the_way(self) -> int:
        """How many records have not come out that are to."""
        return len(self._pending)

    def acknowledge(self, place: Place, outcome: str, at: float) -> None:
        """Hear that a record is on the input topic, sent at *at*."""
        self.sent[outcome] += 1
        if outcome != DUPLICATE:
            self._meet(place, Sighting(outcome, at), self._early.pop(place, None))

    def receive(self, place: Place | None, outcome: str, event: str, at: float) -> None:
        """Hear what was published, of which record, read at *at*; a snapshot tells what happened, its *event*."""
        if event:
            self.events[event] += 1
        if place is None:
            return
        self.came[outcome] += 1
        self._meet(place, self._pending.pop(place, None), Sighting(outcome, at))

    def _meet(self, place: Place, foretold: Sighting | None, came: Sighting | None) -> None:
        if foretold is None and came is not None:
            self._early[place] = came
        elif came is None and foretold is not None:
            self._pending[place] = foretold
        elif came is not None and foretold is not None:
            if came.outcome != foretold.outcome:
                self.wrong.append(f"{_named(place)}: foretold {foretold.outcome}, but it is {came.outcome}")
            elif came.outcome == SNAPSHOT:
                self.latencies.add(came.at - foretold.at)
                self.recent.add(came.at - foretold.at)

    def flaws(self) -> Iterator[str]:
        """Tell what is not as foretold, now that all is read."""
        yield from self.wrong
        for place, (outcome, _at) in self._pending.items():
            yield f"{_named(place)}: foretold {outcome}, but nothing came of it"
        for place, (outcome, _at) in self._early.items():
            yield f"{_named(place)}: {outcome} came of it that was not foretold"


def outcomes(counts: Counter[str]) -> str:
    """Say how many of each outcome came out; of a duplicate nothing does.

    >>> outcomes(Counter({"snapshot": 1, "rejected.unknown_field": 1000, "rejected.invalid_field": 2}))
    '1 snapshot, 1,002 rejections, 0 dry runs'
    """
    numbers = {"snapshot": counts[SNAPSHOT], "rejection": rejections(counts).total(), "dry run": counts[DRY_RUN]}
    return ", ".join(numbered(number, name) for name, number in numbers.items())


def numbered(number: int, name: str) -> str:
    """Write a number of things.

    >>> numbered(1, "record"), numbered(5000, "record")
    ('1 record', '5,000 records')
    """
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def place_of(event_id: str) -> Place:
    """Read the place of an update record from the ce_id of what came of it.

    >>> place_of("session-updates/3/17")
    (3, 17)
    """
    _topic, partition, offset = event_id.rsplit("/", 2)
    return int(partition), int(offset)


def _named(place: Place) -> str:
    return f"partition {place[0]}, offset {place[1]}"
