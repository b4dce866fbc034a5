"""The name of a worker among those of its app: its transactional.id, the same after a restart where that is possible.

The transaction coordinator keeps each transactional.id for a week. A worker with a new one at each start would leave one
behind at each restart, and thousands in a crash loop.

N1. The setting `instance` names the worker. The operator sees to it that no two workers have the same.
N2. Without it, the name is a random one in a file below `data_dir`. A lock keeps the file for one process, so two workers on
    a machine have two files. The name is no host name: machines may share one.
N3. Without a file that can be written and locked, the name is a new random one.
N4. Another machine may have a copy of the file. The opening finds out (rule O8 of opening.py).
"""

import logging
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from filelock import FileLock, Timeout

from worker.settings.model import Settings

_log: Final = logging.getLogger(__name__)

_FOLDER: Final = "instances"
_MAX_WORKERS: Final = 1000
_NAME_BYTES: Final = 6
_NAME: Final = re.compile(rf"[0-9a-f]{{{2 * _NAME_BYTES}}}")


def claim(settings: Settings, held: ExitStack) -> str:
    """Return the worker's transactional.id; *held* ends the claim.

    An app id has no colon, so a name that an operator has chosen cannot be the one of another app.
    """
    if settings.instance is not None:
        return f"{settings.app_id}-:{settings.instance}"
    try:
        name = _kept_name(settings.data_dir / _FOLDER / settings.app_id, held)
    except (OSError, NotImplementedError) as error:  # FileLock's, where a file system has no locks
        _log.info(
            "The transactional id is new at each start: %s. To keep one set SESSION_WORKER_DATA_DIR to a folder that can be written, "
            "or SESSION_WORKER_INSTANCE to a name that no other worker has",
            error,
        )
        name = token_hex(_NAME_BYTES)
    return f"{settings.app_id}-{name}"


def _kept_name(folder: Path, held: ExitStack) -> str:
    """Return the name in the first file of a folder that no other process has locked; write it if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_MAX_WORKERS):
        lock = FileLock(folder / f"{number}.lock", timeout=0)
        with suppress(Timeout):
            lock.acquire()
            held.callback(lock.release)
            return _name_in(folder / f"{number}.name")
    raise OSError(f"{folder} is used by {_MAX_WORKERS} workers")


def _name_in(file: Path) -> str:
    with suppress(FileNotFoundError):
        name = file.read_text("ascii", "replace")
        if _NAME.fullmatch(name):
            return name
    name = token_hex(_NAME_BYTES)
    file.write_text(name, "ascii")
    return name
