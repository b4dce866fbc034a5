"""The transactional.id of a worker: one for each worker, kept over restarts; N1 to N4 are instance.py's rules."""

import asyncio
from contextlib import ExitStack
from uuid import uuid4

import pytest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from tests.kafka.account import flaws
from tests.kafka.faults import wire_of
from tests.kafka.inside import opened, running, settings_for, source
from tests.kafka.waits import within
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, simulated
from worker.kafka.cluster import Cluster
from worker.runtime.instance import claim
from worker.settings.model import Settings

DAY = simulated(1_200, seed=5)
STRING, TAGS = CompactString("utf-8"), ("tags", TaggedFields)


class ListTransactionsResponse_v0(Response):  # noqa: N801 (aiokafka's form)
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(STRING)),
        ("states", CompactArray(("transactional_id", STRING), ("producer_id", Int64), ("state", STRING), TAGS)),
        TAGS,
    )


class ListTransactionsRequest_v0(RequestStruct):  # noqa: N801
    FLEXIBLE_VERSION = True
    API_KEY = 66
    API_VERSION = 0
    RESPONSE_TYPE = ListTransactionsResponse_v0
    SCHEMA = Schema(("state_filters", CompactArray(STRING)), ("producer_id_filters", CompactArray(Int64)), TAGS)


class ListTransactionsRequest(Request[ListTransactionsRequest_v0]):
    API_KEY = 66

    def build(self, request_struct_class):
        return request_struct_class([], [], {})


async def transactional_ids(crew):
    """Return the transactional ids of an app that the coordinator keeps."""
    async with Cluster({"bootstrap_servers": crew.kafka}) as cluster:
        response = await cluster.send(cluster._any_node(), ListTransactionsRequest())
    assert response.error_code == 0
    return {state[0] for state in response.states if state[0].startswith(f"{crew.name}-")}


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_worker_keeps_its_transactional_id_over_stops_and_crashes(crew, store):
    async def scenario():
        it = crew(store=store, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        worker = await it.open()
        for number in range(3):
            sending = asyncio.create_task(it.send(DAY[number * 400 :][:400], rate=400))
            await asyncio.sleep(0.5)  # in the middle of a transaction, or close to it
            if number == 1:
                assert await worker.stop() == 0
            else:
                worker.kill()
            worker = await it.open()
            await sending
        return await flaws(it), await transactional_ids(it)

    flaws_found, ids = asyncio.run(scenario())
    assert flaws_found == []
    assert len(ids) == 1


def test_two_workers_on_a_machine_have_two_transactional_ids(crew):
    async def scenario():
        it = crew()
        first, second = it.start(), it.start()
        await first.says("Ready:")
        await second.says("Ready:")
        return await transactional_ids(it)

    assert len(asyncio.run(scenario())) == 2


def test_id_of_a_dead_owner_is_fenced_unless_a_member_uses_it(kafka, tmp_path, monkeypatch):
    """A worker that starts again at once is a member when the others find it recorded as the owner that died (O2)."""
    monkeypatch.chdir(tmp_path)

    async def scenario():
        settings = settings_for(kafka)
        taps = []
        async with running(settings, lambda app: taps.append(wire_of(app))) as app:
            await opened(app)
            tap, opening = taps[0], app.tables.recovery.opening
            name, dead = f"{settings.app_id}-:a", f"{settings.app_id}-:a-{uuid4()}"
            recorded = {source(settings, "sessions"): (0, f"{name} {dead}")}
            fenced = []
            for members in ({f"{name}-{uuid4()}"}, {f"{name}-2-{uuid4()}"}, set()):
                before = tap.sent.count("InitProducerId")
                await opening.fence(members, recorded)
                fenced.append(tap.sent.count("InitProducerId") - before)
            return fenced

    assert asyncio.run(scenario()) == [0, 1, 1]


def test_of_two_live_workers_with_one_name_one_ends_with_one_line(crew):
    async def scenario():
        it = crew(session_timeout_seconds=SESSION_TIMEOUT_SECONDS, instance="pod-0")
        pair = it.start(), it.start()
        sending = asyncio.create_task(it.send(DAY, rate=50))
        async with within(60, "the end of one of two workers with one name"):
            while {worker.status for worker in pair} == {None}:  # noqa: ASYNC110 (a process gives no event)
                await asyncio.sleep(0.1)
        (ended,) = (worker for worker in pair if worker.status is not None)
        await sending
        return await flaws(it), ended.status, ended.said()[-1], await transactional_ids(it), it.name

    flaws_found, status, last, ids, name = asyncio.run(scenario())
    assert flaws_found == []
    assert (status, ids) == (1, {f"{name}-:pod-0"})
    assert last.startswith(f"Error: another live worker (member {name}-:pod-0-")
    assert "Set SESSION_WORKER_INSTANCE to a name that no other worker has" in last


# ------------------------------------------------------------------------------------------------- without a Kafka


@pytest.mark.smoke
def test_claimed_name_is_exclusive_and_comes_back_when_it_is_released(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=tmp_path / "tables", app_id="shop")
    with ExitStack() as first, ExitStack() as second:
        names = claim(settings, first), claim(settings, second)
        assert len(set(names)) == 2
        first.close()
        assert claim(settings, first) == names[0]
    assert claim(settings.model_copy(update={"data_dir": tmp_path / "other"}), ExitStack()) not in names


@pytest.mark.smoke
def test_name_that_was_not_written_whole_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=tmp_path, app_id="shop")
    folder = tmp_path / "instances" / "shop"
    folder.mkdir(parents=True)
    (folder / "0.name").write_bytes(b"\xff12")
    with ExitStack() as held:
        name = claim(settings, held)
    with ExitStack() as held:
        assert claim(settings, held) == name == f"shop-{(folder / '0.name').read_text('ascii')}"


@pytest.mark.smoke
def test_folder_that_cannot_be_written_gives_a_new_name_at_each_start(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    (tmp_path / "file").touch()
    settings = Settings(data_dir=tmp_path / "file" / "tables", app_id="shop")
    assert claim(settings, ExitStack()) != claim(settings, ExitStack())
    assert "SESSION_WORKER_DATA_DIR" in caplog.text
    assert "SESSION_WORKER_INSTANCE" in caplog.text


@pytest.mark.smoke
def test_chosen_names_of_two_apps_are_never_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = ("shop", "eu-0"), ("shop-eu", "0")
    assert len({claim(Settings(app_id=app, instance=name), ExitStack()) for app, name in pairs}) == 2
