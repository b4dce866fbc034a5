"""A worker that starts over what another one left: its state comes back from its outputs, or from its folder."""

import asyncio

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from tests.kafka.account import differences, flaws, foretold, found
from tests.kafka.topics import Record, administration, high_watermarks, read, send
from tests.kafka.waits import within
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, simulated, update

DAY = simulated(1_500, seed=4)
FIRST, SECOND = DAY[:900], DAY[900:]
"""Many sessions of the first part go on in the second."""


async def held(crew):
    """Count the records that both changelogs hold."""
    return sum([len(await read(crew.kafka, it)) for it in (crew.topology.sessions, crew.topology.first_sessions)])


@pytest.mark.smoke
def test_a_worker_restarted_with_an_empty_memory_store_restores_all_from_its_outputs_and_goes_on(crew):
    async def scenario():
        it = crew()
        worker = await it.open()
        assert await worker.restored() == 0
        await it.send(FIRST)
        await it.settle()
        assert await worker.stop() == 0
        again = await it.open()
        assert await again.restored() == await held(it) > 800
        await it.send(SECOND)
        assert await flaws(it) == []

    asyncio.run(scenario())


@pytest.mark.smoke
def test_a_worker_goes_on_from_its_rocksdb_folder_and_restores_what_a_crash_kept_from_it(crew):
    async def scenario():
        it = crew(store="rocksdb://", session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        worker = await it.open()
        await it.send(FIRST)
        await it.settle()
        assert await worker.stop() == 0
        flushed = await held(it)
        worker = await it.open()
        assert await worker.restored() == 0
        await it.send(SECOND[:300])
        await it.settle()
        worker.kill()
        worker = await it.open()
        assert await worker.restored() == await held(it) - flushed > 250
        await it.send(SECOND[300:])
        await it.settle()
        assert "anew" not in "".join(worker.said())
        return await foretold(it), await found(it)

    expected, given = asyncio.run(scenario())
    assert differences(expected, given) == []


def damage(folder, table, pattern, begin=0.0, end=0.5):
    """Overwrite a part of each file of a table's partition."""
    files = [*folder.rglob(f"{table}/{pattern}")]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        part = slice(int(len(content) * begin), int(len(content) * end))
        content[part] = b"\xa5" * (part.stop - part.start)
        file.write_bytes(content)


async def assert_built_anew(crew, *partitions):
    """Check that the next worker builds these partitions of the sessions table anew, no others, and says so."""
    snapshots = await read(crew.kafka, crew.topology.sessions)
    worker = await crew.open()
    warnings = sorted(line.partition("WARNING")[2] for line in worker.said() if "WARNING" in line)
    assert len(warnings) == len(partitions)
    for number, warning in zip(partitions, warnings, strict=True):
        assert f"sessions-{number}: cannot be opened, rebuilding from the changelog: " in warning
    assert await worker.restored() == sum(record.partition in partitions for record in snapshots) > 0


def test_a_corrupted_rocksdb_folder_is_built_anew_with_a_warning(crew, tmp_path):
    async def scenario():
        it = crew(store="rocksdb://")
        worker = await it.open()
        await it.send(FIRST)
        await it.settle()
        assert await worker.stop() == 0
        damage(tmp_path, "sessions-1", "CURRENT")
        damage(tmp_path, "sessions-2", "MANIFEST-*")
        damage(tmp_path, "sessions-3", "*.sst")
        await assert_built_anew(it, 1, 2, 3)
        await it.send(SECOND)
        assert await flaws(it) == []

    asyncio.run(scenario())


def test_damage_found_only_when_an_entry_is_read_is_fatal_and_the_next_start_builds_the_folder_anew(crew, tmp_path):
    async def scenario():
        it = crew(store="rocksdb://")
        worker = await it.open()
        await it.send(FIRST)
        await it.settle()
        assert await worker.stop() == 0
        damage(tmp_path, "sessions-2", "*.sst", 0.2, 0.6)  # what is read at the start comes first in the file
        worker = await it.open()
        assert await worker.restored() == 0
        await it.send(SECOND)
        assert await worker.ends() == 1
        assert "sessions-2 is corrupted; the next start rebuilds it" in worker.said()[-1]
        await assert_built_anew(it, 2)
        assert await flaws(it) == []

    asyncio.run(scenario())


# ------------------------------------------------------------------------------------------- topics that have lost records


def test_state_comes_back_whole_from_a_compacted_output_topic(crew):
    async def scenario():
        it = crew()
        worker = await it.open()
        soon = {"min_cleanable_dirty_ratio": "0.01", "segment_ms": "200", "delete_retention_ms": "0"}
        await it.configure(it.topology.sessions, **soon)
        await it.configure(it.topology.first_sessions, **soon)
        for part in (FIRST, SECOND[:200]):  # the broker compacts only what it has begun a new segment after
            await it.send(part)
            await it.settle()
        published = sum(map(len, (await foretold(it)).snapshots.values()))
        async with within(60, "the compaction of the output topic"):
            while await held(it) > published * 0.8:  # noqa: ASYNC110 (the broker gives no event)
                await asyncio.sleep(0.1)
        assert await worker.stop() == 0
        worker = await it.open()
        assert 0 < await worker.restored() < published * 0.8
        await it.send(SECOND[200:])
        await it.settle()
        return await foretold(it), await found(it)

    expected, given = asyncio.run(scenario())
    kept = [  # of a session that was deleted nothing may be left, not even its tombstone
        it._replace(sessions={key: value for key, value in it.sessions.items() if value is not None})
        for it in (expected, given)
    ]
    assert differences(*kept, "sessions", "rejections", "dry_runs") == []


async def truncate(crew, topic):
    """Delete all records of a topic's partition 0."""
    partition = TopicPartition(topic, 0)
    ends = await high_watermarks(crew.kafka, topic)
    async with administration(crew.kafka) as admin:
        await admin.delete_records({partition: RecordsToDelete(before_offset=ends[partition])})


def test_a_worker_restores_what_a_truncated_output_topic_still_has(crew):
    async def scenario():
        it = crew(1)
        worker = await it.open()
        await it.send([update("gone", attributes={"a": 1})])
        await it.settle()
        await it.configure(it.topology.sessions, cleanup_policy="compact,delete")  # or the broker deletes nothing
        await truncate(it, it.topology.sessions)
        await it.configure(it.topology.sessions)
        await it.send([update("kept", attributes={"a": 1})])
        await it.settle()
        assert await worker.stop() == 0
        worker = await it.open()
        assert await worker.restored() == 1
        await it.send([update("gone", attributes={"b": 2}), update("kept", attributes={"b": 2})])
        await it.settle()
        return await found(it)

    given = asyncio.run(scenario())
    sessions = {key: orjson.loads(value) for key, value in given.sessions.items()}
    assert {key: (it["updateCount"], it["attributes"]) for key, it in sessions.items()} == {
        b"gone": (1, {"b": 2}),
        b"kept": (2, {"a": 1, "b": 2}),
    }


async def deprived(it, *, runs):
    """Give a worker whose next update record is gone before it has read it, while it runs or before it starts."""
    worker = await it.open()
    await it.send([update("s-1")])
    await it.settle()
    if runs:
        worker.freeze()
        await asyncio.sleep(1)  # the fetch that was under way comes back without records
    else:
        assert await worker.stop() == 0
    await it.send([update("lost"), update("lost")])
    await truncate(it, it.topology.updates)
    await it.send([update("s-2")])
    if not runs:
        return it.start()
    worker.wake()
    return worker


@pytest.mark.smoke
@pytest.mark.parametrize("runs", [False, True])
def test_update_records_deleted_before_they_were_processed_are_fatal(crew, runs):
    async def scenario():
        it = crew(1)
        worker = await deprived(it, runs=runs)
        return it.topology.updates, await worker.ends(), worker.said()[-1], await found(it)

    updates, status, last, given = asyncio.run(scenario())
    assert status == 1
    assert last.startswith(
        f"Error: {updates}/0: committed offset 1 is below the log start offset 3, so records were deleted before they were "
        "processed. To skip them set SESSION_WORKER_ON_DATA_LOSS=earliest. Or: "
    )
    assert "`session-worker offsets accept`" in last
    assert given.snapshots == {b"s-1": [(0, 0)]}


@pytest.mark.parametrize("runs", [False, True])
def test_update_records_deleted_before_they_were_processed_are_passed_over_where_that_is_set(crew, runs):
    async def scenario():
        it = crew(1, on_data_loss="earliest")
        worker = await deprived(it, runs=runs)
        await it.settle()
        return it.topology.updates, "\n".join(worker.said()), await found(it)

    updates, said, given = asyncio.run(scenario())
    assert f"{updates}/0: committed offset 1 is below the log start offset 3" in said
    assert "Going on from 3 without 2 records" in said
    assert given.snapshots == {b"s-1": [(0, 0)], b"s-2": [(0, 3)]}


@pytest.mark.smoke
def test_outputs_without_committed_offsets_are_fatal(crew):
    async def scenario():
        it = crew(1)
        worker = await it.open()
        await it.send([update("s-1")])
        await it.settle()
        assert await worker.stop() == 0
        worker = it.start(app_id=f"{it.name}-other")
        return it.topology, await worker.ends(), worker.said()[-1]

    names, status, last = asyncio.run(scenario())
    assert status == 1
    assert last.startswith(f"Error: {names.sessions}/0 holds records, but no offset of ")
    assert (
        " is committed: the offset was deleted or has expired, or the outputs belong to a worker with another " in last
    )
    assert "SESSION_WORKER_APP_ID" in last


def test_a_worker_that_dies_in_its_first_transaction_can_be_started_again(crew):
    async def scenario():
        it = crew(1)
        worker = await it.open()
        assert await worker.stop() == 0
        async with AIOKafkaProducer(bootstrap_servers=it.kafka, transactional_id=f"{it.name}-first") as dying:
            await dying.begin_transaction()
            await send(dying, it.topology.sessions, [Record(b"s-1", b"{}")])
            await send(dying, it.topology.first_sessions, [Record(b"p-1", b"{}")])
            await dying.abort_transaction()
        await it.open()
        await it.send([update("s-1", profileId="p-1")])
        assert await flaws(it) == []

    asyncio.run(scenario())
