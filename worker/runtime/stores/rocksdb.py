"""A partition of a table on disk, in RocksDB."""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from logging import getLogger
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

log = getLogger(__name__)
_END = b""
"""The key of what a table stands for and was built from; no session and no profile has an empty key."""

_STALE_SECONDS = 20 * 60 * 60  # below delete.retention.ms, a day by default, with room for a clock that is wrong
_WRITE_BUFFER_BYTES = 16 << 20  # half of it saves a worker 30 MB, but now and then strays took half as long again
_CACHE_BYTES = 32 << 20
_BLOOM_BITS = 10  # a key: what is looked for and not there, or further down, costs 6 µs instead of 15
RECENT_BYTES = 4 << 20
_ENTRY_BYTES = 150  # of Python's objects, beside key and entry
_LOGS_KEPT = 2
_MAX_WORKERS = 1000
_OWNER_BYTES = 6


class StateDirectory:
    """One worker's folder below *root*: the first that no other process uses, so that several may share a machine.

    What is built there belongs to the *stream*: the ids of the app, the cluster and the topics. Another app id or cluster
    has another folder, also where file names that differ only in case are the same.
    """

    def __init__(self, root: Path, stream: Mapping[str, str]) -> None:
        self._cache = Cache(_CACHE_BYTES)
        self._stream = dict(stream)
        owner = blake2b(json.dumps([stream["app id"], stream["cluster"]]).encode(), digest_size=_OWNER_BYTES)
        root = root / f"{stream['app id']}-{owner.hexdigest()}"
        for number in range(_MAX_WORKERS):
            self.path = root / f"worker-{number}"
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / "lock", timeout=0)
            with suppress(Timeout):
                self._lock.acquire()
                return
        raise RuntimeError(f"{root} is used by {_MAX_WORKERS} workers")

    def open(self, name: str, number: int) -> "RocksDBPartition":
        """Open a partition of the table *name*; all of a worker share a cache of what was read."""
        return RocksDBPartition(self.path / f"{name}-{number}", self._cache, self._stream)

    def disown(self) -> None:
        """Delete the record of what the partitions were built from, so that the next start rebuilds them (T5)."""
        self._stream.clear()

    def close(self) -> None:
        """Leave the folder to the next worker."""
        self._lock.release()


class StoreCorrupted(Exception):
    """What a partition has on disk cannot be read."""


class Recent:
    """The entries that were written or read last, since those are read next; up to twice RECENT_BYTES of them.

    They are kept in two generations: when the young ones are too many they become the old ones, whose place they take.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, bytes | None] = {}
        self._old: dict[bytes, bytes | None] = {}
        self._size = 0

    def find(self, key: bytes) -> tuple[bool, bytes | None]:
        """Return whether an entry is known, and the entry; a known entry may be None."""
        for entries in (self._young, self._old):
            if key in entries:
                return True, entries[key]
        return False, None

    def learn(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Add what was written or read."""
        self._young.update(changes)
        self._size += sum(len(key) + len(entry or b"") + _ENTRY_BYTES for key, entry in changes.items())
        if self._size > RECENT_BYTES:
            self._old, self._young, self._size = self._young, {}, 0


class RocksDBPartition:
    """A partition on disk: entries as they are, and one of where in the changelog they stand.

    There is no write-ahead log: the changelog is one. After a crash RocksDB holds what it had flushed, which stands for
    the offset flushed with it. A folder that cannot be opened, or is so old that tombstones may have been forgotten
    since, is rebuilt. So is one that was built from another *stream*, or has no record of it (rule T5 of tables.py).
    So is, at the next start, one that turns out to be damaged when an entry is read: RocksDB reads only its index when it
    opens.
    """

    def __init__(self, folder: Path, cache: Cache, stream: Mapping[str, str] = MappingProxyType({})) -> None:
        self._folder = folder
        self._cache = cache
        self._stream = stream
        self.checkpoint: int | None = None
        self._written = 0.0
        self._high = float("inf")
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 (RocksDB has no exception of its own)
            log.warning("%s: cannot be opened, rebuilding from the changelog: %s", folder, error)
            self._remove()
            self._open()
        if self.checkpoint is not None and not 0 <= time.time() - self._written < _STALE_SECONDS:
            log.warning("%s: out of date for too long, rebuilding from the changelog", folder)
            self.clear()
        elif self.checkpoint is not None and self._found != self._stream:
            log.warning("%s: rebuilding from the changelog: %s", folder, self._difference())
            self.clear()

    def get(self, key: bytes, /) -> bytes | None:
        """Read an entry; raise StoreCorrupted when that fails, and see to it that the next opening fails, too."""
        is_known, entry = self._recent.find(key)
        if is_known:
            return entry
        try:
            entry = self._db.get(key)
        except Exception as error:
            (self._folder / "CURRENT").write_text("damaged\n", encoding="ascii")
            raise StoreCorrupted(f"{self._folder} is corrupted; the next start rebuilds it: {error}") from error
        self._recent.learn({key: entry})
        return entry

    def set_target(self, high: int) -> None:
        """Count the table as up to date from *high* on, where its changelog ends now."""
        self._high = high

    def apply(self, changes: Mapping[bytes, bytes | None], end: int | None = None) -> None:
        """Write changes and what the table stands for then, and when it was up to date last, all or nothing."""
        batch = WriteBatch(raw_mode=True)
        for key, entry in changes.items():
            if entry is None:
                batch.delete(key)
            else:
                batch.put(key, entry)
        if end is not None:
            if end >= self._high:
                self._written = time.time()
            batch.put(_END, b"%d %d %s" % (end, self._written, json.dumps(dict(self._stream)).encode()))
        self._db.write(batch, self._unlogged)
        self._recent.learn(changes)
        self.checkpoint = self.checkpoint if end is None else end

    def clear(self) -> None:
        """Forget everything."""
        self._db.close()
        self._remove()
        self._open()

    def close(self) -> None:
        """Write everything to disk and let go of it."""
        if self.checkpoint is not None:
            self.apply({}, self.checkpoint)
        self._db.flush()
        self._db.close()

    def _open(self) -> None:
        options = Options(raw_mode=True)
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        options.set_keep_log_file_num(_LOGS_KEPT)
        blocks = BlockBasedOptions()
        blocks.set_bloom_filter(_BLOOM_BITS, block_based=False)
        blocks.set_block_cache(self._cache)
        options.set_block_based_table_factory(blocks)
        self._unlogged = WriteOptions()
        setattr(self._unlogged, "disable_wal", True)  # noqa: B010 (its stub takes it for a method)
        self._db = Rdict(str(self._folder), options)
        self._recent = Recent()
        try:
            end, written, *stream = (self._db.get(_END) or b"-1 0").split(b" ", 2)
            self._found: dict[str, str] = json.loads(stream[0]) if stream else {}
        except Exception:
            self._db.close()  # it is locked as long as it is open
            raise
        self.checkpoint, self._written = (int(end), int(written)) if int(end) >= 0 else (None, time.time())

    def _difference(self) -> str:
        """Return what the table was built from, where that is not what the worker runs on (T5)."""
        if not self._found:
            return "it has no record of the cluster and the topics that it was built from"
        names = sorted(self._stream.keys() | self._found.keys())
        differing = [name for name in names if self._stream.get(name) != self._found.get(name)]
        told = (f"{name} (then {self._found.get(name)}, now {self._stream.get(name)})" for name in differing)
        return f"it was built from another {', '.join(told)}"

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self.checkpoint = None
