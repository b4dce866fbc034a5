"""Extend every Kafka client of the project: it bootstraps again, and it reads secrets for each login.

aiokafka's consumer, producer and admin client each create their own client, and a client creates its own connections. So
the import of this module replaces both classes in aiokafka. The other modules import aiokafka's clients from here.

K1. If no known broker responds within KNOWN_SECONDS, a client asks the bootstrap servers (Kafka's KIP-899 and KIP-1102):
    all brokers may have moved. The client closes connections to addresses that no broker has any more.
K2. If a bootstrap server does not respond within NEXT_SECONDS, the client asks the next one too. The same rule applies to
    the addresses of a name.
K3. A client uses one cluster. If another cluster responds, the client stops with OtherCluster.
K4. Passwords, tokens, certificates and keys are read from their files for each new connection.
K5. A login or a certificate may be refused for a moment while files are replaced. The refusals of each address are kept
    until a login succeeds. After REFUSED_SECONDS `failure` returns the refusal, and the process ends.
    A client may ask an address rarely. So the minute begins again after REFUSED_SECONDS without a refusal.
K6. Brokers that start may name no broker at all. The client treats such a response as none.
"""

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import aiokafka.admin.client
import aiokafka.client
import aiokafka.conn
import aiokafka.consumer.consumer
import aiokafka.producer.producer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, CloseReason, OAuthAuthenticator
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from worker.kafka.credentials import PasswordFile, TokenFile, UnusableFile

CONNECT_SECONDS: Final = 10.0
"""Upper bound in seconds of a new connection, its login included."""
NEXT_SECONDS: Final = 3.0
"""Wait in seconds for one address before a client also tries the next one."""
KNOWN_SECONDS: Final = 5.0
"""Wait in seconds for the known brokers before a client asks the bootstrap servers."""
REFUSED_SECONDS: Final = 60.0
"""Upper bound in seconds of refused logins at a broker before the process ends."""
_ALERT: Final = "_ALERT_"
"""Text in the reason of an SSLError if the broker has refused the client's certificate."""
_log: Final = logging.getLogger(__name__)


class OtherCluster(Exception):
    """The brokers belong to another cluster than before; the message has the remedy."""


class Refusal(Exception):
    """A broker has refused a login for REFUSED_SECONDS; *cause* is the last error."""

    def __init__(self, address: str, cause: BaseException) -> None:
        self.address = address
        self.cause = cause
        super().__init__(f"{address}: {cause}")


class _Refusals:
    """The addresses that refuse a login, and the time of the first refusal (K5). It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, tuple[float, float, BaseException]] = {}
        self.other: OtherCluster | None = None

    def add(self, address: str, cause: BaseException) -> None:
        now = time.monotonic()
        with self._lock:
            since, last, _cause = self._since.get(address, (now, now, cause))
            self._since[address] = now if now - last > REFUSED_SECONDS else since, now, cause

    def remove(self, address: str) -> None:
        with self._lock:
            self._since.pop(address, None)

    def lasting(self) -> Iterator[Refusal]:
        with self._lock:
            found = dict(self._since)
        for address, (since, last, cause) in found.items():
            if last - since >= REFUSED_SECONDS:
                yield Refusal(address, cause)


_refusals: Final = _Refusals()


def failure() -> Refusal | OtherCluster | None:
    """Return the error that ends every client: another cluster, or a login refused for REFUSED_SECONDS."""
    return _refusals.other or next(_refusals.lasting(), None)


def refused_by(error: BaseException | None) -> BaseException | None:
    """Return the refusal of a login or a certificate among the causes of *error*; None if the error is retriable."""
    while error is not None:
        match error:
            case SaslAuthenticationFailed() | UnsupportedSaslMechanismError() | IllegalSaslStateError():
                return error
            case ssl.SSLCertVerificationError() | UnusableFile():
                return error
            case ssl.SSLError() if _ALERT in (error.reason or ""):
                return error
        error = error.__cause__
    return None


def _report(what: str, host: str, port: int, error: Exception) -> None:
    """Log the cause of a failed connection; a refusal may be hidden among the causes of aiokafka's error."""
    if cause := refused_by(error):
        _log.warning("%s at %s:%s: the login or a certificate was refused: %s. Retrying", what, host, port, cause)
    else:
        reason = str(error) or type(error).__name__
        _log.warning("%s at %s:%s is unreachable: %s. Retrying", what, host, port, reason)


class _Login(OAuthAuthenticator):
    """A login that waits for the result of a token: a broker refuses a token in a second step (RFC 7628, 3.2.3).

    aiokafka takes the first response for success, and then finds the connection closed.
    """

    async def step(self, payload: bytes | None) -> Any:
        """Send the token; after an error response, send the message that ends the exchange."""
        if self._token_sent and payload:
            return b"\x01", True
        go_on: Any = super().step
        return await go_on(payload)


class _AddressesInTurn:
    """An event loop that tries the next address of a name if one does not respond within NEXT_SECONDS (K2)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, *arguments: Any, **keywords: Any) -> Any:
        """Connect; aiokafka's connection calls this."""
        return await self._loop.create_connection(*arguments, happy_eyeballs_delay=NEXT_SECONDS, **keywords)


class Connection(AIOKafkaConnection):
    """A connection to a broker, with the current secrets (K4)."""

    @property
    def versions(self) -> Mapping[int, tuple[int, int]]:
        """The requests that the broker supports: the oldest and the newest version, by API key."""
        found: Mapping[int, tuple[int, int]] = self._versions
        return found

    async def connect(self) -> Any:
        """Connect and log in within CONNECT_SECONDS; record a refusal (K5)."""
        address = f"{self.host}:{self.port}"
        try:
            if isinstance(self._sasl_plain_password, PasswordFile):
                self._sasl_plain_password = self._sasl_plain_password.read()
            connect: Any = super().connect
            loop: Any = self._loop
            vars(self)["_loop"] = _AddressesInTurn(loop)
            async with asyncio.timeout(CONNECT_SECONDS):
                opened = await connect()
        except (KafkaError, OSError, TimeoutError) as error:
            if cause := refused_by(error):
                _refusals.add(address, cause)
            raise
        _refusals.remove(address)
        return opened

    def authenticator_oauth(self) -> Any:
        """Return the authenticator for a token."""
        create: Any = _Login
        return create(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _Metadata(ClusterMetadata):
    """The metadata of a client, which must stay those of one cluster (K3)."""

    cluster_id: str | None = None

    def update_metadata(self, metadata: Any) -> None:
        """Update from a response. Raise OtherCluster."""
        answered = getattr(metadata, "cluster_id", None)
        if self.cluster_id and answered and answered != self.cluster_id:
            raise OtherCluster(
                f"the brokers belong to the cluster {answered}, and the client started on {self.cluster_id}: set "
                f"SESSION_WORKER_BROKERS to the cluster that has its topics"
            )
        self.cluster_id = answered or self.cluster_id
        update: Any = super().update_metadata
        update(metadata)


class Client(AIOKafkaClient):
    """A client that finds its cluster again by the bootstrap servers (K1 to K3)."""

    def __init__(self, **keywords: Any) -> None:
        initialize: Any = super().__init__
        initialize(**keywords)
        create: Any = _Metadata
        self.cluster = create(metadata_max_age_ms=self._metadata_max_age_ms)
        self._other: OtherCluster | None = None
        self._opening: dict[tuple[Any, ...], asyncio.Task[Any]] = {}

    async def bootstrap(self) -> None:
        """Read the brokers from the bootstrap servers. Raise KafkaConnectionError if none responds."""
        metadata = await self._ask_bootstrap_servers(MetadataRequest([]))
        if metadata is None:
            raise KafkaConnectionError(f"Unable to bootstrap from {self.hosts}")
        self.cluster.update_metadata(metadata)
        if self._sync_task is None:
            synchronize: Any = self._md_synchronizer
            self._sync_task = asyncio.ensure_future(synchronize())

    async def close(self) -> None:
        """Close all connections, also those that are being opened."""
        for task in self._opening.values():
            task.cancel()
        close: Any = super().close
        await close()

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """Read the metadata from a known broker, or else from the bootstrap servers."""
        if self._other is not None:
            return False
        ask_known: Any = super()._metadata_update
        try:
            try:
                async with asyncio.timeout(KNOWN_SECONDS):
                    if await ask_known(cluster_metadata, topics):
                        return True
            except TimeoutError:
                pass
            metadata = await self._ask_bootstrap_servers(MetadataRequest(list(topics) if topics else None))
            if metadata is None:
                return False
            cluster_metadata.update_metadata(metadata)
        except OtherCluster as error:
            self._other = _refusals.other = error
            for connection in self._conns.values():
                connection.close(reason=CloseReason.SHUTDOWN, exc=error)
            return False
        brokers = ",".join(f"{broker[1]}:{broker[2]}" for broker in metadata.brokers)
        _log.info("Brokers: no known broker responded; a bootstrap server returned brokers=%s", brokers)
        self._close_former()
        return True

    def _refresh(self) -> None:
        """Request a refresh of the metadata in the background."""
        refresh: Any = self.force_metadata_update
        refresh()

    def _close_former(self) -> None:
        """Close the connections to addresses that no broker has any more, and open no new ones."""
        for (node, _group), connection in self._conns.items():
            if self._address(node) != (connection.host, connection.port):
                connection.close(reason=CloseReason.SHUTDOWN)
        for (node, _group, *address), task in self._opening.items():
            if self._address(node) != tuple(address):
                task.cancel()

    def _address(self, node: Any) -> tuple[str, int] | None:
        broker = self.cluster.broker_metadata(node)
        return None if broker is None else (broker.host, broker.port)

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:  # noqa: ARG002
        """Return the connection to a broker, and open it if necessary; None if this fails.

        aiokafka's method opens one connection at a time: an address that does not respond would delay all others.
        """
        connection = self._conns.get((node_id, group))
        if connection is not None and connection.connected():
            return connection
        if (address := self._address(node_id)) is None:
            self._refresh()
            return None
        opening = node_id, group, *address
        task = self._opening.get(opening)
        if task is None:
            task = self._opening[opening] = asyncio.ensure_future(self._open(node_id, group, *address))
            task.add_done_callback(lambda _: self._opening.pop(opening))
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    async def _open(self, node_id: Any, group: Any, host: str, port: int) -> Any:
        connection = self._connection(
            host, port, on_close=self._on_connection_closed, max_idle_ms=self._connections_max_idle_ms
        )
        try:
            await connection.connect()
        except (KafkaError, OSError, TimeoutError) as error:
            _report(f"Broker {node_id}", host, port, error)
            self._refresh()
            return None
        self._conns[node_id, group] = connection
        return connection

    async def send(self, node_id: Any, request: Any, **group: Any) -> Any:
        """Send a request. Raise OtherCluster."""
        if self._other is not None:
            raise self._other
        send: Any = super().send
        return await send(node_id, request, **group)

    async def _ask_bootstrap_servers(self, request: MetadataRequest) -> Any:
        """Return the first response of a bootstrap server; None if none responds (K2)."""
        hosts = list(self.hosts)
        asking: set[asyncio.Future[Any]] = set()
        try:
            while hosts or asking:
                if hosts:
                    host, port, _family = hosts.pop()
                    asking.add(asyncio.ensure_future(self._ask(host, port, request)))
                limit = NEXT_SECONDS if hosts else None
                done, asking = await asyncio.wait(asking, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (answer := task.result()) is not None:
                        return answer
            return None
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, host: str, port: int, request: MetadataRequest) -> Any:
        """Return the response of one bootstrap server; None if it does not respond."""
        connection = self._connection(host, port)
        try:
            await connection.connect()
            answer = await connection.send(request)
        except (KafkaError, OSError, TimeoutError) as error:
            _report("Bootstrap server", host, port, error)
            return None
        finally:
            connection.close()
        if not answer.brokers:
            _log.warning("Bootstrap server at %s:%s names no brokers: have they started? Trying again", host, port)
            return None
        return answer

    def _connection(self, host: str, port: int, **keywords: Any) -> Any:
        create: Any = Connection  # the class has no types
        return create(
            host,
            port,
            **keywords,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
        )


vars(aiokafka.conn)["AIOKafkaConnection"] = Connection
for _module in (aiokafka.admin.client, aiokafka.consumer.consumer, aiokafka.producer.producer):
    vars(_module)["AIOKafkaClient"] = Client
AbstractTokenProvider.register(TokenFile)

AdminClient = aiokafka.admin.client.AIOKafkaAdminClient
Consumer = aiokafka.consumer.consumer.AIOKafkaConsumer
Producer = aiokafka.producer.producer.AIOKafkaProducer
"""aiokafka's clients with the connections of this module; the other modules import them from here."""
