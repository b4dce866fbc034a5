"""The Faust tables whose changelog is an output topic.

A table is kept by partition, each with the offset up to which it stands for its changelog, its *end*:

T1. A batch of the changelog is applied only when it starts at the partition's end or before, and then the end is the
    batch's; one that starts later is fetched again from the end. So no record is ever skipped, whatever was fetched
    when; one that is applied again changes nothing that those behind it do not change again.
T2. Who opens a lane over a partition checks that its end has reached the high watermark. Faust's own account of what
    was restored is not relied on.
T3. A lane's cycle changes the table and its end at once, after the commit was answered. On disk that is one write, so a
    crash at any point leaves a table that stands for its end, or for more; restoring from there makes both the same.
T4. What is on disk is worth keeping only while the changelog still tells all that happened since. Where the changelog
    begins behind the end, or the table was up to date longer ago than tombstones are kept, the partition is rebuilt.
T5. What is on disk belongs to one app id, one cluster and one set of topics. Each partition records their ids with its
    end, also as a standby. Where they are not those that the worker runs on, it is rebuilt. A worker that ends
    because they have changed takes the record away: it may have restored from the others before it knew.
"""

from collections.abc import Callable, Iterable
from typing import Any

import faust
from faust.stores.base import Store
from faust.types import TP, AppT, EventT

from worker.codec.snapshot import entry_from_changelog, newest_origin
from worker.pipeline.lane import Batch
from worker.runtime.stores.memory import TablePartition


class Partitions(Store):
    """The store of a table: its partitions that are assigned to this worker, as active or as standby."""

    def __init__(self, app: AppT, table: "Table", opener: Callable[[int], TablePartition], origins: str) -> None:
        super().__init__("partitions://", app, table)
        self._opener = opener
        self._origins = origins
        self._newest: dict[int, int] = {}
        self._kept: dict[int, TablePartition] = {}
        self._count = 0

    def partition(self, number: int) -> TablePartition:
        """Return a partition; open it if it is not open."""
        if number not in self._kept:
            self._kept[number] = self._opener(number)
        return self._kept[number]

    def newest_origin(self, number: int) -> int:
        """Return the largest offset of the update record of any snapshot that was restored from a partition; or -1."""
        return self._newest.get(number, -1)

    def begin(self, number: int, low: int, high: int) -> int:
        """Return where to read the changelog from, which holds the offsets *low* to *high*; rebuild what is stale (T4)."""
        kept = self.partition(number)
        if kept.checkpoint is None or not low <= kept.checkpoint <= high:
            if kept.checkpoint is not None:
                self.log.warning(
                    "%s/%d: rebuilding from the changelog: the table stands for offset %d, but the changelog holds %d to %d",
                    self.table.name, number, kept.checkpoint, low, high,
                )  # fmt: skip
                kept.clear()
            kept.set_target(high)
            kept.apply({}, low)
            return low
        kept.set_target(high)
        return kept.checkpoint

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the last offset that a partition stands for, as Faust counts offsets."""
        kept = self._kept.get(tp.partition)
        return None if kept is None or kept.checkpoint is None else kept.checkpoint - 1

    def apply_changelog_batch(
        self,
        batch: Iterable[EventT],
        to_key: Callable[[Any], Any],
        to_value: Callable[[Any], Any],
    ) -> None:
        """Apply fetched batches of the changelog; what goes wrong ends the worker, where Faust would log it and go on."""
        try:
            self._apply(batch)
        except Exception as error:  # noqa: BLE001
            self.add_future(self.app.crash(error))

    def _apply(self, batch: Iterable[EventT]) -> None:
        """Apply each batch where it goes on from what is there (T1)."""
        for event in batch:
            message = event.message
            kept = self._kept.get(message.partition)
            if kept is None or kept.checkpoint is None or message.topic != self.table.changelog_topic_name:
                continue  # of a partition that is not ours any more
            fetched: Batch = message.value
            if fetched.start > kept.checkpoint:
                self._go_back(message.tp, kept.checkpoint)
            elif fetched.end > kept.checkpoint:
                self._count += len(fetched.records)
                place = f"{self._origins}/{message.partition}/".encode()
                newest = newest_origin(fetched.records, place)
                self._newest[message.partition] = max(newest, self.newest_origin(message.partition))
                last = {
                    record.key or b"": record for record in fetched.records
                }  # the last record of a key replaces the others
                kept.apply({key: entry_from_changelog(record) for key, record in last.items()}, fetched.end)

    def _go_back(self, tp: TP, end: int) -> None:
        """Fetch from where the partition stands, and let Faust, which drops what it has seen, see it again."""
        recovery = self.app.tables.recovery
        for offsets in (recovery.active_offsets, recovery.standby_offsets):
            if tp in offsets:
                offsets[tp] = end - 1
        self.app.consumer.go_to(tp, end)

    def take_count(self) -> int:
        """Count the records that were applied since the last call."""
        count, self._count = self._count, 0
        return count

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Close the partitions that are not assigned any more."""
        topic = self.table.changelog_topic_name
        for number in self._kept.keys() - {tp.partition for tp in assigned if tp.topic == topic}:
            self._kept.pop(number).close()

    def reset_state(self) -> None:
        """Forget everything."""
        for kept in self._kept.values():
            kept.clear()

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> None:  # noqa: FBT001, FBT002
        """Refuse: the changelog is the backup."""
        raise NotImplementedError

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:  # noqa: FBT001, FBT002
        """Refuse: the changelog is the backup."""
        raise NotImplementedError

    async def on_stop(self) -> None:
        """Close everything."""
        while self._kept:
            _number, kept = self._kept.popitem()
            kept.close()


class Table(faust.Table):
    """A table by partition, restored from batches; lanes change it, each its own partition.

    Its changelog may hold snapshots that come of the topic *origins*.
    """

    def __init__(
        self, app: AppT, name: str, changelog: Any, opener: Callable[[int], TablePartition], origins: str
    ) -> None:
        # With a recovery buffer of 1 Faust goes on reading the changelog after recovery, over what lanes changed since.
        super().__init__(app, name=name, changelog_topic=changelog, recovery_buffer_size=2, standby_buffer_size=1)
        self._opener = opener
        self._origins = origins

    def _new_store(self) -> Partitions:
        return Partitions(self.app, self, self._opener, self._origins)
