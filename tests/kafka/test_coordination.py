"""A Kafka client that cannot go on: what the worker retries, and what ends it (refusals.py, R1 to R4; driver.py, D9)."""

import asyncio
from types import SimpleNamespace

import pytest

from tests.kafka.faults import member
from tests.kafka.injector import injecting
from tests.kafka.inside import crashed, opened, running, settings_for
from tests.kafka.topics import create
from tests.kafka.workers import Crew, update
from worker.kafka.protocol import Code
from worker.kafka.responses import Api, ClientEnded, Outcome, Watch, judge, remedy
from worker.local.kafka import LocalKafka

GROUP_APIS = Api.FIND_COORDINATOR, Api.JOIN_GROUP, Api.SYNC_GROUP, Api.HEARTBEAT

RETRIED = {
    "LEADER_NOT_AVAILABLE", "NOT_LEADER_OR_FOLLOWER", "REQUEST_TIMED_OUT", "BROKER_NOT_AVAILABLE",
    "REPLICA_NOT_AVAILABLE", "NETWORK_EXCEPTION", "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "NOT_CONTROLLER",
    "CONCURRENT_TRANSACTIONS", "KAFKA_STORAGE_ERROR", "LISTENER_NOT_FOUND", "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "UNSTABLE_OFFSET_COMMIT", "THROTTLING_QUOTA_EXCEEDED",
}  # fmt: skip
"""By Kafka's own table; for every request."""

OF_ONE_API = {
    (Api.JOIN_GROUP, "MEMBER_ID_REQUIRED"): Outcome.HANDLED,
    (Api.JOIN_GROUP, "UNKNOWN_MEMBER_ID"): Outcome.HANDLED,
    (Api.JOIN_GROUP, "REBALANCE_IN_PROGRESS"): Outcome.RETRY,
    (Api.SYNC_GROUP, "UNKNOWN_MEMBER_ID"): Outcome.HANDLED,
    (Api.SYNC_GROUP, "ILLEGAL_GENERATION"): Outcome.HANDLED,
    (Api.SYNC_GROUP, "REBALANCE_IN_PROGRESS"): Outcome.HANDLED,
    (Api.HEARTBEAT, "UNKNOWN_MEMBER_ID"): Outcome.HANDLED,
    (Api.HEARTBEAT, "ILLEGAL_GENERATION"): Outcome.HANDLED,
    (Api.HEARTBEAT, "REBALANCE_IN_PROGRESS"): Outcome.HANDLED,
    (Api.OFFSET_FETCH, "UNKNOWN_TOPIC_OR_PARTITION"): Outcome.HANDLED,
    (Api.FETCH, "OFFSET_OUT_OF_RANGE"): Outcome.HANDLED,
    (Api.FETCH, "UNKNOWN_SERVER_ERROR"): Outcome.RETRY,
    (Api.FETCH, "UNKNOWN_TOPIC_ID"): Outcome.RETRY,
    (Api.FETCH, "INCONSISTENT_TOPIC_ID"): Outcome.RETRY,
    (Api.FETCH, "FETCH_SESSION_ID_NOT_FOUND"): Outcome.RETRY,
    (Api.FETCH, "INVALID_FETCH_SESSION_EPOCH"): Outcome.RETRY,
    (Api.FETCH, "FETCH_SESSION_TOPIC_ID_ERROR"): Outcome.RETRY,
}


@pytest.mark.smoke
@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize("code", [code for code in Code if code], ids=lambda code: code.name)
def test_each_code_of_each_request_is_retried_or_ends_the_worker(api, code):
    expected = Outcome.RETRY if code.name in RETRIED | {"UNKNOWN_TOPIC_OR_PARTITION"} else Outcome.END
    assert judge(api, code) is OF_ONE_API.get((api, code.name), expected)


@pytest.mark.smoke
@pytest.mark.parametrize("api", Api)
def test_a_code_that_nobody_knows_ends_the_worker(api):
    assert judge(api, 999) is Outcome.END
    assert "log of the broker" in remedy(999)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("code", "named"),
    [
        (Code.INCONSISTENT_GROUP_PROTOCOL, "SESSION_WORKER_APP_ID"),
        (Code.GROUP_ID_NOT_FOUND, "SESSION_WORKER_APP_ID"),
        (Code.INVALID_GROUP_ID, "SESSION_WORKER_APP_ID"),
        (Code.INVALID_SESSION_TIMEOUT, "SESSION_WORKER_SESSION_TIMEOUT_SECONDS"),
        (Code.GROUP_MAX_SIZE_REACHED, "group.max.size"),
        (Code.GROUP_AUTHORIZATION_FAILED, "grant"),
        (Code.TOPIC_AUTHORIZATION_FAILED, "grant"),
        (Code.FENCED_INSTANCE_ID, "group.instance.id"),
        (Code.UNSUPPORTED_VERSION, "SESSION_WORKER_BROKERS"),
    ],
)
def test_the_remedy_of_a_code_names_a_setting_or_an_action(code, named):
    assert named in remedy(code)


def watch(clock):
    """Make a watch over answers to heartbeats, one a step of the clock."""

    async def _send(_node, _request):
        return SimpleNamespace(error_code=clock.code)

    return Watch(_send, "shop", lambda: None, clock.ended.append)


@pytest.mark.smoke
def test_a_retried_code_is_logged_every_few_seconds_and_not_per_attempt(caplog):
    clock = SimpleNamespace(code=Code.COORDINATOR_NOT_AVAILABLE, ended=[])

    async def scenario():
        watching, loop = watch(clock), asyncio.get_running_loop()
        began = loop.time()
        attempts = 0
        while loop.time() - began < 6:
            with pytest.raises(Exception, match="COORDINATOR_NOT_AVAILABLE"):
                await watching.send(0, SimpleNamespace(API_KEY=Api.HEARTBEAT))
            attempts += 1
        clock.code = Code.NONE
        await watching.send(0, SimpleNamespace(API_KEY=Api.HEARTBEAT))
        return attempts

    caplog.set_level("INFO")
    assert 10 < asyncio.run(scenario()) < 40
    said = [record.getMessage() for record in caplog.records if record.name.startswith("worker")]
    assert [line.partition("; ")[0] for line in said] == [
        "Kafka returned an error for Heartbeat: group shop: COORDINATOR_NOT_AVAILABLE",
        "Kafka returned an error for Heartbeat: group shop: COORDINATOR_NOT_AVAILABLE",
        said[-1],
    ]
    assert said[-1].startswith("Heartbeat succeeded after")
    assert clock.ended == []


# --------------------------------------------------------------------------------------------- answers on the wire


@pytest.mark.parametrize("api", GROUP_APIS, ids=lambda api: api.title)
@pytest.mark.parametrize("code", [Code.INVALID_REQUEST, Code.UNKNOWN_SERVER_ERROR, 999])
def test_a_fatal_code_ends_the_worker_with_status_1_and_the_group(kafka, crew, api, code):
    async def scenario():
        with injecting(kafka) as wire:
            it = crew(1)
            wire.answer_with(api, code)
            worker = it.start(brokers=wire.address)
            return it.name, await worker.ends(), worker.said()[-1]

    group, status, last = asyncio.run(scenario())
    assert status == 1
    assert last.startswith("Error: ")
    assert group in last
    assert "log of the broker" in last


@pytest.mark.parametrize("api", GROUP_APIS, ids=lambda api: api.title)
@pytest.mark.parametrize("code", [Code.COORDINATOR_LOAD_IN_PROGRESS, Code.REQUEST_TIMED_OUT, Code.NOT_COORDINATOR])
def test_a_retriable_code_is_logged_and_the_worker_recovers(kafka, crew, api, code):
    async def scenario():
        with injecting(kafka) as wire:
            it = crew(1)
            wire.answer_with(api, code)
            worker = it.start(brokers=wire.address, session_timeout_seconds=6)
            said = await worker.says(code.name)
            wire.answer_fairly()
            await worker.says("Ready:")
            await it.send([update("s-1")])
            await it.settle()
            return said, len([line for line in worker.said() if code.name in line]), await worker.stop()

    said, lines, status = asyncio.run(scenario())
    assert said
    assert lines < 5
    assert status == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.INVALID_REQUEST, "Error: Kafka refuses Fetch with {}/0: INVALID_REQUEST: "),
        (Code.TOPIC_AUTHORIZATION_FAILED, "Error: Kafka refuses Fetch with {}/0: TOPIC_AUTHORIZATION_FAILED: "),
        (Code.CORRUPT_MESSAGE, "Error: {}/0: the batch at offset 0 is corrupt on the broker"),
        (Code.UNSUPPORTED_COMPRESSION_TYPE, "Error: {}/0: the batch at offset 0 has a compression codec that"),
    ],
)
def test_a_fatal_code_of_a_partition_ends_the_worker_and_names_it(kafka, crew, code, words):
    async def scenario():
        with injecting(kafka) as wire:
            it = crew(1)
            wire.answer_partition_with(Api.FETCH, it.topology.updates, code)
            worker = it.start(brokers=wire.address)
            return it.topology.updates, await worker.ends(), worker.said()[-1]

    topic, status, last = asyncio.run(scenario())
    assert status == 1
    assert last.startswith(words.format(topic))


@pytest.mark.parametrize(
    "code", [Code.NOT_LEADER_OR_FOLLOWER, Code.KAFKA_STORAGE_ERROR, Code.UNSTABLE_OFFSET_COMMIT, -1]
)
def test_a_retriable_code_of_a_partition_is_logged_and_the_worker_recovers(kafka, crew, code):
    async def scenario():
        with injecting(kafka) as wire:
            it = crew(1)
            wire.answer_partition_with(Api.FETCH, it.topology.updates, code)
            worker = it.start(brokers=wire.address)
            await worker.says(
                f"Kafka returned an error for Fetch: {it.topology.updates}/0: {Code(code).name}; retrying"
            )
            wire.answer_fairly()
            await it.send([update("s-1")])
            await it.settle()
            return len(
                [line for line in worker.said() if "Kafka returned an error for Fetch" in line]
            ), await worker.stop()

    lines, status = asyncio.run(scenario())
    assert lines < 3
    assert status == 0


@pytest.mark.parametrize("code", [Code.INVALID_REQUEST, 999])
def test_a_fatal_code_of_a_whole_fetch_ends_the_worker(kafka, crew, code):
    async def scenario():
        with injecting(kafka) as wire:
            it = crew(1)
            wire.answer_with(Api.FETCH, code)
            worker = it.start(brokers=wire.address)
            return await worker.ends(), worker.said()[-1]

    status, last = asyncio.run(scenario())
    assert status == 1
    assert last.startswith("Error: Kafka refuses Fetch with ")


# ------------------------------------------------------------------------------------------------- a real broker refuses


def test_another_assignor_in_the_group_ends_the_worker_with_remedy(kafka, crew):
    """Somebody debugs with the group's name while the worker starts."""

    async def scenario():
        it = crew(1)
        await create(kafka, it.topology.updates)
        async with member(kafka, it.topology.updates, it.name):
            worker = it.start()
            status, last = await worker.ends(), worker.said()[-1]
        again = await it.open()
        return it.name, status, last, await again.stop()

    group, status, last, after = asyncio.run(scenario())
    assert status == 1
    assert last == (
        f"Error: Kafka refuses JoinGroup with group {group}: INCONSISTENT_GROUP_PROTOCOL: another member of the group uses "
        "another assignor or protocol, for example a debugging tool with the name of the group. Stop that member or change "
        "its group. To use another group for a new worker set SESSION_WORKER_APP_ID"
    )
    assert after == 0


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """Run a broker that takes one member a group, and session timeouts from 6 s, which is the default, to 8 s."""
    properties = {
        "group.max.size": "1",
        "group.min.session.timeout.ms": "6000",
        "group.max.session.timeout.ms": "8000",
    }
    with LocalKafka(tmp_path_factory.mktemp("strict") / "kafka", properties=properties) as running_kafka:
        yield running_kafka.bootstrap_servers


def test_a_full_group_ends_the_next_worker_with_remedy(strict, tmp_path):
    async def scenario():
        with Crew(strict, tmp_path, 1, session_timeout_seconds=6) as it:
            first = await it.open()
            second = it.start()
            status, last = await second.ends(), second.said()[-1]
            return it.name, status, last, await first.stop()

    group, status, last, other = asyncio.run(scenario())
    assert status == 1
    assert last.startswith(f"Error: Kafka refuses JoinGroup with group {group}: GROUP_MAX_SIZE_REACHED: ")
    assert "group.max.size" in last
    assert other == 0


@pytest.mark.parametrize("seconds", [5, 9])
def test_a_session_timeout_out_of_bounds_ends_the_worker_with_remedy(strict, tmp_path, seconds):
    async def scenario():
        with Crew(strict, tmp_path, 1, session_timeout_seconds=seconds) as it:
            worker = it.start()
            return it.name, await worker.ends(), worker.said()[-1]

    group, status, last = asyncio.run(scenario())
    assert status == 1
    assert last.startswith(f"Error: Kafka refuses JoinGroup with group {group}: INVALID_SESSION_TIMEOUT: ")
    assert "Set SESSION_WORKER_SESSION_TIMEOUT_SECONDS" in last


def test_worker_with_the_shortest_session_timeout_processes_records(crew):
    async def scenario():
        it = crew(1, session_timeout_seconds=1)
        worker = await it.open()
        await it.send([update("s-1")])
        await it.settle()
        return await worker.stop()

    assert asyncio.run(scenario()) == 0


# --------------------------------------------------------------------------------------------- a task of the client ends


def _client(app):
    return app.consumer._thread._consumer


TASKS = {
    "coordination": lambda client: client._coordinator._coordination_task,
    "fetching": lambda client: client._fetcher._fetch_task,
    "metadata": lambda client: client._client._sync_task,
}


async def _reason(kafka, break_client):
    """Break the client of a worker that has opened its lanes, in its own thread; return why the worker ends."""
    settings = settings_for(kafka)
    async with running(settings) as app:
        await opened(app)
        client = _client(app)
        app.consumer._thread.thread_loop.call_soon_threadsafe(break_client, client)
        return settings.app_id, await crashed(app)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_of_the_client_that_is_cancelled_ends_the_worker(kafka, name):
    group, reason = asyncio.run(_reason(kafka, lambda client: TASKS[name](client).cancel()))
    assert isinstance(reason, ClientEnded)
    assert f"group {group}" in str(reason)
    assert f"the task of its {name} " in str(reason)
    assert "SESSION_WORKER_APP_ID" in str(reason)


def _fail(client):
    def _raise(*_):
        raise LookupError("no such assignor")

    client._coordinator._lookup_assignor = _raise
    client._coordinator.request_rejoin()


def test_an_exception_in_the_coordination_ends_the_worker_with_the_cause(kafka):
    group, reason = asyncio.run(_reason(kafka, _fail))
    assert isinstance(reason, ClientEnded)
    assert f"group {group}" in str(reason)
    assert "no such assignor" in str(reason)


def _fail_to_fetch(client):
    def _raise(*_):
        raise LookupError("no such node")

    client._fetcher._get_actions_per_node = _raise


def test_an_exception_in_the_fetching_ends_the_worker_with_the_cause(kafka):
    group, reason = asyncio.run(_reason(kafka, _fail_to_fetch))
    assert isinstance(reason, ClientEnded)
    assert f"group {group}" in str(reason)
    assert "no such node" in str(reason)
