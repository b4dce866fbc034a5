"""Open the files that commands read and write, so that a failure destroys no file.

1. An output is written to a file beside its target. The complete file replaces the target. A run that fails leaves the
   target unchanged and no other file.
2. An output that is also the input is refused. Device and inode are compared, so links and redirections are found too.
3. A target that is not a regular file (a pipe, a terminal, /dev/null) is written directly, like standard output.
4. An input with the first bytes of gzip or zstd is inflated, also from standard input. Several members are one text.
"""

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, Final, cast

from worker.codec.lines import BadLine

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STANDARD: Final = "-"

_CHUNK_BYTES = 1 << 18
_OWN_DEVICES = "/dev/fd/", "/dev/std", "/proc/"
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x2a\x4d\x18": "zstd"}
"""The first bytes of compressed files; a skippable frame of zstd has these from its second byte."""


class BadFile(Exception):
    """A file cannot be read or written; the message has the name of the file and the cause."""

    def __init__(self, message: str, *, is_input: bool = False) -> None:
        super().__init__(message)
        self.is_input = is_input
        """True if the user named a wrong file; False if a write failed."""


# ---------------------------------------------------------------------------------------------------------- input


class Input:
    """A file that is open for reading, or standard input."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self._file = file
        self.status = _status_of(file)

    @property
    def size_bytes(self) -> int | None:
        """The size of a regular file; None for anything else."""
        return self.status.st_size if self.status and S_ISREG(self.status.st_mode) else None

    def read_bytes(self) -> int:
        """Return the number of bytes that were read from the file, before inflation."""
        return self._file.tell()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines. Raise BadLine if the rest of the file cannot be read."""
        number, kind = 1, None
        try:
            head = self._file.read(4)
            kind = next((kind for magic, kind in _MAGIC.items() if magic in (head[: len(magic)], head[1:])), None)
            reader = _inflated(kind, io.BufferedReader(_Rejoined(head, self._file), _CHUNK_BYTES))
            for number, line in enumerate(reader, 2):  # noqa: B007 (the next line's number)
                yield line
        except (EOFError, zlib.error, zstd.ZstdError, OSError) as error:
            if isinstance(error, EOFError):
                why = f"the {kind} file is truncated"
            elif kind is not None and getattr(error, "errno", None) is None:
                why = f"the {kind} file is damaged: {error}"
            else:
                why = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
            raise BadLine(number, why) from error


class _Rejoined(io.RawIOBase):
    """A file whose first bytes are read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        data = data or cast("io.BufferedReader", self._rest).read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _inflated(kind: str | None, reader: io.BufferedReader) -> Iterator[bytes]:
    if kind is None:
        return reader
    return io.BufferedReader(gzip.GzipFile(fileobj=reader) if kind == "gzip" else zstd.ZstdFile(reader), _CHUNK_BYTES)


@contextmanager
def opened_input(path: str) -> Iterator[Input]:
    """Open a file for reading; `-` is standard input. Raise BadFile."""
    with ExitStack() as opened:
        if path != STANDARD:
            try:
                file: BinaryIO = opened.enter_context(Path(path).open("rb"))
            except OSError as error:
                raise BadFile(f"{path}: cannot be read: {error.strerror}", is_input=True) from error
            yield Input(path, file)
        elif sys.stdin is None:
            raise BadFile("standard input is closed", is_input=True)
        else:
            yield Input("<stdin>", sys.stdin.buffer)


# --------------------------------------------------------------------------------------------------------- output


@contextmanager
def opened_output(path: str, source: Input | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing; `-` is standard output. A successful `with` replaces a regular file at its end.

    Raise BadFile, also for an output that is *source*.
    """
    if path == STANDARD:
        if sys.stdout is None:
            raise BadFile("standard output is closed")
        _refuse_input("standard output", _status_of(sys.stdout.buffer), source)
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        status = _status(path)
        _refuse_input(path, status, source)
        if status is not None and _is_written_as_it_is(path, status):
            with Path(path).open("wb") as file:
                yield file
        else:
            with _replacing(Path(os.path.realpath(path)), status) as file:
                yield file
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        kept = "; the file is unchanged" if Path(path).is_file() else ""
        raise BadFile(f"{path}: cannot be written: {error.strerror}{kept}") from error


@contextmanager
def _replacing(target: Path, status: os.stat_result | None) -> Iterator[BinaryIO]:
    """Write to a file beside *target* with the same rights; the file replaces *target* at the end."""
    if status is not None and not os.access(target, os.W_OK):
        raise PermissionError(13, "Permission denied", str(target))
    part = target.with_name(f".{token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            if status is not None:
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                with suppress(PermissionError):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _is_written_as_it_is(path: str, status: os.stat_result) -> bool:
    """Return True for a path that is not a regular file, or that the command has open as its output."""
    own = [_status_of(stream.buffer) for stream in (sys.stdout, sys.stderr) if stream is not None]
    return (
        not (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode))
        or str(Path(path).absolute()).startswith(_OWN_DEVICES)
        or any(output is not None and os.path.samestat(output, status) for output in own)
    )


def _refuse_input(name: str, status: os.stat_result | None, source: Input | None) -> None:
    both = status, source.status if source else None
    if both[0] and both[1] and S_ISREG(both[0].st_mode) and os.path.samestat(both[0], both[1]):
        raise BadFile(f"{name} is also the input: use another file as the output", is_input=True)


def _status(path: str) -> os.stat_result | None:
    """Return the status of a file; None if it does not exist. Raise OSError for a path that cannot be a file."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        if path.endswith(os.sep):
            raise IsADirectoryError(21, "Is a directory", path) from None
        return None
    if S_ISDIR(status.st_mode):
        raise IsADirectoryError(21, "Is a directory", path)
    return status


def _status_of(file: BinaryIO) -> os.stat_result | None:
    """Return the status of an open file; None if it has no file descriptor."""
    try:
        return os.fstat(file.fileno())
    except (OSError, AttributeError):
        return None


def write_files(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files into a folder; either all files are replaced or none. Raise BadFile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"{folder}: the folder cannot be created: {error.strerror}") from error
    with ExitStack() as opened:
        for name, text in texts.items():
            file = opened.enter_context(opened_output(str(folder / name)))
            file.write(text.encode())
            file.flush()
    return [folder / name for name in texts]
