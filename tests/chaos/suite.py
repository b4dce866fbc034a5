"""Runs a schedule of faults over a crew at work, has the verifier judge, and draws up the table."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.chaos.faults import Fault, Ground

RECOVERED_SECONDS = 180
HELD_SECONDS = 60
"""When an operator would look why workers wait for a transaction: it is over time after six."""


class Report(NamedTuple):
    """What a run came to."""

    seed: int
    seconds: float
    gaps: dict[str, list[float]]
    """By fault: how long, each time, a partition had no output at most."""
    found: dict[str, int]
    """What the verifier counts."""
    ended: dict[str, int]
    """What workers said last that ended by themselves, with how often."""
    restarted: int
    """How often the group coordinator was restarted, since it held offsets of transactions that had ended long before."""
    lives: int
    """How many lives of the stream the verifier judged."""

    @property
    def is_good(self) -> bool:
        return not any(count for name, count in self.found.items() if name not in {"records", "outputs"})

    def table(self) -> str:
        rows = [
            f"| {name} | {len(gaps)} | {median(gaps):.1f} | {max(gaps):.1f} |"
            for name, gaps in sorted(self.gaps.items())
        ]
        total = sum(map(len, self.gaps.values()))
        every = [gap for gaps in self.gaps.values() for gap in gaps]
        lives = "" if self.lives == 1 else f", {self.lives} lives"
        counts = ", ".join(f"{count:,} {name}" for name, count in self.found.items())
        ended = [f"ended by itself {times} times, {said}" for said, times in self.ended.items()]
        if self.restarted:
            ended.append(
                f"group coordinator restarted {self.restarted} times, which held offsets of ended transactions"
            )
        return "\n".join(
            [
                f"seed {self.seed}, {total} faults in {self.seconds / 60:.0f} minutes{lives}: {counts}",
                *ended,
                "",
                "| fault | times | s without output, p50 | max |",
                "| --- | --- | --- | --- |",
                *rows,
                f"| **all** | {total} | {median(every):.1f} | {max(every):.1f} |",
            ]
        )


async def run(
    faults: Iterable[Fault], seed: int, rate: float, folder: Path, within_seconds: float = float("inf")
) -> Report:
    """Let the faults strike, one after another, while update records come at a steady rate; then judge.

    No fault begins when the time is over.
    """
    began = time.monotonic()
    gaps: dict[str, list[float]] = defaultdict(list)
    async with Ground(folder, seed, rate) as ground:
        restarted = int(await _recovered(ground))
        ground.life.watch.longest()
        for number, fault in enumerate(faults, 1):
            if time.monotonic() - began > within_seconds:
                break
            name = fault.__name__.replace("_", " ")
            await ground.opened()
            await fault(ground)
            await ground.opened()
            restarted += await _recovered(ground)
            gaps[name].append(ground.life.watch.longest())
            print(f"{number:4} {name}: {gaps[name][-1]:.1f} s without output", flush=True)
        await ground.end_life()
        return Report(
            seed, time.monotonic() - began, dict(gaps), dict(ground.found), dict(ground.ended), restarted, ground.lives
        )


async def _recovered(ground: Ground) -> bool:
    """Wait until snapshots come out again, in every partition; tell whether the group coordinator had to be restarted.

    A broker that loses and regains a partition of offsets while it loads it may take transactions for open that its own
    log has ended (Kafka 4.4). Workers wait and say so. A restart lets it load the log once more: it helps if it was the
    broker's error, and does not if a transaction is open indeed.
    """
    began = time.monotonic()
    latest = ground.life.watch.latest
    is_restarted = False
    try:
        async with asyncio.timeout(RECOVERED_SECONDS):
            while min(latest.values()) < began:
                ground.life.check()
                if not is_restarted and time.monotonic() > began + HELD_SECONDS and ground.is_held_up():
                    is_restarted = True
                    await ground.restart_group_coordinator()
                await asyncio.sleep(0.05)
    except TimeoutError:
        silent = sorted(number for number, moment in latest.items() if moment < began)
        raise AssertionError(f"no output for {RECOVERED_SECONDS} s in the partitions {silent}") from None
    return is_restarted
