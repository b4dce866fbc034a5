"""What the faults rely on does what it says: a bad wire is bad, and a launcher's worker is as wrong as it was told to be."""

import asyncio
import signal
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from tests.chaos.crew import judge, launched
from tests.chaos.faults import REQUESTS, fill, own_mounts, unprivileged, write_protected
from tests.chaos.proxy import Weather, Wire
from tests.kafka.workers import SESSION_TIMEOUT_SECONDS, update

BATCH = b"x" * 5_000


@asynccontextmanager
async def wired():
    """Open a connection through a wire to something that sends back what it gets."""

    async def echo(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    wire = Wire(server.sockets[0].getsockname()[1])
    await wire.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        yield wire, reader, writer
    finally:
        writer.close()
        await wire.close()
        server.close()


@pytest.mark.parametrize("weather", [Weather.FAIR, Weather.NARROW, Weather.SLOW])
def test_a_wire_that_is_only_slow_passes_all_there_is(weather):
    async def scenario():
        async with wired() as (wire, reader, writer), asyncio.timeout(30):
            wire.turn(weather)
            writer.write(BATCH)
            assert await reader.readexactly(len(BATCH)) == BATCH

    asyncio.run(scenario())


def test_a_resetting_wire_passes_what_is_small_and_breaks_off_in_a_batch():
    async def scenario():
        async with wired() as (wire, reader, writer), asyncio.timeout(30):
            wire.turn(Weather.RESETTING)
            writer.write(b"heartbeat")
            assert await reader.readexactly(9) == b"heartbeat"
            writer.write(BATCH)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(len(BATCH))
            assert wire.strikes == 1

    asyncio.run(scenario())


def test_a_silent_wire_passes_nothing_and_resets_when_it_is_fair_again():
    async def scenario():
        async with wired() as (wire, reader, writer), asyncio.timeout(30):
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            wire.turn(Weather.SILENT)
            writer.write(b"behind")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await reader.read(1)
            wire.turn(Weather.FAIR)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(6)

    asyncio.run(scenario())


def test_a_launched_worker_has_the_wrong_time_and_reaches_the_broker_through_the_wire(crew, tmp_path):
    async def scenario():
        it = crew(1)
        broker = int(it.kafka.rpartition(":")[2])
        wire = Wire(broker)
        await wire.start()
        ports = tmp_path / "ports"
        ports.write_text(f"{broker}={wire.port}\n", "ascii")
        worker = await it.open(command=launched(late=7200, through=ports))
        written = datetime.fromisoformat((await worker.says("Ready:")).partition(",")[0])
        passed = wire.connections
        assert await worker.stop() == 0
        await wire.close()
        return written, passed

    written, passed = asyncio.run(scenario())
    assert written - datetime.now().astimezone().replace(tzinfo=None) > timedelta(hours=1)
    assert passed > 2


def test_a_worker_whose_disk_is_full_says_so_and_the_next_one_loses_nothing(crew, tmp_path):
    async def scenario():
        it = crew(1, store="rocksdb://")
        folder = tmp_path / "small"
        worker = await it.open(command=(*own_mounts(), *launched(disk=64 << 20)), data_dir=folder)
        fill(worker, folder)
        await it.send([update(f"s-{number}") for number in range(200)])
        await it.settle()
        await worker.stop()
        said = worker.said()
        await it.open(data_dir=folder)
        await it.send([update(f"s-{number}", attributes={"more": 1}) for number in range(200)])
        await it.settle()
        return said, await judge(it)

    said, found = asyncio.run(scenario())
    assert any("No space left" in line for line in said)
    assert found == {}


def test_a_worker_that_may_not_write_its_tables_ends_in_a_line_that_says_so(crew, tmp_path):
    async def scenario():
        it = crew(1, store="rocksdb://")
        folder = tmp_path / "protected"
        assert await (await it.open(data_dir=folder)).stop() == 0
        with write_protected(folder):
            worker = it.start(command=(*unprivileged(), *launched()), data_dir=folder)
            return await worker.ends(), worker.said()

    status, said = asyncio.run(scenario())
    assert status == 1
    assert "Permission denied" in said[-1]
    assert "protected" in said[-1]


def dying(crew, moment, times):
    """Let a worker die at a moment, and another take over; give what the first said, and what the verifier finds."""

    async def scenario():
        it = crew(4, session_timeout_seconds=SESSION_TIMEOUT_SECONDS)
        worker = await it.open()
        await it.send([update(f"s-{number}") for number in range(200)])
        await it.settle()
        assert await worker.stop() == 0
        struck = it.start(command=launched(strike="SIGKILL", moment=moment, times=times))
        await it.send([update(f"s-{number}", attributes={"more": 1}) for number in range(200)])
        assert await struck.ends() == -signal.SIGKILL
        await it.open()
        await it.settle()
        return struck.said(), await judge(it)

    return asyncio.run(scenario())


def test_a_worker_struck_while_it_restores_has_restored_a_part_and_the_next_one_loses_nothing(crew):
    said, found = dying(crew, "restored", 2)
    assert said[-1] == "Struck by SIGKILL before restored"
    assert not any("Ready:" in line for line in said)
    assert found == {}


def test_a_worker_struck_between_begin_and_commit_of_a_transaction_loses_and_doubles_nothing(crew):
    said, found = dying(crew, REQUESTS[-1], 1)
    assert said[-1] == "Struck by SIGKILL before EndTxnRequest"
    assert found == {}
