"""Check the responses to aiokafka's client, which fetches records and is a member of the group.

At an unknown error code aiokafka logs one line and ends its coordination: the worker would stay alive and do nothing.
aiokafka retries other requests forever without a pause. So `Watch` is between aiokafka and the brokers:

R1. HANDLED: aiokafka handles the code like Kafka's client. `Watch` passes the response on.
R2. RETRY: Kafka calls the code retriable. The client retries after a pause, whatever aiokafka would do. It first looks up
    the coordinator or the leader, because another broker may have this role now.
R3. END: every other code, also an unknown one, ends the worker. The message has the request, the group or the partition,
    the code and the remedy.
R4. A failure that lasts is logged every REPORT_SECONDS with the number of attempts. A code that aiokafka handles is normal
    for a moment, so it is logged only after REPORT_SECONDS.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from worker.kafka.errors import DENIED, GRANT, BrokerError
from worker.kafka.protocol import Code
from worker.kafka.unreadable import Unreadable

REPORT_SECONDS: Final = 5.0
"""Interval in seconds between two log lines about a failing request."""

_PAUSE_SECONDS: Final = 0.2
"""Pause in seconds before the client retries."""

_log: Final = logging.getLogger(__name__)


class Api(IntEnum):
    """The requests that keep a client in its group and fetching, by Kafka's API keys."""

    FETCH = 1
    LIST_OFFSETS = 2
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    SYNC_GROUP = 14

    @property
    def title(self) -> str:
        """Kafka's name of the request."""
        return self.name.title().replace("_", "")


class Outcome(Enum):
    """The consequence of an error code."""

    HANDLED = "aiokafka handles the code"
    RETRY = "the client retries"
    END = "the worker ends"


_OF_PARTITIONS: Final = frozenset({Api.FETCH, Api.LIST_OFFSETS})
"""Requests whose response can be a success for one partition and an error for another."""

_HANDLED: Final[Mapping[Api, frozenset[int]]] = {
    Api.FETCH: frozenset({Code.OFFSET_OUT_OF_RANGE}),
    Api.LIST_OFFSETS: frozenset(),
    Api.OFFSET_FETCH: frozenset({Code.UNKNOWN_TOPIC_OR_PARTITION}),
    Api.FIND_COORDINATOR: frozenset(),
    Api.JOIN_GROUP: frozenset({Code.MEMBER_ID_REQUIRED, Code.UNKNOWN_MEMBER_ID}),
    Api.HEARTBEAT: frozenset({Code.REBALANCE_IN_PROGRESS, Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID}),
    Api.SYNC_GROUP: frozenset({Code.REBALANCE_IN_PROGRESS, Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID}),
}

_ALSO_RETRIABLE: Final = frozenset({Code.NOT_CONTROLLER, Code.LISTENER_NOT_FOUND})
"""Codes that are retriable in Kafka's table, in addition to the retriable codes of all requests."""

_RETRIED: Final[Mapping[Api, frozenset[int]]] = {
    Api.FETCH: frozenset(
        {
            Code.UNKNOWN_SERVER_ERROR,  # Kafka's consumer retries this code only here
            Code.FETCH_SESSION_ID_NOT_FOUND,
            Code.INVALID_FETCH_SESSION_EPOCH,
            Code.FETCH_SESSION_TOPIC_ID_ERROR,
            Code.UNKNOWN_TOPIC_ID,
            Code.INCONSISTENT_TOPIC_ID,
        }
    ),
    Api.JOIN_GROUP: frozenset({Code.REBALANCE_IN_PROGRESS}),
}

_ASSIGNOR: Final = (
    "another member of the group uses another assignor or protocol, for example a debugging tool with the name of the "
    "group. Stop that member or change its group. To use another group for a new worker set {app_id}"
)
_REMEDIES: Final[Mapping[int, str]] = {
    Code.INCONSISTENT_GROUP_PROTOCOL: _ASSIGNOR,
    Code.GROUP_ID_NOT_FOUND: "the name belongs to a group of another type. To use another group set {app_id}",
    Code.INVALID_GROUP_ID: "the brokers refuse this group name. Set {app_id} to another name",
    Code.GROUP_MAX_SIZE_REACHED: (
        "the group has as many members as group.max.size of the brokers allows. Stop a member or raise group.max.size"
    ),
    Code.INVALID_SESSION_TIMEOUT: (
        "the brokers refuse this session timeout. Set {session_timeout} to a value from "
        "group.min.session.timeout.ms to group.max.session.timeout.ms of the brokers"
    ),
    Code.FENCED_INSTANCE_ID: "another member has the same group.instance.id. Stop it, then start the worker again",
    Code.UNSUPPORTED_VERSION: "the brokers are too old for the worker. Upgrade the brokers, or set {brokers} to newer ones",
    **dict.fromkeys(DENIED, f"the worker's principal lacks a right; {GRANT}"),
}
_UNKNOWN: Final = (
    "the worker cannot retry this request. Find the cause in the log of the broker, then run session-worker run again"
)
_SETTINGS: Final = {
    "app_id": "SESSION_WORKER_APP_ID",
    "session_timeout": "SESSION_WORKER_SESSION_TIMEOUT_SECONDS",
    "brokers": "SESSION_WORKER_BROKERS",
}


class ClientEnded(Exception):
    """The worker's Kafka client cannot continue; the message has the cause and the remedy."""


class _Judged(KafkaError):
    """An error in place of a response; aiokafka retries."""

    retriable = True


class _Streak(NamedTuple):
    """Failures of one request since its last success."""

    since: float
    attempts: int
    reported: float | None


def judge(api: Api, code: int) -> Outcome:
    """Return the outcome of an error code in the response to a request."""
    if code == Code.NONE or code in _HANDLED[api]:
        return Outcome.HANDLED
    if BrokerError(code, "").is_retriable or code in _ALSO_RETRIABLE or code in _RETRIED.get(api, ()):
        return Outcome.RETRY
    return Outcome.END


def remedy(code: int) -> str:
    """Return the cause and the remedy of a code that ends the worker."""
    return _REMEDIES.get(code, _UNKNOWN).format(**_SETTINGS)


class Watch:
    """A wrapper of *send* of aiokafka's client that calls *end* with an error that ends the worker.

    *refresh* makes the client update the leaders of partitions.
    """

    def __init__(
        self,
        send: Callable[..., Awaitable[Any]],
        group: str,
        refresh: Callable[[], object],
        end: Callable[[Exception], None],
    ) -> None:
        self._send = send
        self._group = group
        self._refresh = refresh
        self._end = end
        self._streaks: dict[Api, _Streak] = {}

    async def send(self, node: int, request: Any, **group: Any) -> Any:
        """Send a request and return its response. Raise a retriable KafkaError in place of an error to retry."""
        answer = await self._send(node, request, **group)
        if request.API_KEY not in _HANDLED:
            return answer
        api = Api(request.API_KEY)
        errors = [error for error in _errors(api, answer) if error[0] != Code.NONE]
        if not errors:
            self._recover(api)
            return answer
        code, tp = max(errors, key=lambda error: _GRAVITY[judge(api, error[0])])
        outcome = judge(api, code)
        refusal = BrokerError(code, f"group {self._group}" if tp is None else f"{tp.topic}/{tp.partition}")
        if outcome is Outcome.END:
            self._end(_fatal(api, refusal, request, tp))
        else:
            self._report(api, outcome, refusal)
        if outcome is Outcome.HANDLED:
            return answer
        await asyncio.sleep(_PAUSE_SECONDS)
        if api in _OF_PARTITIONS:
            self._refresh()
            if outcome is Outcome.RETRY:
                return answer  # the response also has records of other partitions
        raise _Judged(f"{api.title}: {refusal}")

    def _report(self, api: Api, outcome: Outcome, refusal: BrokerError) -> None:
        """Log a failure, unless one was logged within REPORT_SECONDS (R4)."""
        now = asyncio.get_running_loop().time()
        since, attempts, reported = self._streaks.get(api, _Streak(now, 0, None))
        due = since + REPORT_SECONDS * (outcome is Outcome.HANDLED) if reported is None else reported + REPORT_SECONDS
        if now >= due:
            _log.warning("Kafka returned an error for %s: %s; retrying (attempt %d)", api.title, refusal, attempts + 1)
            reported = now
        self._streaks[api] = _Streak(since, attempts + 1, reported)

    def _recover(self, api: Api) -> None:
        streak = self._streaks.pop(api, None)
        if streak is not None and streak.reported is not None:
            _log.info("%s succeeded after %d attempts", api.title, streak.attempts)


_GRAVITY: Final = {outcome: number for number, outcome in enumerate(Outcome)}


def _errors(api: Api, answer: Any) -> Iterator[tuple[int, TopicPartition | None]]:
    """Yield the error codes of a response, each with its partition, if it has one."""
    yield getattr(answer, "error_code", Code.NONE), None
    for topic, rows in getattr(answer, "topics", ()):
        for partition, *row in rows:
            yield row[2 if api is Api.OFFSET_FETCH else 0], TopicPartition(topic, partition)


def _fatal(api: Api, refusal: BrokerError, request: Any, tp: TopicPartition | None) -> Exception:
    """Return the error that ends the worker because of a code."""
    if api is Api.FETCH and tp is not None and refusal.code in _DAMAGES:
        offset = next(
            offset
            for topic, rows in request.topics
            for partition, offset, *_ in rows
            if (topic, partition) == (tp.topic, tp.partition)
        )
        return Unreadable(tp, offset, _DAMAGES[refusal.code])
    return ClientEnded(f"Kafka refuses {api.title} with {refusal}: {remedy(refusal.code)}")


_DAMAGES: Final[Mapping[int, str]] = {
    Code.CORRUPT_MESSAGE: "is corrupt on the broker",
    Code.UNSUPPORTED_COMPRESSION_TYPE: "has a compression codec that the broker does not send to this client",
}
