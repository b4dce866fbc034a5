"""The oldest Kafka that is supported and the newest, and one that is too old: start, crash, rolling restart."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kafka.account import flaws
from tests.kafka.topics import administration, configuration, create
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, Crew, simulated
from worker.kafka.versions import OLDEST_KAFKA
from worker.local.kafka import VERSION, LocalKafka
from worker.runtime.topics import WrongTopics, prepare
from worker.settings.model import Settings

OLDEST = f"{OLDEST_KAFKA}.2"
TOO_OLD = "2.8.2"
DAY = simulated(1_200, seed=19)
EVER = str((1 << 63) - 1)


@pytest.fixture(scope="module")
def oldest(tmp_path_factory) -> Iterator[str]:
    with LocalKafka(tmp_path_factory.mktemp("oldest"), version=OLDEST) as cluster:
        yield cluster.bootstrap_servers


@pytest.mark.parametrize("version", [OLDEST, VERSION])
def test_sigkill_and_rolling_restart_of_this_kafka_lose_nothing(tmp_path, version):
    with (
        LocalKafka(tmp_path / "kafka", brokers=3, version=version) as cluster,
        Crew(cluster.bootstrap_servers, tmp_path, session_timeout_seconds=SESSION_TIMEOUT_SECONDS) as crew,
    ):

        async def scenario():
            first, second = await crew.open(), crew.start()
            await second.says("Ready:")
            sending = asyncio.create_task(crew.send(DAY, rate=100))
            await first.says("Ready:", times=2)
            first.kill()
            for number in range(3):
                await asyncio.to_thread(cluster.stop, number)
                await asyncio.to_thread(cluster.start, number)
            crew.start()
            await sending
            assert second.status is None
            return await flaws(crew)

        assert asyncio.run(scenario()) == []


def test_topics_of_the_oldest_kafka_take_any_time(oldest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    topics: Any = {"v1_topic": "v1"}
    settings = Settings(brokers=oldest, partitions=1, **topics)
    names = asyncio.run(prepare(settings)).named()
    for field, name in names.items():
        found = asyncio.run(configuration(oldest, name))
        assert found["message.timestamp.difference.max.ms"] == EVER, field
        assert "message.timestamp.before.max.ms" not in found
        assert found["cleanup.policy"] == ("compact" if field in {"sessions", "first_sessions", "v1"} else "delete")


def test_older_limit_of_times_is_refused_with_the_command_that_lifts_it(oldest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    topics: Any = {"dry_runs_topic": "narrow"}
    settings = Settings(brokers=oldest, partitions=1, max_record_bytes=1, max_snapshot_bytes=1, **topics)
    asyncio.run(create(oldest, "narrow", partitions=1, message_timestamp_difference_max_ms="86400000"))
    with pytest.raises(WrongTopics) as refused:
        asyncio.run(prepare(settings))
    assert str(refused.value) == (
        "narrow has message.timestamp.difference.max.ms=86400000, but needs message.timestamp.difference.max.ms>="
        f"{EVER}: kafka-configs.sh --bootstrap-server {oldest} --alter --topic narrow "
        f"--add-config message.timestamp.difference.max.ms={EVER}"
    )


def test_what_the_oldest_kafka_refuses_to_create_is_named(oldest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    topics: Any = {"claims_topic": "too-many-replicas"}
    settings = Settings(brokers=oldest, partitions=1, replication_factor=3, **topics)
    with pytest.raises(WrongTopics, match="InvalidReplicationFactorError"):
        asyncio.run(prepare(settings))


def test_too_old_kafka_ends_the_worker_with_one_line(tmp_path):
    with (
        LocalKafka(tmp_path / "kafka", version=TOO_OLD) as cluster,
        Crew(cluster.bootstrap_servers, tmp_path) as crew,
    ):

        async def scenario():
            worker = crew.start()
            status = await worker.ends()
            async with administration(crew.kafka) as admin:
                return status, "\n".join(worker.said()), await admin.list_topics()

        status, said, topics = asyncio.run(scenario())
        assert (status, topics) == (1, [])
        assert said == (
            f"Error: Kafka at {cluster.bootstrap_servers} is too old: it does not support InitProducerId, AddPartitionsToTxn, "
            "AddOffsetsToTxn, EndTxn, TxnOffsetCommit. The worker needs Kafka 3.1 or newer: upgrade the brokers, or set "
            "SESSION_WORKER_BROKERS to newer ones"
        )
