"""How each contestant is started, and the consumer group whose committed offsets tell how far it is."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.kafka import Worker

PEERS = Path(__file__).parent
JAR = PEERS / "kafka_streams/target/kafka-streams-peer.jar"
QUIX = Path(os.environ.get("QUIX_PYTHON", PEERS / ".venv-quix/bin/python"))


class Peer(Worker):
    """A contestant in a process of its own, which may be any program; its folder holds its log and its state."""

    def __init__(self, argv: Callable[[Path], tuple[str, ...]], env: Mapping[str, str] | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        self.log = (folder / "worker.log").open("w+")
        self.process = subprocess.Popen(  # noqa: S603
            argv(folder), env={**os.environ, **(env or {})}, stdout=self.log, stderr=self.log
        )


class Contestant(NamedTuple):
    """A way to do the job: its consumer group, how to start it on a Kafka, and what it promises."""

    group: str
    ready: str  # stands in its log once it has what it needs to process records
    start: Callable[[str], Worker]
    exactly_once: bool = True
    skips_backlog: bool = False  # records that wait when it restarts may be lost


def _worker(store: str) -> Contestant:
    return Contestant("session-worker", "Opened", lambda kafka: Worker(kafka, store=f"{store}://"))


def _kafka_streams(store: str, threads: int = 1, commit_milliseconds: int = 100) -> Contestant:
    def start(kafka: str) -> Worker:
        if not JAR.exists():
            raise SystemExit(f"{JAR} is missing: mvn -f {PEERS / 'kafka_streams'} package")
        settings = {
            "bootstrap.servers": kafka,
            "store": store,
            "threads": threads,
            "commit.interval.ms": commit_milliseconds,
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        return Peer(lambda folder: ("java", *options, f"-Dstate.dir={folder}", "-jar", str(JAR)))

    return Contestant("kafka-streams", "RUNNING", start)


def _quix(commit_seconds: float = 5.0) -> Contestant:
    def start(kafka: str) -> Worker:
        if not QUIX.exists():
            raise SystemExit(f"{QUIX} is missing: make that environment from {PEERS / 'quix-requirements.txt'}")
        options = (kafka, "--commit-interval", str(commit_seconds))
        return Peer(
            lambda folder: (str(QUIX), "-m", "bench.peers.quix", *options, "--state-dir", str(folder / "state")),
            {"PYTHONPATH": str(PEERS.parent.parent)},
        )

    return Contestant("quix-streams", "Beginning recovery check", start)


def _faust(guarantee: str) -> Contestant:
    options = ("-m", "bench.peers.stock_faust", "--guarantee", guarantee)
    return Contestant(
        "stock-faust",
        "Worker ready",
        lambda kafka: Peer(lambda _: (sys.executable, *options, kafka), {"PYTHONPATH": str(PEERS.parent.parent)}),
        exactly_once=guarantee == "exactly_once",
        skips_backlog=True,
    )


CONTESTANTS: Mapping[str, Contestant] = {
    "worker": _worker("memory"),
    "worker-rocksdb": _worker("rocksdb"),
    "kafka-streams": _kafka_streams("rocksdb"),
    "kafka-streams-memory": _kafka_streams("memory"),
    "kafka-streams-2-threads": _kafka_streams("rocksdb", 2),
    "quix": _quix(),
    "stock-faust": _faust("at_least_once"),
    "stock-faust-exactly-once": _faust("exactly_once"),
}
