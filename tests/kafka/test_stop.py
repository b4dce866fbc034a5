"""Signals: the first asks a worker to stop, the others change nothing; the exit status is 0 at any moment."""

import asyncio
import os
import signal

import pytest

from tests.kafka.ports import serving
from tests.kafka.workers import simulated

TERM, INT = signal.SIGTERM, signal.SIGINT
SERIES = [(TERM, TERM), (INT, INT), (TERM, INT, TERM, INT, TERM)]
PAUSES = [0.02, 0.2]


async def _signal(worker, series, pause):
    for number in series:
        if worker.status is None:
            os.kill(worker._child.pid, number)
        await asyncio.sleep(pause)
    return await worker.ends(15)


@pytest.mark.parametrize("series", SERIES, ids=lambda series: "-".join(it.name for it in series))
def test_several_signals_to_a_running_worker_give_status_0(crew, series):
    async def scenario():
        it = crew(1)
        statuses = []
        for pause in PAUSES:
            worker = await it.open()
            await it.send(simulated(300, seed=1))
            statuses.append(await _signal(worker, series, pause))
        await it.open()
        await it.settle()
        return statuses

    assert asyncio.run(scenario()) == [0, 0]


@pytest.mark.parametrize("after", ["App]: Starting", "Consumer]: Starting", "Recovery complete"])
def test_several_signals_to_a_starting_worker_give_status_0(crew, after):
    async def scenario():
        it = crew(1)
        statuses = []
        for series in SERIES:
            worker = it.start()
            await worker.says(after)
            statuses.append(await _signal(worker, series, 0.02))
        return statuses

    assert asyncio.run(scenario()) == [0] * len(SERIES)


@pytest.mark.parametrize("series", SERIES, ids=lambda series: "-".join(it.name for it in series))
def test_several_signals_to_a_worker_without_kafka_give_status_0(crew, series):
    async def scenario():
        it = crew(1)
        with serving("closing") as port:
            statuses = []
            for pause in PAUSES:
                worker = it.start(brokers=f"127.0.0.1:{port}")
                await worker.says("closes each connection at once")
                statuses.append(await _signal(worker, series, pause))
        return statuses

    assert asyncio.run(scenario()) == [0, 0]


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.5])
def test_a_signal_while_a_worker_stops_gives_status_0(crew, seconds):
    async def scenario():
        it = crew(1)
        statuses = []
        for last in (TERM, INT):
            worker = await it.open()
            os.kill(worker._child.pid, TERM)
            await asyncio.sleep(seconds)
            statuses.append(await _signal(worker, [last] * 20, 0.05))
        return statuses

    assert asyncio.run(scenario()) == [0, 0]
