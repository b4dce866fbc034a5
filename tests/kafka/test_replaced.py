"""A topic or the cluster is replaced, while the worker is stopped or runs: nothing of the old life is published.

All cases run side by side, once. What was published is judged by what a reader of the topics sees.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata

from tests.kafka.inside import crashed, opened, replace, running, send, settings_for, source, until, update
from tests.kafka.ports import free_port
from tests.kafka.topics import Record, administration, high_watermarks, read
from tests.kafka.waits import within
from worker.kafka.connection import OtherCluster
from worker.local.kafka import LocalKafka
from worker.pipeline.partitioner import partition_of
from worker.runtime.topics import prepare
from worker.runtime.upkeep import TopicsChanged
from worker.settings.model import Settings

TOPICS = ("updates", "rekeyed", "sessions", "claims", "verdicts", "first_sessions")
STORES = ("memory://", "rocksdb://")
WHEN = ("stopped", "running")
KEYS = [f"s-{number}" for number in range(20)]
STRAY = "s-stray"
AT_ONCE = 4
"""Workers that start at the same time."""


class Outcome(NamedTuple):
    """What became of a worker whose topics were replaced."""

    settings: Settings
    reason: BaseException | None
    """Why it ended."""
    before: list[tuple[bytes | None, dict[str, Any]]]
    """What the sessions topic held when a topic was replaced; nothing if the sessions topic itself was."""
    after: list[tuple[bytes | None, dict[str, Any]]]


async def published(settings: Settings) -> list[tuple[bytes | None, dict[str, Any]]]:
    return [(it.key, orjson.loads(it.value or b"")) for it in await read(settings.brokers, settings.sessions_topic)]


def lives(records, life):
    """Return the keys of the snapshots that show attributes of a life, and nothing else."""
    return {(key or b"").decode() for key, session in records if session["attributes"] == {life: 1}}


def updates_of(life: str) -> list[Record]:
    """Return update records that use every topic of the worker: two of each session, and a stray."""
    stray = orjson.dumps({"integrationId": STRAY, "customerSession": {"attributes": {life: 1}}})
    wrong = 1 - partition_of(STRAY.encode(), 2)
    twice = [update(key, profileId=f"p-{key}", attributes={life: 1}) for key in KEYS] * 2
    return [*twice, Record(None, stray, partition=wrong)]


async def until_published(settings: Settings, count: int) -> None:
    """Wait until the sessions topic holds so many snapshots."""
    async with within(40, f"{count} snapshots"):
        while len(await published(settings)) < count:  # noqa: ASYNC110 (the broker gives no event)
            await asyncio.sleep(0.2)


async def complete(settings: Settings, life: str) -> None:
    """Wait until a worker has published all that comes of the update records of a life."""
    await until_published(settings, 2 * len(KEYS) + 1)
    assert lives(await published(settings), life) == {*KEYS, STRAY}


async def outcome_of_topic(settings: Settings, field: str, when: str) -> Outcome:
    topic = getattr(settings, f"{field}_topic")
    async with running(settings) as app:
        await opened(app, 4)
        await send(settings, *updates_of("old"))
        await complete(settings, "old")
        before = await published(settings) if field != "sessions" else []
        if when == "running":
            await replace(settings, topic)
            await send(settings, *updates_of("new") * 5)
            return Outcome(settings, await crashed(app), before, await published(settings))
    await replace(settings, topic)
    await send(settings, *updates_of("new") * 5)
    async with running(settings) as app:
        return Outcome(settings, await crashed(app), before, await published(settings))


async def outcomes_of(cases: Mapping[Any, Callable[[], Any]]) -> dict[Any, Outcome | BaseException]:
    """Run all cases, some at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def run(case: Callable[[], Any]) -> Any:
        async with turn:
            return await case()

    answers = await asyncio.gather(*(run(case) for case in cases.values()), return_exceptions=True)
    return dict(zip(cases, answers, strict=True))


def outcome(found: Outcome | BaseException) -> Outcome:
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.fixture(scope="module", params=WHEN)
def topics_replaced(request, kafka, tmp_path_factory):
    """Replace each topic of workers with each store; return what became of them."""
    folder, when = tmp_path_factory.mktemp("replaced"), request.param

    def case(field, store):
        given = settings_for(kafka, partitions=2, store=store, data_dir=folder, session_timeout_seconds=20)
        return partial(outcome_of_topic, given, field, when)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return asyncio.run(outcomes_of({it: case(*it) for it in itertools.product(TOPICS, STORES)}))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("field", TOPICS)
def test_replaced_topic_ends_the_worker_before_it_publishes(topics_replaced, field, store):
    found = outcome(topics_replaced[field, store])
    assert isinstance(found.reason, TopicsChanged | OtherCluster)
    (message,) = str(found.reason).splitlines()
    assert message.startswith(getattr(found.settings, f"{field}_topic"))
    assert "deleted and created again" in message
    assert "set SESSION_WORKER_APP_ID and the SESSION_WORKER_…_TOPIC" in message
    assert found.after == found.before


async def both_copied(settings: Settings, *apps: Any) -> None:
    """Wait until each of two workers has lanes of its own, and all partitions of the sessions table up to their ends."""
    await until(lambda: all(len(app.commit_loop.lanes) == 2 for app in apps))
    ends = await high_watermarks(settings.brokers, settings.sessions_topic)

    def has_all(parts: Any) -> bool:
        return all(
            tp.partition in parts and (parts[tp.partition].checkpoint or 0) >= end - 1 for tp, end in ends.items()
        )

    await until(lambda: all(has_all(app.tables["sessions"].data._kept) for app in apps))


def test_folder_of_deleted_topics_is_built_anew_also_a_standbys(kafka, tmp_path, monkeypatch, caplog):
    """A worker folds new records in topics of the same names meanwhile; the first one starts on its old folder."""
    monkeypatch.chdir(tmp_path)

    async def scenario():
        its = settings_for(kafka, partitions=2, store="rocksdb://", data_dir=tmp_path / "old", standby_replicas=1)
        async with running(its) as first, running(its) as second:
            await until(lambda: len(first.commit_loop.lanes) == len(second.commit_loop.lanes) == 2)
            await send(its, *updates_of("old"))
            await complete(its, "old")
            await both_copied(its, first, second)
        await replace(its, *its.topology(2).named().values())
        async with running(its.model_copy(update={"data_dir": tmp_path / "new"})) as other:
            await opened(other, 4)
            await send(its, *updates_of("new"))
            await complete(its, "new")
        async with running(its) as first:
            async with running(its) as second:
                await both_copied(its, first, second)
            await opened(first, 4)  # its standby's copies are active now
            await send(its, *updates_of("new"))
            await until_published(its, 4 * len(KEYS) + 2)
        return its, await published(its)

    its, found = asyncio.run(scenario())
    assert all(session["attributes"] == {"new": 1} for _key, session in found)
    last = {(key or b"").decode(): session["updateCount"] for key, session in found}
    assert last == dict.fromkeys(KEYS, 4) | {STRAY: 2}
    rebuilt = [line for line in caplog.messages if "rebuilding from the changelog: it was built from another" in line]
    assert len(rebuilt) == 8  # two tables of two partitions, of two workers
    assert all(f"{its.sessions_topic} (then " in line for line in rebuilt)


# -------------------------------------------------------------------------------------------------------- the cluster


async def filled(settings: Settings, brokers: str, life: str) -> Settings:
    """Return the settings for another cluster, with the same topics there, and update records of a life."""
    there = settings.model_copy(update={"brokers": brokers})
    await prepare(there)
    await send(there, *updates_of(life))
    return there


async def move_offsets(settings: Settings, there: Settings) -> None:
    """Commit on another cluster what the group has committed, as a mirror of the cluster does."""
    fields = ("updates", "rekeyed", "claims", "verdicts")
    partitions = [source(settings, field, number) for field in fields for number in range(2)]
    async with administration(settings.brokers) as admin:
        committed = await admin.list_consumer_group_offsets(settings.app_id, partitions=partitions)
    async with AIOKafkaConsumer(
        bootstrap_servers=there.brokers, group_id=there.app_id, enable_auto_commit=False
    ) as other:
        other.assign(partitions)
        await other.commit({tp: OffsetAndMetadata(*commit) for tp, commit in committed.items()})


async def first_life(given: Settings) -> None:
    async with running(given) as app:
        await opened(app, 4)
        await send(given, *updates_of("old"))
        await complete(given, "old")


async def stopped(given: Settings, other: str) -> Outcome:
    """Lead a worker that has ended to another cluster."""
    await first_life(given)
    there = await filled(given, other, "new")
    async with running(there) as app:
        await complete(there, "new")
        return Outcome(there, app.crash_reason, [], await published(there))


async def mirrored(given: Settings, other: str) -> Outcome:
    """The same, and the other cluster has the group's offsets."""
    await first_life(given)
    there = await filled(given, other, "new")
    await move_offsets(given, there)
    async with running(there) as app:
        return Outcome(there, await crashed(app), [], await published(there))


@pytest.fixture(scope="module")
def another_cluster(kafka, tmp_path_factory):
    """Lead workers that have ended to another cluster; return what became of them."""
    folder = tmp_path_factory.mktemp("clusters")

    def case(kind, store, other):
        given = settings_for(kafka, partitions=2, store=store, data_dir=folder / "tables", session_timeout_seconds=20)
        return partial(kind, given, other)

    with pytest.MonkeyPatch.context() as patch, LocalKafka(folder / "other") as other:
        patch.chdir(folder)
        kinds = itertools.product((stopped, mirrored), STORES)
        return asyncio.run(
            outcomes_of({(kind, store): case(kind, store, other.bootstrap_servers) for kind, store in kinds})
        )


@pytest.fixture(scope="module")
def swapped_cluster(tmp_path_factory):
    """Start another cluster at the address of running workers, and their own again; return what became of them.

    The other cluster has topics of the same names, with update records.
    """
    folder, port = tmp_path_factory.mktemp("swapped"), free_port()
    given = {
        store: settings_for(f"127.0.0.1:{port}", partitions=2, store=store, data_dir=folder / "tables")
        for store in STORES
    }

    async def first_and_other(up: ExitStack) -> list[Outcome]:
        with LocalKafka(folder / "other") as other:
            for its in given.values():
                await filled(its, other.bootstrap_servers, "new")
        await asyncio.to_thread(up.enter_context, LocalKafka(folder / "first", port=port))
        one, two = given.values()
        async with running(one) as first, running(two) as second:
            for app, its in ((first, one), (second, two)):
                await opened(app, 4)
                await send(its, *updates_of("old"))
                await complete(its, "old")
            await asyncio.to_thread(up.close)
            await asyncio.to_thread(up.enter_context, LocalKafka(folder / "other", port=port))
            reasons = [await crashed(app, 60) for app in (first, second)]
        return [Outcome(its, why, [], await published(its)) for its, why in zip((one, two), reasons, strict=True)]

    async def back(its: Settings) -> Outcome:
        async with running(its) as app:
            before = await published(its)
            await send(its, *updates_of("back"))
            await until_published(its, 2 * len(before))
            return Outcome(its, app.crash_reason, before, await published(its))

    async def scenario() -> dict[tuple[str, str], Outcome]:
        with ExitStack() as up:
            ended = await first_and_other(up)
            await asyncio.to_thread(up.close)
            await asyncio.to_thread(up.enter_context, LocalKafka(folder / "first", port=port))
            again = await asyncio.gather(*(back(its) for its in given.values()))
        found = zip(itertools.product(("running", "back"), STORES), [*ended, *again], strict=True)
        return dict(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return asyncio.run(scenario())


@pytest.mark.parametrize("store", STORES)
def test_worker_on_another_cluster_starts_a_new_life(another_cluster, store):
    """Its topics have the same names there, and its folder is full of the old cluster's sessions."""
    found = outcome(another_cluster[stopped, store])
    assert found.reason is None
    last = {(key or b"").decode(): session for key, session in found.after}
    assert last.keys() == {*KEYS, STRAY} == lives(found.after, "new")
    assert {last[key]["updateCount"] for key in KEYS} == {2}
    assert len(found.after) == 2 * len(KEYS) + 1
    assert all(session["attributes"] == {"new": 1} for _key, session in found.after)


def is_refused(found: Outcome) -> bool:
    """Return True if a worker ended because of the cluster, with the remedy, and published nothing."""
    assert isinstance(found.reason, TopicsChanged | OtherCluster)
    assert "cluster" in str(found.reason)
    assert "set SESSION_WORKER_BROKERS" in str(found.reason)
    return found.after == []


@pytest.mark.parametrize("store", STORES)
def test_offsets_of_another_cluster_end_the_worker(another_cluster, store):
    """A mirror of the cluster has copied them, with their marks."""
    assert is_refused(outcome(another_cluster[mirrored, store]))


@pytest.mark.parametrize("store", STORES)
def test_other_cluster_at_the_address_of_a_running_worker_ends_it(swapped_cluster, store):
    assert is_refused(swapped_cluster["running", store])


@pytest.mark.parametrize("store", STORES)
def test_worker_goes_on_when_its_own_cluster_is_back(swapped_cluster, store):
    found = swapped_cluster["back", store]
    assert found.reason is None
    last = {(key or b"").decode(): session for key, session in found.after}
    assert {last[key]["updateCount"] for key in KEYS} == {4}
    assert {tuple(session["attributes"]) for session in last.values()} == {("old", "back")}
