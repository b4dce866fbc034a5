"""Tables restored, kept as standby and kept on disk, on a real broker; T1 to T4 are tables.py's rules."""

import asyncio

import pytest

from tests.kafka.inside import count_of, opened, running, send, settings_for, source, until, update
from tests.kafka.topics import high_watermarks


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings of a worker with topics of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: settings_for(kafka, **given)


def kept(app, name="sessions", number=0):
    """Give a partition of a table, if the worker has it."""
    return app.tables[name].data._kept.get(number)


def test_a_standby_misses_nothing_and_takes_over(settings):
    """Batches are lost on the way where Faust clears its queues; each is fetched again (T1)."""

    async def scenario():
        it = settings(standby_replicas=1)
        async with running(it) as first:
            await opened(first)
            await send(it, *(update(f"s-{n}", attributes={"note": "x" * 190_000}) for n in range(40)))
            await until(lambda: len(kept(first)) == 40)
            async with running(it) as second:
                await until(lambda: len(second.cycle.lanes) + len(first.cycle.lanes) == 2)
                active, standby = (first, second) if first.cycle.lanes else (second, first)
                high = (await high_watermarks(it.brokers, it.sessions_topic))[source(it, "sessions")]
                while standby.tables.changelog_queue.empty():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                standby.flow_control.resume()  # Faust clears its queues with it, at the end of a recovery
                await until(lambda: kept(standby).end == high)
                assert kept(standby) == kept(active)
            # Whoever is left has it all, and goes on.
            await opened(first)
            await send(it, update("s-0"))
            await count_of(it, "s-0", 2)

    asyncio.run(scenario())
