"""A transactional producer: the records and offsets of a transaction become visible together, or not at all.

Theory of operation. aiokafka's producer commits after a failed send, raises AssertionError when it is fenced, and waits
20 to 100 ms between transactions. So this producer implements the protocol. A transaction is two parallel chains, each of
which begins with a request to the transaction coordinator, and an end:

    AddPartitionsToTxn, then Produce, one request for each leader      |
                                                                       | then EndTxn
    AddOffsetsToTxn, then TxnOffsetCommit, as the given member         |

1. EndTxn is sent only after both chains have ended, so no request of a transaction is in flight at its end.
2. EndTxn commits only after every request before it succeeded. After a commit was sent no other EndTxn is sent: the
   outcome is this commit, or OutcomeUnknown.
3. EndTxn aborts only after every Produce and TxnOffsetCommit has a response. A request that is in doubt may be executed
   late, after the abort or in the next transaction of the same epoch. So the outcome is then OutcomeUnknown without an
   EndTxn: `init` raises the epoch, which ends the transaction and fences late requests.
4. These requests can be sent again after a lost response. Produce: its sequence number makes it idempotent.
   AddPartitionsToTxn and AddOffsetsToTxn: a late one adds a partition to the next transaction, which only gets one more
   marker. These cannot. TxnOffsetCommit: a late one sets an offset back. EndTxn: a late one ends the next transaction
   too early. After a response with a retriable error, every request can be sent again.
5. Sequence numbers continue after the last batch that succeeded. They are known after an abort, because by rule 3 each
   batch was either written or refused. A batch that may have been written counts as a lost response. If a quota delays a
   Produce beyond the deadline, the transaction is aborted, because every earlier Produce has a response.
6. From the first request of a transaction to its known end the producer is not open, and its use raises OutcomeUnknown.
   So a commit that is cancelled at any step also requires `init`.
7. A membership without generation or member id is refused before a request is sent: the coordinator would accept it.

The response to EndTxn means that the outcome is decided; the broker writes the markers later. The broker aborts a
transaction that exceeds its timeout and raises the epoch; this producer then raises OutcomeUnknown.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, Protocol

from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.protocol.api import Request
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from worker.kafka.cluster import SERVER_SECONDS, Cluster, Membership, by_topic
from worker.kafka.errors import (
    GRANT,
    BrokerError,
    DeadlineExceeded,
    Errors,
    NoResponse,
    NotMember,
    RequestFailed,
    each_partition,
    raise_when_not_member,
)
from worker.kafka.protocol import NO_TIMESTAMP, Code, ProduceRequest, TxnOffsetCommitRequest
from worker.kafka.retry import Backoff

Compression = Literal["gzip", "snappy", "lz4", "zstd"]
Check = Callable[[Collection[TopicPartition], float], Awaitable[None]]
"""Check before a commit, called with the partitions of the transaction and a deadline."""

MAX_BATCH_BYTES: Final = 900_000
"""Upper bound in bytes of a batch of several records: below the broker's default limit of 1 MiB."""
MAX_REQUEST_BYTES: Final = 16 << 20

_CODECS: Final[Mapping[Compression | None, int]] = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_MAGIC: Final = 2
_NO_OFFSET: Final = -1
_LAST_SEQUENCE: Final = (1 << 31) - 1
_SENDING_SHARE: Final = 2 / 3
"""Share of the timeout after which only EndTxn is retried."""

_NO_LIMITS: Final[Mapping[str, int]] = {}
_WRITTEN: Final = frozenset({Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER})
_MAYBE_WRITTEN: Final = frozenset(
    {Code.REQUEST_TIMED_OUT, Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Code.NETWORK_EXCEPTION, Code.KAFKA_STORAGE_ERROR}
)
_REMEDIES: Final[Mapping[int, str]] = {
    Code.MESSAGE_TOO_LARGE: "raise the topic's max.message.bytes",
    Code.RECORD_LIST_TOO_LARGE: "raise the topic's segment.bytes",
    Code.INVALID_TIMESTAMP: "widen the topic's message.timestamp.before.max.ms and message.timestamp.after.max.ms "
    "(before Kafka 3.6: message.timestamp.difference.max.ms)",
    Code.INVALID_RECORD: "a compacted topic requires keys",
    Code.INVALID_TOPIC_EXCEPTION: "set another topic name",
    Code.POLICY_VIOLATION: "change the cluster's policy",
    Code.OFFSET_METADATA_TOO_LARGE: "raise the brokers' offset.metadata.max.bytes",
    Code.INVALID_COMMIT_OFFSET_SIZE: "raise the brokers' offset.metadata.max.bytes",
    Code.INVALID_GROUP_ID: "set another group name",
    Code.TOPIC_AUTHORIZATION_FAILED: GRANT,
    Code.GROUP_AUTHORIZATION_FAILED: GRANT,
    Code.CLUSTER_AUTHORIZATION_FAILED: GRANT,
    Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: GRANT,
    Code.INVALID_TRANSACTION_TIMEOUT: "shorten the transaction timeout or raise the brokers' transaction.max.timeout.ms",
    Code.UNSUPPORTED_COMPRESSION_TYPE: "choose another compression",
    Code.UNSUPPORTED_FOR_MESSAGE_FORMAT: "upgrade the topic's message format",
    Code.UNSUPPORTED_VERSION: "the brokers are too old or too new: use Kafka 3.1 to 4.4",
}


class Record(Protocol):
    """A record to publish; *timestamp* is in milliseconds since 1970, or NO_TIMESTAMP."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class TransactionAborted(Exception):
    """The transaction was aborted and none of it becomes visible; the caller can commit the same again."""


class OutcomeUnknown(Exception):
    """The outcome of the transaction is unknown, or this producer is fenced or no longer a member of its group.

    Discard the state of the transaction, and open again with `init`.
    """


class TransactionRejected(Exception):
    """The transaction was aborted and cannot succeed; the message has the remedy."""


class TooLarge(TransactionRejected):
    """The batch exceeds max.message.bytes of its topic."""


class _Batch(NamedTuple):
    content: bytes
    size: int
    next_sequence: int


class _Identity(NamedTuple):
    producer_id: int
    epoch: int


class TransactionalProducer:
    """The producer of one *transactional_id*. The broker aborts a transaction after *timeout_seconds*.

    Call `init` before the first commit.
    """

    def __init__(
        self,
        cluster: Cluster,
        transactional_id: str,
        timeout_seconds: float = 10,
        compression: Compression | None = None,
    ) -> None:
        self._cluster = cluster
        self.transactional_id = transactional_id
        self._timeout_seconds = timeout_seconds
        self._codec = _CODECS[compression]
        self._identity = _Identity(-1, -1)
        self._sequences: dict[TopicPartition, int] = {}
        self._is_open = False

    async def init(self) -> None:
        """End an open transaction of this transactional_id, and wait for its end.

        Raise TransactionRejected or OutcomeUnknown.
        """
        self._is_open = False
        self._identity = await self._raise_epoch(self.transactional_id)
        self._sequences = {}
        self._is_open = True

    async def fence(self, transactional_id: str) -> None:
        """End an open transaction of another producer, and fence that producer until it calls `init`."""
        await self._raise_epoch(transactional_id)

    async def commit(
        self,
        records: Iterable[Record],
        offsets: Mapping[TopicPartition, tuple[int, str]],
        membership: Membership,
        check: Check | None = None,
        batch_bytes: Mapping[str, int] = _NO_LIMITS,
    ) -> dict[TopicPartition, int]:
        """Write the records and the group's offsets with their metadata in one transaction.

        *batch_bytes* is the known `max.message.bytes` of topics: the upper bound of a batch of several records.

        *check* runs after all records are written and before the end of the transaction. It can raise TransactionAborted.

        Return the offset after the last record of each written partition. A partition is missing if the broker only
        reports that it has the records already. Without records and offsets no request is sent.

        Raise TransactionAborted, OutcomeUnknown or TransactionRejected. Raise ValueError before the first request for a
        membership without generation or member id (7).
        """
        if not self._is_open:
            raise OutcomeUnknown(f"{self.transactional_id} is not open: call init before commit")
        if offsets:
            membership.check()
        batches = self._encode(records, batch_bytes)
        if not batches and not offsets:
            return {}
        self._is_open = False
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds * _SENDING_SHARE
        ends: dict[TopicPartition, int] = {}
        touched = {*batches, *offsets}

        async def write() -> None:
            await self._write(batches, ends, deadline)
            if check is not None:
                await check(touched, deadline)

        outcomes = await asyncio.gather(write(), self._offer(offsets, membership, deadline), return_exceptions=True)
        failure = _gravest(outcomes)
        if failure is None:
            await self._end(commit=True)
            self._is_open = True
            return ends
        if not isinstance(failure, NotMember | TransactionRejected | TransactionAborted):
            raise failure
        try:
            await self._end(commit=False)
        except OutcomeUnknown:
            if isinstance(failure, TransactionAborted):
                raise
        if isinstance(failure, NotMember):
            raise OutcomeUnknown(f"{self.transactional_id} lost its membership: {failure}") from failure
        self._is_open = isinstance(failure, TransactionAborted)
        raise failure

    async def _raise_epoch(self, transactional_id: str) -> _Identity:
        request = InitProducerIdRequest(transactional_id, round(self._timeout_seconds * 1000))
        backoff = Backoff(f"ending the open transaction of {transactional_id}")
        with _judged(backoff):
            response = await self._cluster.coordinate(
                CoordinationType.TRANSACTION,
                transactional_id,
                request,
                lambda response: [(response.error_code, transactional_id)],
                backoff,
            )
        return _Identity(response.producer_id, response.producer_epoch)

    # --------------------------------------------------------------------------------- the two chains, and the end

    async def _write(
        self, batches: dict[TopicPartition, deque[_Batch]], ends: dict[TopicPartition, int], deadline: float
    ) -> None:
        """Add the partitions to the transaction and write all batches; store the offsets after them in *ends*."""
        if not batches:
            return
        topics = [(topic, [partition for partition, _ in rows]) for topic, rows in by_topic(batches)]
        request = AddPartitionsToTxnRequest(self.transactional_id, *self._identity, topics)
        await self._begin(request, lambda response: each_partition(response.errors), deadline)
        backoff = Backoff(f"writing as {self.transactional_id}", deadline)
        while batches:
            heads = self._heads(batches)
            throttled_seconds = self._cluster.throttles.seconds(heads)
            if throttled_seconds > 0 and asyncio.get_running_loop().time() + throttled_seconds > deadline:
                raise (OutcomeUnknown if backoff.in_doubt else TransactionAborted)(
                    f"a quota of the broker throttles the producer for {throttled_seconds:.1f} s, beyond the deadline"
                )
            answers = await asyncio.gather(*(self._produce(node, batch) for node, batch in heads.items()))
            failures = []
            for tp, answer in chain.from_iterable(answer.items() for answer in answers):
                if not isinstance(answer, int):
                    failures.append(answer)
                    continue
                batch = batches[tp].popleft()
                self._sequences[tp] = batch.next_sequence
                ends.pop(tp, None)
                if answer != _NO_OFFSET:
                    ends[tp] = answer + batch.size
                if not batches[tp]:
                    del batches[tp]
            backoff.in_doubt |= any(map(_is_doubtful, failures))
            with _judged(backoff):
                await self._cluster.overcome(failures, batches, backoff)

    def _heads(self, batches: Mapping[TopicPartition, deque[_Batch]]) -> dict[int | None, dict[TopicPartition, _Batch]]:
        """Return the batches of the next requests by leader: the first of each partition, up to a request's limit."""
        heads: dict[int | None, dict[TopicPartition, _Batch]] = defaultdict(dict)
        sizes: dict[int | None, int] = defaultdict(int)
        for tp, (batch, *_) in batches.items():
            node = self._cluster.leader(tp)
            if not sizes[node] or sizes[node] + len(batch.content) <= MAX_REQUEST_BYTES:
                heads[node][tp] = batch
                sizes[node] += len(batch.content)
        return heads

    async def _produce(
        self, node: int | None, batches: Mapping[TopicPartition, _Batch]
    ) -> Mapping[TopicPartition, int | RequestFailed]:
        """Send one request; return for each partition the offset of its first record, or the error."""
        if node is None:
            return {tp: BrokerError(Code.LEADER_NOT_AVAILABLE, f"{tp.topic}[{tp.partition}]") for tp in batches}
        rows = by_topic({tp: batch.content for tp, batch in batches.items()})
        try:
            response = await self._cluster.send(
                node, ProduceRequest(self.transactional_id, SERVER_SECONDS * 1000, rows)
            )
        except RequestFailed as error:
            return dict.fromkeys(batches, error)
        return {
            TopicPartition(topic, partition): base
            if code in _WRITTEN
            else BrokerError(
                code, f"{topic}[{partition}], {len(batches[TopicPartition(topic, partition)].content)} bytes"
            )
            for topic, answers in response.topics
            for partition, code, base, *_ in answers
        }

    async def _offer(
        self, offsets: Mapping[TopicPartition, tuple[int, str]], membership: Membership, deadline: float
    ) -> None:
        """Add the offsets to the transaction, as the given member."""
        if not offsets:
            return
        group, generation, member = membership
        await self._begin(
            AddOffsetsToTxnRequest(self.transactional_id, *self._identity, group),
            lambda response: [(response.error_code, group)],
            deadline,
        )
        topics = [(topic, [(partition, *value) for partition, value in rows]) for topic, rows in by_topic(offsets)]
        backoff = Backoff(f"committing to {group} as {self.transactional_id}", deadline)
        with _judged(backoff):
            await self._cluster.coordinate(
                CoordinationType.GROUP,
                group,
                TxnOffsetCommitRequest(self.transactional_id, group, *self._identity, generation, member, None, topics),
                lambda response: each_partition(response.errors),
                backoff,
                repeatable=False,
            )

    async def _begin(self, request: Request[Any], errors: Errors, deadline: float) -> None:
        """Send the partitions or the group to the transaction coordinator; the first request begins the transaction."""
        backoff = Backoff(f"beginning a transaction of {self.transactional_id}", deadline)
        with _judged(backoff):
            await self._cluster.coordinate(
                CoordinationType.TRANSACTION, self.transactional_id, request, errors, backoff
            )

    async def _end(self, *, commit: bool) -> None:
        """End the transaction. Raise OutcomeUnknown unless the coordinator confirms the end."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds * (1 - _SENDING_SHARE)
        try:
            await self._cluster.coordinate(
                CoordinationType.TRANSACTION,
                self.transactional_id,
                EndTxnRequest(self.transactional_id, *self._identity, commit),
                lambda response: [(response.error_code, self.transactional_id)],
                Backoff(f"ending a transaction of {self.transactional_id}", deadline),
                repeatable=False,
            )
        except (DeadlineExceeded, RequestFailed) as error:
            raise OutcomeUnknown(f"{'commit' if commit else 'abort'} not confirmed: {error}") from error

    # -------------------------------------------------------------------------------------------------- encoding

    def _encode(self, records: Iterable[Record], batch_bytes: Mapping[str, int]) -> dict[TopicPartition, deque[_Batch]]:
        """Return record batches in order by partition: 1.2 µs a record of 700 bytes and 6 headers."""
        places: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
        for record in records:
            places[record.topic, record.partition].append(record)
        return {
            (tp := TopicPartition(*place)): deque(self._batches(tp, listed, batch_bytes.get(tp.topic, MAX_BATCH_BYTES)))
            for place, listed in places.items()
        }

    def _batches(self, tp: TopicPartition, records: list[Record], most_bytes: int) -> Iterator[_Batch]:
        sequence = self._sequences.get(tp, 0)
        builder, count, first = self._builder(sequence, most_bytes), 0, NO_TIMESTAMP
        for record in records:
            timestamp, key, value = record.timestamp, record.key, record.value
            listed = record.headers if type(record.headers) is list else list(record.headers)
            if count == 0:
                first = timestamp
            # The builder treats a first record without a timestamp as missing: the batch and the first record would get
            # the timestamp of the next record.
            is_other_base = first == NO_TIMESTAMP != timestamp
            if is_other_base or builder.append(count, timestamp, key, value, listed) is None:
                sequence = sequence + count & _LAST_SEQUENCE
                yield _Batch(builder.build(), count, sequence)
                builder, count, first = self._builder(sequence, most_bytes), 0, timestamp
                builder.append(count, timestamp, key, value, listed)
            count += 1
        yield _Batch(builder.build(), count, sequence + count & _LAST_SEQUENCE)

    def _builder(self, sequence: int, most_bytes: int) -> Any:
        """Return the builder of a new batch; it refuses a record that makes the batch too large, except the first."""
        size = min(MAX_BATCH_BYTES, most_bytes)
        return DefaultRecordBatchBuilder(_MAGIC, self._codec, 1, *self._identity, sequence, size)


def _is_doubtful(failure: RequestFailed) -> bool:
    """Return True if a batch with an error may be written nevertheless (5)."""
    return isinstance(failure, NoResponse) or (isinstance(failure, BrokerError) and failure.code in _MAYBE_WRITTEN)


def _gravest(outcomes: Iterable[object]) -> BaseException | None:
    """Return the most severe failure of a transaction: first an unknown outcome, last a retriable one."""
    order = NotMember, TooLarge, TransactionRejected, TransactionAborted
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    ranks: dict[type[BaseException], int] = {kind: rank for rank, kind in enumerate(order)}
    return min(failures, key=lambda failure: ranks.get(type(failure), -1), default=None)


@contextmanager
def _judged(backoff: Backoff) -> Iterator[None]:
    """Convert the failure of a request to the failure of the transaction (3)."""
    try:
        yield
    except DeadlineExceeded as error:
        raise (OutcomeUnknown if backoff.in_doubt else TransactionAborted)(str(error)) from error
    except NoResponse as error:
        raise OutcomeUnknown(str(error)) from error
    except BrokerError as refusal:
        raise_when_not_member(refusal)
        if backoff.in_doubt or refusal.code not in _REMEDIES:
            raise OutcomeUnknown(str(refusal)) from refusal
        message = f"{refusal}: {_REMEDIES[refusal.code]}"
        raise (TooLarge if refusal.code == Code.MESSAGE_TOO_LARGE else TransactionRejected)(message) from refusal
