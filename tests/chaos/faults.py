"""The faults, each by its name: what is done to three workers and three brokers that are at work.

A fault leaves everything mended: three workers that run, three brokers, fair weather. What a worker makes of it is not
looked at here, but whether one ended by itself; such a worker is started again, as an operator's platform would.
"""

import asyncio
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ENOSPC
from itertools import cycle
from pathlib import Path
from typing import Self

from aiokafka import TopicPartition
from aiokafka.protocol.coordination import FindCoordinatorRequest

from tests.chaos.crew import launched
from tests.chaos.proxy import Weather, Wire
from tests.kafka.topics import administration
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, Crew, Worker
from worker.local.kafka import LocalKafka

WORKERS = 3
TRANSACTION_TIMEOUT_SECONDS = 6
BROKER_PROPERTIES = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}
"""Brokers look for transactions that are over time every ten seconds; here, so that a freeze need not be that long."""

REQUESTS = (
    "InitProducerIdRequest",
    "AddPartitionsToTxnRequest",
    "ProduceRequest",
    "AddOffsetsToTxnRequest",
    "TxnOffsetCommitRequest",
    "EndTxnRequest",
)
"""Those of a transaction, by the class of each; the first opens the producer, and ends what was left open."""

_GONE_SECONDS = 2.0
_BAD_SECONDS = 5.0
_QUIET_SECONDS = 10.0
_LATE_SECONDS = 3600
_OPEN_SECONDS = 20
_OPENED_SECONDS = 120
_DISK_BYTES = 128 << 20
_COMMITS = 5
_GROUP, _TRANSACTION = 0, 1
_AS_TOLD = {0, -signal.SIGTERM}
"""A worker's status after SIGTERM; the second when that comes before it has begun to listen for it."""


class _Place:
    """Where a worker runs: its wires to the brokers, its folder, and the worker that is there now."""

    def __init__(self, wires: list[Wire], folder: Path) -> None:
        self.wires = wires
        self.folder = folder
        self.worker: Worker | None = None


class Ground:
    """Three brokers, and the places of up to four workers, of which three run. Chance comes from one seed."""

    def __init__(self, kafka: LocalKafka, crew: Crew, folder: Path, seed: int) -> None:
        self.kafka = kafka
        self.crew = crew
        self.chance = random.Random(seed)
        self.ended: Counter[str] = Counter()
        """What workers said last that ended by themselves."""
        self._turns = {signum: cycle(REQUESTS) for signum in ("SIGKILL", "SIGSTOP")}
        self._folder = folder
        self._places: list[_Place] = []
        self._expected: set[Worker] = set()

    async def __aenter__(self) -> Self:
        ports = [int(address.rpartition(":")[2]) for address in self.kafka.bootstrap_servers.split(",")]
        for number in range(WORKERS + 1):
            wires = [Wire(port) for port in ports]
            for wire in wires:
                await wire.start()
            self._places.append(_Place(wires, self._folder / f"tables-{number}"))
        for place in self._places[:WORKERS]:
            self.start(place)
        await self.opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        for place in self._places:
            for wire in place.wires:
                await wire.close()

    # ------------------------------------------------------------------------------------------------- workers

    def start(self, place: _Place, *within: str, **wrong: object) -> Worker:
        """Start a worker with something wrong about it, by a command that runs it *within* something."""
        through = ",".join(f"{wire.broker}={wire.port}" for wire in place.wires)
        command = (*within, *launched(through=through, **wrong))
        place.worker = self.crew.start(command=command, store="rocksdb://", data_dir=place.folder)
        return place.worker

    async def struck(self, place: _Place, name: str, moment: str, times: int = 1) -> Worker:
        """Start a worker anew that sends itself a signal at a moment, and wait until it does."""
        await self.stop(place)
        worker = self.start(place, strike=name, moment=moment, times=times)
        self.expect(worker)
        async with asyncio.timeout(_OPENED_SECONDS):
            while not any("Struck" in line for line in worker.said()):
                assert worker.status in {None, -signal.SIGKILL}, f"it ended before {moment}"
                await asyncio.sleep(0.05)
        return worker

    def next_request(self, name: str) -> tuple[str, int]:
        """Give the requests of a transaction in turn, by signal, and before the how many-th of them it strikes."""
        request = next(self._turns[name])
        return request, 1 if request == REQUESTS[0] else self.chance.randint(1, _COMMITS)

    def running(self) -> list[_Place]:
        return [it for it in self._places if it.worker is not None and it.worker.status is None]

    def some(self) -> _Place:
        """Choose a place where a worker runs, by chance."""
        return self.chance.choice(self.running())

    def expect(self, worker: Worker) -> None:
        """Take it for no flaw that a worker ends, and how."""
        self._expected.add(worker)

    def kill(self, place: _Place) -> None:
        if place.worker is not None:
            self.expect(place.worker)
            place.worker.kill()

    async def stop(self, place: _Place) -> None:
        worker = place.worker
        if worker is not None and worker.status is None:
            self.expect(worker)
            if (status := await worker.stop()) not in _AS_TOLD:
                self._note(worker, f"stopped, status {status}")

    async def mend(self) -> None:
        """Start what is missing, stop what is too much; note who ended by itself."""
        for place in self._places:
            worker = place.worker
            if worker is not None and worker.status is not None and worker not in self._expected:
                self.expect(worker)
                self._note(worker, f"status {worker.status}")
        running = self.running()
        for place in running[WORKERS:]:
            await self.stop(place)
        for place in [it for it in self._places if it not in running][: WORKERS - len(running)]:
            self.start(place)

    def _note(self, worker: Worker, how: str) -> None:
        said = worker.said()
        self.ended[f"{how}: {said[-1][:300] if said else 'nothing'}"] += 1

    async def opened(self) -> None:
        """Wait until three workers run and have opened lanes: what is done to one that has none yet is no fault."""
        async with asyncio.timeout(_OPENED_SECONDS):
            await self.mend()
            while not all(any("Ready:" in line for line in it.worker.said()) for it in self.running() if it.worker):
                await asyncio.sleep(0.1)
                await self.mend()

    def pause(self, least: float, most: float) -> Awaitable[None]:
        return asyncio.sleep(self.chance.uniform(least, most))

    # ------------------------------------------------------------------------------------------------- brokers

    async def coordinator(self, kind: int, key: str) -> int:
        async with administration(self.crew.kafka) as admin:
            answer = await admin._client.send(admin._client.get_random_node(), FindCoordinatorRequest(key, kind))
            return int(answer.coordinator_id)

    async def transactional_id(self) -> str:
        """Give that of a worker that is recorded as the owner of a partition."""
        changelogs = [TopicPartition(self.crew.topology.sessions, number) for number in range(12)]
        async with administration(self.crew.kafka) as admin:
            found = await admin.list_consumer_group_offsets(self.crew.name, partitions=changelogs)
        owners = [it.metadata.split()[0] for it in found.values() if it.metadata]
        return self.chance.choice(sorted(owners)) if owners else self.crew.name

    async def leader(self) -> int:
        async with administration(self.crew.kafka) as admin:
            (described,) = await admin.describe_topics([self.crew.topology.sessions])
        leaders = [it["leader"] for it in described["partitions"] if it["leader"] >= 0]
        return int(self.chance.choice(leaders))

    def is_held_up(self) -> bool:
        """Tell whether a worker said last that it waits for offsets: a transaction holds them, or they went back."""
        said = [it.worker.said()[-1:] for it in self.running() if it.worker]
        reasons = "UNSTABLE_OFFSET_COMMIT", "OFFSET_NOT_AVAILABLE"
        return any(reason in line for lines in said for line in lines for reason in reasons)

    async def restart_group_coordinator(self) -> None:
        number = await self.coordinator(_GROUP, self.crew.name)
        await asyncio.to_thread(self.kafka.stop, number)
        await asyncio.to_thread(self.kafka.start, number)

    async def crash(self, *brokers: int) -> None:
        """Kill brokers, and start them again a little later."""
        for number in brokers:
            await asyncio.to_thread(self.kafka.kill, number)
        await self.pause(_GONE_SECONDS, 2 * _GONE_SECONDS)
        await asyncio.to_thread(self.kafka.start)


# ------------------------------------------------------------------------------------------------------- the faults


async def one_killed(it: Ground) -> None:
    it.kill(it.some())


async def all_killed(it: Ground) -> None:
    for place in it.running():
        it.kill(place)


async def killed_while_restoring(it: Ground) -> None:
    """Kill all, and let one without tables restore what they had: in the middle of that it dies, too."""
    place, *others = it.chance.sample(it.running(), len(it.running()))
    it.kill(place)
    shutil.rmtree(place.folder, ignore_errors=True)
    for other in others:
        it.kill(other)
    await it.struck(place, "SIGKILL", "restored", it.chance.randint(2, 6))


async def killed_while_rebalancing(it: Ground) -> None:
    """Kill one that joins at the moment in which it is told what is its own now."""
    await it.struck(it.some(), "SIGKILL", "assigned")


async def killed_before_a_request(it: Ground) -> None:
    """Kill one in the middle of a transaction: by turns before each of its requests."""
    await it.struck(it.some(), "SIGKILL", *it.next_request("SIGKILL"))


async def frozen_before_a_request(it: Ground) -> None:
    """Freeze one in the middle of a transaction until others have its partitions: then it sends the request."""
    worker = await it.struck(it.some(), "SIGSTOP", *it.next_request("SIGSTOP"))
    await asyncio.sleep(SESSION_TIMEOUT_SECONDS + TRANSACTION_TIMEOUT_SECONDS + it.chance.uniform(0, 2))
    worker.wake()


async def _frozen(it: Ground, seconds: float, times: int = 1) -> None:
    worker = it.some().worker
    assert worker is not None
    for _time in range(times):
        worker.freeze()
        await asyncio.sleep(seconds)
        worker.wake()
        await it.pause(0, 0.5)


async def frozen_beyond_the_session_timeout(it: Ground) -> None:
    await _frozen(it, SESSION_TIMEOUT_SECONDS + it.chance.uniform(0.5, 3))


async def frozen_beyond_the_transaction_timeout(it: Ground) -> None:
    await _frozen(it, SESSION_TIMEOUT_SECONDS + TRANSACTION_TIMEOUT_SECONDS + it.chance.uniform(0, 2))


async def frozen_twice_in_a_row(it: Ground) -> None:
    await _frozen(it, SESSION_TIMEOUT_SECONDS + it.chance.uniform(0, 1.5), times=2)


async def frozen_again_and_again(it: Ground) -> None:
    """Freeze one for moments at a time: wherever in a transaction it is, the others' time goes on."""
    worker = it.some().worker
    assert worker is not None
    for _time in range(25):
        worker.freeze()
        await it.pause(0.05, 0.3)
        worker.wake()
        await it.pause(0, 0.05)


async def stopped_and_started(it: Ground) -> None:
    place = it.some()
    await it.stop(place)
    it.start(place)


async def scaled_from_1_to_4(it: Ground) -> None:
    for place in it.running()[1:]:
        await it.stop(place)
    await it.pause(1, 3)
    for place in it._places:
        if place not in it.running():
            it.start(place)
    await it.pause(6, 8)


async def leader_killed(it: Ground) -> None:
    await it.crash(await it.leader())


async def transaction_coordinator_killed(it: Ground) -> None:
    await it.crash(await it.coordinator(_TRANSACTION, await it.transactional_id()))


async def group_coordinator_killed(it: Ground) -> None:
    await it.crash(await it.coordinator(_GROUP, it.crew.name))


async def brokers_restarted_in_turn(it: Ground) -> None:
    for number in range(3):
        await asyncio.to_thread(it.kafka.stop, number)
        await asyncio.to_thread(it.kafka.start)


async def all_brokers_killed(it: Ground) -> None:
    await it.crash(0, 1, 2)


async def _weather(it: Ground, weather: Weather, seconds: float = _BAD_SECONDS) -> None:
    """Turn the weather on one wire of a worker, or on all; it lasts from when it has struck something."""
    wires = it.some().wires
    try:
        if it.chance.random() < 0.5 or not await _struck([it.chance.choice(wires)], weather, _QUIET_SECONDS):
            assert await _struck(wires, weather, _OPENED_SECONDS), "nothing went over the wires"
        await asyncio.sleep(seconds)
    finally:
        for wire in wires:
            wire.turn(Weather.FAIR)


async def _struck(wires: Sequence[Wire], weather: Weather, within_seconds: float) -> bool:
    """Turn the weather on wires, and tell whether it has struck something in time: one may lead to a broker of no use."""
    before = sum(wire.strikes for wire in wires)
    for wire in wires:
        wire.turn(weather)
    with suppress(TimeoutError):
        async with asyncio.timeout(within_seconds):
            while sum(wire.strikes for wire in wires) == before:  # noqa: ASYNC110 (a wire gives no event)
                await asyncio.sleep(0.1)
    return sum(wire.strikes for wire in wires) > before


async def connections_reset(it: Ground) -> None:
    await _weather(it, Weather.RESETTING)


async def connections_half_open(it: Ground) -> None:
    await _weather(it, Weather.SILENT, SESSION_TIMEOUT_SECONDS + 2)


async def network_delayed(it: Ground) -> None:
    await _weather(it, Weather.SLOW, 2 * _BAD_SECONDS)


async def network_narrowed(it: Ground) -> None:
    await _weather(it, Weather.NARROW)


async def tables_deleted(it: Ground) -> None:
    place = it.some()
    it.kill(place)
    shutil.rmtree(place.folder, ignore_errors=True)


async def tables_truncated(it: Ground) -> None:
    place = it.some()
    it.kill(place)
    for file in sorted(place.folder.rglob("*")):
        if file.is_file() and it.chance.random() < 0.3:
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size // 2)


async def disk_full(it: Ground) -> None:
    """Give a worker a disk of its own, and fill that: there is no room left for its tables when it writes them."""
    place = it.some()
    await it.stop(place)
    worker = it.start(place, *own_mounts(), disk=_DISK_BYTES)
    await worker.says("Ready:", within_seconds=_OPENED_SECONDS)
    fill(worker, place.folder)
    await it.pause(5, 8)
    it.expect(worker)
    await worker.stop()
    assert any("No space left" in line for line in worker.said()), "its disk was not full"


async def disk_read_only(it: Ground) -> None:
    """Let a worker write nothing into its folder, also when it is root."""
    place = it.some()
    await it.stop(place)
    with write_protected(place.folder):
        worker = it.start(place, *unprivileged())
        it.expect(worker)
        assert await worker.ends(_OPENED_SECONDS) == 1, "it runs without a folder that it can write to"


async def clock_an_hour_off(it: Ground) -> None:
    place = it.some()
    await it.stop(place)
    worker = it.start(place, late=it.chance.choice((-_LATE_SECONDS, _LATE_SECONDS)))
    with suppress(TimeoutError, AssertionError):
        await worker.says("Ready:", within_seconds=_OPEN_SECONDS)
    await it.pause(4, 6)
    await it.stop(place)


Fault = Callable[[Ground], Awaitable[None]]
FAULTS: tuple[Fault, ...] = (
    one_killed,
    leader_killed,
    frozen_beyond_the_session_timeout,
    connections_reset,
    stopped_and_started,
    tables_truncated,
    transaction_coordinator_killed,
    killed_while_restoring,
    connections_half_open,
    clock_an_hour_off,
    all_killed,
    group_coordinator_killed,
    frozen_again_and_again,
    network_delayed,
    tables_deleted,
    killed_while_rebalancing,
    killed_before_a_request,
    frozen_before_a_request,
    brokers_restarted_in_turn,
    frozen_twice_in_a_row,
    network_narrowed,
    scaled_from_1_to_4,
    disk_full,
    disk_read_only,
    frozen_beyond_the_transaction_timeout,
    all_brokers_killed,
)


def own_mounts() -> tuple[str, ...]:
    """Give what runs a command in a mount namespace of its own, in which it may mount."""
    return ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")


def fill(worker: Worker, folder: Path) -> None:
    """Fill the disk that a worker alone sees at a folder."""
    seen = worker.root / folder.relative_to("/") / "filler"
    with seen.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 20))
        except OSError as error:
            if error.errno != ENOSPC:
                raise


def unprivileged() -> tuple[str, ...]:
    """Give what runs a command without root's right to write what is write-protected."""
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@contextmanager
def write_protected(folder: Path) -> Iterator[None]:
    """Let nobody write what is in a folder."""
    everything = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def schedule(rounds: int, seed: int, faults: tuple[Fault, ...] = FAULTS) -> list[Fault]:
    """Draw the order of so many faults: each kind comes once before any comes again."""
    chance = random.Random(seed)
    drawn: list[Fault] = []
    while len(drawn) < rounds:
        drawn += chance.sample(faults, len(faults))
    return drawn[:rounds]
