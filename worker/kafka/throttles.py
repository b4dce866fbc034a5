"""Wait while a broker throttles a client, like Kafka's clients (KIP-219), and log the throttling.

Q1. A broker responds at once to a client that exceeds a quota. The response has the throttle time. The broker reads no
    request from the connection during this time, so a request would seem to have no response. So `Throttles` sends the
    next request on the connection after the throttle time; its request timeout begins then.
Q2. Fetch and Produce carry the bytes that quotas count. Each has its own connection with one request at a time. So no other
    request waits in a connection that the broker does not read.
Q3. Throttling is logged once every REPORT_SECONDS.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiokafka.client import ConnectionGroup

REPORT_SECONDS: Final = 60.0

_CONNECTIONS: Final[dict[int, str]] = {0: "produce", 1: "fetch"}
"""The names of connections for one kind of request, by API key."""

_log: Final = logging.getLogger(__name__)


class Throttles:
    """A wrapper of *send* of aiokafka's client that sends no request during a throttle time."""

    def __init__(self, send: Callable[..., Any]) -> None:
        self._send = send
        self._until: dict[tuple[int | None, object], float] = {}
        self._reported = float("-inf")
        self.last = float("-inf")
        """The end of the last throttle time, on the event loop's clock."""

    @property
    def is_recent(self) -> bool:
        """True if a broker throttles this client, or throttled it in the last minute."""
        return asyncio.get_running_loop().time() < self.last + REPORT_SECONDS

    async def send(self, node: int, request: Any, *, group: object = ConnectionGroup.DEFAULT) -> Any:
        """Send a request after the throttle time, and return its response (Q1, Q2)."""
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
        """Wait until no broker throttles this client."""
        await asyncio.sleep(max(self._until.values(), default=0.0) - asyncio.get_running_loop().time())

    def seconds(self, nodes: Iterable[int | None]) -> float:
        """Return the throttle time in seconds before the next Produce to one of these brokers."""
        now = asyncio.get_running_loop().time()
        return max((self._until.get((node, _CONNECTIONS[0]), now) - now for node in nodes), default=0.0)

    def _report(self, request: Any, throttle_ms: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._reported + REPORT_SECONDS:
            self._reported = now
            name = type(request).__name__.removesuffix("Request")
            _log.warning("%s: throttled by a quota of the broker: %d ms", name, throttle_ms)
