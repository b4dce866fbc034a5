"""The faults, each by its name: what is done to three workers and three brokers that are at work.

A fault leaves everything mended: three workers that run, three brokers, fair weather. What a worker makes of it is not
looked at here, but whether one ended by itself; such a worker is started again, as an operator's platform would.
"""

import asyncio
import os
import random
import shlex
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout, suppress
from errno import ENOSPC
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.coordination import FindCoordinatorRequest

from tests.chaos.access import Access
from tests.chaos.crew import launched
from tests.chaos.life import PARTITIONS, Life
from tests.chaos.proxy import Weather, Wire
from tests.chaos.verifier import read
from tests.kafka.inside import replace
from tests.kafka.ports import free_port
from tests.kafka.test_access import USER
from tests.kafka.tools import run_tool
from tests.kafka.topics import administration, own
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, Crew, Worker
from worker.local.kafka import LocalKafka
from worker.pipeline.topology import Topology
from worker.runtime.topics import prepare

WORKERS = 3
BROKERS = 3
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
_HEARD_SECONDS = 120
"""What a worker may take to report a fault; it reports once a minute that it is throttled."""
_HANGING_MILLISECONDS = 15 * 60 * 1000
_HANGING_TOPICS = "sessions", "updates", "verdicts", "first_sessions", "claims", "rekeyed"
_LAST_LINES = 12
_QUOTAS = {"producer_byte_rate": 20_000, "consumer_byte_rate": 20_000, "request_percentage": 1}
_GROUP, _TRANSACTION = 0, 1
_AS_TOLD = {0, -signal.SIGTERM}
"""A worker's status after SIGTERM; the second when that comes before it has begun to listen for it."""


class _Place:
    """Where a worker runs: its wires to the brokers, its folder, and the worker that is there now.

    The worker bootstraps through the wires, whose ports stay, wherever the brokers are.
    """

    def __init__(self, wires: list[Wire], folder: Path) -> None:
        self.wires = wires
        self.folder = folder
        self.ports = folder.with_suffix(".ports")
        self.worker: Worker | None = None

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{wire.port}" for wire in self.wires)

    def lead(self, brokers: Sequence[int]) -> None:
        """Lead the wires to the brokers at these ports, and the worker through the wires."""
        for wire, port in zip(self.wires, brokers, strict=True):
            wire.broker = port
        lines = "".join(f"{wire.broker}={wire.port}\n" for wire in self.wires)
        written = self.ports.with_suffix(".new")
        written.write_text(lines, "ascii")
        written.replace(self.ports)


class Ground:
    """Three brokers, and the places of up to four workers, of which three run. Chance comes from one seed."""

    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        folder = folder.absolute()
        self.chance = random.Random(seed)
        self.access = Access(folder / "access")
        self.kafka: LocalKafka
        self.crew: Crew
        self.life: Life
        self.lives = 0
        self.found: Counter[str] = Counter()
        """What the verifier counted in all lives of the stream that are over."""
        self.ended: Counter[str] = Counter()
        """What workers said last that ended by themselves."""
        self._turns = {signum: cycle(REQUESTS) for signum in ("SIGKILL", "SIGSTOP")}
        self.hanging = cycle(_HANGING_TOPICS)
        self.quotas = cycle(([*_QUOTAS], *([name] for name in _QUOTAS)))
        self._folder = folder
        self._seed = seed
        self._rate = rate
        self._opened = ExitStack()
        self._clusters = 0
        self._places: list[_Place] = []
        self._expected: set[Worker] = set()

    async def __aenter__(self) -> Self:
        try:
            await self.found_cluster()
            crew = Crew(
                self.kafka.internal_servers,
                self._folder,
                PARTITIONS,
                session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
                transaction_timeout_seconds=TRANSACTION_TIMEOUT_SECONDS,
                **self.access.settings(),
            )
            self.crew = self._opened.enter_context(_quiet(crew))
            for number in range(WORKERS + 1):
                wires = [Wire(0) for _ in range(BROKERS)]
                for wire in wires:
                    await wire.start()
                self._places.append(_Place(wires, self._folder / f"tables-{number}"))
            self.lead()
            for place in self._places[:WORKERS]:
                self.start(place)
            await self.opened()
            self.begin_life()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for place in self._places:
            for wire in place.wires:
                await wire.close()
        await asyncio.to_thread(self._opened.close)

    # ------------------------------------------------------------------------------------------- lives of the stream

    def begin_life(self, *, is_new_input: bool = True) -> None:
        """Send update records; to a new input those of the first life, so that each session has a namesake there."""
        seed = self._seed if is_new_input else self._seed + self.lives
        self.life = Life(self.crew, seed, self._rate)

    async def end_life(self) -> None:
        """Send no more update records, and have the verifier judge."""
        await self.life.stop()
        await self.complete()
        self.found.update(await self.life.judge())
        self.lives += 1

    async def outputs(self, topology: Topology) -> int:
        """Count what is published."""
        names = topology.sessions, topology.rejections, topology.dry_runs
        return sum([len((await read(self.crew.kafka, name))[0]) for name in names])

    async def ended_by(self, workers: Sequence[Worker], names: Sequence[str], remedy: str) -> None:
        """Wait until workers have ended with status 1; they name one of *names*, as replaced, and the remedy."""
        for worker in workers:
            self.expect(worker)
        for worker in workers:
            status, said = await worker.ends(_OPENED_SECONDS), worker.said()
            last = "".join(said[-_LAST_LINES:])
            assert status == 1, f"a worker ended with status {status}: {last}"
            assert any(name in last for name in names), f"a worker names none of {names}: {last}"
            assert remedy in last, f"a worker does not name the remedy {remedy}: {last}"

    # ------------------------------------------------------------------------------------------------- workers

    def start(self, place: _Place, *within: str, **wrong: object) -> Worker:
        """Start a worker with something wrong about it, by a command that runs it *within* something."""
        command = (*within, *launched(through=place.ports, **wrong))
        settings = {"brokers": place.bootstrap, "store": "rocksdb://", "data_dir": place.folder}
        place.worker = self.crew.start(command=command, **settings)
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

    async def complete(self) -> None:
        """Start the workers that are missing, stop those that are too many, and note each that ended without a fault."""
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
            await self.complete()
            while not all(any("Ready:" in line for line in it.worker.said()) for it in self.running() if it.worker):
                await asyncio.sleep(0.1)
                await self.complete()

    def pause(self, least: float, most: float) -> Awaitable[None]:
        return asyncio.sleep(self.chance.uniform(least, most))

    def listen(self) -> Callable[..., Awaitable[list[str]]]:
        """Return what waits until one of the workers that run now writes a line with texts, or each; it returns the lines."""
        heard = {place.worker: len(place.worker.said()) for place in self.running() if place.worker}

        async def hear(*texts: str, all_of_them: bool = False) -> list[str]:
            wanted = len(heard) if all_of_them else 1
            async with asyncio.timeout(_HEARD_SECONDS):
                while True:
                    lines = [
                        [line for line in it.said()[at:] if all(text in line for text in texts)]
                        for it, at in heard.items()
                    ]
                    if sum(map(bool, lines)) >= wanted:
                        return [line for each in lines for line in each]
                    await asyncio.sleep(0.1)

        return hear

    # ------------------------------------------------------------------------------------------------- brokers

    async def found_cluster(self) -> None:
        """Start a cluster that holds nothing, in place of the one that runs, if any."""
        if self._clusters:
            await asyncio.to_thread(self.kafka.stop)
        self._clusters += 1
        self.kafka = LocalKafka(
            self._folder / f"kafka-{self._clusters}",
            BROKERS,
            properties=BROKER_PROPERTIES | self.access.properties(),
            scram=self.access.logins(),
        )
        await asyncio.to_thread(self._opened.enter_context, self.kafka)

    def ports(self) -> list[int]:
        """Return the brokers' ports for clients."""
        return [int(address.rpartition(":")[2]) for address in self.kafka.bootstrap_servers.split(",")]

    def lead(self) -> None:
        """Lead all wires to the brokers where they are."""
        for place in self._places:
            place.lead(self.ports())

    async def limit(self, change: str) -> None:
        """Change the quotas of the workers' principal."""
        where = f"--bootstrap-server {self.crew.kafka} --alter --entity-type users --entity-name {USER}"
        await run_tool(f"kafka-configs.sh {where} {change}")

    async def coordinator(self, kind: int, key: str) -> int:
        async with administration(self.crew.kafka) as admin:
            answer = await admin._client.send(admin._client.get_random_node(), FindCoordinatorRequest(key, kind))
            return int(answer.coordinator_id)

    async def transactional_id(self) -> str:
        """Give that of a worker that is recorded as the owner of a partition."""
        changelogs = [TopicPartition(self.crew.topology.sessions, number) for number in range(PARTITIONS)]
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


async def addresses_changed(it: Ground) -> None:
    """Give all brokers other ports; only the bootstrap addresses lead there. The old ports refuse, or are silent."""
    former, hear = it.ports(), it.listen()
    await asyncio.to_thread(it.kafka.stop)
    _move(it.kafka)
    it.lead()
    with ExitStack() as silent:
        if it.chance.random() < 0.5:
            for port in former:
                silent.enter_context(closing(socket.create_server(("127.0.0.1", port))))
        await asyncio.to_thread(it.kafka.start)
        await hear("a bootstrap server returned brokers=", all_of_them=True)


def _move(kafka: LocalKafka) -> None:
    """Give brokers that do not run other ports for clients."""
    for broker in kafka._brokers:
        file, port = broker._folder / "server.properties", free_port()
        lines = file.read_text("utf-8")
        moved = lines.replace(f"CLIENT://127.0.0.1:{broker.ports.client},", f"CLIENT://127.0.0.1:{port},")
        assert moved != lines
        file.write_text(moved, "utf-8")
        broker.ports = broker.ports._replace(client=port)


async def certificates_rotated(it: Ground) -> None:
    """Let another authority sign all certificates; nobody trusts the former one. The brokers' are the first."""
    hear, certificates = it.listen(), it.access.certificates
    papers = certificates.issue()
    certificates.put(papers, "broker", "trusted")
    await asyncio.to_thread(it.kafka.stop)
    await asyncio.to_thread(it.kafka.start)
    await hear("the login or a certificate was refused")
    certificates.put(papers, "ca", "certificate", "key")


async def password_rotated(it: Ground) -> None:
    """Give the workers' principal another password, and end their connections; their file changes after that."""
    hear = it.listen()
    broker, *_ = it.crew.kafka.split(",")
    await asyncio.to_thread(it.access.withdraw, broker, f"password-{it.chance.getrandbits(64):x}")
    for place in it.running():
        for wire in place.wires:
            wire.reset()
    await hear("the login or a certificate was refused")
    it.access.hand_out()


async def transaction_hanging(it: Ground) -> None:
    """Leave a transaction open on a topic that workers read, by turns, until a worker reports it.

    The report's command ends it. Changelogs are read only when they are restored: then a worker is killed.
    """
    field, partition, hear = next(it.hanging), it.chance.randrange(PARTITIONS), it.listen()
    topic = it.crew.topology.state()[field]
    async with AIOKafkaProducer(
        bootstrap_servers=it.crew.kafka,
        transactional_id=own("hanging"),
        transaction_timeout_ms=_HANGING_MILLISECONDS,
    ) as producer:
        await producer.begin_transaction()
        sent = await producer.send_and_wait(topic, b"{}", b"nobody", partition=partition)
        if field in {"sessions", "first_sessions"}:
            it.kill(it.some())
        line, *_ = await hear(f"{topic}/{partition}: no progress", f"starts at offset {sent.offset},")
        command = shlex.split(line[line.index("kafka-transactions.sh") :])
        ending = shlex.join(command[command.index("abort") :])
        await run_tool(f"kafka-transactions.sh --bootstrap-server {it.crew.kafka} {ending}")
        with suppress(KafkaError):
            await producer.abort_transaction()


async def quota_exceeded(it: Ground) -> None:
    """Limit what the workers may write, read or ask, or all of it, by turns, until a worker reports it."""
    names, hear = next(it.quotas), it.listen()
    await it.limit("--add-config " + ",".join(f"{name}={_QUOTAS[name]}" for name in names))
    try:
        await hear("throttled by a quota of the broker")
        await it.pause(5, 10)
    finally:
        await it.limit("--delete-config " + ",".join(names))


# Each of these ends a life of the stream, which the verifier judges first, and begins another one.


async def topics_replaced_while_running(it: Ground) -> None:
    """Replace one topic that state is built from, or all; when workers have ended, follow their remedy.

    That is another app id and new topics, on the same input. Those that end may publish nothing more.
    """
    await it.end_life()
    old, olds = it.crew.topology, [place.worker for place in it.running() if place.worker]
    names = list(old.state().values())
    names = it.chance.sample(names, it.chance.choice((1, len(names))))
    await replace(it.crew.administrative(), *names)
    before = await it.outputs(old)
    it.crew.rename(updates=old.updates)
    await prepare(it.crew.administrative())
    it.begin_life(is_new_input=old.updates in names)
    await it.ended_by(olds, names, "SESSION_WORKER_APP_ID")
    it.found["foreign"] += await it.outputs(old) - before


async def topics_replaced_while_stopped(it: Ground) -> None:
    """Replace all topics while no worker runs: the tables that they start with belong to a life that is over."""
    await it.end_life()
    for place in it.running():
        await it.stop(place)
    await replace(it.crew.administrative(), *it.crew.topology.named().values())
    it.begin_life()
    await it.complete()
    await it.listen()("rebuilding from the changelog: it was built from another")


async def cluster_replaced(it: Ground) -> None:
    """Start another cluster at the bootstrap addresses of running workers, and lead them there when they have ended.

    One is killed before, and so leaves its tables as they are.
    """
    await it.end_life()
    it.kill(it.some())
    olds = [place.worker for place in it.running() if place.worker]
    await it.found_cluster()
    it.crew.kafka = it.kafka.internal_servers
    await prepare(it.crew.administrative())
    it.begin_life()
    it.lead()
    await it.ended_by(olds, ["cluster"], "SESSION_WORKER_BROKERS")


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
    addresses_changed,
    certificates_rotated,
    password_rotated,
    transaction_hanging,
    quota_exceeded,
    topics_replaced_while_running,
    topics_replaced_while_stopped,
    cluster_replaced,
)


@contextmanager
def _quiet(crew: Crew) -> Iterator[Crew]:
    """Run a crew without its logs at the end: they are long, and in its folder."""
    crew.__enter__()
    try:
        yield crew
    finally:
        with redirect_stdout(StringIO()):
            crew.__exit__()


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
