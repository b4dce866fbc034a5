"""A partition that stands still behind an open transaction is reported; S1 to S4 are stalls.py's rules."""

import asyncio
import logging
import re
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiokafka.conn import AIOKafkaConnection

from tests.kafka.injector import FETCH, injecting
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
from worker.tools import topics as console


@pytest.fixture
def settings(kafka):
    return settings_for(kafka)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Report after one second in place of ten."""
    monkeypatch.setattr(stalls, "STALL_SECONDS", 1.0)


def reports(caplog, text="no progress"):
    return [record for record in caplog.records if text in record.getMessage()]


def command(report):
    return command_in(report.getMessage())


def command_in(text):
    return text[text.index("kafka-transactions.sh") :]


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
                assert not app.commit_loop.lanes
                await run_tool(command(reports(caplog)[0]))
                await opened(app)

    asyncio.run(scenario())


@pytest.mark.parametrize("is_new", [True, False], ids=["new group", "known group"])
def test_open_transaction_with_offsets_of_group_is_reported_at_start(settings, caplog, is_new):
    """The command of the report ends it, and the lanes open (S5)."""

    async def scenario():
        topology = await prepare(settings)
        if not is_new:
            async with running(settings, topology=topology) as app:
                await opened(app)
        async with transaction(settings, timeout_ms=60_000) as producer:
            await producer.send_offsets_to_transaction({source(settings): 0}, settings.app_id)
            async with running(settings, topology=topology) as app:
                await until(lambda: reports(caplog, "no stable offset"))
                (report,) = reports(caplog, "no stable offset")
                manager = producer._txn_manager
                text = report.getMessage()
                assert report.levelno == logging.WARNING
                assert f"Group {settings.app_id}: no stable offset for " in text
                assert f"holds its offset of {settings.updates_topic}/0, and the worker opens no partition" in text
                assert f"has the id {manager.producer_id} and the epoch {manager.producer_epoch};" in text
                assert f"its transactional.id is {manager.transactional_id}, its state Ongoing;" in text
                assert not app.commit_loop.lanes
                await run_tool(command(report))
                await opened(app)
                assert app.dependencies.cluster.unstable is None
            assert len(reports(caplog, "no stable offset")) == 1

    asyncio.run(scenario())


def test_producer_with_another_epoch_is_not_taken_for_that_of_the_transaction(settings, caplog, monkeypatch):
    """Its coordinator knows a newer transaction only, and does not abort the one that hangs (S6)."""
    ask = stalls.Stalls._ask_leader

    async def earlier(watch, tp):
        answer = await ask(watch, tp)
        topic, rows, *tags = answer.topics[0]
        number, code, message, producers, *more = rows[0]
        older = [(it[0], it[1] - 1, *it[2:]) for it in producers]
        answer.topics = [(topic, [(number, code, message, older, *more)], *tags)]
        return answer

    monkeypatch.setattr(stalls.Stalls, "_ask_leader", earlier)

    async def scenario():
        async with running(settings) as app, transaction(settings) as producer:
            await opened(app)
            await send_by(producer, settings.updates_topic, [update("open")])
            await until(lambda: reports(caplog))
            assert (
                "no transaction coordinator shows this transaction to the worker: it hangs"
                in reports(caplog)[0].getMessage()
            )

    asyncio.run(scenario())


@asynccontextmanager
async def tailing(settings, monkeypatch, **connection):
    """Follow the snapshots; yield what a person is shown beside them."""
    monkeypatch.setattr(console, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(console, "_ANSWER_MS", 1_000)
    notes: list[str] = []
    following = asyncio.ensure_future(
        console.tail(
            settings.connection() | connection,
            settings.sessions_topic,
            lambda record: None,
            note=notes.append,
            tool=settings.tool,
            from_beginning=True,
        )
    )
    yield notes
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def test_tail_shows_partition_that_stands_still(settings, monkeypatch):
    async def scenario():
        await prepare(settings)
        async with transaction(settings) as producer:
            await send_by(producer, settings.sessions_topic, [update("open")])
            async with tailing(settings, monkeypatch) as notes:
                await until(lambda: notes)
                (note,) = notes
                assert note.startswith("partition 0 waits at offset 0: a transaction is open there.")
                assert str(producer._txn_manager.producer_id) in await run_tool(command_in(note))

    asyncio.run(scenario())


def test_tail_shows_that_no_broker_answers(settings, monkeypatch):
    async def scenario():
        await prepare(settings)
        async with AsyncExitStack() as opened:
            with injecting(settings.brokers) as wire:
                notes = await opened.enter_async_context(tailing(settings, monkeypatch, bootstrap_servers=wire.address))
                await until(lambda: wire.seen.count(FETCH) > 3)
                assert notes == []
            await until(lambda: notes)
            assert notes == ["no broker answers; trying again"]

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
                await until(lambda: (app.tables["sessions"].data.partition(0).checkpoint or 0) > 1)
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
