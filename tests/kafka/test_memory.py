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
