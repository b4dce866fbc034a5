"""The figures of a run as a file, with the machine, the versions and the commit they were measured with."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import Run
from worker.local.kafka import VERSION

RESULTS = Path(__file__).parent / "results"
_PACKAGES = "faust-streaming", "aiokafka", "msgspec", "orjson", "pydantic", "rocksdict"


def save(workload: str, what: str, count: int, runs: Mapping[str, Sequence[Run]]) -> Path:
    """Write the runs of one workload, over what an earlier time left."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{workload}.json"
    document = {
        "workload": what,
        "records": count,
        "date": time.strftime("%Y-%m-%d"),
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "machine": machine(),
        "versions": {
            "python": _said("python3", "--version").removeprefix("Python "),
            "java": _said("java", "--version").splitlines()[0],
            "kafka": VERSION,
            **{name: version(name) for name in _PACKAGES},
        },
        "runs": {name: [run._asdict() for run in done] for name, done in runs.items()},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, the runs as Run again."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    document["runs"] = {name: [Run(**run) for run in runs] for name, runs in document["runs"].items()}
    return document


def machine() -> str:
    """Describe the machine in a line."""
    model = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].partition("\n")[0].strip("\t: ")
    )
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {gibibytes:.0f} GiB"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
