"""Update records without a timestamp, through a whole worker: their outputs have none either (contract, section 2)."""

import asyncio

import orjson

from tests.kafka.topics import read
from worker.codec.lines import Line

NOW = 1_795_372_800_000
TIMES = [-1, NOW, -1, -1, NOW + 1, -1, NOW + 2, NOW + 3, -1]


def line(number, time):
    """Return an update record, or one that is rejected: without a timestamp it needs occurredAt, which each third lacks."""
    record = {"customerSession": {"attributes": {"n": number}}} | (
        {"occurredAt": "2026-11-22T00:00:00Z"} if number % 3 else {}
    )
    return Line(number, 0, None, time, b"s-%d" % number, orjson.dumps(record), [])


def test_outputs_of_records_without_timestamp_have_none(kafka, crew):
    it = crew(partitions=1)

    async def scenario():
        await it.open()
        await it.send(line(number, time) for number, time in enumerate(TIMES))
        await it.settle()
        sessions = await read(kafka, it.topology.sessions)
        rejections = await read(kafka, it.topology.rejections)
        refused = [number for number, time in enumerate(TIMES) if time == -1 and number % 3 == 0]
        assert {it.key: it.timestamp for it in rejections} == {b"s-%d" % number: -1 for number in refused}
        assert {it.key: it.timestamp for it in sessions} == {
            b"s-%d" % number: time for number, time in enumerate(TIMES) if number not in refused
        }
        assert refused == [0, 3]

    asyncio.run(scenario())
