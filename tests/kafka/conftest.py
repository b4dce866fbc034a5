"""One Kafka for all tests of this folder, chosen by the environment variable KAFKA: local, docker or host:port."""

import os
import socket
from contextlib import ExitStack, contextmanager

import pytest

from tests.kafka.workers import Crew
from worker.local.kafka import VERSION, LocalKafka, settings

PROPERTIES = {"log.cleaner.backoff.ms": "500"}
"""What tests wait for: that compacted topics are compacted. By default the cleaner looks every 15 s."""


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    """The bootstrap address of a Kafka that is empty, or at least not ours alone: give topics names of their own."""
    match os.environ.get("KAFKA", "local"):
        case "local":
            with LocalKafka(tmp_path_factory.mktemp("kafka"), properties=PROPERTIES) as cluster:
                yield cluster.bootstrap_servers
        case "docker":
            with _container() as address:
                yield address
        case address:
            yield address


@pytest.fixture
def crew(kafka, tmp_path):
    """Give what makes a crew of workers, with topics of its own; they end with the test, and a failure shows their logs."""
    with ExitStack() as opened:
        yield lambda *given, **settings: opened.enter_context(Crew(kafka, tmp_path, *given, **settings))


@contextmanager
def _container():
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chosen = (
        settings(brokers=1)
        | PROPERTIES
        | {
            "node.id": "0",
            "process.roles": "broker,controller",
            "listeners": "CLIENT://:9092,CONTROLLER://:9093",
            "advertised.listeners": f"CLIENT://127.0.0.1:{port}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": "0@localhost:9093",
        }
    )
    container = DockerContainer(f"apache/kafka:{VERSION}").with_bind_ports(9092, port)
    for name, value in chosen.items():
        container.with_env(f"KAFKA_{name.upper().replace('.', '_')}", value)
    with container.waiting_for(LogMessageWaitStrategy("Kafka Server started")):
        yield f"127.0.0.1:{port}"
