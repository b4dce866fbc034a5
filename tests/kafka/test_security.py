"""A Kafka that wants a certificate and a login from the worker, and shows its own."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from tests.kafka.topics import own
from worker.local.kafka import LocalKafka
from worker.runtime.topics import prepare
from worker.settings.model import Settings

TLS = Path(__file__).parents[1] / "tls"
CERTIFICATE, KEY = str(TLS / "certificate.pem"), str(TLS / "key.pem")


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """The address of a broker whose clients' listener speaks SASL over TLS."""
    folder = tmp_path_factory.mktemp("secured")
    both = folder / "both.pem"
    both.write_text(Path(KEY).read_text("utf-8") + Path(CERTIFICATE).read_text("utf-8"), "utf-8")
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_shop='hunter2';"
    properties = {
        "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": login,
        "listener.name.client.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(both),
        "ssl.key.password": "key-secret",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": CERTIFICATE,
    }
    with LocalKafka(folder / "kafka", properties=properties) as cluster:
        yield cluster.bootstrap_servers


@pytest.fixture
def settings(secured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole: dict[str, Any] = {
        "brokers": secured,
        "updates_topic": own("updates"),
        "security_protocol": "SASL_SSL",
        "sasl_username": "shop",
        "sasl_password": "hunter2",
        "ssl_cafile": CERTIFICATE,
        "ssl_certfile": CERTIFICATE,
        "ssl_keyfile": KEY,
        "ssl_password": "key-secret",
    }
    return lambda **given: Settings(**{**whole, **given})


def test_it_lets_in_who_has_both(settings):
    assert asyncio.run(prepare(settings())).updates == settings().updates_topic


@pytest.mark.parametrize(
    "wrong",
    [
        {"sasl_password": "hunter3"},
        {"ssl_cafile": None},
        {"ssl_certfile": None, "ssl_keyfile": None, "ssl_password": None},
        {"security_protocol": "SSL", "sasl_username": None, "sasl_password": None},
    ],
    ids=["wrong password", "broker not believed", "no certificate", "no login"],
)
def test_it_keeps_out_who_has_not_and_no_secret_is_told(settings, wrong, caplog):
    with pytest.raises(KafkaConnectionError) as told:
        asyncio.run(prepare(settings(**wrong)))
    assert "hunter" not in str(told.value) + caplog.text
