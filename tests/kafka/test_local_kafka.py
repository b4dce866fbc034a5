"""The local Kafka is a real one, survives what its users do to it, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.kafka.topics import Record, configuration, create, own, produce, read, send
from worker.local.kafka import KafkaFailed, LocalKafka


def numbered(count, first=0):
    return [Record(b"%d" % (n % 7), b"%d" % n, (("n", b"%d" % n),)) for n in range(first, first + count)]


def values(records):
    return [record.value for record in records]


def test_what_is_produced_is_consumed_in_the_order_of_its_partition(kafka):
    async def scenario():
        topic = own("round-trip")
        await create(kafka, topic, partitions=3)
        await produce(kafka, topic, numbered(10_000))
        return await read(kafka, topic)

    found = asyncio.run(scenario())
    assert sorted(int(record.value) for record in found) == list(range(10_000))
    assert all(record.headers == (("n", record.value),) for record in found)
    for key in range(7):
        of_key = [int(record.value) for record in found if record.key == b"%d" % key]
        assert of_key == sorted(of_key)


def test_a_topic_has_the_configuration_that_was_asked_for(kafka):
    async def scenario():
        topic = own("compacted")
        await create(kafka, topic, cleanup_policy="compact", delete_retention_ms="5000")
        return await configuration(kafka, topic)

    found = asyncio.run(scenario())
    assert (found["cleanup.policy"], found["delete.retention.ms"]) == ("compact", "5000")


def test_a_reader_of_committed_records_sees_a_committed_transaction_and_not_an_aborted_one(kafka):
    async def scenario():
        topic = own("transactions")
        await create(kafka, topic, partitions=2)
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
            async with producer.transaction():
                await send(producer, topic, numbered(100))
            await producer.begin_transaction()
            await send(producer, topic, numbered(100, first=100))
            await producer.abort_transaction()
        return await read(kafka, topic), await read(kafka, topic, isolation_level="read_uncommitted")

    committed, written = asyncio.run(scenario())
    assert sorted(int(value) for value in values(committed)) == list(range(100))
    assert len(written) == 200


def test_a_killed_broker_starts_again_at_its_port_with_its_data(tmp_path):
    topic = own("kept")
    with LocalKafka(tmp_path) as cluster:
        address = cluster.bootstrap_servers
        asyncio.run(create(address, topic))
        asyncio.run(produce(address, topic, numbered(1_000)))
        with pytest.raises(KafkaFailed, match="another Kafka runs in"), LocalKafka(tmp_path):
            pass
        cluster.kill(0)
        with pytest.raises(KafkaFailed, match="does not run"):
            cluster.pid(0)
        cluster.start(0)
        assert cluster.bootstrap_servers == address
        assert len(asyncio.run(read(address, topic))) == 1_000
        process = cluster.pid(0)
    assert not runs(process)
    with pytest.raises(KafkaFailed, match="contains a cluster of 1, not of 3 brokers"), LocalKafka(tmp_path, brokers=3):
        pass
    with LocalKafka(tmp_path) as cluster:
        assert len(asyncio.run(read(cluster.bootstrap_servers, topic))) == 1_000


def test_three_brokers_survive_the_loss_of_one(tmp_path):
    with LocalKafka(tmp_path, brokers=3) as cluster:
        address = cluster.bootstrap_servers
        processes = [cluster.pid(number) for number in range(3)]

        async def scenario():
            topic = own("replicated")
            await create(address, topic, partitions=3, replicas=3)
            found = await configuration(address, topic)
            assert found["min.insync.replicas"] == "2"
            async with AIOKafkaProducer(bootstrap_servers=address, transactional_id=topic) as producer:
                async with producer.transaction():
                    await send(producer, topic, numbered(1_000))
                await asyncio.to_thread(cluster.kill, 1)
                async with producer.transaction():
                    await send(producer, topic, numbered(1_000, first=1_000))
            without = await read(address, topic)
            await asyncio.to_thread(cluster.start, 1)
            processes.append(cluster.pid(1))
            return without

        assert sorted(int(value) for value in values(asyncio.run(scenario()))) == list(range(2_000))
    assert not any(runs(process) for process in processes)


SERVING = """
import sys
from pathlib import Path
from worker.local.kafka import serve
serve(1, 0, Path(sys.argv[1]), lambda address: print(address, flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["asked to stop", "killed"])
def test_no_process_outlives_the_one_that_serves(tmp_path, sent):
    with subprocess.Popen([sys.executable, "-c", SERVING, tmp_path], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"127.0.0.1:")
        broker, watcher = children(server.pid)
        server.send_signal(sent)
        assert server.wait(30) == (0 if sent is signal.SIGTERM else -signal.SIGKILL)
    deadline = time.monotonic() + 10
    while runs(broker) or runs(watcher):
        assert time.monotonic() < deadline, "the broker or its watcher still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_the_parent_had_ignored_ends_the_kafka_command_with_status_0(tmp_path, sent):
    script = f"trap '' INT TERM; exec '{sys.executable}' -m worker kafka --port 0 --data '{tmp_path}'"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert server.stdout.readline().startswith(b"127.0.0.1:")
        broker, watcher = children(server.pid)
        server.send_signal(sent)
        assert server.wait(30) == 0
        assert server.stderr.read() == b""
    deadline = time.monotonic() + 10
    while runs(broker) or runs(watcher):
        assert time.monotonic() < deadline, "the broker or its watcher still runs"
        time.sleep(0.05)


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(KafkaFailed, match=f"port {port} cannot be bound"), LocalKafka(tmp_path, port=port):
            pass


def test_a_broker_that_cannot_start_says_why_and_leaves_nothing(tmp_path):
    before = children(os.getpid())
    wrong = {"authorizer.class.name": "no.such.Authorizer"}
    with pytest.raises(KafkaFailed, match=r"no\.such\.Authorizer"), LocalKafka(tmp_path, properties=wrong):
        pass
    assert children(os.getpid()) == before


def runs(process):
    return Path(f"/proc/{process}").exists()


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
