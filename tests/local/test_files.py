"""Files that commands read and write: a failed run changes nothing, and compressed files are read."""

import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from worker.cli import main
from worker.codec.lines import BadLine
from worker.local.simulator.day import simulate
from worker.tools.files import Input, opened_output

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = str(Path(__file__).parents[2])
LINES = b"".join(json.dumps(it).encode() + b"\n" for it in simulate(300, 1))
OLD = b"the old content\n"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Run in a folder with an input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(LINES)
    return tmp_path


def run(*arguments: str, given: bytes | None = None):
    return CliRunner().invoke(main, arguments, input=given)


def process(command: str, *, check: bool = False):
    """Run a line of a shell in which `worker` is the command line."""
    shell = f'worker() {{ "{sys.executable}" -m worker "$@"; }}; {command}'
    env = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(["/bin/bash", "-c", shell], env=env, capture_output=True, timeout=60, check=check)


def names():
    return sorted(it.name for it in Path().iterdir())


# ------------------------------------------------------------------------------------------- the output is the input


@pytest.mark.parametrize("output", ["in.jsonl", "./in.jsonl", "symbolic", "hard"])
def test_an_output_that_is_the_input_is_refused(output):
    Path("symbolic").symlink_to("in.jsonl")
    Path("hard").hardlink_to("in.jsonl")
    result = run("replay", "in.jsonl", "--output", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {output} is also the input: use another file as the output\n"
    assert Path("in.jsonl").read_bytes() == LINES
    assert names() == ["hard", "in.jsonl", "symbolic"]


@pytest.mark.parametrize(
    "command",
    [
        "worker replay in.jsonl >> in.jsonl",
        "worker replay - < in.jsonl >> in.jsonl",
        "worker replay - --output in.jsonl < in.jsonl",
        "worker replay /dev/stdin --output in.jsonl < in.jsonl",
        "worker replay in.jsonl --output /dev/stdout >> in.jsonl",
    ],
)
def test_an_output_that_is_the_input_by_redirection_is_refused(command):
    result = process(command)
    assert result.returncode == 2
    assert b"also the input: use another file as the output" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert Path("in.jsonl").read_bytes() == LINES


def test_an_output_that_is_the_input_and_emptied_by_the_shell_is_refused():
    result = process("worker replay in.jsonl > in.jsonl")
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
    assert b"standard output is also the input" in result.stderr


def test_a_pipe_and_a_device_may_be_input_and_output():
    assert process("worker replay /dev/null --output /dev/null").returncode == 0
    assert process("worker replay /dev/null >> /dev/null").returncode == 0


# ---------------------------------------------------------------------------------------------------- failed runs


COMMANDS = [
    ("replay", "in.jsonl", "--output"),
    ("simulate", "--count", "3000", "--seed", "1", "--out"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda it: it[0])
def test_a_run_that_succeeds_replaces_the_target_and_keeps_its_mode(command):
    Path("out").write_bytes(OLD)
    Path("out").chmod(0o640)
    Path("link").symlink_to("out")
    assert run(*command, "link").exit_code == 0
    assert Path("link").is_symlink()
    assert Path("out").read_bytes() == run(*command, "-").stdout_bytes != b""
    assert Path("out").stat().st_mode & 0o777 == 0o640
    assert names() == ["in.jsonl", "link", "out"]


def test_a_new_target_has_the_mode_of_any_new_file():
    before = os.umask(0o027)
    try:
        assert run("replay", "in.jsonl", "--output", "out").exit_code == 0
    finally:
        os.umask(before)
    assert Path("out").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("is_there", [True, False])
def test_a_bad_line_leaves_the_target_as_it_was(is_there):
    Path("in.jsonl").write_bytes(LINES + b"{}\n")
    if is_there:
        Path("out").write_bytes(OLD)
    assert run("replay", "in.jsonl", "--output", "out").exit_code == 2
    assert names() == ["in.jsonl", "out"][: 1 + is_there]
    assert not is_there or Path("out").read_bytes() == OLD


@pytest.mark.parametrize("command", COMMANDS, ids=lambda it: it[0])
def test_a_full_disk_leaves_the_target_as_it_was(command):
    """The limit of a file's size stands for a disk: the write fails in the middle."""
    Path("out").write_bytes(OLD)
    result = process(f"ulimit -f 20; trap '' XFSZ; worker {' '.join(command)} out")
    assert result.returncode == 1
    assert result.stderr == b"Error: out: cannot be written: File too large; the file is unchanged\n"
    assert (names(), Path("out").read_bytes()) == (["in.jsonl", "out"], OLD)


@pytest.mark.usefixtures("heeded_hangups")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_target_as_it_was(sent):
    Path("out").write_bytes(OLD)
    command = [sys.executable, "-m", "worker", "replay", "-", "--output", "out"]
    env = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as replaying:
        assert replaying.stdin is not None
        assert replaying.stderr is not None
        replaying.stdin.write(LINES)
        replaying.stdin.flush()
        while names() == ["in.jsonl", "out"]:
            assert replaying.poll() is None
        replaying.send_signal(sent)
        assert replaying.wait(20) == 128 + sent
        assert replaying.stderr.read() == b""
    assert (names(), Path("out").read_bytes()) == (["in.jsonl", "out"], OLD)


def test_of_several_files_all_are_replaced_or_none(monkeypatch):
    assert run("schemas", "--out", "new").exit_code == 0
    before = {it.name: it.read_bytes() for it in Path("new").iterdir()}
    assert len(before) == 5
    for name in before:
        Path("new", name).write_bytes(OLD)
    Path("new", "update-record.schema.json").unlink()
    Path("new", "update-record.schema.json").mkdir()
    result = run("schemas", "--out", "new")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: new/update-record.schema.json: cannot be written: Is a directory\n"
    assert {it.read_bytes() for it in Path("new").iterdir() if it.is_file()} == {OLD}
    assert len(list(Path("new").iterdir())) == 5


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (".", "Is a directory"),
        ("new/", "Is a directory"),
        ("missing/out", "No such file or directory"),
        ("in.jsonl/out", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda it: it[0])
def test_a_target_that_cannot_be_written_is_one_line_and_status_1(command, output, told):
    result = run(*command, output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {output}: cannot be written: {told}\n"
    assert names() == ["in.jsonl"]


def test_folder_and_file_without_write_permission_are_named():
    Path("folder").mkdir(0o555)
    Path("out").write_bytes(OLD)
    Path("out").chmod(0o444)
    as_a_user = "setpriv --bounding-set=-dac_override " if os.geteuid() == 0 else ""  # root may write everything
    for output in ("folder/out", "out"):
        result = process(f"{as_a_user}{sys.executable} -m worker replay in.jsonl --output {output}")
        assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
        assert f"Error: {output}: cannot be written: Permission denied".encode() in result.stderr
    assert Path("out").read_bytes() == OLD


def test_a_folder_that_cannot_be_made_is_named():
    result = run("schemas", "--out", "in.jsonl")
    assert (result.exit_code, result.stderr) == (1, "Error: in.jsonl: the folder cannot be created: File exists\n")


def test_what_is_no_regular_file_is_written_as_it_is():
    os.mkfifo("pipe")
    count = len(run("replay", "in.jsonl").stdout_bytes.splitlines())
    result = process("cat pipe & worker replay in.jsonl --output pipe; wait")
    assert (result.returncode, result.stderr, len(result.stdout.splitlines())) == (0, b"", count)
    assert len(process("worker replay in.jsonl --output /dev/stdout").stdout.splitlines()) == count
    assert process("worker replay in.jsonl --output /dev/stdout > out").returncode == 0
    assert len(Path("out").read_bytes().splitlines()) == count
    Path("link").symlink_to("/dev/stdout")
    assert process("worker replay in.jsonl --output link > out").returncode == 0
    assert len(Path("out").read_bytes().splitlines()) == count
    assert Path("link").readlink() == Path("/dev/stdout")
    with Path("appended").open("ab") as end:
        end.write(OLD)
        end.flush()
        command = [sys.executable, "-m", "worker", "replay", "in.jsonl", "--output", "appended"]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": ROOT}, stdout=end, check=True)
        assert os.path.samestat(os.fstat(end.fileno()), Path("appended").stat())
    assert process("worker replay in.jsonl --output /dev/fd/5 5> five").returncode == 0
    assert len(Path("five").read_bytes().splitlines()) == count
    assert Path("/dev/null").is_char_device()
    assert names() == ["appended", "five", "in.jsonl", "link", "out", "pipe"]


def test_an_error_that_is_not_of_the_output_is_passed_on():
    with pytest.raises(OSError, match="another"), opened_output("out"):
        raise OSError("another")
    assert names() == ["in.jsonl"]


# ----------------------------------------------------------------------------------------------------------- input


def zstandard(data: bytes) -> bytes:
    return zstd.compress(data)


SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(LINES),
        gzip.compress(LINES[:1000]) + gzip.compress(LINES[1000:]),
        zstandard(LINES),
        zstandard(LINES[:1000]) + zstandard(LINES[1000:]),
        SKIPPABLE + zstandard(LINES),
        gzip.compress(b"\xef\xbb\xbf" + LINES),
        b"\xef\xbb\xbf" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        b"\n\n" + LINES,
    ],
    ids=["gzip", "gzip of two", "zstd", "zstd of two", "zstd, skippable", "gzip, BOM", "BOM", "CRLF", "empty lines"],
)
def test_compressed_files_and_a_byte_order_mark_give_the_same_as_the_text(data):
    Path("other").write_bytes(data)
    expected = run("replay", "in.jsonl").stdout_bytes
    for result in (run("replay", "other"), run("replay", "-", given=data)):
        assert (result.exit_code, result.stderr, result.stdout_bytes) == (0, "", expected)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_compressed_pipe_that_comes_byte_by_byte_is_read(kind):
    data = gzip.compress(LINES) if kind == "gzip" else zstandard(LINES)
    env = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-m", "worker", "replay", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, bufsize=0) as replaying:
        assert replaying.stdin is not None
        for byte in data[:8]:
            replaying.stdin.write(bytes([byte]))
        out, _none = replaying.communicate(data[8:], timeout=60)
    assert out == run("replay", "in.jsonl").stdout_bytes


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (gzip.compress(LINES)[:-10], "the gzip file is truncated"),
        (zstandard(LINES)[:-10], "the zstd file is truncated"),
        (gzip.compress(LINES) + b"garbage", "the gzip file is damaged: "),
        (gzip.compress(LINES)[:-8] + b"12345678", "the gzip file is damaged: "),
        (gzip.compress(LINES)[:10] + b"\xff" * 100, "the gzip file is damaged: "),
        (zstandard(LINES) + b"garbage", "the zstd file is damaged: "),
        (b"\x1f\x8b", "the gzip file is truncated"),
        (b"\x28\xb5\x2f\xfd", "the zstd file is truncated"),
    ],
)
def test_a_damaged_compressed_file_is_one_line_with_status_2(data, told):
    for result in (run("replay", "-", given=data), run("replay", "-", "--output", "out", given=data)):
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: <stdin>, line ")
        assert told in result.stderr
        assert result.stderr.count("\n") == 1
    assert names() == ["in.jsonl"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("missing.jsonl", "missing.jsonl: cannot be read: No such file or directory"),
        ("in.jsonl/x", "in.jsonl/x: cannot be read: Not a directory"),
        (".", ".: cannot be read: Is a directory"),
    ],
)
@pytest.mark.parametrize("command", ["replay", "send"])
def test_an_input_that_cannot_be_read_is_one_line_with_status_2(command, source, told):
    result = run(command, source)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"Error: {told}\n")


def test_a_closed_standard_input_is_one_line_with_status_2():
    result = process("worker replay - <&-")
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", b"Error: standard input is closed\n")


def test_a_file_that_fails_while_it_is_read_is_named_with_the_line():
    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            if self.tell() == len(self.getvalue()):
                raise OSError(errno.EIO, "Input/output error")
            return super().read1(size)

    lines = Input("in.jsonl", Failing(LINES)).lines()
    with pytest.raises(BadLine, match=r"^line 301: the file cannot be read: Input/output error$"):
        list(lines)
