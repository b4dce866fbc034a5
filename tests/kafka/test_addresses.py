"""Addresses that cannot be Kafka, or not as configured: the words for each, from the worker and from the tools."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.injector import injecting
from tests.kafka.ports import TLS, free_port, serving
from worker.local.kafka import LocalKafka
from worker.runtime.access import Unreachable, check_brokers
from worker.settings.model import Settings

CERTIFICATE = str(TLS / "certificate.pem")
SSL: dict[str, Any] = {"security_protocol": "SSL", "ssl_cafile": CERTIFICATE}
LOGIN: dict[str, Any] = {"sasl_username": "shop", "sasl_password": "hunter2"}
PROTOCOL = "SESSION_WORKER_SECURITY_PROTOCOL"


def problem(address: str, **given: Any) -> str:
    """Return what is wrong with an address, within 10 seconds."""
    began = time.monotonic()
    with pytest.raises(Unreachable) as raised:
        asyncio.run(check_brokers(Settings(brokers=address, **given)))
    assert time.monotonic() - began < 9
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("http", {}, "answers, but not as Kafka does (it speaks HTTP)"),
        ("http", SSL, "does not speak TLS and answers, but not as Kafka does (it speaks HTTP)"),
        ("https", {}, f"speaks TLS: is the listener SSL? Set {PROTOCOL}=SSL"),
        ("https", {"security_protocol": "SASL_PLAINTEXT", **LOGIN}, f"Set {PROTOCOL}=SASL_SSL"),
        ("https", SSL, "answers, but not as Kafka does (it speaks HTTP)"),
        ("echo", {}, "answers, but not as Kafka does (it sends b"),
        ("echo", SSL, "does not speak TLS and answers, but not as Kafka does"),
        ("silent", {}, "accepts the connection, but does not answer within 3 s: check SESSION_WORKER_BROKERS"),
        ("silent", SSL, "accepts the connection, but does not answer within 3 s: check SESSION_WORKER_BROKERS"),
        ("closing", {}, "closes each connection at once, which Kafka does not: check SESSION_WORKER_BROKERS"),
        ("closing", SSL, "does not speak TLS and closes each connection at once"),
    ],
)
def test_what_is_no_kafka_is_said_in_words(kind, given, words):
    with serving(kind) as port:
        said = problem(f"127.0.0.1:{port}", **given)
    assert said.startswith(f"127.0.0.1:{port} ")
    assert words in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_refused_connection_is_said_in_words(host):
    address = f"{host}:{free_port()}"
    assert problem(address).startswith(f"{address} refuses the connection: nothing listens there: check SESSION_WORKER")


def test_a_name_that_does_not_resolve_is_said_in_words():
    assert "the name nowhere.invalid does not resolve" in problem("nowhere.invalid:9092")


def test_each_of_several_addresses_is_named():
    first, second = free_port(), free_port()
    said = problem(f"127.0.0.1:{first},127.0.0.1:{second}")
    assert f"127.0.0.1:{first} refuses" in said
    assert f"; 127.0.0.1:{second} refuses" in said


def test_one_good_address_of_several_is_enough(kafka):
    began = time.monotonic()
    with serving("silent") as port:
        asyncio.run(check_brokers(Settings(brokers=f"127.0.0.1:{port},{kafka}")))
    assert time.monotonic() - began < 5, "it does not wait for the others"


def test_a_plaintext_listener_with_tls_configured_is_said_in_words(kafka):
    assert problem(kafka, **SSL) == (
        f"Kafka at {kafka} does not speak TLS: is the listener PLAINTEXT? Set {PROTOCOL}=PLAINTEXT"
    )
    assert problem(kafka, security_protocol="SASL_SSL", ssl_cafile=CERTIFICATE, **LOGIN).endswith(
        f"Set {PROTOCOL}=SASL_PLAINTEXT"
    )


@pytest.fixture(scope="module")
def listeners(tmp_path_factory):
    """Run a broker with TLS and one with logins for clients; yield their addresses."""
    folder: Path = tmp_path_factory.mktemp("listeners")
    both = folder / "both.pem"
    both.write_text((TLS / "key.pem").read_text("utf-8") + (TLS / "certificate.pem").read_text("utf-8"), "utf-8")
    mapped = "CLIENT:{},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_shop='hunter2';"
    tls = {
        "listener.security.protocol.map": mapped.format("SSL"),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(both),
        "ssl.key.password": "key-secret",
    }
    sasl = {
        "listener.security.protocol.map": mapped.format("SASL_PLAINTEXT"),
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": login,
    }
    with (
        LocalKafka(folder / "tls", properties=tls) as first,
        LocalKafka(folder / "sasl", properties=sasl) as second,
    ):
        yield first.bootstrap_servers, second.bootstrap_servers


def test_a_tls_listener_with_plaintext_configured_is_said_in_words(listeners):
    address, _ = listeners
    assert problem(address) == f"{address} speaks TLS: is the listener SSL? Set {PROTOCOL}=SSL"
    asyncio.run(check_brokers(Settings(brokers=address, **SSL)))


def test_a_listener_that_wants_a_login_is_said_in_words(listeners):
    _, address = listeners
    said = problem(address)
    assert said.startswith(f"Kafka at {address} closes the connection after the first request: does it want a login?")
    assert f"{PROTOCOL}=SASL_PLAINTEXT" in said
    asyncio.run(check_brokers(Settings(brokers=address, security_protocol="SASL_PLAINTEXT", **LOGIN)))


def test_advertised_listeners_that_cannot_be_reached_are_said_in_words(kafka):
    with injecting(kafka) as wire:
        wire.advertised = free_port()
        said = problem(wire.address)
    assert said.startswith(
        f"Kafka at {wire.address} names brokers that the worker cannot reach (127.0.0.1:{wire.advertised}"
    )
    assert "set advertised.listeners" in said


# ------------------------------------------------------------------------------------------------- the worker and tools


@pytest.mark.parametrize("kind", ["http", "silent", "closing"])
def test_run_says_what_is_wrong_in_10_s_and_starts_when_it_is_right(kafka, crew, kind):
    """The address is right as soon as Kafka listens there, here by a proxy."""

    async def scenario():
        it = crew(1)
        with serving(kind) as port:
            worker = it.start(brokers=f"127.0.0.1:{port}")
            said = await worker.says(f"127.0.0.1:{port} ", within_seconds=10)
        await _pass_on(kafka, port, worker)
        return said, await worker.stop(), worker.said()

    said, status, lines = asyncio.run(scenario())
    assert said.endswith("Trying again")
    assert "SESSION_WORKER_BROKERS" in said
    assert status == 0
    assert "Traceback" not in "".join(lines)


async def _pass_on(kafka, port, worker):
    """Connect a port to Kafka until the worker has opened its lanes."""
    pumps = set()

    async def _pump(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def _connect(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", int(kafka.rpartition(":")[2]))
        pumps.update({asyncio.ensure_future(_pump(reader, back)), asyncio.ensure_future(_pump(there, writer))})

    server = await asyncio.start_server(_connect, "127.0.0.1", port)
    await worker.says("Opened")
    server.close()
    for pump in pumps:
        pump.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


@pytest.mark.parametrize("command", [("send", "-"), ("dump", "updates"), ("tail",)])
@pytest.mark.parametrize("kind", ["http", "https", "silent", "closing"])
def test_a_tool_fails_with_the_same_words_in_one_line(kind, command, monkeypatch):
    with serving(kind) as port:
        address = f"127.0.0.1:{port}"
        said = problem(address)
        monkeypatch.setenv("SESSION_WORKER_BROKERS", address)
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "worker", *command],
            input="",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert time.monotonic() - began < 10
    assert (ran.returncode, ran.stderr) == (1, f"Error: {said}\n")
