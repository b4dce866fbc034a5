"""A process that ends when its parent ends.

The child leads its own session: Ctrl-C reaches only the parent, which stops the child in order. If the parent dies, a
shell that reads a pipe from the parent sees its end and kills the child. (PR_SET_PDEATHSIG exists only in Linux, and it
also fires when the thread that started the process ends.)
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 0.02


class Child:
    """A process with the working directory *folder* that appends its output to *log*."""

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
        """Return the processor time of all its threads until now, from Linux's /proc."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        """Return its output until now."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self._process.terminate()

    def stop(self, within_seconds: float) -> None:
        """Send it SIGTERM, and kill it if it does not end in time."""
        self.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(within_seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it, then its watcher: the system may reuse its process id now."""
        for process in (self._process, self._watcher):
            if process is not None:
                process.kill()
                process.communicate()
