"""A client of the Kafka cluster for all requests outside transactions.

The client retries a request while a broker is unreachable, a leader moves or a transaction is open. It retries until it
has a response or its task is cancelled, and logs the retries at intervals. An error that is not retriable raises
BrokerError.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any, Final, NamedTuple, Self, TypeVar

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError
from aiokafka.protocol.admin import DeleteRecordsRequest, DescribeConfigsRequest, DescribeGroupsRequest
from aiokafka.protocol.api import Request
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.offset import OffsetRequest

from worker.kafka.connection import Client
from worker.kafka.errors import (
    BrokerError,
    Errors,
    NoResponse,
    NotSent,
    RequestFailed,
    check,
    each_partition,
    raise_when_not_member,
)
from worker.kafka.protocol import Code, OffsetFetchRequest, TopicsRequest
from worker.kafka.retry import Backoff
from worker.kafka.throttles import Throttles

REQUEST_SECONDS: Final = 5
"""Upper bound in milliseconds of a response, then the connection is closed; well below a transaction's timeout."""
SERVER_SECONDS: Final = 3
"""Upper bound in milliseconds of a broker's wait for replicas; below that of a response, so that this client gets it."""
_REFRESH_SECONDS: Final = 1.0
_TOPIC: Final = 2
_MAX_MESSAGE_BYTES: Final = "max.message.bytes"
_READ_UNCOMMITTED: Final = 0
_EARLIEST: Final = -2
_LATEST: Final = -1
_NO_REPLICA: Final = -1
_NO_RETENTION: Final = -1
_NO_OFFSET: Final = -1
_NO_LEADER: Final = -1
_UNSTABLE: Final = Code.UNSTABLE_OFFSET_COMMIT
_NOTHING: Final[Mapping[Any, Any]] = {}
_T = TypeVar("_T")
_INVISIBLE: Final = frozenset({Code.UNKNOWN_TOPIC_OR_PARTITION, Code.TOPIC_AUTHORIZATION_FAILED})
"""Error codes for a topic that does not exist, or that the worker may not describe."""


class Membership(NamedTuple):
    """A membership of a consumer group at the time of an assignment."""

    group: str
    generation: int
    member: str

    def check(self) -> None:
        """Raise ValueError unless the membership has a generation and a member id.

        The coordinator accepts a commit with generation -1 and an empty member id from outside the group: a worker that
        resumes after a freeze would overwrite the offsets of the new owner.
        """
        if not self.group or self.generation < 0 or not self.member:
            raise ValueError(f"{self} bypasses every check of the group: keep the membership of the assignment")

    def mark(self, transactional_id: str) -> str:
        """Return the offset metadata that marks this member and its *transactional_id* as the owner of a partition."""
        return f"{transactional_id} {self.member} {self.generation}"


class TopicIdentity(NamedTuple):
    """The id of a topic and its number of partitions; the id is empty for brokers before Kafka 2.8."""

    id: str
    partitions: int


def _count(partitions: int | Collection[Any]) -> int:
    """Return the number of a topic's partitions; older brokers list them."""
    return partitions if isinstance(partitions, int) else len(partitions)


class Identity(NamedTuple):
    """The id of the cluster, and the topics that exist, by name."""

    cluster_id: str
    topics: Mapping[str, TopicIdentity]


class Unstable(NamedTuple):
    """Partitions whose offsets in a group wait for the end of an open transaction, since when in seconds since 1970."""

    group: str
    partitions: list[TopicPartition]
    since: float


def by_topic(values: Mapping[TopicPartition, _T]) -> list[tuple[str, list[tuple[int, _T]]]]:
    """Return values by partition as rows by topic, the form of most requests."""
    topics = groupby(sorted(values), key=lambda tp: tp.topic)
    return [(topic, [(tp.partition, values[tp]) for tp in tps]) for topic, tps in topics]


class Cluster:
    """A client of the cluster at *settings*, the arguments of AIOKafkaClient.

    Use it only in the event loop that starts it.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {"request_timeout_ms": REQUEST_SECONDS * 1000} | dict(settings)
        self._client: Any  # Client; its base class has no types
        self.throttles: Throttles
        """The throttle times of brokers' quotas."""
        self._coordinators: dict[tuple[CoordinationType, str], int] = {}
        self.unstable: Unstable | None = None
        """What `stable_offsets` waits for."""

    async def start(self) -> None:
        """Connect. Raise aiokafka's KafkaConnectionError if no broker responds."""
        self._client = Client(**self._settings)
        self.throttles = Throttles(self._client.send)
        self._client.send = self.throttles.send
        try:
            await self._client.bootstrap()
        except BaseException:
            await self._client.close()
            raise

    async def stop(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------------------------------------- questions

    async def stable_offsets(
        self, group: str, tps: Iterable[TopicPartition], known: Mapping[TopicPartition, tuple[int, str]] = _NOTHING
    ) -> dict[TopicPartition, tuple[int, str] | None]:
        """Return committed offsets and their metadata after no open transaction can change them; None if not committed.

        Offsets of a group with members do not decrease. If a coordinator returns a lower offset than the *known* one, it
        has lost offsets or has not loaded them yet, and the client asks again. An offset without metadata is from another
        client and is returned unchanged.
        """
        partitions = by_topic(dict.fromkeys(tps))
        if not partitions:
            return {}
        topics = [(topic, [partition for partition, _ in rows]) for topic, rows in partitions]

        def errors(response: Any) -> Iterator[tuple[int, str]]:
            yield response.error_code, group
            found = [
                TopicPartition(topic, row[0])
                for topic, rows, _ in response.topics
                for row in rows
                if row[4] == _UNSTABLE
            ]
            self.unstable = (
                Unstable(group, found, self.unstable.since if self.unstable else time.time()) if found else None
            )
            for topic, rows, _tags in response.topics:
                for partition, offset, _epoch, metadata, code, _row_tags in rows:
                    yield code, f"{topic}[{partition}] of {group}"
                    least, _ = known.get(TopicPartition(topic, partition), (offset, ""))
                    if offset < least and (metadata or offset == _NO_OFFSET):
                        moved_back = f"{topic}[{partition}] of {group}: {least} was committed, but the coordinator returned {offset}"
                        yield Code.OFFSET_NOT_AVAILABLE, moved_back

        try:
            response = await self.coordinate(
                CoordinationType.GROUP,
                group,
                OffsetFetchRequest(group, topics, require_stable=True),
                errors,
                Backoff(f"reading the offsets of {group}"),
            )
        finally:
            self.unstable = None
        return {
            TopicPartition(topic, partition): None if offset == _NO_OFFSET else (offset, metadata or "")
            for topic, rows, _tags in response.topics
            for partition, offset, _epoch, metadata, _code, _row_tags in rows
        }

    async def watermarks(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return the log start offset and the high watermark of each partition."""
        wanted = list(tps)

        def request(topics: list[tuple[str, list[tuple[int, int]]]]) -> Request[Any]:
            return OffsetRequest(_NO_REPLICA, _READ_UNCOMMITTED, topics)

        def row(partition: int, code: int, _timestamp: int, offset: int) -> tuple[int, int, int]:
            return partition, code, offset

        starts, ends = await asyncio.gather(
            self._ask_leaders(dict.fromkeys(wanted, _EARLIEST), request, row, "reading log start offsets"),
            self._ask_leaders(dict.fromkeys(wanted, _LATEST), request, row, "reading high watermarks"),
        )
        return {tp: (starts[tp], ends[tp]) for tp in wanted}

    async def identity(self, topics: Iterable[str]) -> Identity:
        """Return the identity of the cluster and of the topics that exist, without creating topics."""
        backoff = Backoff("reading the metadata of topics")
        while True:
            try:
                return await self._identity(self._any_node(), topics)
            except RequestFailed as error:
                await backoff.pause(error)

    async def identities(
        self, topics: Iterable[str], tps: Collection[TopicPartition], deadline: float
    ) -> list[Identity]:
        """Return the identity from each broker that leads one of the partitions: a leader knows its own topic.

        The metadata of other brokers may lag. Raise DeadlineExceeded if a broker has not responded by the deadline.
        """
        backoff = Backoff("reading the metadata of topics", deadline)

        async def ask(node: int | None) -> Identity | RequestFailed:
            try:
                return await self._identity(self._any_node() if node is None else node, topics)
            except RequestFailed as error:
                return error

        while True:
            answers = await asyncio.gather(*(ask(node) for node in {self.leader(tp) for tp in tps}))
            identities = [answer for answer in answers if isinstance(answer, Identity)]
            if len(identities) == len(answers):
                return identities
            await self.overcome([answer for answer in answers if isinstance(answer, RequestFailed)], tps, backoff)

    async def _identity(self, node: int, topics: Iterable[str]) -> Identity:
        response = await self.send(node, TopicsRequest(sorted(topics)))
        found = [row for row in response.to_object()["topics"] if row["error_code"] not in _INVISIBLE]
        check((row["error_code"], row["topic"]) for row in found)
        known = {row["topic"]: TopicIdentity(row.get("topic_id", ""), _count(row["partitions"])) for row in found}
        return Identity(response.cluster_id or "", known)

    async def largest_batch_bytes(self, topic: str) -> int:
        """Return a topic's max.message.bytes, the upper bound of a batch; any broker knows it."""
        request = DescribeConfigsRequest([(_TOPIC, topic, [_MAX_MESSAGE_BYTES])])
        backoff = Backoff(f"reading {_MAX_MESSAGE_BYTES} of {topic}")
        while True:
            try:
                response = await self.send(self._any_node(), request)
                ((code, _message, _kind, _name, entries),) = response.resources
                check([(code, topic)])
            except RequestFailed as error:
                await backoff.pause(error)
            else:
                return next(int(value) for name, value, *_ in entries if name == _MAX_MESSAGE_BYTES)

    async def members(self, group: str) -> set[str]:
        """Return the ids of a group's members; empty if the group does not exist."""
        response = await self.coordinate(
            CoordinationType.GROUP,
            group,
            DescribeGroupsRequest([group]),  # one group: aiokafka reads only the first in a response of version 3
            lambda response: ((code, group) for code, *_ in response.groups),
            Backoff(f"reading the members of {group}"),
        )
        ((_code, _group, _state, _type, _protocol, members, *_),) = response.groups
        return {member for member, *_ in members}

    # -------------------------------------------------------------------------------------------------- commands

    async def commit(self, membership: Membership, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """Commit offsets with their metadata, without a transaction. Raise NotMember if the generation has ended."""
        membership.check()
        group, generation, member = membership
        topics = [(topic, [(partition, *value) for partition, value in rows]) for topic, rows in by_topic(offsets)]
        if not topics:
            return
        try:
            await self.coordinate(
                CoordinationType.GROUP,
                group,
                OffsetCommitRequest(group, generation, member, _NO_RETENTION, topics),
                lambda response: each_partition(response.topics),
                Backoff(f"committing to {group}"),
            )
        except BrokerError as refusal:
            raise_when_not_member(refusal)
            raise

    async def verify(self, membership: Membership) -> None:
        """Raise NotMember if the membership has ended; change nothing."""
        membership.check()
        try:
            await self.coordinate(
                CoordinationType.GROUP,
                membership.group,
                HeartbeatRequest(*membership),
                lambda response: [(response.error_code, membership.group)],
                Backoff(f"checking the membership of {membership.group}"),
            )
        except BrokerError as refusal:
            raise_when_not_member(refusal)
            raise

    async def purge(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Delete the records before the offsets."""

        def request(topics: list[tuple[str, list[tuple[int, int]]]]) -> Request[Any]:
            return DeleteRecordsRequest(topics, SERVER_SECONDS * 1000)

        def row(partition: int, low_watermark: int, code: int, *_tags: Any) -> tuple[int, int, int]:
            return partition, code, low_watermark

        await self._ask_leaders(offsets, request, row, "deleting records")

    # --------------------------------------------------------------------------------- what transactions build on

    def leader(self, tp: TopicPartition) -> int | None:
        """Return the known leader of a partition; `overcome` refreshes it."""
        node = self._client.cluster.leader_for_partition(tp)
        return None if node == _NO_LEADER else node

    async def ask_leader(self, tp: TopicPartition, request: Request[Any]) -> Any:
        """Send one request once to the leader of a partition. Raise the errors of `send`."""
        node = self.leader(tp)
        if node is None:
            raise BrokerError(Code.LEADER_NOT_AVAILABLE, f"{tp.topic}[{tp.partition}]")
        return await self.send(node, request)

    def nodes(self) -> list[int]:
        """Return the ids of the known brokers."""
        return [broker.nodeId for broker in self._client.cluster.brokers()]

    async def overcome(
        self, failures: Collection[RequestFailed], tps: Iterable[TopicPartition], backoff: Backoff
    ) -> None:
        """Pause after failed requests to leaders, and refresh the metadata if a failure invalidates it."""
        if not failures:
            return
        await backoff.pause(min(failures, key=lambda failure: failure.is_retriable))
        if any(failure.invalidates_metadata for failure in failures):
            for topic in {tp.topic for tp in tps}:
                self._client.add_topic(topic)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._client.force_metadata_update()

    async def send(self, node: int, request: Request[Any], group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """Send one request once. Raise NotSent, NoResponse, or BrokerError if the broker does not support it."""
        try:
            return await self._client.send(node, request, group=group)
        except NodeNotReadyError as error:
            raise NotSent(str(error)) from error
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise BrokerError(Code.UNSUPPORTED_VERSION, type(request).__name__) from error
        except KafkaError as error:
            raise NoResponse(f"{type(request).__name__} to broker {node}: {error}") from error

    async def coordinate(
        self,
        role: CoordinationType,
        key: str,
        request: Request[Any],
        errors: Errors,
        backoff: Backoff,
        *,
        repeatable: bool = True,
    ) -> Any:
        """Send a request to the coordinator of a group or a transactional.id until it succeeds.

        Raise BrokerError for an error that is not retriable, and DeadlineExceeded at the deadline of the backoff. Raise
        NoResponse if the response to a request that is not *repeatable* is lost.
        """
        while True:
            try:
                response = await self.send(await self._coordinator(role, key), request, ConnectionGroup.COORDINATION)
                check(errors(response))
            except RequestFailed as error:
                if isinstance(error, NoResponse) and not repeatable:
                    raise
                if error.invalidates_metadata:
                    self._coordinators.pop((role, key), None)
                await backoff.pause(error)
            else:
                return response

    def _any_node(self) -> int:
        node: int | None = self._client.get_random_node()
        if node is None:
            raise NotSent("no broker is known")
        return node

    async def _coordinator(self, role: CoordinationType, key: str) -> int:
        """Return the coordinator of a group or a transactional.id, and cache it."""
        node = self._coordinators.get((role, key))
        if node is None:
            try:
                found = await self.send(self._any_node(), FindCoordinatorRequest(key, role))
            except NoResponse as error:
                raise NotSent(str(error)) from error
            check([(found.error_code, f"the coordinator of {key}")])
            node = self._coordinators[role, key] = found.coordinator_id
        return node

    async def _ask_leaders(
        self,
        wanted: Mapping[TopicPartition, int],
        request: Callable[[list[tuple[str, list[tuple[int, int]]]]], Request[Any]],
        row: Callable[..., tuple[int, int, int]],
        what: str,
    ) -> dict[TopicPartition, int]:
        """Return one number from the leader of each partition, by *request*, after all have responded.

        *row* returns a row of the response as partition, error code, number.
        """
        found: dict[TopicPartition, int] = {}
        backoff = Backoff(what)

        async def ask(node: int | None, tps: list[TopicPartition]) -> RequestFailed | None:
            try:
                if node is None:
                    raise BrokerError(Code.LEADER_NOT_AVAILABLE, tps[0].topic)
                response = await self.send(node, request(by_topic({tp: wanted[tp] for tp in tps})))
                errors = []
                for topic, rows, *_ in response.topics:
                    for partition, code, number in (row(*fields) for fields in rows):
                        if code == Code.NONE:
                            found[TopicPartition(topic, partition)] = number
                        errors.append((code, f"{topic}[{partition}]"))
                check(errors)
            except RequestFailed as error:
                return error
            return None

        while missing := wanted.keys() - found:
            led = defaultdict(list)
            for tp in missing:
                led[self.leader(tp)].append(tp)
            answers = await asyncio.gather(*(ask(node, tps) for node, tps in led.items()))
            await self.overcome([answer for answer in answers if answer is not None], missing, backoff)
        return found
