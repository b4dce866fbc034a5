"""The contestants: how each is started at a broker, and the consumer group whose committed offsets show its progress."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.measure import GROUP, Process, worker

_PEERS = Path(__file__).parent / "peers"
_JAR = _PEERS / "kafka_streams/target/kafka-streams-peer.jar"
_QUIX = Path(os.environ.get("QUIX_PYTHON", _PEERS / ".venv-quix/bin/python"))


class Contestant(NamedTuple):
    """A contestant: its consumer group, the function that *start*s one of its *processes*, and its guarantees."""

    group: str
    start: Callable[[str], Process]
    processes: int = 1
    exactly_once: bool = True
    skips_backlog: bool = False  # a restart may lose waiting records
    share: float = 1  # share of a load's records, for a contestant that would take an hour


def _kafka_streams(store: str, threads: int = 1, commit_milliseconds: int = 100) -> Contestant:
    def start(kafka: str) -> Process:
        if not _JAR.exists():
            raise SystemExit(f"{_JAR} is missing: mvn -f {_PEERS / 'kafka_streams'} package")
        settings = {
            "bootstrap.servers": kafka,
            "store": store,
            "threads": threads,
            "commit.interval.ms": commit_milliseconds,
            "state.dir": ".",
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        return Process(("java", *options, "-jar", str(_JAR)), {}, "RUNNING")

    return Contestant("kafka-streams", start)


def _quix(commit_seconds: float = 0.5) -> Contestant:
    def start(kafka: str) -> Process:
        if not _QUIX.exists():
            raise SystemExit(f"{_QUIX} is missing: make that environment from {_PEERS / 'quix-requirements.txt'}")
        options = (kafka, "--commit-interval", str(commit_seconds), "--state-dir", "state")
        return Process((str(_QUIX), "-m", "bench.peers.quix", *options), {}, "now processing incoming messages")

    return Contestant("quix-streams", start)


def _faust(kafka: str) -> Process:
    return Process((sys.executable, "-m", "bench.peers.stock_faust", kafka), {}, "Worker ready")


def _pipe(kafka: str) -> Process:
    return Process((sys.executable, "-m", "bench.pipe", kafka), {}, "")


PIPE = "bare pipe"
CONTESTANTS: Mapping[str, Contestant] = {
    "worker": Contestant(GROUP, worker),
    "worker, RocksDB": Contestant(GROUP, lambda kafka: worker(kafka, "rocksdb://")),
    "worker, 2 processes": Contestant(GROUP, worker, processes=2),
    "Kafka Streams, RocksDB": _kafka_streams("rocksdb"),
    "Kafka Streams, RocksDB, commits each 10 ms": _kafka_streams("rocksdb", commit_milliseconds=10),
    "Kafka Streams, memory": _kafka_streams("memory"),
    "Kafka Streams, RocksDB, 2 threads": _kafka_streams("rocksdb", 2),
    "Quix Streams": _quix(),
    "Quix Streams, commits each 5 s": _quix(5),
    "Quix Streams, commits each 0.1 s": _quix(0.1),
    "stock Faust": Contestant("stock-faust", _faust, exactly_once=False, skips_backlog=True, share=0.1),
    PIPE: Contestant("bare-pipe", _pipe),
}
"""All contestants do the whole job, except the bare pipe, which stores and checks nothing."""
