"""Runs a worker with something wrong about it: its clock, its disk, its way to the brokers, or a rule of it taken out.

    python launch.py [--late SECONDS] [--through FILE] [--disk BYTES] [--strike SIGNAL --moment NAME [--times N]]
        [--hold FILE] [--mistake NAME]…

A launcher, since nothing of the worker's own may know of it. It is started by its path, in whatever folder.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any


def shift_clock(seconds: float) -> None:
    """Let the clock be wrong."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + round(seconds * 1e9)


def go_through(file: Path) -> None:
    """Connect to another port wherever one of those in a file is meant, as it is then: each line is PORT=PORT.

    Brokers name their own ports to clients.
    """
    connect = asyncio.BaseEventLoop.create_connection

    @wraps(connect)
    async def through(loop, factory, host=None, port=None, **options):
        ports = dict(line.split("=") for line in file.read_text("ascii").splitlines())  # noqa: ASYNC240
        return await connect(loop, factory, host, int(ports.get(str(port), port)), **options)

    asyncio.BaseEventLoop.create_connection = through  # type: ignore[method-assign, assignment]


def mount(disk: int) -> None:
    """Keep the tables on a disk of its own, of so many bytes, which is gone with the worker.

    It has to run in a mount namespace of its own.
    """
    folder = Path(os.environ["SESSION_WORKER_DATA_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(folder)), check=True)


def strike(name: str, moment: str, times: int) -> None:
    """Send itself a signal right before something happens for so many times.

    A moment is `assigned`, `restored` (a record of a table), or a request of `worker.runtime`, by its class.
    """
    from worker.kafka.cluster import Cluster
    from worker.runtime.faust.driver import RebalanceListener
    from worker.runtime.faust.tables import Partitions

    left = times

    def happens(what: str) -> None:
        nonlocal left
        if what != moment:
            return
        left -= 1
        if left == 0:
            print(f"Struck by {name} before {moment}", flush=True)
            os.kill(os.getpid(), signal.Signals[name])

    send, assigned, apply = Cluster.send, RebalanceListener.on_partitions_assigned, Partitions._apply

    async def sending(cluster, node, request, *group):
        happens(type(request).__name__)
        return await send(cluster, node, request, *group)

    async def assigning(listener, partitions):
        happens("assigned")
        await assigned(listener, partitions)

    def applying(partitions, batch):
        for event in batch:
            happens("restored")
            apply(partitions, [event])

    Cluster.send = sending  # type: ignore[method-assign]
    RebalanceListener.on_partitions_assigned = assigning  # type: ignore[method-assign]
    Partitions._apply = applying  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------ rules of the worker, taken out


def unfenced(_hold: Path) -> None:
    """Let dead owners be: allowed, since fencing only makes it fast."""
    from worker.kafka.producer import TransactionalProducer

    async def fence(producer, transactional_id):
        pass

    TransactionalProducer.fence = fence  # type: ignore[method-assign]


def sends_unchecked(_hold: Path) -> None:
    """Commit, whatever became of the records that belong to it."""
    from worker.kafka import producer as transaction

    write = transaction.TransactionalProducer._write

    async def unchecked(producer, *given):
        with suppress(transaction.TransactionAborted, transaction.OutcomeUnknown, transaction.TransactionRejected):
            await write(producer, *given)

    transaction.TransactionalProducer._write = unchecked  # type: ignore[method-assign]


def held_until_expelled(hold: Path) -> None:
    """Begin no transaction while the file *hold* is there, and then none before the group has put this worker out."""
    from worker.kafka.producer import TransactionalProducer
    from worker.runtime.faust import driver

    assigned, commit = driver.RebalanceListener.on_partitions_assigned, TransactionalProducer.commit
    coordinators: list[Any] = []

    async def remembered(listener, partitions):
        coordinators[:] = [listener._thread._ensure_consumer()._coordinator]
        await assigned(listener, partitions)

    async def held(producer, records, offsets, membership, *others):
        if hold.exists():  # noqa: ASYNC240 (a file is what the test can take away)
            print("Held", flush=True)
            while hold.exists() or coordinators[0].generation != -1:  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.001)
        return await commit(producer, records, offsets, _live(coordinators[0], membership), *others)

    driver.RebalanceListener.on_partitions_assigned = remembered  # type: ignore[method-assign]
    TransactionalProducer.commit = held  # type: ignore[method-assign]


def _live(coordinator, membership):
    """Give the membership as it was pinned, or, by mistake, as it is now."""
    if not _live.is_mistaken:  # type: ignore[attr-defined]
        return membership
    return membership._replace(generation=coordinator.generation, member=coordinator.member_id)


_live.is_mistaken = False  # type: ignore[attr-defined]


def generation_live(_hold: Path) -> None:
    """Read generation and member id when they are needed, and send what is read."""
    from worker.kafka.cluster import Membership

    _live.is_mistaken = True  # type: ignore[attr-defined]
    Membership.check = lambda _membership: None  # type: ignore[method-assign, assignment]


def offsets_unstable(_hold: Path) -> None:
    """Fetch committed offsets without require_stable."""
    from worker.kafka.protocol import OffsetFetchRequest

    build = OffsetFetchRequest.build

    def unstable(request, struct):
        request._require_stable = False
        return build(request, struct)

    OffsetFetchRequest.build = unstable  # type: ignore[method-assign]


def origins_unchecked(_hold: Path) -> None:
    """Open lanes over snapshots of records that are not done by the committed offsets."""
    from worker.runtime.opening import Opening

    async def unchecked(_opening, _plan, _newest):
        pass

    Opening.check_origins = unchecked  # type: ignore[method-assign]


def restored_to_the_stable_offset(_hold: Path) -> None:
    """Take the last stable offset for where a topic ends."""
    from worker.kafka import cluster

    cluster._READ_UNCOMMITTED = 1  # type: ignore[misc]


def position_standing(_hold: Path) -> None:
    """Begin each portion of a cycle where the first began."""
    from worker.pipeline.lane import Overlay

    run = Overlay.run

    def standing(overlay, limit, *, is_crowded=False):
        overlay._taken = dict.fromkeys(overlay._taken, 0)
        return run(overlay, limit, is_crowded=is_crowded)

    Overlay.run = standing  # type: ignore[method-assign]


def parked_lost(_hold: Path) -> None:
    """Forget in the commit what is parked."""
    from worker.pipeline.ledger import Ledger

    commit = Ledger.commit
    Ledger.commit = lambda ledger: commit(Ledger(ledger.next))  # type: ignore[method-assign, assignment]


MISTAKES = {
    it.__name__: it
    for it in (
        unfenced,
        sends_unchecked,
        held_until_expelled,
        generation_live,
        offsets_unstable,
        origins_unchecked,
        restored_to_the_stable_offset,
        position_standing,
        parked_lost,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--late", type=float, default=0)
    parser.add_argument("--through", type=Path)
    parser.add_argument("--disk", type=int)
    parser.add_argument("--strike")
    parser.add_argument("--moment")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--hold", type=Path, default=Path("hold"))
    parser.add_argument("--mistake", action="append", default=[], choices=MISTAKES)
    wrong = parser.parse_args()
    if wrong.late:
        shift_clock(wrong.late)
    if wrong.through:
        go_through(wrong.through)
    if wrong.disk:
        mount(wrong.disk)
    if wrong.strike:
        strike(wrong.strike, wrong.moment, wrong.times)
    for name in wrong.mistake:
        MISTAKES[name](wrong.hold)
    from worker.cli import main as session_worker

    session_worker(["run"])


if __name__ == "__main__":
    main()
