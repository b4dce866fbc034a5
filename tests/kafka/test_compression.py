"""Every codec of Kafka on every topic that is read, and batches that nobody can read."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import snappy_encode
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record._crecords import default_records
from aiokafka.record.memory_records import MemoryRecords
from click.testing import CliRunner

from tests.kafka.account import differences, foretold, found
from tests.kafka.injector import injecting, spoil
from tests.kafka.topics import Record, create, own, produce
from tests.kafka.workers import update
from worker.cli import main
from worker.runtime.topics import prepare
from worker.settings.model import Settings

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


async def codecs_of(kafka, topic, partitions):
    """Return the codecs of the batches of a topic, markers left out."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    try:
        await client._wait_on_metadata(topic)
        node = client.get_random_node()
        request = FetchRequest(100, 1, 1 << 24, 0, [(topic, [(number, 0, 1 << 22) for number in range(partitions)])])
        answer = await client.send(node, request)
        codecs = set()
        for _topic, rows in answer.topics:
            for row in rows:
                records = MemoryRecords(row[-1])
                while records.has_next():
                    batch: Any = records.next_batch()
                    if not batch.is_control_batch:
                        codecs.add(batch.compression_type)
        return codecs
    finally:
        await client.close()


def some_updates():
    """Make updates of which some are strays, and all claim a profile."""
    for number in range(120):
        yield update(
            f"s-{number % 40}",
            number % 2,
            keyed=number % 40 % 3 == 0,
            profileId=f"p-{number % 7}",
            attributes={"n": number},
        )


@pytest.mark.parametrize("codec", CODECS)
def test_each_codec_is_read_on_every_topic_and_restored_from(kafka, crew, codec, tmp_path):
    async def scenario():
        it = crew(2)
        names = it.topology.named()
        await prepare(
            Settings(brokers=kafka, partitions=2, **{f"{field}_topic": name for field, name in names.items()})
        )
        for name in names.values():
            await it.configure(name, compression_type=codec)
        first = await it.open()
        await it.send(some_updates())
        await it.settle()
        assert await first.stop() == 0
        read = [name for field, name in names.items() if field not in {"rejections", "dry_runs"}]
        codecs = {name: await codecs_of(kafka, name, 2) for name in read}
        for store in ("rocksdb://", "memory://"):
            worker = await it.open(store=store, data_dir=tmp_path / "new")
            assert await worker.restored() > 40
            await it.send(some_updates())
            await it.settle()
            assert await worker.stop() == 0
        assert differences(await foretold(it), await found(it)) == []
        return codecs

    codecs = asyncio.run(scenario())
    assert set.union(*codecs.values()) == {CODECS[codec]}
    assert all(codecs.values())


def run(kafka, *arguments):
    return CliRunner().invoke(main, arguments, env={"SESSION_WORKER_BROKERS": kafka})


FRAMINGS = [*CODECS, "raw snappy"]


async def _compress(kafka, topic, framing, monkeypatch):
    """Write one batch of 100 updates that the producer has compressed."""
    codec = framing.removeprefix("raw ")
    if framing != codec:  # as librdkafka and Go's clients write it; Java's frame it as aiokafka's do
        monkeypatch.setattr(default_records, "snappy_encode", lambda data: snappy_encode(data, xerial_compatible=False))
    value = b'{"customerSession": {"attributes": {"n": %d, "long": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}}'
    await produce(kafka, topic, [Record(b"s-%d" % n, value % n) for n in range(100)], compression_type=codec)
    assert await codecs_of(kafka, topic, 1) == {CODECS[codec]}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_each_codec_of_a_producer_is_read_on_the_input(kafka, crew, framing, monkeypatch):
    async def scenario():
        it = crew(1)
        await it.open()
        await _compress(kafka, it.topology.updates, framing, monkeypatch)
        await it.settle()
        return await foretold(it), await found(it)

    expected, given = asyncio.run(scenario())
    assert len(given.sessions) == 100
    assert differences(expected, given) == []


@pytest.mark.parametrize("framing", FRAMINGS)
def test_dump_and_tail_read_each_codec(kafka, framing, monkeypatch):
    topic = own("compressed")
    asyncio.run(create(kafka, topic))
    asyncio.run(_compress(kafka, topic, framing, monkeypatch))
    dumped = run(kafka, "dump", topic)
    assert [json.loads(line)["key"] for line in dumped.stdout.splitlines()] == [f"s-{n}" for n in range(100)]
    with tailing(kafka, topic) as process:
        lines = [json.loads(process.stdout.readline()) for _ in range(100)]
        process.terminate()
    assert [line["customerSession"]["attributes"]["n"] for line in lines] == [*range(100)]


def tailing(kafka, topic):
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "tail", "--topic", topic, "--from-beginning", "--json"],
        env={**os.environ, "SESSION_WORKER_BROKERS": kafka, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# ------------------------------------------------------------------------------------------------ what nobody can read

DEFECTS = {
    "5": "has the unknown compression codec 5; Kafka's codecs are 1 to 4",
    "7": "has the unknown compression codec 7; Kafka's codecs are 1 to 4",
    "1": "is compressed with gzip and cannot be read",
    "2": "is compressed with snappy and cannot be read",
    "3": "is compressed with lz4 and cannot be read",
    "4": "is compressed with zstd and cannot be read",
    "crc": "is corrupt: its checksum (CRC) is wrong",
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_an_unreadable_batch_on_the_input_ends_the_worker_at_its_offset(kafka, crew, defect):
    """What comes before it is processed; the next start ends at the same offset."""

    async def scenario():
        with injecting(kafka) as wire:
            wire.change = spoil(2, defect, b'"customerSession"')
            it = crew(1)
            await create(kafka, it.topology.updates)
            for number in range(4):  # a batch each, fetched together
                await it.send([update(f"s-{number}")])
            worker = it.start(brokers=wire.address)
            ends = [(await worker.ends(), worker.said()[-1])]
            again = it.start(brokers=wire.address)
            ends.append((await again.ends(), again.said()[-1]))
            return it.topology.updates, ends, await found(it)

    topic, ends, given = asyncio.run(scenario())
    for status, last in ends:
        assert status == 1
        assert last.startswith(f"Error: {topic}/0: the batch at offset 2 {DEFECTS[defect]}")
        assert "before offset 3 with kafka-delete-records.sh" in last
        assert "SESSION_WORKER_ON_DATA_LOSS=earliest" in last
    assert given.sessions.keys() == {b"s-0", b"s-1"}


@pytest.mark.parametrize("field", ["sessions", "first_sessions"])
@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_an_unreadable_batch_of_a_changelog_ends_the_worker_at_its_offset(kafka, crew, field, store, tmp_path):
    async def scenario():
        it = crew(1)
        worker = await it.open()
        await it.send([update("s-1", profileId="p-1")])
        await it.settle()
        assert await worker.stop() == 0
        with injecting(kafka) as wire:
            wire.change = spoil(0, "5")
            worker = it.start(brokers=wire.address, store=store, data_dir=tmp_path / "new")
            return it.topology.named()[field], await worker.ends(), worker.said()[-1]

    topics = asyncio.run(scenario())
    topic, status, last = topics
    assert status == 1
    assert "/0: the batch at offset 0 has the unknown compression codec 5" in last
    assert topic.rpartition("-")[0] in last


@pytest.mark.parametrize("defect", DEFECTS)
def test_an_unreadable_batch_ends_dump_and_tail_with_one_line(kafka, defect):
    topic = own("unreadable")
    asyncio.run(create(kafka, topic))
    for number in range(3):
        asyncio.run(produce(kafka, topic, [Record(b"s-1", b"%d" % number)]))
    with injecting(kafka) as wire:
        wire.change = spoil(1, defect)
        dumped = run(wire.address, "dump", topic)
        with tailing(wire.address, topic) as process:
            _out, errors = process.communicate(timeout=30)
    for status, said in ((dumped.exit_code, dumped.stderr), (process.returncode, errors.decode())):
        assert status == 1
        assert said.startswith(f"Error: {topic}/0: the batch at offset 1 {DEFECTS[defect]}")
        assert said.count("\n") == 1
