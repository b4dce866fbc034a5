"""Waits where a broker throttles a client, as Kafka's own clients do (KIP-219), and logs it.

Q1. A broker answers a client that exceeds a quota at once, and says for how long it throttles the client. It reads nothing
    more from that connection meanwhile. A request sent in that time would seem to have no answer. So `Throttles` sends the
    next request on that connection when the time is over, and the limit of time for its answer begins then.
Q2. Fetch and Produce carry the bytes that quotas count. Each has a connection of its own, with one request at a time. So no
    other request waits in a connection that the broker does not read.
Q3. While throttling goes on, it is logged once every REPORT_SECONDS.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiokafka.client import ConnectionGroup

REPORT_SECONDS: Final = 60.0

_CONNECTIONS: Final[dict[int, str]] = {0: "produce", 1: "fetch"}
"""The names of connections that carry one kind of request only, by API key."""

_log: Final = logging.getLogger(__name__)


class Throttles:
    """Sends requests for a client of aiokafka by *send*, none before the time is over for which a broker throttles it."""

    def __init__(self, send: Callable[..., Any]) -> None:
        self._send = send
        self._until: dict[tuple[int | None, object], float] = {}
        self._reported = float("-inf")
        self.last = float("-inf")
        """The time on the event loop's clock up to which a broker has throttled this client last."""

    @property
    def is_recent(self) -> bool:
        """Whether a broker throttles this client, or did so in the last minute."""
        return asyncio.get_running_loop().time() < self.last + REPORT_SECONDS

    async def send(self, node: int, request: Any, *, group: object = ConnectionGroup.DEFAULT) -> Any:
        """Send a request when the broker reads it, and return its answer (Q1, Q2)."""
        loop = asyncio.get_running_loop()
        place = node, _CONNECTIONS.get(request.API_KEY, group)
        if place in self._until:
            await asyncio.sleep(self._until[place] - loop.time())
        answer = await self._send(node, request, group=place[1])
        if throttle_ms := getattr(answer, "throttle_time_ms", 0):
            self._until[place] = loop.time() + throttle_ms / 1000
            self.last = max(self.last, self._until[place])
            self._report(request, throttle_ms)
        else:
            self._until.pop(place, None)
        return answer

    async def wait(self) -> None:
        """Wait until no broker throttles this client on any connection."""
        await asyncio.sleep(max(self._until.values(), default=0.0) - asyncio.get_running_loop().time())

    def seconds(self, nodes: Iterable[int | None]) -> float:
        """Return for how long the next Produce to one of these brokers has to wait."""
        now = asyncio.get_running_loop().time()
        return max((self._until.get((node, _CONNECTIONS[0]), now) - now for node in nodes), default=0.0)

    def _report(self, request: Any, throttle_ms: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._reported + REPORT_SECONDS:
            self._reported = now
            name = type(request).__name__.removesuffix("Request")
            _log.warning("%s: throttled by a quota of the broker: %d ms", name, throttle_ms)
