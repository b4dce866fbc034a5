"""Reports partitions that stand still behind an open transaction.

The worker reads read_committed. A broker hands out nothing behind the first open transaction of a partition, of any producer
it. So a producer that dies in the middle of a transaction stops the partition, and no request fails.

S1. A partition stands still when a fetch finds its position at the last stable offset or beyond it, and the high watermark
    is ahead. `Progress` sees the answer to every fetch, so this holds for every topic that the worker reads, also for the
    changelogs while tables are restored. The open transaction starts at the last stable offset. The position is beyond it
    when a table on disk holds what the worker itself has written behind that transaction.
S2. After STALL_SECONDS the worker logs a warning, then again every REPEAT_SECONDS. It names the producer, the time at which
    the transaction coordinator aborts the transaction, and a command that aborts it at once.
S3. Brokers before Kafka 2.8 cannot name the producer, and a principal may see no transactional.ids but its own. The
    warning is logged nevertheless, and says what is not known.
S4. `find-hanging` of kafka-transactions.sh shows only transactions that no coordinator knows any more. `abort` with the
    offset at which the transaction starts ends both kinds.
S5. A producer may also hold offsets of the worker's group in its transaction. The coordinator then returns no stable offset,
    and no lane opens. The transaction is open on the partition of __consumer_offsets that holds the group's offsets. Other
    groups have their offsets there too, so the oldest open transaction there is the likely one.
S6. A producer that was started again has another epoch, and its coordinator knows nothing of a transaction that hangs with
    the former epoch. So a transaction that goes on with another epoch is another one.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.protocol.api import Request

from worker.kafka.cluster import Cluster, Unstable
from worker.kafka.errors import BrokerError, DeadlineExceeded, RequestFailed, check
from worker.kafka.protocol import (
    Code,
    DescribeProducersRequest,
    DescribeTransactionsRequest,
    ListTransactionsRequest,
)
from worker.kafka.retry import Backoff

STALL_SECONDS: Final = 10.0
"""How long a partition stands still before the worker reports it."""

REPEAT_SECONDS: Final = 60.0

_LOOK_SECONDS: Final = 1.0
_CURRENT_SECONDS: Final = 5.0
"""The age at which a fetch says nothing any more of where a partition stands: it may be paused or revoked."""
_ASK_SECONDS: Final = 5.0
_COORDINATOR_LATE_SECONDS: Final = 10
"""Between two looks of a coordinator for transactions that have timed out (its default)."""
_FETCH: Final = 1
_OFFSETS_TOPIC: Final = "__consumer_offsets"
_ONGOING: Final = "Ongoing"
_MIN_INT: Final = 2**31
"""The magnitude of the least 32-bit integer, which a broker takes for 0 here."""


log = logging.getLogger(__name__)


class Standing(NamedTuple):
    """A position at or beyond the last stable offset, below the high watermark; times in seconds since 1970."""

    offset: int
    stable: int
    high: int
    since: float
    seen: float


class Stall(NamedTuple):
    """A partition without progress since *since*, in seconds since 1970: records from *offset* up to *high* wait.

    The open transaction starts at *stable*.
    """

    partition: TopicPartition
    offset: int
    stable: int
    high: int
    since: float


class Progress:
    """Notes in the answers to fetches which partitions stand still (S1); *send* sends a request to a node."""

    def __init__(self, send: Callable[..., Any], standing: dict[TopicPartition, Standing]) -> None:
        self._send = send
        self._standing = standing

    async def send(self, node: int, request: Any, **group: Any) -> Any:
        """Send a request, and return its answer."""
        answer = await self._send(node, request, **group)
        if request.API_KEY == _FETCH:
            self._note(request, answer)
        return answer

    def _note(self, request: Any, answer: Any) -> None:
        now = time.time()
        positions = {(topic, row[0]): row[1] for topic, rows in request.topics for row in rows}
        for topic, rows in answer.topics:
            for partition, code, high, stable, *_ in rows:
                tp, position = TopicPartition(topic, partition), positions[topic, partition]
                before = self._standing.get(tp)
                if code != Code.NONE or not stable <= position < high:
                    self._standing.pop(tp, None)
                elif before is not None and before.offset == position and now - before.seen < _CURRENT_SECONDS:
                    self._standing[tp] = before._replace(stable=stable, high=high, seen=now)
                else:
                    self._standing[tp] = Standing(position, stable, high, now, now)


class Stalls:
    """Reports the partitions that stand still; *standing* is where `Progress` notes them.

    *tool* holds the words that tell Kafka's tools how to connect.
    """

    def __init__(self, cluster: Cluster, standing: Mapping[TopicPartition, Standing], tool: str) -> None:
        self._cluster = cluster
        self._standing = standing
        self._tool = tool
        self._reported: dict[tuple[TopicPartition, int], float] = {}
        self._reported_offsets = float("-inf")
        self.partitions: Collection[Stall] = ()
        """The partitions that have stood still for STALL_SECONDS."""

    async def watch(self) -> None:
        """Look every second, and log what has stood still for STALL_SECONDS."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.partitions = [*_stalls(dict(self._standing), time.time())]
            await self._watch_offsets()
            present = {(stall.partition, stall.offset) for stall in self.partitions}
            self._reported = {place: at for place, at in self._reported.items() if place in present}
            for stall in self.partitions:
                place = stall.partition, stall.offset
                if time.monotonic() >= self._reported.get(place, float("-inf")) + REPEAT_SECONDS:
                    self._reported[place] = time.monotonic()
                    log.warning("%s", await self._described(stall))

    async def _watch_offsets(self) -> None:
        """Report the offsets of the group that are not stable (S5)."""
        unstable = self._cluster.unstable
        if unstable is None or time.time() - unstable.since < STALL_SECONDS:
            self._reported_offsets = float("-inf")
        elif time.monotonic() >= self._reported_offsets + REPEAT_SECONDS:
            self._reported_offsets = time.monotonic()
            log.warning("%s", await self._described_offsets(unstable))

    async def _described_offsets(self, unstable: Unstable) -> str:
        """Return what an operator needs to know of offsets that are not stable."""
        group, partitions, since = unstable
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(partitions))
        found = (
            f"Group {group}: no stable offset for {time.time() - since:.0f} s (since {_moment(since)}): an open transaction "
            f"holds its offset of {names}, and the worker opens no partition before its end. "
        )
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                topics = (await self._cluster.identity([_OFFSETS_TOPIC])).topics
            if _OFFSETS_TOPIC not in topics:
                return f"{found}Its producer is not known: the worker's principal may not Describe {_OFFSETS_TOPIC}"
            tp = TopicPartition(_OFFSETS_TOPIC, _java_hash(group) % topics[_OFFSETS_TOPIC].partitions)
            (answer,) = (await self._ask_leader(tp)).topics[0][1]
        except (RequestFailed, DeadlineExceeded, TimeoutError) as error:
            return f"{found}Its producer is not known: {str(error) or 'no broker answers'}"
        place = f"{_OFFSETS_TOPIC}/{tp.partition}"
        starts = [row[5] for row in answer[3] if row[5] >= 0]
        if not starts:
            return (
                f"{found}But {place} has no open transaction. Where this message is repeated, the group's coordinator has not "
                "noticed the end: restart the broker that leads this partition"
            )
        start = min(starts)
        oldest = f"The oldest open transaction on {place} starts at offset {start}. "
        return await self._with_producer(Stall(tp, start, start, start, since), found + oldest)

    async def _described(self, stall: Stall) -> str:
        """Return what an operator needs to know of a partition that stands still (S2)."""
        (topic, partition), _offset, start, high, since = stall
        found = (
            f"{topic}/{partition}: no progress for {time.time() - since:.0f} s (since {_moment(since)}): an open transaction "
            f"starts at offset {start}, and the records behind it, up to offset {high}, wait for its end. "
        )
        return await self._with_producer(stall, found)

    async def _with_producer(self, stall: Stall, found: str) -> str:
        """Return *found* with the producer of a transaction, and a command that aborts it."""
        (topic, partition), start = stall.partition, stall.stable
        where = f"abort --topic {topic} --partition {partition}"
        abort = f"To abort it at once run: kafka-transactions.sh {self._tool} {where} --start-offset {start}"
        try:
            return f"{found}{await self._producer(stall)}. {abort}"
        except (RequestFailed, DeadlineExceeded) as error:
            if not _is_too_old(error):
                return f"{found}Its producer is not known: {error}. {abort}"
            return (
                f"{found}Brokers before Kafka 2.8 do not name its producer. They abort it after transaction.timeout.ms of that "
                "producer, unless it hangs. To abort it at once find the producer in the output of kafka-dump-log.sh, then run: "
                f"kafka-transactions.sh {self._tool} {where} --producer-id ID --producer-epoch EPOCH --coordinator-epoch EPOCH"
            )

    async def _producer(self, stall: Stall) -> str:
        """Return who began the transaction and until when it lasts."""
        (answer,) = (await self._ask_leader(stall.partition)).topics[0][1]
        found = [(row[0], row[1]) for row in answer[3] if row[5] == stall.stable]
        if not found:
            return "The leader of the partition names no producer of it: it has perhaps ended just now"
        producer, epoch = found[0]
        try:
            end = await self._end(stall.partition, producer, epoch)
        except (RequestFailed, DeadlineExceeded) as error:
            end = (
                "brokers before Kafka 3.0 do not show until when it lasts"
                if _is_too_old(error)
                else f"until when it lasts is not known: {error}"
            )
        return f"Its producer has the id {producer} and the epoch {epoch}; {end}"

    async def _end(self, tp: TopicPartition, producer: int, epoch: int) -> str:
        """Return what the transaction coordinator knows of a producer's transaction that has written to a partition."""
        for transactional_id in await self._transactional_ids(producer):
            described = await self._cluster.coordinate(
                CoordinationType.TRANSACTION,
                transactional_id,
                DescribeTransactionsRequest(transactional_id),
                lambda response: [(row[0], row[1]) for row in response.transactions],
                Backoff(f"reading the transaction of {transactional_id}", self._deadline()),
            )
            ((_code, _id, state, timeout_ms, start_ms, _producer, current, topics, _tags),) = described.transactions
            is_other = state == _ONGOING and current != epoch  # S6
            if (
                start_ms >= 0
                and not is_other
                and any(topic == tp.topic and tp.partition in numbers for topic, numbers, _ in topics)
            ):
                end = start_ms / 1000 + timeout_ms / 1000 + _COORDINATOR_LATE_SECONDS
                return (
                    f"its transactional.id is {transactional_id}, its state {state}; the transaction coordinator aborts it by "
                    f"{_moment(end)}"
                )
        return (
            "no transaction coordinator shows this transaction to the worker: it hangs and nothing aborts it, or the worker's "
            "principal may not Describe its transactional.id"
        )

    async def _transactional_ids(self, producer: int) -> set[str]:
        """Return the transactional.ids of a producer id that the brokers show."""
        backoff = Backoff(f"asking for the transactional.id of producer {producer}", self._deadline())
        while True:
            try:
                answers = await self._ask_all(ListTransactionsRequest(producer))
                check((answer.error_code, "ListTransactions") for answer in answers)
            except RequestFailed as error:
                await backoff.pause(error)
            else:
                return {row[0] for answer in answers for row in answer.transactions}

    async def _ask_all(self, request: Request[Any]) -> list[Any]:
        """Return the answers of all brokers; raise RequestFailed if none answers."""
        asked = (self._cluster.send(node, request) for node in self._cluster.nodes())
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not (isinstance(outcome, RequestFailed) and answers):
                raise outcome
        return answers

    async def _ask_leader(self, tp: TopicPartition) -> Any:
        """Return what the leader of a partition says of its producers."""
        backoff = Backoff(f"asking for the producers of {tp.topic}/{tp.partition}", self._deadline())
        request: Request[Any] = DescribeProducersRequest(*tp)
        while True:
            try:
                response = await self._cluster.ask_leader(tp, request)
                check((row[1], f"{tp.topic}/{tp.partition}") for _topic, rows, _ in response.topics for row in rows)
            except RequestFailed as error:
                await self._cluster.overcome([error], [tp], backoff)
            else:
                return response

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + _ASK_SECONDS


def _stalls(standing: Mapping[TopicPartition, Standing], now: float) -> Iterable[Stall]:
    """Yield what has stood still for STALL_SECONDS, in the order of partitions."""
    for tp, (offset, stable, high, since, seen) in sorted(standing.items()):
        if now - since >= STALL_SECONDS and now - seen < _CURRENT_SECONDS:
            yield Stall(tp, offset, stable, high, since)


def _java_hash(text: str) -> int:
    """Return the hash by which a broker finds the partition of a group's offsets.

    >>> _java_hash("hello"), _java_hash("session-worker")
    (99162322, 608454293)
    """
    number = 0
    encoded = text.encode("utf-16-be")
    for unit in struct.unpack(f">{len(encoded) // 2}H", encoded):
        number = number * 31 + unit & 0xFFFFFFFF
    return abs(number - 2**32 if number >= _MIN_INT else number) % _MIN_INT


def _is_too_old(error: Exception) -> bool:
    """Return True if the brokers do not know a request."""
    return isinstance(error, BrokerError) and error.code == Code.UNSUPPORTED_VERSION


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
