"""The whole thing on one machine: what it finds, how it ends, and that nothing outlives it."""

import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from worker.local import live as module
from worker.local.live import LiveFailed, RunOptions, live

ROOT = Path(__file__).parents[2]
TOY = (sys.executable, str(Path(__file__).with_name("toy_worker.py")))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    """Let temporary folders be in here; give settings that a live run must not mind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SESSION_WORKER_APPLICATION_ID", "7")
    (tmp_path / ".env").write_text("SESSION_WORKER_UPDATES_TOPIC=others\n")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lively():
    """Run a live run in this process, with a worker that makes a mistake; give the status and what was printed."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(mistake, count=60):
        screen = Console(file=StringIO(), width=200)
        status = live(RunOptions(500, count, 1, "memory://"), screen, (*TOY, mistake))
        assert isinstance(screen.file, StringIO)
        return status, screen.file.getvalue().splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_live_run_ends_by_itself_when_every_record_became_what_was_foretold(tmp_path):
    command = [sys.executable, "-m", "worker", "local", "--count", "1000", "--rate", "1000"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    last = run.stdout.splitlines()[-1]
    assert last == "1,000 records in: 955 snapshots, 9 rejections, 21 dry runs, 15 duplicates: as expected"
    assert [it.name for it in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize(
    ("mistake", "counts", "flaw"),
    [
        ("lose", "55 snapshots", "expected snapshot, but there is no output"),
        ("double", "57 snapshots", "the outcome snapshot was not expected"),
        ("untidy", "56 snapshots", "the worker did not end with status 0; its status is 3, and its last lines are:"),
    ],
)
def test_a_snapshot_too_few_or_too_many_or_an_untidy_end_is_status_1(lively, mistake, counts, flaw):
    status, lines = lively(mistake)
    assert status == 1
    verdict = next(number for number, line in enumerate(lines) if line.startswith(f"60 records in: {counts}, "))
    assert lines[verdict].endswith(": NOT as expected")
    assert lines[verdict + 1].endswith(flaw)


def test_a_worker_that_ends_ends_the_run_with_its_last_words(lively):
    with pytest.raises(
        LiveFailed, match=r"its status is 1, and its last lines are:\n(.*\n)*Error: the cause is in the last"
    ):
        lively("die")


def test_a_worker_that_stands_still_is_found(lively, monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 2)
    with pytest.raises(LiveFailed, match=r"the worker wrote nothing for 2 s \(finishing\)"):
        lively("hang")


# ------------------------------------------------------------------------------------------------- ends by signals


ENDLESS = """
import sys
from rich.console import Console
from worker.local import view
from worker.local.live import RunOptions, live
view.LINE_SECONDS = 0.1
sys.exit(live(RunOptions(500, {count}, 1, "memory://"), Console(), {worker}))
"""


@pytest.mark.parametrize(
    ("count", "sent", "whole_group", "status"),
    [
        (None, signal.SIGINT, True, 0),
        (100_000, signal.SIGINT, False, 130),
        (100_000, signal.SIGTERM, False, 130),
        (None, signal.SIGKILL, False, -signal.SIGKILL),
    ],
    ids=["Ctrl-C in a terminal", "SIGINT to it alone", "SIGTERM", "SIGKILL"],
)
def test_no_process_outlives_a_live_run(tmp_path, count, sent, whole_group, status):
    script = ENDLESS.format(count=count, worker=(*TOY, "none"))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, process_group=0) as run:
        assert run.stdout is not None
        while "running" not in run.stdout.readline():
            assert run.poll() is None
        started = descendants(run.pid)
        assert len(started) == 4, "a broker, a worker, and a watcher each"
        assert run.pid not in map(os.getpgid, started), "a terminal's Ctrl-C must not reach them"
        (os.killpg if whole_group else os.kill)(run.pid, sent)
        rest = run.stdout.read().splitlines()
        assert run.wait(30) == status
    if sent != signal.SIGKILL:
        assert rest[-1].endswith("in flight")
        assert [it.name for it in tmp_path.iterdir()] == [".env"]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in started):
        assert time.monotonic() < deadline, "a process of the run still runs"
        time.sleep(0.05)


def descendants(process):
    children = [int(it) for path in Path(f"/proc/{process}/task").glob("*/children") for it in path.read_text().split()]
    return [*children, *(it for child in children for it in descendants(child))]
