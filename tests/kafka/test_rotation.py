"""Passwords, tokens and certificates change in their files while a worker runs, and the old ones are withdrawn (K4, K5)."""

import asyncio
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from aiokafka.errors import SaslAuthenticationFailed

from tests.kafka.rotation import LISTENERS, SCRAM, Certificates, alter_scram, scram_login
from tests.kafka.test_access import PASSWORD, USER
from tests.kafka.test_token import token
from tests.kafka.workers import Crew, update
from worker.kafka import connection
from worker.kafka.connection import REFUSED_SECONDS
from worker.local.kafka import LocalKafka

NEXT = "next-" + PASSWORD
SASL = {"listener.security.protocol.map": LISTENERS.format("SASL_PLAINTEXT")}
PLAIN = {
    "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    ),
}


@contextmanager
def logged_in(folder, mechanism):
    """Run a Kafka that wants a login, and a crew whose password is in a file."""
    properties, scram = (SCRAM | SASL, [scram_login(USER, PASSWORD)]) if mechanism != "PLAIN" else (PLAIN | SASL, [])
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
        alter_scram(kafka.internal_servers, USER, NEXT)
    kafka.stop(0)
    kafka.start(0)


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


@pytest.mark.parametrize(("pause_seconds", "ends"), [(30, True), (3_600, False)])
def test_refusals_end_a_client_only_if_they_follow_each_other(monkeypatch, pause_seconds, ends):
    """An address that refused a client at one rotation is perhaps asked for the next time at the next rotation (K5)."""
    refusals, now = connection._Refusals(), 1_000.0
    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(4):
        refusals.add("broker:9092", SaslAuthenticationFailed())
        now += pause_seconds
    assert bool([*refusals.lasting()]) is ends


def test_worker_uses_the_next_certificates_of_its_files(tmp_path):
    """Another authority signs both sides' certificates, and nobody trusts the first one any more."""
    certificates = Certificates(tmp_path)
    properties = {"listener.security.protocol.map": LISTENERS.format("SSL"), **certificates.properties()}
    settings = {"security_protocol": "SSL", **certificates.settings()}

    async def scenario():
        with (
            LocalKafka(tmp_path / "kafka", properties=properties) as kafka,
            Crew(kafka.internal_servers, tmp_path, 1, **settings, brokers=kafka.bootstrap_servers) as crew,
        ):
            worker = await crew.open()
            papers = certificates.issue()

            async def change():
                certificates.put(papers, "broker", "trusted")
                await asyncio.to_thread(kafka.stop, 0)
                await asyncio.to_thread(kafka.start, 0)
                await worker.says("the login or a certificate was refused")
                certificates.files["ca"].unlink()
                await worker.says("SESSION_WORKER_SSL_CAFILE: cannot be loaded")
                certificates.put(papers, "ca")
                await worker.says("ALERT")  # the broker does not trust the worker yet
                certificates.put(papers, "certificate", "key")

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
