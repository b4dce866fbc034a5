"""The flow of fetched records to the lanes: pauses and resumes partitions, and sends a fetcher back.

F1. Nothing here blocks the fetching of verdicts. If more records of a partition are queued than a few cycles take, the
    partition is paused until they are taken. Verdicts and claims are taken whatever is parked, so they always arrive,
    and a full ledger empties.
F2. A fetcher may be ahead of a lane, or at a partition whose records were deleted. Then the partition is fetched from
    the lane's position again. If that position is outside of the partition, the lanes are opened again.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, Protocol

from aiokafka import TopicPartition

from worker.pipeline.lane import Batch, Lane

_QUEUED_BYTES: Final = 4 << 20
"""Upper bound in bytes of the records queued for a partition before it is paused."""
_QUEUED_BYTES_IN_ALL: Final = 16 << 20
"""The same for all lanes together: each has an equal share."""
_FRAME_BYTES: Final = 200
"""Bytes that a queued record takes beside its value."""
_SAMPLED: Final = 16
"""Every so many records one is measured."""

Watermarks = Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, tuple[int, int]]]]
"""Return the first offset and the high watermark of partitions."""


class Source(Protocol):
    """The consumer that records are fetched by."""

    def pause_partitions(self, tps: Iterable[TopicPartition]) -> None:
        """Fetch no more of these partitions."""

    def resume_partitions(self, tps: Iterable[TopicPartition]) -> None:
        """Fetch these partitions again."""

    def go_to(self, tp: TopicPartition, offset: int) -> None:
        """Fetch a partition from another position."""


class Flow:
    """The flow from a *source*; *spawn* runs a coroutine, *lose* opens the lanes again for a reason."""

    def __init__(
        self,
        source: Callable[[], Source],
        watermarks: Watermarks,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        lose: Callable[[str], None],
    ) -> None:
        self._source = source
        self._watermarks = watermarks
        self._spawn = spawn
        self._lose = lose
        self._paused: dict[TopicPartition, int] = {}
        self._checked: set[TopicPartition] = set()

    def reset(self) -> None:
        """Forget which partitions are paused: their lanes are closed."""
        self._paused = {}

    def hold_back(self, tp: TopicPartition, lane: Lane, batch: Batch, lanes: int) -> None:
        """Pause a partition if more of it is queued than memory should hold, of the number of open *lanes* (F1)."""
        queued = len(lane.queued[tp.topic])
        if queued > len(batch.records) and tp not in self._paused:
            some = batch.records[::_SAMPLED]
            size = sum(len(record.value or b"") for record in some) / len(some) + _FRAME_BYTES
            if queued * size > min(_QUEUED_BYTES, _QUEUED_BYTES_IN_ALL / lanes):
                self._paused[tp] = queued // 2
                self._source().pause_partitions({tp})

    def let_go(self, lanes: Mapping[TopicPartition, Lane]) -> None:
        """Resume the paused partitions of which enough has been taken."""
        ready = {tp for tp, few in self._paused.items() if len(lanes[tp].queued[tp.topic]) <= few}
        if ready:
            self._source().resume_partitions(ready)
            for tp in ready:
                del self._paused[tp]

    def go_back(self, tp: TopicPartition, lane: Lane) -> None:
        """Fetch from the lane's position, and check meanwhile that it is still there (F2)."""
        position = lane.position(tp.topic)
        self._source().go_to(tp, position)
        self.check_soon(tp, position)

    def check_soon(self, tp: TopicPartition, position: int) -> None:
        """Check that a partition still holds a position (F2)."""
        if tp not in self._checked:
            self._checked.add(tp)
            self._spawn(self._check(tp, position))

    async def _check(self, tp: TopicPartition, position: int) -> None:
        (low, high) = (await self._watermarks([tp]))[tp]
        self._checked.discard(tp)
        if not low <= position <= high:
            self._lose(f"{tp.topic}/{tp.partition} holds the offsets {low} to {high}, {position} was to be read next")
