"""A process that ends when we do.

It leads a session of its own: Ctrl-C reaches us alone, and we stop it in order. Should we die without that, a shell that
waits for the end of our pipe to it kills the process. (PR_SET_PDEATHSIG fires also when the thread that started the
process ends, and there is none outside Linux.)
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 0.02


class Child:
    """A process that works in *folder* and writes what it says behind what *log* holds already."""

    def __init__(
        self, command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        with log.open("ab") as said:
            self._log_start = said.tell()
            self._process = subprocess.Popen(  # noqa: S603
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._watcher: subprocess.Popen[bytes] | None = None
        if os.name == "posix":
            self._watcher = subprocess.Popen(  # noqa: S603
                ("/bin/sh", "-c", "read _; kill -9 $1", "watcher", str(self._process.pid)),
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def cpu_seconds(self) -> float:
        """Count the processor time of all its threads so far; Linux tells it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        """Give what it has written so far."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def stop(self, within_seconds: float) -> None:
        """Ask it to end, and kill it when it has not in time."""
        self.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(within_seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, then its watcher: its number may now become another's."""
        for process in (self._process, self._watcher):
            if process is not None:
                process.kill()
                process.communicate()
