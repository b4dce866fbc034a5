"""A partition that stands still behind an open transaction is reported; S1 to S4 are stalls.py's rules."""

import asyncio
import logging
import re

import pytest
from aiokafka.conn import AIOKafkaConnection

from tests.kafka.inside import (
    count_of,
    opened,
    running,
    send,
    send_at_once,
    settings_for,
    source,
    transaction,
    until,
    update,
)
from tests.kafka.tools import run_tool
from tests.kafka.topics import send as send_by
from worker.runtime import stalls
from worker.runtime.topics import prepare


@pytest.fixture
def settings(kafka):
    return settings_for(kafka)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Report after one second in place of ten."""
    monkeypatch.setattr(stalls, "STALL_SECONDS", 1.0)


def reports(caplog):
    return [record for record in caplog.records if "no progress" in record.getMessage()]


def command(report):
    return report.getMessage()[report.getMessage().index("kafka-transactions.sh") :]


def test_open_transaction_on_input_is_reported_with_producer_and_deadline(settings, caplog):
    """The command of the report ends a transaction that is merely open, and the records behind it are processed (S2, S4)."""

    async def scenario():
        async with running(settings) as app:
            await opened(app)
            await send_at_once(settings, update("first"))
            await count_of(settings, "first", 1)
            assert not app.stalls.partitions
            async with transaction(settings, timeout_ms=60_000) as producer:
                await send_by(producer, settings.updates_topic, [update("open")])
                await send(settings, update("behind"))
                await until(lambda: reports(caplog))
                (report,) = reports(caplog)
                manager = producer._txn_manager
                assert report.levelno == logging.WARNING
                text = report.getMessage()
                assert f"{settings.updates_topic}/0: no progress for " in text
                assert "starts at offset 2," in text
                assert "up to offset 4," in text
                assert f"has the id {manager.producer_id} and the epoch {manager.producer_epoch};" in text
                assert f"its transactional.id is {manager.transactional_id}, its state Ongoing;" in text
                assert re.search(r"coordinator aborts it by 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\.", text)
                (stall,) = app.stalls.partitions
                assert (stall.partition, stall.offset, stall.high) == (source(settings), 2, 4)
                await run_tool(command(report))
                await count_of(settings, "behind", 1)
                await until(lambda: not app.stalls.partitions)
            assert len(reports(caplog)) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["rekeyed", "claims", "verdicts"])
def test_open_transaction_on_internal_topic_is_reported(settings, caplog, field):
    async def scenario():
        async with running(settings) as app:
            await opened(app)
            async with transaction(settings) as producer:
                await send_by(producer, getattr(settings, f"{field}_topic"), [update("open")])
                await until(lambda: reports(caplog))
                assert f"{getattr(settings, f'{field}_topic')}/0: no progress" in reports(caplog)[0].getMessage()
                await run_tool(command(reports(caplog)[0]))
                await until(lambda: not app.stalls.partitions)

    asyncio.run(scenario())


@pytest.mark.parametrize("field", ["sessions", "first_sessions"])
def test_open_transaction_on_changelog_is_reported_during_restore(settings, caplog, field):
    async def scenario():
        topology = await prepare(settings)
        async with running(settings, topology=topology) as app:
            await opened(app)
        async with transaction(settings) as producer:
            await send_by(producer, getattr(settings, f"{field}_topic"), [update("open")])
            async with running(settings, topology=topology) as app:
                await until(lambda: reports(caplog))
                assert f"{getattr(settings, f'{field}_topic')}/0: no progress" in reports(caplog)[0].getMessage()
                assert not app.cycle.lanes
                await run_tool(command(reports(caplog)[0]))
                await opened(app)

    asyncio.run(scenario())


def test_open_transaction_before_what_a_table_holds_is_reported(kafka, tmp_path, caplog):
    """The worker has written behind the transaction, and its table on disk is restored from there (S1)."""
    settings = settings_for(kafka, store="rocksdb://", data_dir=tmp_path)

    async def scenario():
        topology = await prepare(settings)
        async with transaction(settings) as producer:
            async with running(settings, topology=topology) as app:
                await opened(app)
                await send_by(producer, settings.sessions_topic, [update("open")])
                await send(settings, update("behind"))
                await until(lambda: (app.tables["sessions"].data.partition(0).end or 0) > 1)
            async with running(settings, topology=topology) as app:
                await until(lambda: reports(caplog))
                (report,) = reports(caplog)
                text = report.getMessage()
                assert f"{settings.sessions_topic}/0: no progress" in text
                assert "starts at offset 0," in text
                assert f"its transactional.id is {producer._txn_manager.transactional_id}" in text
                await run_tool(command(report))
                await opened(app)

    asyncio.run(scenario())


def test_report_is_repeated_while_partition_stands_still(settings, caplog, monkeypatch):
    monkeypatch.setattr(stalls, "REPEAT_SECONDS", 2.0)

    async def scenario():
        async with running(settings) as app, transaction(settings) as producer:
            await opened(app)
            await send_by(producer, settings.updates_topic, [update("open")])
            await until(lambda: len(reports(caplog)) == 2)
            first, second = reports(caplog)
            assert second.created - first.created >= 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        (61, "Brokers before Kafka 2.8 do not name its producer"),
        (66, "brokers before Kafka 3.0 do not show until when it lasts"),
        (65, "brokers before Kafka 3.0 do not show until when it lasts"),
    ],
)
def test_older_brokers_lead_to_report_without_what_they_do_not_know(settings, caplog, monkeypatch, unknown, said):
    """A request that a broker does not list among its versions is never sent to it (S3)."""
    read_versions = AIOKafkaConnection._do_version_lookup

    async def older(connection):
        await read_versions(connection)
        connection._versions.pop(unknown)

    monkeypatch.setattr(AIOKafkaConnection, "_do_version_lookup", older)

    async def scenario():
        async with running(settings) as app, transaction(settings) as producer:
            await opened(app)
            await send_by(producer, settings.updates_topic, [update("open")])
            await until(lambda: reports(caplog))
            assert said in reports(caplog)[0].getMessage()
            assert "kafka-transactions.sh" in reports(caplog)[0].getMessage()

    asyncio.run(scenario())
