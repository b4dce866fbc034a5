"""Describes why brokers cannot be reached or do not let the worker in; the worker and the tools use the same words.

aiokafka's client only says that it found no broker, and writes the reason, often an empty one, to its log. So each address
is asked before a client is: first what it speaks, then for the login, then for the other brokers. Each step has a limit,
and together they take less than 10 seconds, for all addresses at once.

W1. An address where Kafka answers as configured is enough.
W2. What a broker refuses for good, such as a login, is not tried again: AccessDenied. So is a broker that is too old.
W3. Everything else may pass: Unreachable. Its message says what answers there instead, and names the setting.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from worker.kafka.connection import Connection, Refusal, failure
from worker.kafka.credentials import UnusableFile
from worker.kafka.errors import DENIED, GRANT, BrokerError
from worker.kafka.responses import ClientEnded, remedy
from worker.kafka.versions import too_old
from worker.settings.model import Settings

T = TypeVar("T")

ANSWER_SECONDS: Final = 3
"""Upper bound in seconds for each step: to connect, to answer."""

_TRY_SECONDS: Final = 2
"""Upper bound in seconds for a try of another protocol."""
_CLOSE_SECONDS: Final = 1
_LOOK_SECONDS: Final = 1
"""Between two looks whether a login is refused."""
_NUMBER: Final = b"Sess"
"""The correlation id of the request that asks what an address speaks."""
_HELLO: Final = struct.pack(">ihh4sh", 10, 18, 0, _NUMBER, 0)
"""An ApiVersions request of version 0, from a client without a name, which every broker answers before a login."""
_ANSWER_BYTES: Final = 512
_HTTP: Final = b"HTTP/"
_PAGE: Final = b"GET / HTTP/1.0\r\n\r\n"
_TLS_ALERT: Final = b"TLS"
"""Stands for an answer that only a server with TLS gives."""
_NO_TLS: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "UNEXPECTED_EOF_WHILE_READING",
        "PACKET_LENGTH_TOO_LONG",
    }
)
"""Reasons of OpenSSL for an answer that is not TLS."""

_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL
_ALERT: Final = "_ALERT_"
"""In the reason of an SSLError: the other side has refused, and says why."""


class _NoConnection(OSError):
    """No connection within ANSWER_SECONDS."""


class AccessDenied(Exception):
    """A broker refuses the worker, or the worker the broker; the message says what to do, without any secret."""


class Unreachable(Exception):
    """No broker answers as Kafka does; the message says for each address what is wrong. It may pass."""


async def check_brokers(settings: Settings) -> None:
    """Return if a broker can be reached; raise AccessDenied when one refuses for good, else Unreachable."""
    asked = [asyncio.ensure_future(_problem(address.strip(), settings)) for address in settings.brokers.split(",")]
    try:
        for answered in asyncio.as_completed(asked):
            with suppress(AccessDenied):
                if await answered is None:
                    return
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise Unreachable("; ".join(str(task.result()) for task in asked))  # AccessDenied where that is the result


async def watched(working: Awaitable[T], settings: Settings) -> T:
    """Return what an awaitable returns; cancel it and raise what ends every client, once there is such an error.

    That is AccessDenied when a broker has refused the login for a minute, and OtherCluster.
    """
    task: Any = asyncio.current_task()

    async def watch() -> Exception:
        while (error := failure()) is None:  # noqa: ASYNC110 (clients of several threads report)
            await asyncio.sleep(_LOOK_SECONDS)
        task.cancel()
        if not isinstance(error, Refusal):
            return error
        return AccessDenied(f"Kafka at {error.address} {_told(error.cause, settings)}. It has done so for a minute")

    watching = asyncio.ensure_future(watch())
    try:
        return await working
    except asyncio.CancelledError:
        if watching.done():
            raise watching.result() from None
        raise
    finally:
        watching.cancel()


async def _problem(address: str, settings: Settings) -> str | None:
    """Return what is wrong with an address; raise AccessDenied when a broker there refuses for good."""
    host, _, port = address.rpartition(":")
    place = _Place(address, host.strip("[]"), int(port))
    try:
        context = settings.connection().get("ssl_context")
    except (UnusableFile, ValueError) as error:  # files were there when the settings were read, and may be replaced now
        raise AccessDenied(f"Kafka at {address} cannot be logged in to: {error}") from error
    answer: bytes | None
    try:
        answer = await _ask(place, context, _HELLO)
    except (OSError, TimeoutError) as error:
        if why := _told(error, settings):
            raise AccessDenied(f"Kafka at {address} {why}") from error
        if problem := _no_connection(place, error):
            return problem
        answer = None if isinstance(error, TimeoutError) else b""
    if answer is None or not _is_kafka(answer):
        return await _other_protocol(place, answer, settings)
    return await _refusal(place, settings)


async def _refusal(place: "_Place", settings: Settings) -> str | None:
    """Return what keeps the worker from using a broker that speaks as it should."""
    connection = {name: value for name, value in settings.connection().items() if name != "bootstrap_servers"}
    create: Any = Connection  # which has no types
    opened = create(place.host, place.port, request_timeout_ms=ANSWER_SECONDS * 1000, **connection)
    try:
        await opened.connect()
        if problem := too_old(opened.versions):
            raise AccessDenied(f"Kafka at {place.address} {problem}")
        brokers = (await opened.send(MetadataRequest([]))).brokers
    except (KafkaError, OSError, TimeoutError) as error:
        if why := _told(error, settings):
            raise AccessDenied(f"Kafka at {place.address} {why}") from error
        if isinstance(error, KafkaConnectionError) and not settings.security_protocol.startswith("SASL"):
            return (
                f"Kafka at {place.address} closes the connection after the first request: does it want a login? Set "
                f"SESSION_WORKER_SECURITY_PROTOCOL=SASL_{settings.security_protocol}, with SESSION_WORKER_SASL_USERNAME and SESSION_WORKER_SASL_PASSWORD"
            )
        return f"Kafka at {place.address} does not complete the login: {_words(error)}"
    finally:
        await asyncio.wait([opened.close()], timeout=_CLOSE_SECONDS)
    return await _unreachable_brokers(place, [_Place(f"{it[1]}:{it[2]}", it[1], it[2]) for it in brokers])


async def _unreachable_brokers(place: "_Place", brokers: "list[_Place]") -> str | None:
    """Return what is wrong when no connection to any of the brokers that an address names is possible."""
    if not brokers:
        return f"Kafka at {place.address} names no brokers: check that they have started and have joined the cluster"
    others = [broker for broker in brokers if broker[1:] != place[1:]]
    if len(others) < len(brokers) or not others:
        return None
    answers = await asyncio.gather(*(_ask(broker, None, b"") for broker in others), return_exceptions=True)
    problems = [_no_connection(at, it) for at, it in zip(others, answers, strict=True) if isinstance(it, OSError)]
    if len(problems) < len(others):
        return None
    return (
        f"Kafka at {place.address} names brokers that the worker cannot reach ({problems[0]}): set advertised.listeners "
        f"of the brokers to addresses that the worker's machine can reach"
    )


class _Place(NamedTuple):
    """An address, and its two parts."""

    address: str
    host: str
    port: int


async def _ask(place: _Place, context: ssl.SSLContext | None, request: bytes) -> bytes:
    """Connect, over TLS with a *context*, send a request if any, and return the first bytes of the answer.

    Raises TimeoutError when no answer comes, _NoConnection when no connection does; no bytes when it is closed.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(place.host, place.port)
    except TimeoutError as error:
        raise _NoConnection from error
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            if context is not None:
                await writer.start_tls(context, server_hostname=place.host, ssl_handshake_timeout=ANSWER_SECONDS)
            writer.write(request)
            return await reader.read(_ANSWER_BYTES) if request else b""
    finally:
        writer.transport.abort()


async def _tries(place: _Place, context: ssl.SSLContext | None, request: bytes) -> bytes | None:
    """Return the answer to a request that is only a try; None when there is none, no bytes when it is closed."""
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            return await _ask(place, context, request)
    except TimeoutError:
        return None
    except ssl.SSLError as error:
        return b"" if error.reason in _NO_TLS else _TLS_ALERT
    except OSError:
        return b""


def _no_connection(place: _Place, error: BaseException) -> str | None:
    """Return why there is no connection at all; None when there was one."""
    check = "check SESSION_WORKER_BROKERS, and that Kafka runs"
    match error:
        case socket.gaierror():
            return f"{place.address}: the name {place.host} does not resolve ({error.strerror}): {check}"
        case ConnectionRefusedError() | OSError(errno=None) if "Connect call failed" in str(error):
            return f"{place.address} refuses the connection: nothing listens there: {check}"
        case _NoConnection():
            return f"{place.address} cannot be reached: no answer within {ANSWER_SECONDS} s: {check}"
        case ConnectionError() | ssl.SSLError() | TimeoutError():
            return None
        case _:
            return f"{place.address} cannot be reached: {_words(error)}: {check}"


async def _other_protocol(place: _Place, answer: bytes | None, settings: Settings) -> str:
    """Return what an address speaks that does not answer as Kafka does with the configured protocol."""
    has_tls = settings.security_protocol.endswith("SSL")
    plain, over_tls, page = await asyncio.gather(
        _tries(place, None, _HELLO), _tries(place, _any_certificate(), _HELLO), _tries(place, None, _PAGE)
    )
    if has_tls and plain and _is_kafka(plain):
        other = settings.security_protocol.replace("SSL", "PLAINTEXT")
        return (
            f"Kafka at {place.address} does not speak TLS: is the listener PLAINTEXT? "
            f"Set SESSION_WORKER_SECURITY_PROTOCOL={other}"
        )
    if not has_tls and over_tls:
        other = settings.security_protocol.replace("PLAINTEXT", "SSL")
        return f"{place.address} speaks TLS: is the listener SSL? Set SESSION_WORKER_SECURITY_PROTOCOL={other}"
    check = "check SESSION_WORKER_BROKERS"
    also = "does not speak TLS and " if has_tls and not over_tls else ""
    if seen := answer or plain or page:
        speaks = "it speaks HTTP" if _HTTP in {seen[:5], (page or b"")[:5]} else f"it sends {seen[:16]!r}"
        return f"{place.address} {also}answers, but not as Kafka does ({speaks}): {check}"
    if answer is None and plain is None:
        return f"{place.address} accepts the connection, but does not answer within {ANSWER_SECONDS} s: {check}"
    return f"{place.address} {also}closes each connection at once, which Kafka does not: {check}"


def _is_kafka(answer: bytes) -> bool:
    """Return True if the bytes begin an answer to _HELLO: after a length comes the number of the request."""
    return answer[4:8] == _NUMBER


def _any_certificate() -> ssl.SSLContext:
    """Return a context that shows whether TLS is spoken, whatever the certificate; nothing is sent over it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: BaseException) -> str:
    """Return an error in words, also one that has none."""
    return str(error) or type(error).__name__


def explained(error: Exception) -> Exception:
    """Return the error of a broker's refusal with what to do about it, and any other error as it is."""
    if isinstance(error, BrokerError) and error.code in DENIED:
        return AccessDenied(f"{error}: {GRANT}")
    if type(error) is BrokerError:
        return ClientEnded(f"{error}: {remedy(error.code)}")
    if isinstance(error, KafkaError) and getattr(error, "errno", None) in DENIED:
        names = ", ".join(sorted(chain.from_iterable([it] if isinstance(it, str) else it for it in error.args)))
        return AccessDenied(f"{names}: {type(error).__name__}: {GRANT}")
    return error


def _told(error: BaseException, settings: Settings) -> str:
    """Return what a broker refused and what to do; None if the broker may let the worker in."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case SaslAuthenticationFailed():
                if settings.sasl_mechanism == "OAUTHBEARER":
                    return "refuses the token: put one into SESSION_WORKER_SASL_TOKEN_FILE that is valid and has not expired"
                secret = "in SESSION_WORKER_SASL_PASSWORD_FILE" if settings.sasl_password_file else "that goes with it"
                return f"refuses the login: check SESSION_WORKER_SASL_USERNAME and the secret {secret}"
            case UnsupportedSaslMechanismError() | IllegalSaslStateError():
                return "does not know the way to log in: set SESSION_WORKER_SASL_MECHANISM to one that it has"
            case ssl.SSLCertVerificationError() if cause.verify_code == _EXPIRED:
                return "shows a certificate that has expired: give that broker a new one"
            case ssl.SSLCertVerificationError():
                what = f"shows a certificate that is not trusted ({cause.verify_message})"
                return f"{what}: name the CA that signed it in SESSION_WORKER_SSL_CAFILE, or give that broker another"
            case UnusableFile():
                return f"cannot be logged in to: {cause}"
            case ssl.SSLError() if _ALERT in (cause.reason or ""):
                reason = (cause.reason or "").partition(_ALERT)[2].replace("_", " ").lower()
                what = f"refuses the worker's certificate ({reason})"
                return f"{what}: put one into SESSION_WORKER_SSL_CERTFILE that is valid and that the brokers trust"
        cause = cause.__cause__
    return ""
