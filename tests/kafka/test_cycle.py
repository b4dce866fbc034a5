"""The cycle over real transactions, held up, cut and refused; C1 to C6 are cycle.py's rules."""

import asyncio

import pytest

from tests.kafka.faults import member
from tests.kafka.inside import crashed, running, send, send_at_once, settings_for, source, update
from worker.pipeline.lane import LostRecords
from worker.pipeline.ledger import Ledger
from worker.runtime.cluster import Cluster
from worker.runtime.topics import prepare


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings of a worker with topics of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: settings_for(kafka, **given)


async def commit_ledger(settings, tp, ledger):
    """Commit for the worker's group, while no worker runs."""
    async with (
        member(settings.brokers, tp.topic, settings.app_id) as membership,
        Cluster(settings.connection()) as cluster,
    ):
        await cluster.commit(membership, {tp: ledger.commit()})


def test_a_record_that_has_to_be_read_again_and_is_gone_ends_the_worker(settings):
    """It is found in Faust's agent, which would log it and go on as if nothing was (N4)."""

    async def scenario():
        it = settings()
        await prepare(it)
        await send_at_once(it, update("s-0"))  # and a marker
        await send(it, update("s-2"))
        await commit_ledger(it, source(it), Ledger(next=2, not_done={1: False}))
        async with running(it) as app:
            reason = await crashed(app)
        assert isinstance(reason, LostRecords)
        assert "no longer holds 1 records, first 1" in str(reason)

    asyncio.run(scenario())
