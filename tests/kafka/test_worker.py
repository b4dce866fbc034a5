"""The worker as started in production, on a real Kafka: what it makes of update records, undisturbed."""

import asyncio
import random
import socket
import time
from collections import Counter, defaultdict
from zlib import crc32

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from tests.kafka.account import differences, foretold, found
from tests.kafka.topics import Record, administration, high_watermarks, read, send
from tests.kafka.workers import Crew, simulated, update
from worker.domain.rejections import ROW_OF
from worker.pipeline.partitioner import partition_of


@pytest.fixture(scope="module")
def day(kafka, tmp_path_factory):
    """Let one worker process a simulated day; give the crew, what should have come of the day, and what did."""
    with Crew(kafka, tmp_path_factory.mktemp("day"), 8, v1=True) as crew:

        async def _pass():
            await crew.open()
            await crew.send(simulated(20_000, seed=1))
            await crew.settle()
            return crew, await foretold(crew), await found(crew)

        yield asyncio.run(_pass())


@pytest.mark.smoke
def test_the_last_snapshot_of_each_session_of_a_day_is_byte_for_byte_that_of_the_replay(day):
    _crew, expected, given = day
    assert len(expected.sessions) > 5_000
    assert None in expected.sessions.values()
    assert differences(expected, given, "sessions") == []


@pytest.mark.smoke
def test_each_accepted_record_of_a_day_is_published_once_and_in_the_order_of_its_key(day):
    _crew, expected, given = day
    assert sum(map(len, expected.snapshots.values())) > 18_000
    assert differences(expected, given, "snapshots") == []


@pytest.mark.smoke
def test_each_refused_record_of_a_day_is_rejected_once_and_each_dry_run_published_once(day):
    _crew, expected, given = day
    assert {code.decode() for _place, code in expected.rejections} == ROW_OF.keys() - {"missing_origin"}
    assert len(expected.dry_runs) > 100
    assert differences(expected, given, "rejections", "dry_runs") == []


@pytest.mark.smoke
def test_the_v1_view_of_a_day_has_every_snapshot_in_the_same_order_by_key(day):
    crew, *_ = day

    async def _happened(topic):
        by_key = defaultdict(list)
        for record in await read(crew.kafka, topic):
            headers = dict(record.headers)
            what = record.partition, record.timestamp, record.value is None, headers["ce_id"], headers["ce_type"]
            by_key[record.key].append(what)
        return by_key

    async def scenario():
        return await _happened(crew.topology.sessions), await _happened(crew.topology.v1)

    snapshots, views = asyncio.run(scenario())
    expected = {key: [(*what, b"v1." + ce_type) for *what, ce_type in happened] for key, happened in snapshots.items()}
    assert len(expected) > 5_000
    assert [key for key in expected.keys() | views.keys() if expected.get(key) != views.get(key)][:10] == []


# ----------------------------------------------------------------------------------------------------------- strays


@pytest.mark.smoke
def test_a_producer_with_another_partitioner_splits_no_session_and_keeps_its_order(crew):
    async def scenario():
        it = crew(8)
        await it.open()
        lines = [
            replace(line, partition=None if line.key is None else crc32(line.key) % 8)
            for line in simulated(3_000, seed=2)
        ]
        await it.send(lines)
        await it.settle()
        return lines, await foretold(it), await found(it), await read(it.kafka, it.topology.rekeyed)

    lines, expected, given, rekeyed = asyncio.run(scenario())
    assert len(rekeyed) > len(lines) / 2
    assert len(given.snapshots) > 800
    assert differences(expected, given) == []


@pytest.mark.parametrize("keyed", [True, False], ids=["random partitions", "null keys"])
def test_update_records_of_one_session_in_any_partitions_all_end_in_that_session(crew, keyed):
    chance = random.Random(3)

    async def scenario():
        it = crew(8)
        await it.open()
        await it.send(
            update(f"s-{n}", chance.randrange(8), keyed=keyed, attributes={f"a{number}": number}, profileId=f"p-{n}")
            for number in range(30)
            for n in range(50)
        )
        await it.settle()
        updates = await read(it.kafka, it.topology.updates)
        return updates, await read(it.kafka, it.topology.sessions), await found(it)

    updates, snapshots, given = asyncio.run(scenario())
    assert given.sessions.keys() == {b"s-%d" % session for session in range(50)}
    for key, value in given.sessions.items():
        session = orjson.loads(value)
        assert session["updateCount"] == 30
        assert session["firstSession"]
        assert session["attributes"] == {f"a{number}": number for number in range(30)}
        assert session["integrationId"] == key.decode()
    assert {record.partition for record in snapshots} == set(range(8))
    assert all(record.partition == partition_of(record.key, 8) for record in snapshots)
    assert Counter(place for places in given.snapshots.values() for place in places) == Counter(
        (record.partition, record.offset) for record in updates
    )
    assert not given.rejections


# ------------------------------------------------------------------------------------------------ transaction markers


def test_transaction_markers_at_the_end_of_every_topic_hold_nothing_up_and_aborted_records_do_not_count(crew):
    async def _produce(it, name, *, commit):
        """Send an update of each session, over all partitions, in a transaction, and end it."""
        value = b'{"customerSession":{"profileId":"p-%d","attributes":{"%s":1}}}'
        records = [Record(b"s-%d" % n, value % (n, name.encode()), partition=n % 4) for n in range(20)]
        async with AIOKafkaProducer(bootstrap_servers=it.kafka, transactional_id=f"{it.name}-till") as till:
            await till.begin_transaction()
            await send(till, it.topology.updates, records)
            await (till.commit_transaction() if commit else till.abort_transaction())

    async def scenario():
        it = crew()
        first = await it.open()
        await _produce(it, "before", commit=False)
        await it.settle()
        await _produce(it, "one", commit=True)
        await _produce(it, "between", commit=False)
        await it.settle()
        assert await first.stop() == 0
        await _produce(it, "two", commit=True)
        await _produce(it, "behind", commit=False)
        await it.open()
        await it.settle()
        for topic in it.topology.named().values():
            records = await read(it.kafka, topic)
            ends = {tp.partition: end for tp, end in (await high_watermarks(it.kafka, topic)).items() if end}
            last = {record.partition: record.offset for record in records}
            assert ends or topic in {it.topology.rejections, it.topology.dry_runs}
            assert all(end > last.get(partition, -1) + 1 for partition, end in ends.items()), topic
        return await foretold(it), await found(it)

    expected, given = asyncio.run(scenario())
    assert len(given.sessions) == 20
    for value in given.sessions.values():
        session = orjson.loads(value)
        assert (session["updateCount"], session["attributes"]) == (2, {"one": 1, "two": 1})
    assert differences(expected, given) == []


# ------------------------------------------------------------------------------------------------------ little to do


def test_a_worker_with_200_empty_partitions_starts_and_idles_below_a_tenth_of_a_core(crew):
    async def scenario():
        it = crew(200)
        try:
            worker = it.start()
            await worker.says("Ready: partitions=400 ", within_seconds=60)
            await asyncio.sleep(2)
            before, began = worker.cpu_seconds(), time.monotonic()
            await asyncio.sleep(5)
            share = (worker.cpu_seconds() - before) / (time.monotonic() - began)
            assert await worker.stop() == 0
            return share
        finally:
            async with administration(it.kafka) as admin:  # or the broker is slower for all tests that follow
                await admin.delete_topics([*it.topology.named().values()])

    share = asyncio.run(scenario())
    assert share < 0.1


def test_a_web_server_is_there_where_a_port_is_set_and_nowhere_else(crew):
    async def scenario():
        it = crew(1)
        worker = await it.open()
        assert worker.listening() == set()
        assert await worker.stop() == 0
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        worker = await it.open(web_port=port)
        assert worker.listening() == {port}
        other = await it.open(web_port=0)
        (free,) = other.listening()
        assert free not in {0, port}
        assert f"Web pages at http://127.0.0.1:{free}" in "\n".join(other.said())

    asyncio.run(scenario())


# ----------------------------------------------------------------------------------------------------- bad neighbours


def test_a_good_record_behind_thousands_of_broken_ones_comes_out_and_each_broken_one_is_rejected(crew):
    broken = [b"\xff{", b"{}", b'{"customerSession": {"cartItem": []}}', b"[" * 1000]

    async def scenario():
        it = crew(1)
        await it.open()
        bad = [replace(update("s-0", 0), value=broken[number % len(broken)]) for number in range(2_000)]
        await it.send([*bad, update("s-1", 0, profileId="p-1")])
        await it.settle()
        return await foretold(it), await found(it)

    expected, given = asyncio.run(scenario())
    assert len(given.rejections) == 2_000
    assert given.sessions.keys() == {b"s-1"}
    assert differences(expected, given) == []


def test_the_largest_records_and_keys_lose_nothing_of_the_sessions_beside_them(crew):
    async def scenario():
        it = crew(1)
        await it.open()
        neighbours = [
            update("big", 0, attributes={"note": "x" * 1_000_000}),
            update("\U0001f600" * 1000, 0, profileId="p-1"),
            *(update(f"of-one-{number}", 0, profileId="p-1") for number in range(500)),
        ]
        lines = [line for at, it in enumerate(neighbours) for line in (it, update(f"s-{at % 50}", 0))]
        await it.send(lines)
        await it.settle()
        return await foretold(it), await found(it)

    expected, given = asyncio.run(scenario())
    assert len(given.sessions) == 552
    assert differences(expected, given) == []
