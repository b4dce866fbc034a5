"""The figures of a run as a file, with the machine, the versions and the commit."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from worker.local.kafka import VERSION

RESULTS = Path(__file__).parent / "results"
_PACKAGES = "faust-streaming", "aiokafka", "msgspec", "orjson", "pydantic", "rocksdict"


class Measured(Protocol):
    """A NamedTuple of figures."""

    def _asdict(self) -> dict[str, float]: ...


def save(name: str, what: str, runs: Mapping[str, Sequence[Measured]]) -> None:
    """Write the figures of each contestant over those of an earlier run."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "what": what,
        "date": time.strftime("%Y-%m-%d"),
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "machine": machine(),
        "versions": {
            "python": _said("python3", "--version").removeprefix("Python "),
            "java": _said("java", "--version").splitlines()[0],
            "kafka": VERSION,
            **{name: version(name) for name in _PACKAGES},
        },
        "runs": {contestant: [run._asdict() for run in done] for contestant, done in runs.items()},
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """Return the figures that `save` wrote."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def machine() -> str:
    """Return a description of the machine in one line."""
    model = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].partition("\n")[0].strip("\t: ")
    )
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {gibibytes:.0f} GiB"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
