"""The state of a worker: one enum, one table of transitions, one place where it is set.

```
STARTING → RESTORING → RUNNING
              ↑ ↓        ↓
           REBALANCING ←─┘          each of them → STOPPING
```
"""

import logging
import time
from collections.abc import Mapping
from enum import Enum
from typing import Final

log = logging.getLogger(__name__)


class State(Enum):
    """What a worker does."""

    STARTING = "connects to Kafka and joins the group"
    RESTORING = "reads committed offsets and tables of its partitions"
    RUNNING = "folds update records"
    REBALANCING = "waits for the group's next assignment"
    STOPPING = "ends its transaction and leaves the group"


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.STARTING: frozenset({State.REBALANCING, State.RESTORING, State.STOPPING}),
    State.RESTORING: frozenset({State.RUNNING, State.REBALANCING, State.RESTORING, State.STOPPING}),
    State.RUNNING: frozenset({State.RESTORING, State.REBALANCING, State.STOPPING}),
    State.REBALANCING: frozenset({State.RESTORING, State.REBALANCING, State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPING}),
}
"""The states that may follow each state. Nothing follows STOPPING: a late callback of a client changes nothing then."""


class Status:
    """The state of this worker, the reason for waiting in it, and since when, in seconds since 1970."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.reason = ""
        self.since = time.time()

    def move(self, state: State, reason: str = "") -> None:
        """Go to a state.

        Raises ValueError for a transition that TRANSITIONS does not have; a worker that stops stays so.
        """
        if self.state is State.STOPPING:
            return
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a worker does not go from {self.state.name} to {state.name}")
        log.debug("State: %s, was %s for %.2f s", state.name, self.state.name, time.time() - self.since)
        self.state, self.reason, self.since = state, reason, time.time()
