"""One Kafka for all tests of this folder, chosen by the environment variable KAFKA: local, docker or host:port.

All processes of pytest-xdist share it. The process that needs it first starts it, and stops it after the last other one.
"""

import fcntl
import os
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from filelock import FileLock

from tests.kafka.workers import Crew
from worker.local.kafka import VERSION, LocalKafka, settings

PROPERTIES = {"log.cleaner.backoff.ms": "500"}
"""What tests wait for: that compacted topics are compacted. By default the cleaner looks every 15 s."""

OTHERS_SECONDS = 170
"""Upper bound in seconds of the time that other processes need for their last tests: below a test's time limit."""


def pytest_collection_modifyitems(items):
    """Mark the tests of this folder, and run them first: most of their time is waiting, and the short tests fill it."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker("kafka")
    rooms = folder.with_name("chaos"), folder
    items.sort(key=lambda item: [not item.path.is_relative_to(room) for room in rooms])


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    """The bootstrap address of a Kafka that is empty, or at least not ours alone: give topics names of their own."""
    match os.environ.get("KAFKA", "local"):
        case "local":
            with _shared(tmp_path_factory, _local) as address:
                yield address
        case "docker":
            with _shared(tmp_path_factory, _container) as address:
                yield address
        case address:
            yield address


@pytest.fixture
def crew(kafka, tmp_path):
    """Give what makes a crew of workers, with topics of its own; they end with the test, and a failure shows their logs."""
    with ExitStack() as opened:
        yield lambda *given, **settings: opened.enter_context(Crew(kafka, tmp_path, *given, **settings))


@contextmanager
def _shared(tmp_path_factory, starting):
    """Yield the address of the Kafka of all processes of this run; *starting* starts one, where none runs.

    Each process holds a shared lock while it uses the Kafka, so the one that has started it can wait for the others. The
    system releases the lock of a process that dies.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    file, turn = folder / "kafka", FileLock(folder / "kafka.lock")
    with (folder / "kafka.users").open("w") as users, ExitStack() as opened:
        with turn:
            fcntl.flock(users, fcntl.LOCK_SH)
            is_ours = not file.exists()
            if is_ours:
                file.write_text(opened.enter_context(starting(tmp_path_factory.mktemp("kafka"))), "utf-8")
        yield file.read_text("utf-8")
        fcntl.flock(users, fcntl.LOCK_UN)
        if is_ours:
            _wait_for_others(users, turn, file)


def _wait_for_others(users, turn, file):
    """Wait until no other process uses the Kafka, and let the next one that needs a Kafka start another."""
    deadline = time.monotonic() + OTHERS_SECONDS
    while time.monotonic() < deadline:
        with turn, suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
            return
        time.sleep(0.1)
    raise AssertionError(
        f"another process of the tests uses the Kafka for more than {OTHERS_SECONDS} s after the last test"
    )


@contextmanager
def _local(folder):
    with LocalKafka(folder, properties=PROPERTIES) as cluster:
        yield cluster.bootstrap_servers


@contextmanager
def _container(_folder):
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
