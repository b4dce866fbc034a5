"""Workers that are killed, frozen, added and stopped, and brokers that go and come back: nothing lost, nothing doubled."""

import asyncio

from aiokafka import AIOKafkaConsumer

from tests.kafka.account import differences, foretold, found
from tests.kafka.topics import read
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, simulated


async def freeze_in_a_transaction(crew, worker):
    """Freeze a worker in the middle of a transaction: one is open on the outputs, and stays open where it is."""
    outputs = crew.partitions_of(crew.topology.sessions)
    async with (
        AIOKafkaConsumer(bootstrap_servers=crew.kafka, isolation_level="read_committed") as committed,
        AIOKafkaConsumer(bootstrap_servers=crew.kafka, isolation_level="read_uncommitted") as every,
        asyncio.timeout(30),
    ):

        async def _open():
            stable, high = await committed.end_offsets(outputs), await every.end_offsets(outputs)
            return {(tp, end) for tp, end in stable.items() if end < high[tp]}

        while True:
            worker.freeze()
            if first := await _open():
                await asyncio.sleep(0.5)
                if first & await _open():
                    return
            worker.wake()
            await asyncio.sleep(0.03)


async def aborted(crew):
    """Count the records of the outputs that no reader of what is committed sees."""
    topic = crew.topology.sessions
    every = await read(crew.kafka, topic, isolation_level="read_uncommitted")
    return len(every) - len(await read(crew.kafka, topic))


def test_three_workers_of_which_one_is_killed_one_frozen_and_one_added_lose_and_double_nothing(crew):
    async def _disturb(it, killed, frozen):
        await asyncio.sleep(2)
        await freeze_in_a_transaction(it, frozen)
        killed.kill()
        await asyncio.sleep(SESSION_TIMEOUT_SECONDS + 1)
        before = len(await read(it.kafka, it.topology.sessions))
        frozen.wake()
        await it.start().says("Opened")
        return before

    async def scenario():
        it = crew(8, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        await it.open()
        killed, frozen = it.start(), it.start()
        await killed.says("Opened")
        await frozen.says("Opened")
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(it.send(simulated(20_000, seed=5), rate=1_000))
            before = await _disturb(it, killed, frozen)
            assert not sending.done()
        await it.settle()
        expected, given = await foretold(it), await found(it)
        assert differences(expected, given) == []
        assert sum(map(len, given.snapshots.values())) > max(18_000, before)
        assert await aborted(it) > 0
        assert [worker.status for worker in it.workers] == [None, -9, None, None]

    asyncio.run(scenario())
