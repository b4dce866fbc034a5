"""Passwords, tokens and certificates, read from their files for each new connection."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self


class UnusableFile(OSError):
    """A file with a secret or a certificate cannot be used; the message names the setting."""


class PasswordFile(str):  # noqa: SLOT000 (a str takes no slots of an object)
    """The password that a file held when the settings were read; `read` returns what the file holds now."""

    _file: Path

    def __new__(cls, file: Path) -> Self:
        password = super().__new__(cls, _line(file))
        password._file = file
        return password

    def read(self) -> str:
        """Return the password; raises UnusableFile, after which a client tries again."""
        return _line(self._file)


class FreshContext(ssl.SSLContext):
    """A context for TLS that loads its certificates again for each connection, by *load*."""

    load: Callable[[], ssl.SSLContext]

    def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
        """Begin a connection; raises UnusableFile."""
        try:
            fresh = self.load()
        except ValueError as error:
            raise UnusableFile(str(error)) from error
        return fresh.wrap_bio(*arguments, **keywords)

    def get_ca_certs(self, *arguments: Any, **keywords: Any) -> Any:
        """Return the authorities of the next connection."""
        return self.load().get_ca_certs(*arguments, **keywords)


def _line(file: Path) -> str:
    """Return what a file holds, without the end of the line."""
    try:
        text = file.read_text("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UnusableFile(f"SESSION_WORKER_SASL_PASSWORD_FILE={file}: the password is not UTF-8") from error
    except OSError as error:
        raise UnusableFile(f"SESSION_WORKER_SASL_PASSWORD_FILE={file}: cannot be read: {error.strerror}") from error
    if not text:
        raise UnusableFile(f"SESSION_WORKER_SASL_PASSWORD_FILE={file}: there is no password in it")
    return text


class TokenFile:
    """The token provider of OAUTHBEARER: each login takes the token that the file holds at that moment."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def token(self) -> str:
        """Read the token; raises UnusableFile, after which a client tries again."""
        try:
            return self._file.read_text("ascii", "replace").strip()
        except OSError as error:
            raise UnusableFile(
                f"SESSION_WORKER_SASL_TOKEN_FILE={self._file}: cannot be read: {error.strerror}"
            ) from error
