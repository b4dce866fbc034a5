"""Tables restored, kept as standby and kept on disk, on a real broker; T1 to T4 are tables.py's rules."""

import asyncio
import shutil
import time
from random import Random

import pytest
from rocksdict import Cache

from tests.kafka.inside import count_of, opened, running, send, settings_for, source, until, update
from tests.kafka.topics import high_watermarks
from worker.runtime.faust.app import build_app
from worker.runtime.stores import rocksdb as disk
from worker.runtime.stores.rocksdb import RocksDBPartition, StateDirectory


@pytest.fixture
def settings(kafka, tmp_path, monkeypatch):
    """Make settings of a worker with topics of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: settings_for(kafka, **given)


def kept(app, name="sessions", number=0):
    """Give a partition of a table, if the worker has it."""
    return app.tables[name].data._kept.get(number)


def test_a_standby_misses_nothing_and_takes_over(settings):
    """Batches are lost on the way where Faust clears its queues; each is fetched again (T1)."""

    async def scenario():
        it = settings(standby_replicas=1)
        async with running(it) as first:
            await opened(first)
            await send(it, *(update(f"s-{n}", attributes={"note": "x" * 190_000}) for n in range(40)))
            await until(lambda: len(kept(first)) == 40)
            async with running(it) as second:
                await until(lambda: len(second.commit_loop.lanes) + len(first.commit_loop.lanes) == 2)
                active, standby = (first, second) if first.commit_loop.lanes else (second, first)
                high = (await high_watermarks(it.brokers, it.sessions_topic))[source(it, "sessions")]
                while standby.tables.changelog_queue.empty():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                standby.flow_control.resume()  # Faust clears its queues with it, at the end of a recovery
                await until(lambda: kept(standby).checkpoint == high)
                assert kept(standby) == kept(active)
            # Whoever is left has it all, and goes on.
            await opened(first)
            await send(it, update("s-0"))
            await count_of(it, "s-0", 2)

    asyncio.run(scenario())


@pytest.mark.smoke
def test_a_crash_at_any_point_leaves_a_table_on_disk_that_stands_for_its_end(tmp_path):
    """The folder is copied as a crash would leave it; what was flushed is whole cycles, and the end says which (T3)."""
    table, random = RocksDBPartition(tmp_path / "table", Cache(1 << 20)), Random(7)
    state: dict[bytes, bytes] = {}
    states: dict[int | None, dict[bytes, bytes]] = {None: {}}
    for end in range(1, 200):
        changes = {b"s-%d" % random.randrange(20): random.choice([b"%d" % end, None]) for _ in range(5)}
        table.apply(changes, end)
        state = {key: entry for key, entry in (state | changes).items() if entry is not None}
        states[end] = state
        if random.random() < 0.1:
            table._db.flush()
        if random.random() < 0.1:
            copied_as_after_a_crash(tmp_path / "table", tmp_path / f"crash-{end}")
    table.close()
    found = set()
    for folder in tmp_path.glob("crash-*"):
        left = RocksDBPartition(folder, Cache(1 << 20))
        found.add(left.checkpoint)
        entries = {key: entry for n in range(20) if (entry := left.get(key := b"s-%d" % n)) is not None}
        assert entries == states[left.checkpoint]
        left.close()
    assert len(found) > 5


def copied_as_after_a_crash(folder, to):
    """Copy a folder in which RocksDB is at work, again when it removed a file meanwhile."""
    try:
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("LOCK"))
    except shutil.Error:
        shutil.rmtree(to)
        copied_as_after_a_crash(folder, to)


@pytest.mark.smoke
def test_a_table_on_disk_gives_what_was_written_last_whether_it_is_kept_in_memory_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "RECENT_BYTES", 2_000)
    table, random = RocksDBPartition(tmp_path / "table", Cache(1 << 20)), Random(7)
    state: dict[bytes, bytes | None] = {}
    from_disk = 0
    for _cycle in range(300):
        changes = {b"s-%d" % random.randrange(60): random.choice([random.randbytes(40), None]) for _ in range(3)}
        table.apply(changes)
        state.update(changes)
        for key in random.sample(sorted(state), 3):
            from_disk += not table._recent.find(key)[0]
            assert table.get(key) == state[key]
    assert 100 < from_disk < 800


@pytest.mark.smoke
def test_a_table_on_disk_that_was_closed_has_everything(tmp_path):
    table = RocksDBPartition(tmp_path, Cache(1 << 20))
    table.apply({b"s-1": b"1"}, 5)
    table.close()
    again = RocksDBPartition(tmp_path, Cache(1 << 20))
    assert (again.checkpoint, again.get(b"s-1")) == (5, b"1")
    again.close()


@pytest.mark.smoke
@pytest.mark.parametrize("written", [21 * 60 * 60, -60], ids=["too old", "from the future"])
def test_a_table_on_disk_that_may_have_missed_tombstones_is_built_anew(tmp_path, written, caplog):
    """A topic forgets its tombstones after a day; a clock that was wrong proves nothing (T4)."""
    table = RocksDBPartition(tmp_path, Cache(1 << 20))
    table.apply({b"s-1": b"1", b"": b"5 %d" % (time.time() - written)})
    table.close()
    again = RocksDBPartition(tmp_path, Cache(1 << 20))
    assert (again.checkpoint, again.get(b"s-1")) == (None, None)
    assert "rebuilding from the changelog" in caplog.text
    again.close()


@pytest.mark.smoke
def test_a_table_on_disk_is_not_younger_for_having_been_opened(tmp_path):
    """Twice a short life within a day, and the tombstones of what happened before would be missed (T4)."""
    table = RocksDBPartition(tmp_path, Cache(1 << 20))
    table.apply({b"s-1": b"1", b"": b"5 %d" % (time.time() - 19 * 60 * 60)})
    table.close()
    table = RocksDBPartition(tmp_path, Cache(1 << 20))
    table.set_target(9)
    table.apply({b"s-2": b"2"}, 7)
    table.close()
    assert age(tmp_path) > 18 * 60 * 60
    table = RocksDBPartition(tmp_path, Cache(1 << 20))
    table.set_target(9)
    table.apply({b"s-3": b"3"}, 9)  # as far as the changelog went
    table.close()
    assert age(tmp_path) < 60


def age(folder):
    table = RocksDBPartition(folder, Cache(1 << 20))
    _end, written, _stream = (table.get(b"") or b"").split(b" ", 2)
    table._db.close()
    return time.time() - int(written)


STREAM = {"app id": "shop", "cluster": "k1", "customer-sessions": "id-1"}


@pytest.mark.smoke
def test_workers_on_one_machine_take_folders_of_their_own(tmp_path):
    first, second = StateDirectory(tmp_path, STREAM), StateDirectory(tmp_path, STREAM)
    assert first.path != second.path
    first.close()
    third = StateDirectory(tmp_path, STREAM)
    assert third.path == first.path
    second.close()
    third.close()


@pytest.mark.smoke
@pytest.mark.parametrize("changes", [{"app id": "Shop"}, {"app id": "till"}, {"cluster": "k2"}, {"cluster": "K1"}])
def test_apps_and_clusters_have_folders_of_their_own(tmp_path, changes):
    """Also where names that differ only in case are one file."""
    first, other = StateDirectory(tmp_path, STREAM), StateDirectory(tmp_path, STREAM | changes)
    first.close()
    other.close()
    assert str(first.path.parent).casefold() != str(other.path.parent).casefold()


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (STREAM | {"app id": "till"}, "it was built from another app id (then till, now shop)"),
        (STREAM | {"cluster": "k2"}, "it was built from another cluster (then k2, now k1)"),
        (
            STREAM | {"customer-sessions": "id-0"},
            "it was built from another customer-sessions (then id-0, now id-1)",
        ),
        (
            {**STREAM, "old-sessions": "id-0"},
            "it was built from another old-sessions (then id-0, now None)",
        ),
        ({}, "it has no record of the cluster and the topics that it was built from"),
    ],
)
def test_table_on_disk_of_another_stream_is_rebuilt(tmp_path, found, difference, caplog):
    """Its entries are another life's (T5)."""
    table = RocksDBPartition(tmp_path, Cache(1 << 20), found)
    table.apply({b"s-1": b"1"}, 5)
    table.close()
    again = RocksDBPartition(tmp_path, Cache(1 << 20), STREAM)
    assert (again.checkpoint, again.get(b"s-1")) == (None, None)
    assert caplog.messages == [f"{tmp_path}: rebuilding from the changelog: {difference}"]
    again.apply({b"s-2": b"2"}, 1)
    again.close()
    table = RocksDBPartition(tmp_path, Cache(1 << 20), STREAM)
    assert (table.checkpoint, table.get(b"s-2"), len(caplog.messages)) == (1, b"2", 1)
    table.close()


@pytest.mark.smoke
def test_table_on_disk_of_a_disowned_folder_is_built_anew(tmp_path):
    """It may hold records of another cluster, at whose address the worker's own is again by now (T5)."""
    folder = StateDirectory(tmp_path, STREAM)
    table = folder.open("sessions", 0)
    table.apply({b"s-1": b"1"}, 5)
    folder.disown()
    table.close()
    folder.close()
    folder = StateDirectory(tmp_path, STREAM)
    again = folder.open("sessions", 0)
    assert (again.checkpoint, again.get(b"s-1")) == (None, None)
    again.close()
    folder.close()


@pytest.mark.smoke
def test_table_on_disk_without_a_record_is_built_anew(tmp_path):
    """As earlier versions wrote it (T5)."""
    table = RocksDBPartition(tmp_path, Cache(1 << 20))
    table.apply({b"s-1": b"1", b"": b"5 %d" % time.time()})
    table.close()
    again = RocksDBPartition(tmp_path, Cache(1 << 20), STREAM)
    assert (again.checkpoint, again.get(b"s-1")) == (None, None)
    again.close()


@pytest.mark.parametrize(("low", "high", "start"), [(0, 9, 5), (6, 9, 6), (0, 4, 0), (5, 5, 5)])
def test_a_table_that_its_changelog_does_not_lead_on_from_is_built_anew(settings, low, high, start):
    """Because what followed it was deleted, or because the topic is another by now (T4)."""

    async def scenario():
        app = build_app(settings(), settings().topology(1))
        store = app.tables["sessions"].data
        store.partition(0).apply({b"s-1": b"1"}, 5)
        assert store.begin(0, low, high) == start
        assert store.partition(0).get(b"s-1") == (b"1" if start == 5 else None)

    asyncio.run(scenario())
