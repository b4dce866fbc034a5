"""A Kafka that lets in who brings a token: here one that nobody has signed, as brokers take them only for tests."""

import asyncio
import base64
import json
import os
import subprocess
import time

import pytest

from tests.kafka.topics import read
from tests.kafka.workers import Crew, update
from worker.local.kafka import LocalKafka
from worker.local.live import WORKER
from worker.settings.sources import PREFIX


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    properties = {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.client.oauthbearer.sasl.jaas.config": f'{module} unsecuredLoginStringClaim_sub="broker";',
    }
    with LocalKafka(tmp_path_factory.mktemp("token") / "kafka", properties=properties) as running:
        yield running


def token(lifetime_seconds: float) -> str:
    """Write an unsigned JWS that was issued a while ago."""
    now = time.time()
    claims = {"sub": "shop", "iat": now - 3_600, "exp": now + lifetime_seconds}
    parts = [base64.urlsafe_b64encode(json.dumps(it).encode()).decode().rstrip("=") for it in ({"alg": "none"}, claims)]
    return f"{'.'.join(parts)}."


@pytest.fixture
def crew(cluster, tmp_path):
    """A crew with a file for its token, which may not stand in its output, whatever the test does."""
    file = tmp_path / "token"
    file.write_text(f"{token(300)}\n", "ascii")
    settings = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER", "sasl_token_file": file}
    with Crew(cluster.internal_servers, tmp_path, 1, **{**settings, "brokers": cluster.bootstrap_servers}) as it:
        yield it
    said = "".join(log.read_text("utf-8") for log in tmp_path.glob("*.log"))
    assert said
    assert file.read_text("ascii").strip() not in said


def test_a_right_token_lets_a_worker_in(crew):
    async def scenario():
        worker = await crew.open()
        await crew.send([update("s-1")])
        await crew.settle()
        return await worker.stop(), [it.key for it in await read(crew.kafka, crew.topology.sessions)]

    assert asyncio.run(scenario()) == (0, [b"s-1"])


@pytest.mark.parametrize("wrong", [token(-600), "no-token-at-all"], ids=["expired", "none"])
def test_a_wrong_token_ends_the_worker_with_one_line_that_says_what_to_do(crew, tmp_path, wrong):
    (tmp_path / "token").write_text(wrong, "ascii")
    worker = crew.start()
    assert asyncio.run(worker.ends()) == 1
    errors = [line for line in worker.said() if line.startswith("Error: ")]
    assert errors == worker.said()[-1:]
    assert "refuses the token: put one into SESSION_WORKER_SASL_TOKEN_FILE" in errors[0]
    assert "Traceback" not in "".join(worker.said())


def test_the_settings_command_names_the_file_and_not_the_token(tmp_path):
    file = tmp_path / "token"
    file.write_text(token(300), "ascii")
    given = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER", "SASL_TOKEN_FILE": str(file)}
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {PREFIX + name: value for name, value in given.items()}
    run = subprocess.run((*WORKER[:-1], "settings"), cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert str(file) in run.stdout
    assert file.read_text("ascii") not in run.stdout + run.stderr
