"""What monitoring tools show of the worker's group: no row has a lag when the worker is idle, and none is negative."""

import asyncio

import pytest
from aiokafka import TopicPartition

from tests.kafka.inside import count_of, opened, running, send, send_at_once, settings_for, until, update
from tests.kafka.tools import run_tool
from tests.kafka.topics import administration, high_watermarks
from tests.kafka.waits import within


@pytest.fixture
def settings(kafka):
    return settings_for(kafka, partitions=2)


async def lags(settings):
    """Return the lag of each row of the group, as kafka-consumer-groups.sh computes it."""
    async with administration(settings.brokers) as admin:
        committed = await admin.list_consumer_group_offsets(settings.app_id)
    ends: dict[TopicPartition, int] = {}
    for topic in {tp.topic for tp in committed}:
        ends |= await high_watermarks(settings.brokers, topic)
    return {tp: ends[tp] - found.offset for tp, found in committed.items()}


async def settled(settings):
    """Wait until no row has a lag, and see that none is ever negative."""
    async with within(20, "a lag of 0 in each row"):
        while any((found := await lags(settings)).values()):
            assert min(found.values()) >= 0, found
            await asyncio.sleep(0.1)
    return found


def keys(settings):
    return [
        TopicPartition(topic, number)
        for topic in (settings.sessions_topic, settings.first_sessions_topic)
        for number in (0, 1)
    ]


def test_idle_worker_shows_no_lag_on_empty_and_on_written_topics(settings):
    async def scenario():
        async with running(settings) as app:
            await opened(app, 4)
            found = await lags(settings)
            assert {found[tp] for tp in keys(settings)} == {0}
            await send(settings, *(update(f"s-{number}", profileId=f"p-{number}") for number in range(40)))
            await count_of(settings, "s-39", 1)
            rows = await settled(settings)
            assert len(rows) == 12
            await send_at_once(settings, *(update(f"s-{number}") for number in range(40)))
            await count_of(settings, "s-39", 2)
            await settled(settings)

    asyncio.run(scenario())


def test_lag_is_zero_after_stop_restart_and_rebalance(settings):
    async def scenario():
        async with running(settings) as first:
            await opened(first, 4)
            await send(settings, *(update(f"s-{number}") for number in range(40)))
            await count_of(settings, "s-39", 1)
        await settled(settings)
        async with running(settings) as first:
            await opened(first, 4)
            assert set((await lags(settings)).values()) == {0}
            async with running(settings) as second:
                await until(lambda: len(first.commit_loop.lanes) == len(second.commit_loop.lanes) == 2)
                await settled(settings)
                await send(settings, *(update(f"s-{number}") for number in range(40)))
                await count_of(settings, "s-39", 2)
                await settled(settings)
            await opened(first, 4)
            await settled(settings)

    asyncio.run(scenario())


def test_consumer_groups_tool_shows_no_lag_and_names_app_and_instance(settings):
    async def scenario():
        async with running(settings) as app:
            await opened(app, 4)
            await send(settings, *(update(f"s-{number}") for number in range(40)))
            await count_of(settings, "s-39", 1)
            await settled(settings)
            printed = await run_tool(
                f"kafka-consumer-groups.sh --bootstrap-server {settings.brokers} --describe --group {settings.app_id}"
            )
            header, *rows = [line.split() for line in printed.splitlines() if line]
            shown = [dict(zip(header, row, strict=True)) for row in rows if row[1] in topics_of(settings)]
            assert {row["LAG"] for row in shown if row["CURRENT-OFFSET"] != "-"} == {"0"}
            assert {row["CLIENT-ID"] for row in shown} == {app.dependencies.producer.transactional_id}
            assert app.dependencies.producer.transactional_id.startswith(f"{settings.app_id}-")
            assert {row["TOPIC"] for row in shown} >= {settings.sessions_topic, settings.updates_topic}

    asyncio.run(scenario())


def topics_of(settings):
    fields = "updates", "rekeyed", "claims", "verdicts", "sessions", "first_sessions"
    return {getattr(settings, f"{field}_topic") for field in fields}
