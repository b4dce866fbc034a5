"""What stands between an assignment and the first cycle, on a real broker; O1 to O4 are opening.py's rules."""

import asyncio

import pytest

from tests.kafka.faults import member
from tests.kafka.inside import crashed, opened, running, send, settings_for, source, transaction, update
from tests.kafka.topics import Record, produce
from tests.kafka.topics import send as send_by
from worker.pipeline.lane import LostRecords
from worker.runtime.cluster import Cluster
from worker.runtime.topics import prepare


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings of a worker with topics of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: settings_for(kafka, **given)


def test_an_opening_takes_as_long_as_it_takes(settings):
    """Faust gives each of its steps broker_request_timeout, and ends its recovery for good when one takes longer."""

    async def scenario():
        it = settings()
        await prepare(it)
        await send(it, update("s-1"))
        async with transaction(it) as open_one:
            await open_one.send_offsets_to_transaction({source(it): 0}, it.app_id)

            async with running(it, lambda app: setattr(app.conf, "broker_request_timeout", 6)) as app:
                await asyncio.sleep(9)
                assert not app.cycle.lanes
                await open_one.abort_transaction()
                await opened(app)

    asyncio.run(scenario())


def test_outputs_of_an_aborted_transaction_alone_are_no_outputs(settings):
    """A worker that died in its very first transaction left a changelog that is not empty, and no offset (O4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        async with running(it) as app:
            await opened(app)  # and is recorded as the owner
        async with transaction(it) as died:
            await send_by(died, it.sessions_topic, [Record(b"s-1", b"{}")])
            await died.abort_transaction()
        await send(it, update("s-1"))
        async with running(it) as app:
            await opened(app)

    asyncio.run(scenario())


def test_outputs_without_offsets_end_the_worker_with_a_message_that_says_what_to_do(settings):
    """Also the second time: a worker that refused to open is not recorded as an owner (O4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await produce(it.brokers, it.sessions_topic, [Record(b"s-1", b"{}")])
        for _ in range(2):
            async with running(it) as app:
                reason = await crashed(app)
            assert isinstance(reason, LostRecords)
            assert "Set the group's offsets, or take new output topics" in str(reason)

    asyncio.run(scenario())


def test_owners_without_a_name_are_passed_over(settings):
    """kafka-consumer-groups --reset-offsets --all-topics leaves commits without metadata."""

    async def scenario():
        it = settings()
        await prepare(it)
        changelogs = [source(it, "sessions"), source(it, "first_sessions")]
        async with member(it.brokers, it.updates_topic, it.app_id) as membership, Cluster(it.connection()) as cluster:
            await cluster.commit(membership, dict.fromkeys(changelogs, (3, "")))
        async with running(it) as app:
            await opened(app)

    asyncio.run(scenario())
