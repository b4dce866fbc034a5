"""A real cluster, at the end of a wire that tests may watch, hold up and cut; and members of groups that come and go."""

import asyncio
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.client import CoordinationType
from aiokafka.protocol.group import LeaveGroupRequest

from tests.kafka.waits import within
from worker.kafka.cluster import Cluster, Membership
from worker.kafka.errors import BrokerError, NoResponse
from worker.kafka.protocol import Code
from worker.kafka.retry import Backoff


class Wire(Cluster):
    """Keeps the names of all requests sent.

    A request named in *lost* is answered by the broker, and we never hear of it: as often as it is named there. One
    that *doubted* names is answered, and we hear that too few replicas may have written it. One that *held* names
    waits, before it is sent, until *release* is set; *reached* tells that it does. One that *refused* names is not sent,
    and refused as by a broker that has not enough replicas just now.
    """

    def __init__(self, kafka):
        super().__init__({"bootstrap_servers": kafka})
        self.tap()

    def tap(self):
        self.sent = []
        self.lost = []
        self.doubted = None
        self.held = None
        self.refused = None
        self.reached = asyncio.Event()
        self.release = asyncio.Event()

    async def send(self, node, request, *args):
        name = type(request).__name__.removesuffix("Request")
        if name == self.held:
            self.reached.set()
            await self.release.wait()
        if name == self.refused:
            raise BrokerError(Code.NOT_ENOUGH_REPLICAS, "refused on purpose")
        self.sent.append(name)
        answer = await super().send(node, request, *args)
        if name in self.lost:
            self.lost.remove(name)
            raise NoResponse(f"{name}: lost on purpose")
        if name == self.doubted:
            answer.topics = [(topic, [_doubted(*row) for row in rows]) for topic, rows in answer.topics]
        return answer


def _doubted(partition, _code, *others):
    return partition, Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND, *others


def wire_of(app):
    """Tap the wire of a worker that has not started."""
    cluster = app.dependencies.cluster
    cluster.__class__ = Wire
    cluster.tap()
    return cluster


async def leave(cluster, group, member):
    """Let a group take a member for one that has left."""
    await cluster.coordinate(
        CoordinationType.GROUP,
        group,
        LeaveGroupRequest(group, member),
        lambda response: [(response.error_code, group)],
        Backoff("leaving"),
    )


@asynccontextmanager
async def member(kafka, topic, group=None):
    """Join a group, of the topic's name unless one is given, and be assigned all of its partitions; the heartbeat goes on."""
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, group_id=group or topic, enable_auto_commit=False, session_timeout_ms=30_000
    ) as consumer:
        async with within(30, f"partitions of {topic} for the member"):
            while not consumer.assignment():  # noqa: ASYNC110 (it tells no one)
                await asyncio.sleep(0.02)
        coordinator = consumer._coordinator
        yield Membership(group or topic, coordinator.generation, coordinator.member_id)
