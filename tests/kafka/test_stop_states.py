"""SIGTERM in each state of a worker: it ends within SESSION_WORKER_STOP_SECONDS and with status 0, and loses nothing.

ROUNDS=20 runs each state 20 times, which takes 20 minutes; the suite runs it once.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kafka.ports import free_port, serving
from tests.kafka.workers import Crew, Worker, simulated
from tests.local.test_cli import is_caught
from worker.local.kafka import LocalKafka
from worker.settings.sources import PREFIX

ROUNDS = int(os.environ.get("ROUNDS", "1"))
STOP_SECONDS = 4
MARGIN_SECONDS = 3
"""What the machine may take beyond the limit: the last log line, and the end of a process on a busy machine."""
FORCED = "did not stop within"


@pytest.fixture
def broker(tmp_path):
    """Yield a Kafka that a test may freeze and kill."""
    with LocalKafka(tmp_path / "kafka") as cluster:
        yield cluster


async def ends(worker: Worker) -> None:
    """Send SIGTERM; assert status 0 within the limit."""
    began = time.monotonic()
    if worker.status is None:
        os.kill(worker._child.pid, signal.SIGTERM)
    assert await worker.ends(STOP_SECONDS + 20) == 0
    assert time.monotonic() - began < STOP_SECONDS + MARGIN_SECONDS


async def is_as_sent(crew: Crew) -> None:
    """Assert that a new worker processes all that was sent."""
    await crew.start().says("Ready:", within_seconds=90)
    await crew.settle()


@pytest.mark.parametrize("state", ["importing", "starting", "restoring", "running"])
def test_sigterm_ends_a_worker_in_time(crew, state):
    async def scenario():
        it = crew(2, stop_seconds=STOP_SECONDS)
        if state == "restoring":
            await it.open()
            await it.send(simulated(3_000, seed=1))
            await it.settle()
            await it.workers[0].stop()
        for _ in range(ROUNDS):
            worker = it.start()
            match state:
                case "importing":
                    while not is_caught(worker._child.pid, signal.SIGTERM):  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(random.uniform(0, 1))
                case "starting":
                    await worker.says("App]: Starting")
                    await asyncio.sleep(random.uniform(0, 0.5))
                case "restoring":
                    await worker.says("Consumer]: Starting")
                    await asyncio.sleep(random.uniform(0, 0.7))
                case "running":
                    await worker.says("Ready:")
                    await it.send(simulated(500, seed=1))
                    await asyncio.sleep(random.uniform(0, 0.3))
            await ends(worker)
        await is_as_sent(it)

    asyncio.run(scenario())


def test_sigterm_while_rebalancing_ends_a_worker_in_time(crew):
    async def scenario():
        it = crew(4, stop_seconds=STOP_SECONDS)
        await it.open()
        await it.send(simulated(1_000, seed=1))
        for number in range(max(ROUNDS, 2)):  # the first and the second worker are stopped in turn
            second = it.start()
            await second.says("Consumer]: Starting")
            await asyncio.sleep(random.uniform(0, 1.5))
            first = it.workers[-2]
            await ends((first, second)[number % 2])
            if number % 2:
                it.workers.pop()  # the other one goes on
        await it.settle()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["closing", "silent", "refusing"])
def test_sigterm_before_a_broker_answers_ends_a_worker_in_time(crew, kind):
    async def scenario(port):
        it = crew(1, stop_seconds=STOP_SECONDS, brokers=f"127.0.0.1:{port}")
        for _ in range(ROUNDS):
            worker = it.start()
            await worker.says(f"127.0.0.1:{port} ")
            await asyncio.sleep(random.uniform(0, 2))
            await ends(worker)

    if kind == "refusing":
        asyncio.run(scenario(free_port()))
    else:
        with serving(kind) as port:
            asyncio.run(scenario(port))


@pytest.mark.parametrize("kind", ["frozen", "killed"])
def test_sigterm_while_brokers_are_unreachable_ends_a_worker_in_time(broker, tmp_path, kind):
    """The broker answers again after the worker has ended: nothing is lost."""

    async def scenario():
        with Crew(broker.bootstrap_servers, tmp_path, 2, stop_seconds=STOP_SECONDS) as it:
            for number in range(ROUNDS):
                worker = it.start()
                await worker.says("Ready:", within_seconds=90)  # the transaction of the last worker has to time out
                await it.send(simulated(500, seed=number))
                if kind == "frozen":
                    os.kill(broker.pid(0), signal.SIGSTOP)
                else:
                    await it.settle()
                    broker.kill(0)
                await asyncio.sleep(random.uniform(0, 8))
                await ends(worker)
                if kind == "frozen":
                    os.kill(broker.pid(0), signal.SIGCONT)
                else:
                    await asyncio.to_thread(broker.start, 0)
            await is_as_sent(it)

    asyncio.run(scenario())


def test_forced_end_names_what_the_worker_waited_for(broker, tmp_path):
    async def scenario():
        with Crew(broker.bootstrap_servers, tmp_path, 1, stop_seconds=1) as it:
            worker = await it.open()
            await it.send(simulated(300, seed=1))
            os.kill(broker.pid(0), signal.SIGSTOP)
            await asyncio.sleep(1)
            began = time.monotonic()
            status = await worker.stop(), time.monotonic() - began
            os.kill(broker.pid(0), signal.SIGCONT)
            return status, await worker.says(FORCED) if worker.status is None else worker.said()[-1]

    (status, seconds), said = asyncio.run(scenario())
    assert status == 0
    assert seconds < 1 + MARGIN_SECONDS
    assert "SESSION_WORKER_STOP_SECONDS=1 " in said
    assert "waited for: " in said
    assert "worker.runtime.commit_loop.close:" in said


@pytest.mark.parametrize("pause", [0, 0.3, 0.8])
@pytest.mark.parametrize("command", [("run",), ("tail",)])
def test_sigterm_ends_process_1_of_a_container_at_once(pause, command):
    """Linux drops a signal to process 1 that has no handler. Without rights, it takes a user namespace."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*namespace, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        namespace += ["--user", "--map-root-user"]
    environment = {**os.environ, f"{PREFIX}BROKERS": f"127.0.0.1:{free_port()}", f"{PREFIX}STOP_SECONDS": "4"}
    with subprocess.Popen(
        [*namespace, sys.executable, "-m", "worker", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as started:
        try:
            deadline = time.monotonic() + 20
            children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
            while not (inner := children.read_text("ascii").split()) or not is_caught(int(inner[0]), signal.SIGTERM):
                assert time.monotonic() < deadline, "the process has no handler"
                time.sleep(0.001)
            handled = Path(f"/proc/{inner[0]}/maps").read_text("utf-8")
            assert pause or "pydantic" not in handled, "the handlers come before what is slow"
            time.sleep(pause)
            if started.poll() is None:
                os.kill(int(inner[0]), signal.SIGTERM)
            status = started.wait(10)
            said = started.stderr.read().decode() if started.stderr else ""
        finally:
            started.kill()
    assert status in ({0} if command == ("run",) or pause == 0 else {0, 1}), said  # 1: nothing listens there
    assert "Traceback" not in said
