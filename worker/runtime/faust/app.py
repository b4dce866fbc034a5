"""The composition root: `build_app(settings, topology)` puts a worker together, as a Faust app."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import faust
from faust.app.base import BootStrategy
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types import StreamT
from mode import CrashingSupervisor
from yarl import URL

from worker.kafka.cluster import Cluster
from worker.kafka.connection import OtherCluster
from worker.kafka.producer import OutcomeUnknown, TransactionalProducer
from worker.pipeline.lane import Batch, Stage
from worker.pipeline.profiles import Profiles
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology
from worker.runtime.commit_loop import CommitLoop
from worker.runtime.faust.driver import BatchSchema
from worker.runtime.faust.recovery import RESTORING_BYTES, Recovery, Tables
from worker.runtime.faust.tables import Table
from worker.runtime.instance import claim
from worker.runtime.opening import Dependencies
from worker.runtime.stalls import Stalls
from worker.runtime.status import State, Status
from worker.runtime.stores.memory import MemoryPartition, TablePartition
from worker.runtime.upkeep import TopicsChanged, Upkeep
from worker.settings.model import Settings
from worker.settings.report import WrongSetting

if TYPE_CHECKING:
    from worker.runtime.stores.rocksdb import StateDirectory

_HEARTBEATS = 4  # in a session timeout


class _Boot(BootStrategy):
    enable_kafka_producer = False  # the cycle has its own


class App(faust.App):
    """A Faust app whose agent only queues what is fetched, for the cycle to fold."""

    BootStrategy = _Boot

    def __init__(self, settings: Settings, topology: Topology) -> None:
        host = settings.web_host
        if settings.store != "memory://":
            with _naming_the_data_folder(settings):
                settings.data_dir.mkdir(parents=True, exist_ok=True)
        opened = ExitStack()
        instance = claim(settings, opened)
        super().__init__(
            settings.app_id,
            broker=[URL(f"batched://{address}") for address in settings.brokers.split(",")],
            broker_client_id=instance,
            broker_credentials=_credentials(settings.connection()),
            broker_session_timeout=settings.session_timeout_seconds,
            broker_heartbeat_interval=settings.session_timeout_seconds / _HEARTBEATS,
            broker_request_timeout=max(30, 2 * settings.session_timeout_seconds),
            broker_max_poll_interval=300,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=RESTORING_BYTES,
            stream_wait_empty=False,
            table_standby_replicas=settings.standby_replicas,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_host=host,
            web_bind=host,
            web_enabled=settings.web_port is not None,
            web_port=_port(settings),
            TableManager=Tables,
            agent_supervisor=CrashingSupervisor,
        )
        self._opened = opened
        self._settings = settings
        self._topology = topology
        sessions = Sessions(settings.rules(), topology)
        stages: tuple[Stage, ...] = sessions, Profiles(topology)
        tables: Mapping[Stage, Table] = {
            stage: self._table(name, changelog, self._opener(name), topology.updates)
            for stage, name, changelog in zip(
                stages, ("sessions", "profiles"), (topology.sessions, topology.first_sessions), strict=True
            )
        }
        cluster = Cluster(settings.connection() | {"client_id": instance})
        producer = TransactionalProducer(cluster, instance, settings.transaction_timeout_seconds)
        self.status = Status()
        self.upkeep = Upkeep(cluster, topology, instance)
        self.commit_loop = CommitLoop(
            cluster,
            producer,
            self.upkeep,
            lambda: self.consumer,
            self._open_again,
            self.add_future,
            settings.max_rejection_ratio,
        )
        self.tables_by_stage = tables
        self.dependencies = Dependencies(
            cluster,
            producer,
            self.upkeep,
            self.commit_loop,
            topology,
            settings.on_data_loss,
            settings.session_timeout_seconds,
        )
        self._tasks: list[asyncio.Future[None]] = []
        self.agent(self._topic(*(topic for stage in stages for topic in stage.reads)), name="queue")(self._queue)
        self.on_partitions_revoked.connect(self._on_revoked)

    async def on_start(self) -> None:
        """Connect before anything else runs; who may not see the group would wait for ever to join it.

        What an earlier process of the same transactional.id left open is ended here: members of the group do not fence it.
        """
        await self.dependencies.cluster.start()
        await self.dependencies.cluster.members(self.conf.id)
        with suppress(OutcomeUnknown):  # the opening does the same
            await self.dependencies.producer.init()
        await super().on_start()
        if self.conf.web_enabled:
            self.log.info("Web pages at %s", self.conf.canonical_url)
        self.stalls = Stalls(self.dependencies.cluster, self.consumer.standing, self._settings.tool)
        upkeep = self.upkeep
        running = (self.commit_loop.run(), upkeep.watch(), upkeep.keep_marks(), upkeep.purge(), self.stalls.watch())
        self._tasks = [self.add_future(task) for task in running]

    async def on_stop(self) -> None:
        """End the cycle in flight, then leave the group."""
        self.status.move(State.STOPPING)
        await self.commit_loop.close()
        self.commit_loop.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if isinstance(self.crash_reason, TopicsChanged | OtherCluster) and "_folder" in vars(self):
            self._folder.disown()
        await super().on_stop()

    async def on_shutdown(self) -> None:
        """Close all that the worker holds open."""
        await self.dependencies.cluster.stop()
        self._opened.close()
        await super().on_shutdown()

    async def _queue(self, stream: StreamT[Batch]) -> None:
        async for event in stream.events():
            self.commit_loop.queue(event.message.tp, event.value)

    async def _on_revoked(self, *_: object, **__: object) -> None:
        await self.commit_loop.close()

    def _create_directories(self) -> None:
        """Make no folders for Faust's own stores: nothing is kept in them."""

    def _open_again(self) -> None:
        recovery: Recovery = self.tables.recovery
        recovery.again()

    def _table(self, name: str, changelog: str, opener: Callable[[int], TablePartition], origins: str) -> Table:
        table = Table(self, name, self._topic(changelog), opener, origins)
        self.tables.add(table)
        return table

    def _topic(self, *names: str) -> Any:
        return self.topic(*names, schema=BatchSchema())

    def _opener(self, name: str) -> Callable[[int], TablePartition]:
        """Return what opens the partitions of the table *name*, where tables are kept."""
        if self._settings.store == "memory://":
            return lambda _number: MemoryPartition()
        return lambda number: self._folder.open(name, number)

    @cached_property
    def _folder(self) -> "StateDirectory":
        """The folder of tables on disk, for this app and the cluster and topics that the opening has found."""
        from worker.runtime.stores.rocksdb import StateDirectory  # noqa: PLC0415 (what it needs is an extra)

        identity, settings = self.upkeep.identity, self._settings
        if identity is None:
            raise RuntimeError("tables on disk are opened only after the topics were checked")
        topics = {name: identity.topics[name].id for name in self._topology.state().values()}
        stream = {"app id": settings.app_id, "cluster": identity.cluster_id, **topics}
        with _naming_the_data_folder(settings):
            folder = StateDirectory(settings.data_dir, stream)
        self._opened.callback(folder.close)
        return folder


@contextmanager
def _naming_the_data_folder(settings: Settings) -> Iterator[None]:
    """Raise WrongSetting in place of what the system says of the folder of tables on disk."""
    try:
        yield
    except OSError as error:
        reason = (
            f"{error.filename or settings.data_dir} cannot be used: {error.strerror}; set a folder that can be written"
        )
        raise WrongSetting(f"SESSION_WORKER_DATA_DIR={settings.data_dir}: {reason}") from error


def build_app(settings: Settings, topology: Topology) -> App:
    """Put a worker together; nothing is opened yet."""
    app = App(settings, topology)
    app.finalize()
    return app


def _credentials(connection: Mapping[str, Any]) -> OAuthCredentials | SASLCredentials | SSLCredentials | None:
    """Return the credentials in the form that Faust takes."""
    context = connection.get("ssl_context")
    if "sasl_oauth_token_provider" in connection:
        return OAuthCredentials(oauth_cb=connection["sasl_oauth_token_provider"], ssl_context=context)
    if "sasl_mechanism" in connection:
        return SASLCredentials(
            username=connection["sasl_plain_username"],
            password=connection["sasl_plain_password"],
            mechanism=connection["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context=context)


def _port(settings: Settings) -> int:
    """Find the port of the web server; Faust tells workers apart by these ports, so one without a server has one too.

    Raises WrongSetting for an address or a port at which this process cannot listen.
    """
    host, port = settings.web_host, settings.web_port or 0
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        with socket.create_server((host, port), family=family) as server:
            found: int = server.getsockname()[1]
            return found
    except (OSError, UnicodeError) as error:
        is_port = isinstance(error, OSError) and error.errno in {errno.EADDRINUSE, errno.EACCES}
        setting, remedy = (
            (f"WEB_PORT={port}", "set another port, or 0 for any free one")
            if is_port
            else (f"WEB_HOST={host}", "set an address of this machine, for example 127.0.0.1 or 0.0.0.0")
        )
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]  # Python adds the address
        raise WrongSetting(
            f"SESSION_WORKER_{setting}: the web server cannot listen at {host}: {reason}; {remedy}"
        ) from error
