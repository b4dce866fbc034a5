"""The errors of requests to brokers, by Kafka's error codes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from worker.kafka.protocol import Code

GRANT: Final = "grant the worker's principal the rights that the README lists in its section Security"
"""The remedy for an authorization error."""
DENIED: Final = frozenset(
    {
        Code.TOPIC_AUTHORIZATION_FAILED,
        Code.GROUP_AUTHORIZATION_FAILED,
        Code.CLUSTER_AUTHORIZATION_FAILED,
        Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_RETRIABLE: Final = frozenset(
    {
        Code.UNKNOWN_TOPIC_OR_PARTITION,
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_LEADER_OR_FOLLOWER,
        Code.REQUEST_TIMED_OUT,
        Code.BROKER_NOT_AVAILABLE,
        Code.REPLICA_NOT_AVAILABLE,
        Code.NETWORK_EXCEPTION,
        Code.COORDINATOR_LOAD_IN_PROGRESS,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NOT_COORDINATOR,
        Code.NOT_ENOUGH_REPLICAS,
        Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        Code.CONCURRENT_TRANSACTIONS,
        Code.KAFKA_STORAGE_ERROR,
        Code.FENCED_LEADER_EPOCH,
        Code.UNKNOWN_LEADER_EPOCH,
        Code.OFFSET_NOT_AVAILABLE,
        Code.UNSTABLE_OFFSET_COMMIT,
        Code.THROTTLING_QUOTA_EXCEEDED,
    }
)
_STALE_METADATA: Final = frozenset(
    {
        Code.UNKNOWN_TOPIC_OR_PARTITION,
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_LEADER_OR_FOLLOWER,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NOT_COORDINATOR,
        Code.KAFKA_STORAGE_ERROR,
        Code.FENCED_LEADER_EPOCH,
    }
)
_NAMED: Final = frozenset(Code)
_NOT_MEMBER: Final = frozenset(
    {Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID, Code.REBALANCE_IN_PROGRESS, Code.FENCED_INSTANCE_ID}
)


class RequestFailed(Exception):
    """A request failed."""

    is_retriable = True
    """True if the same request may succeed after a pause."""
    invalidates_metadata = True
    """True if another broker may be the right one."""


class BrokerError(RequestFailed):
    """A broker returned an error; *code* is Kafka's, *subject* is the object of the request."""

    def __init__(self, code: int, subject: str) -> None:
        self.code = code
        self.is_retriable = code in _RETRIABLE
        self.invalidates_metadata = code in _STALE_METADATA
        super().__init__(f"{subject}: {Code(code).name if code in _NAMED else f'error {code}'}")


class NotSent(RequestFailed):
    """No broker received the request."""


class NoResponse(RequestFailed):
    """The response is lost: the request is in doubt, and the broker may still execute it."""


class NotMember(Exception):
    """The group does not have this member in this generation: the assignment is revoked."""


class DeadlineExceeded(Exception):
    """The request did not succeed before the deadline."""


Errors = Callable[[Any], Iterable[tuple[int, str]]]
"""Function that yields the error codes in a response, each with its subject."""


def each_partition(topics: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """Yield the error codes of rows that begin with the partition and its code, like most responses."""
    for topic, rows, *_tags in topics:
        for partition, code, *_rest in rows:
            yield code, f"{topic}[{partition}]"


def check(errors: Iterable[tuple[int, str]]) -> None:
    """Raise BrokerError for the most severe error."""
    found = [BrokerError(*error) for error in errors if error[0] != Code.NONE]
    for refusal in sorted(found, key=lambda error: (error.code == Code.OPERATION_NOT_ATTEMPTED, error.is_retriable)):
        raise refusal


def raise_when_not_member(refusal: BrokerError) -> None:
    """Raise NotMember if the coordinator of a group refused a commit for this reason."""
    if refusal.code in _NOT_MEMBER:
        raise NotMember(str(refusal)) from refusal
