"""A worker inside of the test's own process, so that a test can see and hold up its parts."""

import asyncio
import inspect
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition

from tests.kafka.topics import Record, own, produce, read
from tests.kafka.topics import send as send_by
from tests.kafka.waits import within
from worker.kafka.cluster import Cluster
from worker.pipeline.topology import TOPICS
from worker.runtime.faust.app import build_app
from worker.runtime.topics import prepare
from worker.settings.model import Settings
from worker.tools import topics as console


def settings_for(kafka, **given):
    """Make settings with topics and a group that no other test has."""
    names = {f"{field}_topic": own(field) for field in TOPICS if field != "v1"}
    return Settings(
        **{"brokers": kafka, "partitions": 1, "app_id": own("app"), "session_timeout_seconds": 6}
        | {"data_dir": Path(gettempdir(), "session-worker-tests")}
        | names
        | given
    )


@asynccontextmanager
async def running(settings, change=lambda app: None, topology=None):
    """Run a worker, on topics that are made when they are missing; *change* gets the app before it starts."""
    app = build_app(settings, topology or await prepare(settings))
    change(app)
    starting = asyncio.ensure_future(app.start())
    try:
        yield app
    finally:
        await app.stop()
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting


async def until(condition, seconds=20):
    """Wait until a condition holds."""
    async with within(seconds, f"the condition of {inspect.getsource(condition).strip()}"):
        while not condition():  # noqa: ASYNC110 (what is waited for gives no event)
            await asyncio.sleep(0.02)


async def opened(app, lanes=2, seconds=20):
    """Wait until a worker has so many lanes open."""
    await until(lambda: len(app.commit_loop.lanes) == lanes, seconds)


async def crashed(app, seconds=20):
    """Wait until a worker has given up, and give the reason."""
    await until(lambda: app.crash_reason is not None, seconds)
    return app.crash_reason


def update(key, **session):
    """Make an update record that every worker accepts."""
    return Record(key.encode(), orjson.dumps({"customerSession": session}))


async def send(settings, *updates):
    await produce(settings.brokers, settings.updates_topic, updates)


async def send_at_once(settings, *updates, topic="updates", aborted=False):
    """Send in a transaction, which leaves a marker behind."""
    async with AIOKafkaProducer(bootstrap_servers=settings.brokers, transactional_id=own("shop")) as producer:
        await producer.begin_transaction()
        await send_by(producer, getattr(settings, f"{topic}_topic"), updates)
        await (producer.abort_transaction() if aborted else producer.commit_transaction())


async def counts(settings):
    """Give what was published last of each session: how many updates it has had."""
    found = await read(settings.brokers, settings.sessions_topic)
    return {(it.key or b"").decode(): orjson.loads(it.value or b"")["updateCount"] for it in found}


async def count_of(settings, key, count, seconds=20):
    """Wait until a session was published with so many updates."""
    async with within(seconds, f"{count} updates of session {key}"):
        while (await counts(settings)).get(key) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@asynccontextmanager
async def transaction(settings, timeout_ms=30_000):
    """Open a transaction of nobody in particular, aborted at the end if it is still open."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.brokers, transactional_id=own("other"), transaction_timeout_ms=timeout_ms
    ) as producer:
        await producer.begin_transaction()
        yield producer


def lane_of(app, topic):
    """Give the lane that reads a topic, of a worker with one partition."""
    (found,) = (it for it in app.commit_loop.lanes if topic in it.stage.reads)
    return found


def source(settings, field="updates", partition=0):
    return TopicPartition(getattr(settings, f"{field}_topic"), partition)


async def replace(settings, *names):
    """Delete topics and create them again, until all leaders know; the group's offsets of these go with them."""
    partitions = [TopicPartition(name, number) for name in names for number in range(settings.partitions)]
    async with console.administration(settings.connection()) as admin, Cluster(settings.connection()) as cluster:
        before = (await cluster.identity(names)).topics
        await admin.delete_topics([*names])
        async with within(60, "new ids of the topics"):
            while (now := (await cluster.identity(names)).topics).keys() < before.keys() or any(
                now[name].id == before[name].id for name in names
            ):
                await prepare(settings)
            deadline = asyncio.get_running_loop().time() + 60
            while any(it.topics != now for it in await cluster.identities(names, partitions, deadline)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
