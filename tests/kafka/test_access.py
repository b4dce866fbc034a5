"""Workers before a Kafka that lets in only who logs in over TLS both ways, and gives each only the rights it was granted."""

import asyncio
import datetime as dt
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.kafka.topics import administration, read
from tests.kafka.workers import Crew, update
from worker.kafka.producer import TransactionRejected
from worker.local.kafka import LocalKafka
from worker.local.live import WORKER
from worker.pipeline.partitioner import partition_of
from worker.runtime import process
from worker.runtime.access import AccessDenied
from worker.runtime.topics import WrongTopics, prepare
from worker.settings.model import Settings
from worker.settings.sources import PREFIX
from worker.signals import Ending

USER, PASSWORD, WRONG, KEY_PASSWORD = "shop", "correct-horse", "battery-staple", "key-in-a-jar"
SECRETS = PASSWORD, WRONG, KEY_PASSWORD

TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5
READ, WRITE, DELETE, DESCRIBE_CONFIGS = 3, 4, 6, 10
LITERAL, PREFIXED, ALLOW = 3, 4, 3

RIGHTS = {
    "updates": (READ, DESCRIBE_CONFIGS),
    "rekeyed": (READ, WRITE, DELETE, DESCRIBE_CONFIGS),
    "claims": (READ, WRITE, DELETE, DESCRIBE_CONFIGS),
    "verdicts": (READ, WRITE, DELETE, DESCRIBE_CONFIGS),
    "sessions": (READ, WRITE, DESCRIBE_CONFIGS),
    "first_sessions": (READ, WRITE, DESCRIBE_CONFIGS),
    "rejections": (WRITE, DESCRIBE_CONFIGS),
    "dry_runs": (WRITE, DESCRIBE_CONFIGS),
}


class Right(NamedTuple):
    """What the worker is allowed: an operation on a resource."""

    kind: int
    name: str
    pattern: int
    operation: int

    def binding(self) -> tuple[Any, ...]:
        return *self[:3], f"User:{USER}", "*", self.operation, ALLOW


class Papers(NamedTuple):
    """A certificate and its key, for the worker and for a broker."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """A CA in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *, expired: bool = False) -> Papers:
        """Issue a certificate for this machine, with a key that a password guards."""
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        issued = self._ca.issue_cert("127.0.0.1", common_name=name, not_after=yesterday if expired else None)
        (chain,) = issued.cert_chain_pems
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(KEY_PASSWORD.encode()))
        papers = Papers(*(self._folder / f"{name}-{part}.pem" for part in Papers._fields))
        papers.certificate.write_bytes(chain.bytes())
        papers.key.write_bytes(locked)
        papers.both.write_bytes(locked + chain.bytes())
        return papers


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@contextmanager
def guarded(folder: Path, authority: Authority, papers: Papers) -> Iterator[LocalKafka]:
    """A broker whose clients' listener wants both; the one between brokers is the super user's, to prepare and look."""
    properties = {
        "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.client.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(papers.both),
        "ssl.key.password": KEY_PASSWORD,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    login = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
    with LocalKafka(folder, properties=properties, scram=[login]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(authority, tmp_path_factory):
    with guarded(tmp_path_factory.mktemp("guarded") / "kafka", authority, authority.issue("broker")) as running:
        yield running


@pytest.fixture
def login(cluster, authority):
    """Return the settings of a worker that logs in."""
    papers = authority.issue("worker")
    return {
        "brokers": cluster.bootstrap_servers,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": USER,
        "sasl_password": PASSWORD,
        "ssl_cafile": authority.file,
        "ssl_certfile": papers.certificate,
        "ssl_keyfile": papers.key,
        "ssl_password": KEY_PASSWORD,
    }


@pytest.fixture
def crew(cluster, login, tmp_path):
    """A crew that logs in, has no rights yet, and in whose output no secret may stand, whatever the test does."""
    with Crew(cluster.internal_servers, tmp_path, 2, **login) as it:
        yield it
    said = [log.read_text("utf-8") for log in tmp_path.glob("*.log")]
    assert len(said) == len(it.workers) > 0
    assert [secret for secret in SECRETS if secret in "".join(said)] == []


def least(crew: Crew) -> list[Right]:
    """All that a worker needs where its topics are there, as the README lists it."""
    names = crew.topology.named()
    topics = [Right(TOPIC, names[field], LITERAL, right) for field, rights in RIGHTS.items() for right in rights]
    return [
        *topics,
        Right(GROUP, crew.name, LITERAL, READ),
        Right(TRANSACTIONAL_ID, f"{crew.name}-", PREFIXED, WRITE),
    ]


async def grant(crew: Crew, rights: list[Right]) -> None:
    async with administration(crew.kafka) as admin:
        for right in rights:
            answer: Any = await admin._send_request(CreateAclsRequest(*right.binding()))
            assert [row[0] for row in answer.creation_responses] == [0]


async def revoke(crew: Crew, right: Right) -> None:
    async with administration(crew.kafka) as admin:
        answer: Any = await admin._send_request(DeleteAclsRequest(*right.binding()))
        ((code, _message, matching),) = answer.filter_responses
        assert (code, len(matching)) == (0, 1)


async def create_topics(crew: Crew) -> None:
    """Create the topics as the super user, as an operator does for a worker that may not."""
    names: dict[str, Any] = {f"{field}_topic": name for field, name in crew.topology.named().items()}
    await prepare(Settings(brokers=crew.kafka, partitions=2, **names))


def test_with_exactly_the_least_rights_records_are_processed(crew):
    async def scenario():
        await create_topics(crew)
        await grant(crew, least(crew))
        worker = await crew.open()
        await crew.send([
            update("s-1", profileId="p-1"),
            update("s-2", state="nonsense"),
        ])  # fmt: skip
        await crew.settle()
        snapshots = await read(crew.kafka, crew.topology.sessions)
        rejections = await read(crew.kafka, crew.topology.rejections)
        return await worker.stop(), [it.key for it in snapshots], [it.key for it in rejections]

    assert asyncio.run(scenario()) == (0, [b"s-1"], [b"s-2"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        pytest.param(
            {"sasl_password": WRONG},
            "refuses the login: check SESSION_WORKER_SASL_USERNAME",
            marks=pytest.mark.smoke,
        ),
        ({"sasl_mechanism": "PLAIN"}, "set SESSION_WORKER_SASL_MECHANISM to one that it has"),
        ({"ssl_cafile": "other"}, "name the CA that signed it in SESSION_WORKER_SSL_CAFILE"),
        ({"ssl_certfile": "expired"}, "put one into SESSION_WORKER_SSL_CERTFILE that is valid"),
        ({"ssl_certfile": "foreign"}, "put one into SESSION_WORKER_SSL_CERTFILE that is valid"),
        ({"ssl_certfile": ""}, "put one into SESSION_WORKER_SSL_CERTFILE that is valid"),
    ],
    ids=["wrong password", "other mechanism", "unknown CA", "own expired", "own unknown", "none of its own"],
)
def test_who_is_not_let_in_ends_with_one_line_that_says_what_to_do(crew, authority, tmp_path, wrong, told):
    other = Authority(tmp_path / "other")
    match wrong:
        case {"ssl_cafile": _}:
            wrong = {"ssl_cafile": other.file}
        case {"ssl_certfile": kind}:
            papers = authority.issue("late", expired=True) if kind == "expired" else other.issue("stranger")
            wrong = {"ssl_certfile": papers.certificate, "ssl_keyfile": papers.key}
            if not kind:
                wrong = {}
                for name in ("ssl_certfile", "ssl_keyfile", "ssl_password"):
                    del crew._settings[name]
    worker = crew.start(**wrong)
    assert asyncio.run(worker.ends()) == 1
    errors = [line for line in worker.said() if line.startswith("Error: ")]
    assert errors == worker.said()[-1:]
    assert told in errors[0]
    assert "Traceback" not in "".join(worker.said())


def test_a_broker_whose_certificate_has_expired_ends_the_worker(crew, authority, tmp_path):
    with guarded(tmp_path / "late", authority, authority.issue("late", expired=True)) as late:
        worker = crew.start(brokers=late.bootstrap_servers)
        assert asyncio.run(worker.ends()) == 1
    assert worker.said()[-1].endswith("shows a certificate that has expired: give that broker a new one")


def _one_each() -> list[tuple[str, int]]:
    """Each right that the worker cannot begin without, by the field of its topic, or the kind of what it is of."""
    topics = [(field, right) for field, rights in RIGHTS.items() for right in rights if right != DELETE]
    return [*topics, ("group", READ), ("transactional id", WRITE)]


def _named(crew: Crew, field: str) -> str:
    return {"group": crew.name, "transactional id": f"{crew.name}-"}.get(field) or crew.topology.named()[field]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("field", "operation"), _one_each())
def test_without_any_one_right_the_worker_ends_and_says_what_is_missing(
    cluster, login, tmp_path, field, operation, caplog
):
    """The worker runs in the process of the test: each of these cases would import it again."""

    async def prepare_all_but_one(crew):
        await create_topics(crew)
        missing = (_named(crew, field), operation)
        await grant(crew, [right for right in least(crew) if (right.name, right.operation) != missing])
        await crew.send([
            update("s-1", profileId="p-1"),
            update("s-2", state="nonsense"),
            update("stray", partition=1 - partition_of(b"stray", 2)),
        ])  # fmt: skip

    caplog.set_level("INFO")
    crew = Crew(cluster.internal_servers, tmp_path, 2, **login)
    asyncio.run(prepare_all_but_one(crew))
    with pytest.raises((AccessDenied, TransactionRejected, WrongTopics), match="grant") as ended:
        process.run(crew.settings(), Ending())
    assert _named(crew, field) in str(ended.value)
    assert [secret for secret in SECRETS if secret in str(ended.value) + caplog.text] == []


@pytest.mark.parametrize("field", ["updates", "sessions", "group", "transactional id"])
def test_a_right_taken_away_underway_ends_the_worker(crew, field):
    async def scenario():
        await create_topics(crew)
        await grant(crew, least(crew))
        worker = await crew.open()
        await crew.send([update("s-1")])
        await crew.settle()
        operation = READ if field in {"updates", "group"} else WRITE
        (right,) = [it for it in least(crew) if (it.name, it.operation) == (_named(crew, field), operation)]
        await revoke(crew, right)
        await crew.send([update("s-2")])
        return await worker.ends(), worker.said()[-1]

    status, last = asyncio.run(scenario())
    assert status == 1
    assert _named(crew, field) in last
    assert "grant" in last


def test_the_settings_command_shows_no_secret(tmp_path, authority):
    papers = authority.issue("worker")
    given = {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_USERNAME": USER,
        "SASL_PASSWORD": PASSWORD,
        "SSL_CAFILE": str(authority.file),
        "SSL_CERTFILE": str(papers.certificate),
        "SSL_KEYFILE": str(papers.key),
        "SSL_PASSWORD": KEY_PASSWORD,
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {PREFIX + name: value for name, value in given.items()}
    command = (*WORKER[:-1], "settings")
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "**********" in run.stdout
    assert [secret for secret in SECRETS if secret in run.stdout + run.stderr] == []
