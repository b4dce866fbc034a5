"""What is kept takes the memory that its limit allows, as the operating system counts it (Linux)."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
from worker.domain.profile import Claim
from worker.codec.claims import encode_first_claim
from worker.codec.snapshot import encode_json
from worker.runtime.stores.rocksdb import RECENT_BYTES, Recent

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def entry(number):
    if spare:
        return encode_json({"integrationId": f"s-{number}", "attributes": {"spare": "x" * spare}})
    return encode_first_claim(Claim("2026-11-22T18:40:00.000Z", f"s-{number}"))

spare, caches, number = int(sys.argv[1]), [], 0
before = resident_bytes()
for _partition in range(8):
    cache = Recent()
    caches.append(cache)
    for _entry in range(3 * RECENT_BYTES // (spare + 200)):  # both generations are full, and one more was dropped
        number += 1
        cache.learn({b"key-%08d" % number: entry(number)})
print((resident_bytes() - before) / (len(caches) * 2 * RECENT_BYTES))
"""


@pytest.mark.parametrize("spare", [0, 100, 1000], ids=["profiles", "small sessions", "sessions"])
def test_cache_of_recent_entries_stays_within_its_limit(spare):
    done = subprocess.run((sys.executable, "-c", PROGRAM, str(spare)), capture_output=True, text=True, check=True)
    assert 0.4 < float(done.stdout) <= 1.05


TABLES = """
import ctypes
from pathlib import Path
from bench.load import carts
from worker.domain.limits import Rules
from worker.pipeline.replay import Replay
from worker.codec.records import ConsumerRecord

def resident_bytes():
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

count = 20_000
records = carts(count, sessions=count, profiles=count).records
replay, allowed = Replay(Rules()), 0
before = resident_bytes()
for offset, (_partition, key, value) in enumerate(records):
    (snapshot,) = replay.fold(0, ConsumerRecord(offset, 1_795_372_800_000, key, value))
    allowed += 1.3 * len(snapshot.value) + 200 + 300
print((resident_bytes() - before) / allowed)
"""


def test_sessions_with_profiles_stay_within_the_stated_formula():
    done = subprocess.run((sys.executable, "-c", TABLES), capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) <= 1


FREED = """
import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from worker.runtime.process import _keep_freed_memory, _return_freed_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def shrinks(is_behind):
    before = resident_bytes()
    kept = [bytes(100_000) + b"x" for _number in range(1000)][::50]
    returning = asyncio.ensure_future(_return_freed_memory(SimpleNamespace(commit_loop=SimpleNamespace(is_behind=is_behind))))
    await asyncio.sleep(5)
    returning.cancel()
    return resident_bytes() - before < 10_000_000, kept

_keep_freed_memory()
print(asyncio.run(shrinks(sys.argv[1] == "behind"))[0])
"""


@pytest.mark.parametrize(("state", "is_returned"), [("keeps up", "True"), ("behind", "False")])
def test_freed_memory_is_returned_when_the_worker_keeps_up(state, is_returned):
    done = subprocess.run((sys.executable, "-c", FREED, state), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == is_returned
