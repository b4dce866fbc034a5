"""Faust's table recovery, with an opening around it (opening.py): restore, seek, open the gate.

Y1. Faust drives it: `Recovery` takes the place of Faust's own and adds the steps of the opening. Faust gives up a step when
    another rebalance begins, so each step may be cut short anywhere.
Y2. A step has no time limit (O3). Faust's own limit would end its recovery forever.
Y3. Faust's account of what was restored is not relied on: a lane is opened only over a table that has reached the high
    watermark.
"""

import asyncio
import logging
import random
import time
from typing import Any, Final

from aiokafka import TopicPartition
from faust.tables import recovery
from faust.tables.manager import TableManager
from faust.types import TP
from mode import Service

from worker.kafka.cluster import Membership
from worker.kafka.errors import NotMember
from worker.kafka.producer import OutcomeUnknown
from worker.pipeline.lane import Lane
from worker.runtime.faust.tables import Partitions
from worker.runtime.opening import Opening, OpeningPlan
from worker.runtime.status import State

RESTORING_BYTES: Final = 256 << 10
"""Upper bound in bytes of what a fetch brings of one partition during a restore. 1 MiB would take 50 MiB more memory."""
_RUNNING_BYTES: Final = 1 << 20
"""The same behind a restore; with 256 KiB a worker with a backlog processes 8 % fewer records a second."""
_PAUSE_SECONDS: Final = 0.2
"""Lower bound in seconds of the pause before an opening is tried again.

A random part of up to the same length comes on top, so that workers do not try at the same time.
"""

log = logging.getLogger(__name__)


class Tables(TableManager):
    """Faust's table manager, with `Recovery` in place of its own."""

    _openings: "Recovery | None" = None

    @property
    def recovery(self) -> "Recovery":
        """The recovery of this app's tables."""
        if self._openings is None:
            self._openings = self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._openings


class Latch(asyncio.Event):
    """An event that Faust's reader of changelogs cannot clear between its being set and being waited for."""

    def clear(self) -> None:
        """Stay as it is."""

    def reset(self) -> None:
        """Become unset."""
        super().clear()


class Recovery(recovery.Recovery):
    """Opens the lanes of an App (app.py)."""

    def __init__(self, app: Any, tables: TableManager, **kwargs: Any) -> None:
        super().__init__(app, tables, **kwargs)
        self.opening = Opening(app.dependencies)
        self._plan: OpeningPlan | None = None
        self._signal_recovery_end = self._restored = Latch()
        self._began = 0.0

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Open nothing until the next assignment."""
        self.app.status.move(State.REBALANCING, "waiting for the group's next assignment")
        super().on_partitions_revoked(revoked)

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Begin to open what was assigned."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        if self._generation_id == generation_id:
            self.app.status.move(State.RESTORING, "opening the assigned partitions")

    def again(self) -> None:
        """Open the lanes again, which are closed, unless a rebalance does so meanwhile."""
        if self.app.status.state is State.RUNNING:
            self.app.status.move(State.RESTORING, "opening the assigned partitions again")
        self.add_future(self._again())

    async def _again(self) -> None:
        await self.sleep(_PAUSE_SECONDS * (1 + random.random()))
        if self.app.status.state is State.RESTORING and not self.app.commit_loop.lanes:
            consumer = self.app.consumer
            consumer.pause_partitions(consumer.assignment())
            self.signal_recovery_start.set()

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 (Faust's signature)
        """Wait for a step without a limit (Y2)."""
        await super()._wait(coro)

    @Service.task
    async def _publish_stats(self) -> None:
        """Look for no slow recovery: Faust would take a healthy one for stuck; stalls.py reports what stands still."""

    # ------------------------------------------------------------------------------------------------ steps 2 to 5

    async def _build_highwaters(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        if title == "active":
            self._plan = None
            consumer.set_fetch_bytes(RESTORING_BYTES)
            await self.app.commit_loop.close()
            self._plan = await self._planned(consumer.membership)
            self._began = time.monotonic()
            self._count_restored()
        marks = await self.app.dependencies.cluster.watermarks(list(tps))
        destination.clear()
        destination.update({TP(*tp): high - 1 for tp, (_low, high) in marks.items()})

    async def _planned(self, membership: Membership | None) -> OpeningPlan:
        """Run the steps 2 to 5; wait forever if this is no member of the group any more, for Faust to give it up."""
        while membership is not None and membership.generation == self._generation_id:
            changelogs = {
                stage: [TopicPartition(*tp) for tp in self.active_tps if tp.topic == table.changelog_topic_name]
                for stage, table in self.app.tables_by_stage.items()
            }
            try:
                return await self.opening.plan(membership, changelogs, self.app.consumer.assignment())
            except NotMember:
                break
            except OutcomeUnknown as error:
                log.warning("an earlier transaction is not ended yet, trying again: %s", error)
                await self.sleep(_PAUSE_SECONDS * (1 + random.random()))
        log.info("the assignment was revoked while it was opened; waiting for the next one")
        return await asyncio.Future()

    # ------------------------------------------------------------------------------------------------------- step 6

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Find out where each changelog partition has to be read on from."""
        for tp, (low, high) in (await self.app.dependencies.cluster.watermarks(list(tps))).items():
            destination[TP(*tp)] = self._store(tp).begin(tp.partition, low, high) - 1

    async def _seek_offsets(self, consumer: Any, tps: set[TP], offsets: Any, title: str) -> None:
        """Seek to what follows, where Faust would read its last record again."""
        await consumer.seek_wait({tp: offsets[tp] + 1 for tp in tps})
        if title == "active":
            self._restored.reset()

    def _store(self, tp: TopicPartition) -> Partitions:
        store: Partitions = self.tp_to_table[TP(*tp)].data
        return store

    # ------------------------------------------------------------------------------------------------- steps 7 and 8

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Open the lanes, when everything is planned and restored for this generation."""
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        self._set_recovery_ended()
        plan, self._plan = self._plan, None
        if not self._may_open(generation_id):
            return
        if plan is None or not self._are_restored(plan):
            self.again()
            return
        newest = {tp: self._store(tp).newest_origin(tp.partition) for _stage, tp in plan.lanes}
        await self.opening.check_origins(plan, newest)
        lanes = {
            Lane(
                stage,
                changelog.partition,
                self._store(changelog).partition(changelog.partition),
                {topic: plan.ledgers[TopicPartition(topic, changelog.partition)] for topic in stage.reads},
                plan.batch_bytes.get(changelog.topic),
            ): changelog
            for stage, changelog in plan.lanes
        }
        await consumer.seek_wait({TP(*source): ledger.commit()[0] for source, ledger in plan.ledgers.items()})
        if not self._may_open(generation_id):
            return
        app.commit_loop.open(lanes, plan.membership, plan.batch_bytes)
        app.status.move(State.RUNNING)
        consumer.set_fetch_bytes(_RUNNING_BYTES)
        consumer.resume_partitions({TP(*source) for source in plan.ledgers})
        self.completed.set()
        app.flow_control.resume()
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        if not app.assignor.assigned_standbys():
            self.tables.on_standbys_ready()
        if app.rebalancing:
            app.on_rebalance_end()
        log.info(
            "Ready: partitions=%d generation=%d restored=%d in=%.2fs",
            len(lanes), generation_id, self._count_restored(), time.monotonic() - self._began,
        )  # fmt: skip

    def _may_open(self, generation_id: int) -> bool:
        """Return True if what was assigned in this generation still is (O3)."""
        app = self.app
        return (
            app.status.state is State.RESTORING and app.consumer_generation_id == generation_id and not app.should_stop
        )

    def _count_restored(self) -> int:
        """Count the records that were restored since the last call."""
        return sum(table.data.take_count() for table in self.app.tables_by_stage.values())

    def _are_restored(self, plan: OpeningPlan) -> bool:
        """Return True if each table partition stands for its changelog up to the high watermark (Y3)."""
        for _stage, changelog in plan.lanes:
            checkpoint = self._store(changelog).partition(changelog.partition).checkpoint
            high = self.active_highwaters[TP(*changelog)]
            if checkpoint is None or checkpoint <= high:
                log.warning(
                    "%s/%d: restored to offset %s of %d, restoring again",
                    changelog.topic, changelog.partition, checkpoint, high + 1,
                )  # fmt: skip
                return False
        return True
