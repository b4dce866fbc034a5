"""The log of healthy workers has no ERROR and no WARNING, and one INFO line that says why a rebalance began."""

import asyncio
import sys

import pytest
from aiokafka import AIOKafkaProducer

from tests.kafka.inside import opened, running, until
from tests.kafka.topics import Record, own
from tests.kafka.topics import send as send_by
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, update
from worker.kafka import rebalances
from worker.settings.model import Settings

IMPATIENT = sys.executable, "-m", "tests.kafka.impatient_worker"
RESTORE_SECONDS = 2
"""How long a restore takes: ten times Faust's limits as they are here."""


def reasons(worker):
    return [
        line.partition(" began after generation ")[2].partition(": ")[2]
        for line in worker.said()
        if "A rebalance of group" in line
    ]


@pytest.mark.parametrize("replicas", [0, 1])
def test_healthy_workers_log_no_warning_and_each_reason_once(kafka, crew, replicas):
    """A worker joins during a restore, leaves under load, a third is killed; every limit of Faust has passed by then (B1, B2)."""
    it = crew(session_timeout_seconds=SESSION_TIMEOUT_SECONDS, standby_replicas=replicas)

    async def scenario():
        first = await it.open(command=IMPATIENT)
        await it.send(update(f"s-{number}", profileId=f"p-{number}") for number in range(400))
        await it.settle()
        assert reasons(first) == ["this worker joins"]
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=own("tool")) as tool:
            await tool.begin_transaction()
            await send_by(tool, it.topology.sessions, [Record(b"x", None, partition=number) for number in range(4)])
            second = it.start(command=IMPATIENT)
            await first.says("A rebalance of group", 2)
            await asyncio.sleep(RESTORE_SECONDS)
            await tool.abort_transaction()
        await second.says("Ready:")
        await first.says("Ready:", 2)
        sending = asyncio.ensure_future(it.send((update(f"s-{number % 400}") for number in range(8_000)), rate=500))
        assert reasons(second) == ["this worker joins"]
        assert len(reasons(first)) == 2
        assert reasons(first)[1].startswith(f"{it.name}-")
        assert reasons(first)[1].endswith(" at 127.0.0.1 joined")
        assert await second.stop() == 0
        await first.says("Ready:", 3)
        assert reasons(first)[2].endswith(" at 127.0.0.1 left or sent no heartbeat within its session timeout")
        third = await it.open(command=IMPATIENT)
        await first.says("Ready:", 4)
        third.kill()
        await first.says("Ready:", 5)
        await sending
        await it.settle()
        assert len(reasons(first)) == 5
        for worker in (first, second, third):
            assert [line for line in worker.said() if " INFO " not in line] == []
        assert await first.stop() == 0

    asyncio.run(scenario())


def test_frozen_member_that_holds_up_a_join_is_logged(crew, caplog, monkeypatch):
    """The others join when the frozen member's session timeout is over (B4)."""
    monkeypatch.setattr(rebalances, "WAIT_SECONDS", 1.0)
    it = crew(1, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)

    async def scenario():
        frozen = await it.open()
        frozen.freeze()
        async with running(Settings(**it._settings), topology=it.topology) as app:
            await until(lambda: "JoinGroup has no answer for 1 s" in caplog.text)
            (said,) = (
                record.getMessage() for record in caplog.records if "JoinGroup has no answer" in record.getMessage()
            )
            assert said.startswith(f"Group {it.name}: ")
            assert said.count(" at 127.0.0.1") == 2, said
            await opened(app)
        frozen.kill()

    asyncio.run(scenario())
