"""Passwords, tokens and certificates change in their files while a worker runs, and the old ones are withdrawn (K4, K5)."""

import asyncio
import hashlib
import shutil
import socket
import struct
import time
from contextlib import contextmanager

import pytest

from tests.kafka.test_access import KEY_PASSWORD, PASSWORD, USER, Authority
from tests.kafka.test_token import token
from tests.kafka.workers import Crew, update
from worker.kafka.connection import REFUSED_SECONDS
from worker.local.kafka import LocalKafka

NEXT = "next-" + PASSWORD
LISTENERS = "CLIENT:{},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
SCRAM = {
    "listener.security.protocol.map": LISTENERS.format("SASL_PLAINTEXT"),
    "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
    "listener.name.client.scram-sha-512.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
}
PLAIN = {
    "listener.security.protocol.map": LISTENERS.format("SASL_PLAINTEXT"),
    "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    ),
}


@contextmanager
def logged_in(folder, mechanism):
    """Run a Kafka that wants a login, and a crew whose password is in a file."""
    properties, scram = (
        (SCRAM, [f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"]) if mechanism != "PLAIN" else (PLAIN, [])
    )
    file = folder / "password"
    file.write_text(PASSWORD + "\n", "utf-8")
    settings = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": USER,
        "sasl_password_file": file,
    }
    with (
        LocalKafka(folder / "kafka", properties=properties, scram=scram) as kafka,
        Crew(kafka.internal_servers, folder, 1, **settings, brokers=kafka.bootstrap_servers) as crew,
    ):
        yield kafka, crew, file
    said = "".join(log.read_text("utf-8") for log in folder.glob("*.log"))
    assert said
    assert PASSWORD not in said


def withdraw(kafka, mechanism):
    """Give the user the next password, and end all connections."""
    broker = kafka._brokers[0]
    if mechanism == "PLAIN":
        file = broker._folder / "server.properties"
        file.write_text(file.read_text("utf-8").replace(f'"{PASSWORD}"', f'"{NEXT}"'), "utf-8")
    else:
        _alter_scram(kafka.internal_servers)
    kafka.stop(0)
    kafka.start(0)


def _alter_scram(address):
    """Send an AlterUserScramCredentials request, which aiokafka does not have."""
    salt = b"grain"
    salted = hashlib.pbkdf2_hmac("sha512", NEXT.encode(), salt, 4096)
    upsertion = _bytes(USER.encode()) + struct.pack(">bi", 2, 4096) + _bytes(salt) + _bytes(salted) + b"\0"
    request = struct.pack(">hhih", 51, 0, 7, -1) + b"\0" + b"\1" + b"\2" + upsertion + b"\0"
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answers:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = answers.read(*struct.unpack(">i", answers.read(4)))
    at = 4 + 1 + 4 + 1 + 1 + len(USER)  # correlation id, tags, throttle time, number of results, user
    assert struct.unpack_from(">h", answer, at) == (0,)


def _bytes(value):
    """Encode bytes with their length in front, as Kafka's compact type."""
    return bytes([len(value) + 1]) + value


async def goes_on(crew, worker, change):
    """Process a record; *change* what is to be changed; process another one with the same worker."""
    await crew.send([update("s-1")])
    await crew.settle()
    await change()
    await crew.send([update("s-2")])
    await crew.settle()
    assert worker.status is None
    return await worker.stop()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_worker_logs_in_with_the_next_password_of_its_file(tmp_path, mechanism):
    """The worker is refused for a while, since the file changes after the broker."""

    async def scenario():
        with logged_in(tmp_path, mechanism) as (kafka, crew, file):
            worker = await crew.open()

            async def change():
                await asyncio.to_thread(withdraw, kafka, mechanism)
                await worker.says("the login or a certificate was refused")
                file.write_text(NEXT + "\n", "utf-8")

            return await goes_on(crew, worker, change)

    assert asyncio.run(scenario()) == 0


def test_login_that_is_refused_for_a_minute_exits_1_with_remedy(tmp_path):
    async def scenario():
        with logged_in(tmp_path, "SCRAM-SHA-512") as (kafka, crew, _file):
            worker = await crew.open()
            await asyncio.to_thread(withdraw, kafka, "SCRAM-SHA-512")
            began = time.monotonic()
            status = await worker.ends(REFUSED_SECONDS + 60)
            return status, time.monotonic() - began, worker.said()

    status, seconds, said = asyncio.run(scenario())
    assert status == 1
    assert seconds > REFUSED_SECONDS - 10
    assert "refuses the login: check SESSION_WORKER_SASL_USERNAME" in said[-1]
    assert "SESSION_WORKER_SASL_PASSWORD_FILE" in said[-1]
    assert "for a minute" in said[-1]


def test_worker_uses_the_next_certificates_of_its_files(tmp_path):
    """Another authority signs both sides' certificates, and nobody trusts the first one any more."""
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "certificate", "key", "broker", "trusted")}

    def issue(authority):
        worker, broker = authority.issue("worker"), authority.issue("broker")
        sources = authority.file, worker.certificate, worker.key, broker.both, authority.file
        return dict(zip(files, sources, strict=True))

    def put(papers, *names):
        for name in names:
            shutil.copy(papers[name], files[name])

    put(issue(first), *files)
    properties = {
        "listener.security.protocol.map": LISTENERS.format("SSL"),
        "listener.name.client.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files["broker"]),
        "ssl.key.password": KEY_PASSWORD,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files["trusted"]),
    }
    settings = {
        "security_protocol": "SSL",
        "ssl_cafile": files["ca"],
        "ssl_certfile": files["certificate"],
        "ssl_keyfile": files["key"],
        "ssl_password": KEY_PASSWORD,
    }

    async def scenario():
        with (
            LocalKafka(tmp_path / "kafka", properties=properties) as kafka,
            Crew(kafka.internal_servers, tmp_path, 1, **settings, brokers=kafka.bootstrap_servers) as crew,
        ):
            worker = await crew.open()
            papers = issue(second)

            async def change():
                put(papers, "broker", "trusted")
                await asyncio.to_thread(kafka.stop, 0)
                await asyncio.to_thread(kafka.start, 0)
                await worker.says("the login or a certificate was refused")
                put(papers, "ca")
                await worker.says("ALERT")  # the broker does not trust the worker yet
                put(papers, "certificate", "key")

            return await goes_on(crew, worker, change)

    assert asyncio.run(scenario()) == 0


def test_worker_logs_in_with_the_next_token_of_its_file(tmp_path):
    module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    properties = {
        "listener.security.protocol.map": LISTENERS.format("SASL_PLAINTEXT"),
        "listener.name.client.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.client.oauthbearer.sasl.jaas.config": f'{module} unsecuredLoginStringClaim_sub="broker";',
    }
    file = tmp_path / "token"
    file.write_text(token(300), "ascii")
    settings = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER", "sasl_token_file": file}

    async def scenario():
        with (
            LocalKafka(tmp_path / "kafka", properties=properties) as kafka,
            Crew(kafka.internal_servers, tmp_path, 1, **settings, brokers=kafka.bootstrap_servers) as crew,
        ):
            worker = await crew.open()

            async def change():
                file.write_text(token(-300), "ascii")
                await asyncio.to_thread(kafka.stop, 0)
                await asyncio.to_thread(kafka.start, 0)
                await worker.says("the login or a certificate was refused")
                file.write_text(token(300), "ascii")

            return await goes_on(crew, worker, change)

    assert asyncio.run(scenario()) == 0
