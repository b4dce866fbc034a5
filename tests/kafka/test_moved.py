"""All brokers get new addresses, and only the bootstrap address leads to them: every client goes on (rules K1 to K3)."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from tests.chaos.proxy import Wire
from tests.kafka.ports import free_port
from tests.kafka.waits import within
from tests.kafka.workers import Crew, simulated
from worker.kafka.cluster import Cluster
from worker.kafka.connection import Client, OtherCluster
from worker.local.kafka import LocalKafka
from worker.settings.sources import PREFIX

AGAIN_SECONDS = 30
"""What a client may take to go on after the brokers have moved."""


class Moving:
    """A Kafka whose brokers can move, behind a bootstrap address that stays."""

    def __init__(self, folder):
        self._folder = folder
        self._opened = ExitStack()
        self.kafka = self._opened.enter_context(LocalKafka(folder))
        self.wire = Wire(_port(self.kafka))

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.wire.port}"

    async def move(self, old: str, folder=None):
        """Start the brokers at other ports; the old ports refuse connections, or accept them in silence."""
        former = _port(self.kafka)
        await asyncio.to_thread(self._opened.close)
        if old == "silent":
            self._opened.enter_context(closing(socket.create_server(("127.0.0.1", former))))
        self.kafka = LocalKafka(folder or self._folder)
        await asyncio.to_thread(self._opened.enter_context, self.kafka)
        assert _port(self.kafka) != former
        self.wire.broker = _port(self.kafka)

    def close(self):
        self._opened.close()


def _port(kafka):
    return int(kafka.bootstrap_servers.rpartition(":")[2])


@asynccontextmanager
async def moving(folder):
    it = await asyncio.to_thread(Moving, folder)
    try:
        await it.wire.start()
        yield it
        await it.wire.close()
    finally:
        await asyncio.to_thread(it.close)


@contextmanager
def following(it, crew):
    """Run `tail` with the settings of a crew."""
    command = sys.executable, "-m", "worker", "tail", "--from-beginning", "--json"
    environment = {
        **os.environ,
        f"{PREFIX}BROKERS": it.bootstrap,
        f"{PREFIX}SESSIONS_TOPIC": crew.topology.sessions,
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process
        process.terminate()


async def _lines(process, count):
    """Read a number of lines."""
    assert process.stdout is not None
    return await asyncio.to_thread(lambda: [process.stdout.readline() for _ in range(count)])


@pytest.mark.parametrize("old", ["refusing", "silent"])
def test_moved_brokers_are_found_again_by_worker_and_tail(tmp_path, old):
    async def scenario():
        async with moving(tmp_path / "kafka") as it:
            with Crew(it.bootstrap, tmp_path, 2) as crew:
                worker = await crew.open()
                await crew.send(simulated(300, seed=1))
                await crew.settle()
                with following(it, crew) as tail:
                    first = await _lines(tail, 100)
                    await it.move(old)
                    began = time.monotonic()
                    await crew.send(simulated(300, seed=2))
                    await crew.settle(AGAIN_SECONDS)
                    rest = await _lines(tail, 300)
                    seconds = time.monotonic() - began
                return first + rest, seconds, await worker.stop(), worker.said()

    lines, seconds, status, said = asyncio.run(scenario())
    assert all(lines)
    assert seconds < AGAIN_SECONDS + 10
    assert status == 0
    assert any("no known broker responded" in line for line in said)


def test_moved_brokers_are_found_again_by_each_kind_of_client(tmp_path):
    """The clients are those of the tools: a consumer, a producer, an admin client, and the worker's own."""

    async def scenario():
        async with moving(tmp_path / "kafka") as it:
            where = {"bootstrap_servers": it.bootstrap}
            async with AIOKafkaProducer(**where) as producer, Cluster(where) as cluster:
                consumer, admin = AIOKafkaConsumer(**where), AIOKafkaAdminClient(**where)
                await consumer.start()
                await admin.start()
                before = await cluster.identity([])
                await it.move("refusing")
                async with within(AGAIN_SECONDS, "answers to each client from the new addresses"):
                    assert await cluster.identity([]) == before
                    for client in (producer.client, consumer._client, admin._client):
                        while not await client.ready(0):  # noqa: ASYNC110
                            await asyncio.sleep(0.1)
                await consumer.stop()
                await admin.close()

    asyncio.run(scenario())


def test_other_cluster_behind_the_bootstrap_address_ends_a_client(tmp_path):
    async def scenario():
        async with moving(tmp_path / "kafka") as it, Cluster({"bootstrap_servers": it.bootstrap}) as cluster:
            await cluster.identity([])
            await it.move("refusing", tmp_path / "other")
            with pytest.raises(OtherCluster, match="set SESSION_WORKER_BROKERS"):
                await asyncio.wait_for(cluster.identity([]), AGAIN_SECONDS)

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["silent", "refusing"])
def test_second_bootstrap_address_is_tried_after_seconds(kafka, first):
    async def scenario(port):
        client = Client(bootstrap_servers=f"127.0.0.1:{port},{kafka}")
        began = time.monotonic()
        await client.bootstrap()
        await client.close()
        return time.monotonic() - began

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if first == "silent" else free_port()
        assert max(asyncio.run(scenario(port)) for _ in range(4)) < 5


def test_second_address_of_a_bootstrap_name_is_tried_after_seconds(kafka):
    async def scenario(port):
        loop = asyncio.get_running_loop()
        places = [("127.0.0.1", port), ("127.0.0.1", int(kafka.rpartition(":")[2]))]

        async def resolve(*_args, **_kwargs):
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]

        vars(loop)["getaddrinfo"] = resolve
        client = Client(bootstrap_servers="kafka.invalid:9092")
        began = time.monotonic()
        await client.bootstrap()
        await client.close()
        return time.monotonic() - began

    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as opened:
        for _ in range(3):  # Linux drops what comes to a full backlog
            filling = opened.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(server.getsockname())
        assert 2 < asyncio.run(scenario(server.getsockname()[1])) < 6


def test_bootstrap_fails_when_no_address_answers():
    async def scenario():
        client = Client(bootstrap_servers=f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
        with pytest.raises(KafkaConnectionError, match="Unable to bootstrap"):
            await client.bootstrap()
        await client.close()

    asyncio.run(scenario())
