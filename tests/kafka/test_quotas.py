"""Quotas of the brokers slow the worker down, and do nothing else; Q1 to Q3 are throttles.py's rules."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kafka.inside import counts, opened, running, send, settings_for, until, update
from tests.kafka.tools import run_tool
from tests.kafka.waits import within

SESSIONS = 100
FILLER = "x" * 20_000


@pytest.fixture
def settings(kafka):
    return settings_for(kafka, partitions=2)


def limit(app, **quotas):
    """Give the clients of an app quotas, in bytes a second."""
    pairs = ",".join(f"{name}={rate}" for name, rate in quotas.items())
    command = (
        f"kafka-configs.sh {app._settings.tool} --alter --add-config {pairs} "
        f"--entity-type clients --entity-name {app.dependencies.producer.transactional_id}"
    )
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run_tool(command))).result()


def reports(caplog, name):
    return [
        record.getMessage()
        for record in caplog.records
        if re.fullmatch(rf"{name}: throttled by a quota of the broker: \d+ ms", record.getMessage())
    ]


def complaints(caplog):
    """Return what is logged at WARNING and above, beside the reports of quotas."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname not in {"INFO", "DEBUG"} and "throttled by a quota" not in record.getMessage()
    ]


async def filled(settings):
    await send(settings, *(update(f"s-{number}", attributes={"filler": FILLER}) for number in range(SESSIONS)))


async def published(settings, count, seconds):
    async with within(seconds, f"{count} updates of each session"):
        while (found := await counts(settings)) != {f"s-{number}": count for number in range(SESSIONS)}:
            assert max(found.values(), default=0) <= count
            await asyncio.sleep(0.5)


def test_producer_quota_is_logged_and_leads_to_no_new_opening(settings, caplog):
    """2 MB of snapshots at 100 KB a second; a transaction that began before the quota was known may be tried again once."""

    async def scenario():
        async with running(settings, lambda app: limit(app, producer_byte_rate=100_000)) as app:
            await opened(app, 4)
            await filled(settings)
            await published(settings, 1, 90)
            await until(lambda: reports(caplog, "Produce"))
            assert len(app.commit_loop.lanes) == 4

    asyncio.run(scenario())
    assert [line for line in complaints(caplog) if "a quota of the broker throttles the producer" not in line] == []
    assert len(complaints(caplog)) <= 1
    assert 1 <= len(reports(caplog, "Produce")) <= 3


def test_both_quotas_slow_a_restore_down_and_do_not_stop_it(settings, caplog):
    async def scenario():
        async with running(settings) as app:
            await opened(app, 4)
            await filled(settings)
            await published(settings, 1, 30)
        both = {"producer_byte_rate": 100_000, "consumer_byte_rate": 100_000}
        async with running(settings, lambda app: limit(app, **both)) as app:
            await opened(app, 4, seconds=90)
            assert reports(caplog, "Fetch")
            await send(settings, *(update(f"s-{number}", attributes={"n": 1}) for number in range(SESSIONS)))
            await published(settings, 2, 90)

    asyncio.run(scenario())
    assert [line for line in complaints(caplog) if "a quota of the broker throttles the producer" not in line] == []


def test_request_quota_is_logged_and_removes_no_worker_from_its_group(settings, caplog):
    """Heartbeats are throttled too."""
    caplog.set_level("INFO", "worker.kafka.rebalances")

    def throttled():
        return any("throttled by a quota of the broker: " in record.getMessage() for record in caplog.records)

    async def scenario():
        async with running(settings) as app:
            await opened(app, 4)
            await asyncio.to_thread(limit, app, request_percentage=0.05)
            await until(throttled, 60)
            await asyncio.sleep(3 * settings.session_timeout_seconds)
            assert len(app.commit_loop.lanes) == 4

    asyncio.run(scenario())
    assert len([record for record in caplog.records if "A rebalance of group" in record.getMessage()]) == 1
    assert complaints(caplog) == []
