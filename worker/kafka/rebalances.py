"""Log the cause of each rebalance of the worker's group in one INFO line.

B1. The response to a heartbeat announces a rebalance without its cause. The members of the group, compared with those of
    the last assignment, show which member joined or left.
B2. A rebalance is normal, so a healthy worker logs no warning. aiokafka logs a warning. So `Rebalances` replaces the
    response by a success, and makes aiokafka join again.
B3. A member that the coordinator has removed is not healthy. `Rebalances` passes on this response, and logs a warning.
B4. A coordinator answers JoinGroup when all members have joined again, or have been silent for their session timeout. So a
    frozen member holds up all others. If that takes WAIT_SECONDS, a warning names the members.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest

from worker.kafka.protocol import Code
from worker.kafka.responses import Api

WAIT_SECONDS: Final = 10.0
"""How long a JoinGroup may have no answer before that is logged."""

_log: Final = logging.getLogger(__name__)

_REMOVED: Final = frozenset({Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID})


class Rebalances:
    """A wrapper of *send* of aiokafka's client that logs the cause of each rebalance of *group*.

    *rejoin* makes the client join the group again.
    """

    def __init__(self, send: Callable[..., Any], group: str, rejoin: Callable[[], object]) -> None:
        self._send = send
        self._group = group
        self._rejoin = rejoin
        self._members: Mapping[str, str] = {}
        self._generation = 0
        self._is_announced = False

    async def send(self, node: int, request: Any, **group: Any) -> Any:
        """Send a request and return its response (B2)."""
        if request.API_KEY == Api.JOIN_GROUP:
            self._announce("this worker joins again" if self._members else "this worker joins")
            answer = await self._joined(node, self._send(node, request, **group))
        else:
            answer = await self._send(node, request, **group)
        if request.API_KEY == Api.JOIN_GROUP and answer.error_code == Code.NONE:
            self._generation = answer.generation_id
        if request.API_KEY == Api.SYNC_GROUP and answer.error_code == Code.NONE:
            self._members = await self._present(node)
            self._is_announced = False
        if request.API_KEY == Api.HEARTBEAT and answer.error_code == Code.REBALANCE_IN_PROGRESS:
            if not self._is_announced:
                self._announce(self._change(await self._present(node)))
            self._rejoin()
            answer.error_code = Code.NONE
        if request.API_KEY == Api.HEARTBEAT and answer.error_code in _REMOVED:
            reason = (
                "the coordinator has removed this worker, which sent no heartbeat within "
                "SESSION_WORKER_SESSION_TIMEOUT_SECONDS; check if the machine was frozen or overloaded"
            )
            self._announce(reason, logging.WARNING)
        return answer

    async def _joined(self, node: int, joining: Awaitable[Any]) -> Any:
        """Return the answer to a JoinGroup; log that it takes long (B4)."""
        answering = asyncio.ensure_future(joining)
        try:
            await asyncio.wait([answering], timeout=WAIT_SECONDS)
            if not answering.done():
                present = ", ".join((await self._present(node, ConnectionGroup.DEFAULT)).values())
                reason = (
                    "the coordinator waits until all members join again, or have sent no heartbeat within their session "
                    f"timeout. Its members: {present}"
                    if present
                    else "the coordinator does not show the members either"
                )
                _log.warning("Group %s: JoinGroup has no answer for %.0f s: %s", self._group, WAIT_SECONDS, reason)
            return await answering
        finally:
            answering.cancel()

    def _announce(self, reason: str, level: int = logging.INFO) -> None:
        """Log the cause of a rebalance, unless this rebalance is logged already."""
        if not self._is_announced:
            _log.log(
                level, "A rebalance of group %s began after generation %d: %s", self._group, self._generation, reason
            )
        self._is_announced = True

    def _change(self, present: Mapping[str, str]) -> str:
        """Return the changes of the members since the last assignment (B1)."""
        if not (present and self._members):
            return "the coordinator does not show which member joined or left"
        joined = [name for member, name in present.items() if member not in self._members]
        left = [name for member, name in self._members.items() if member not in present]
        changes = [f"{', '.join(joined)} joined"] if joined else []
        changes += [f"{', '.join(left)} left or sent no heartbeat within its session timeout"] if left else []
        return "; ".join(changes) or "a member joined again"

    async def _present(self, node: int, group: ConnectionGroup = ConnectionGroup.COORDINATION) -> Mapping[str, str]:
        """Return the client id and host of each member by its id; empty if the coordinator fails."""
        with suppress(KafkaError):
            request = DescribeGroupsRequest([self._group])
            answer = await self._send(node, request, group=group)
            (row,) = answer.groups
            return {member: f"{client} at {host.lstrip('/')}" for member, client, host, *_ in row[5]}
        return {}
