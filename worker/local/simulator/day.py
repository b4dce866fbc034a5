"""The POS simulator: a day of a retailer's update records; equal seeds give equal records.

Time has two measures. A tick is one record. Waits are counted in ticks, so that a short day has as many open sessions as a
long one. The clock spreads the ticks over the opening hours of one fixed day.

Each customer's visit is a script: a generator of steps, each with a record and the ticks until the next step. A queue
orders the scripts by their next tick. A tick without a due script begins a new visit. One script never ends: at intervals
it sends a broken record to some visit. It goes through all rejection codes in turn, so that no code is left to chance.

The worker accepts every record that is not broken. Records share parts (lines of a cart; a duplicate its whole value), so
callers must not change them.
"""

import random
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import product

import orjson

from worker.local.simulator.broken import GIANTS, send_broken, send_giant
from worker.local.simulator.shop import HOUR, OPENING, Day, Json, Script
from worker.local.simulator.visits import visit_shop

QUIET_TICKS = 200
"""First tick of a broken record: its targets, open and closed sessions, must exist."""
TICKS_PER_GIANT = 10_000
"""Number of ticks between two records of each code in GIANTS; a shorter day has one of each."""
RUSH = (2, 3, 5, 6, 7, 9, 9, 7, 6, 7, 8, 10, 9, 6, 4, 2)
"""Relative number of records in each hour from OPENING."""


def _clock(count: int, draw: random.Random) -> Iterator[int]:
    """Yield *count* ascending timestamps in milliseconds, spread over the opening hours."""
    done = passed = 0
    for hour, weight in enumerate(RUSH):
        passed += weight
        records = count * passed // sum(RUSH) - done
        done += records
        for number in range(records):
            yield OPENING + hour * HOUR + int((number + draw.random()) * HOUR / records)


def _framed(value: Json) -> str:
    """Return a value in a Confluent frame: the byte 0, the id of a schema in four bytes, then the JSON."""
    return "\x00\x00\x00\x00\x07" + orjson.dumps(value).decode()


def simulate_with_outcomes(count: int, seed: int, clock: Callable[[], int] | None = None) -> Iterator[tuple[Json, str]]:
    """Yield *count* update records in the form of the contract's section 11, each with its expected outcome.

    The outcome is SNAPSHOT, DRY_RUN, DUPLICATE, or one of REJECTED (pipeline/outcomes.py). It is correct for a worker with
    application_id 1 and default limits. A day of less than 5,000 records may lack some codes.

    With a *clock*, which returns milliseconds since 1970, records have the time at which the caller takes them. All other
    fields are the same.
    """
    draw = random.Random(seed)
    day = Day(draw, OPENING if clock is None else clock())
    waiting: list[tuple[float, int, Script]] = [(QUIET_TICKS, -1, send_broken(day))]
    spells = max(1, count // TICKS_PER_GIANT)
    for number, giant in product(range(spells), GIANTS):
        due = max(QUIET_TICKS, count * (number + 0.1 + 0.8 * draw.random()) / spells)
        heappush(waiting, (due, -1 - len(waiting), send_giant(day, giant)))
    for tick, moment in enumerate(_clock(count, draw)):
        day.now = moment if clock is None else clock()
        step = None
        while step is None:
            script = heappop(waiting)[2] if waiting[0][0] <= tick else visit_shop(day)
            step = next(script, None)
        record, wait, outcome = step
        if isinstance(record["value"], dict) and day.may("framed"):
            record = record | {"value": _framed(record["value"])}
        record["timestamp"] = day.now
        heappush(waiting, (tick + 1 + wait, tick, script))
        yield record, outcome


def simulate(count: int, seed: int) -> Iterator[Json]:
    """Yield *count* update records of one day, as dicts of key, value, timestamp and sometimes headers.

    >>> first = next(simulate(1000, seed=1))
    >>> first["key"] is not None and first["timestamp"] >= OPENING
    True
    >>> list(simulate(1000, seed=1)) == list(simulate(1000, seed=1))
    True
    """
    return (record for record, _ in simulate_with_outcomes(count, seed))
