"""Read passwords, tokens and certificates from their files for each new connection."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self


class UnusableFile(OSError):
    """A file with a secret or a certificate cannot be used; the message names the setting."""


class PasswordFile(str):  # noqa: SLOT000 (a str takes no slots of an object)
    """The password in a file at the time of the settings; `read` returns the current one."""

    _file: Path

    def __new__(cls, file: Path) -> Self:
        password = super().__new__(cls, _line(file))
        password._file = file
        return password

    def read(self) -> str:
        """Return the password. Raise UnusableFile; a client then retries."""
        return _line(self._file)


class FreshContext(ssl.SSLContext):
    """A TLS context that loads its certificates with *load* for each connection."""

    load: Callable[[], ssl.SSLContext]

    def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
        """Begin a connection. Raise UnusableFile."""
        try:
            fresh = self.load()
        except ValueError as error:
            raise UnusableFile(str(error)) from error
        return fresh.wrap_bio(*arguments, **keywords)

    def get_ca_certs(self, *arguments: Any, **keywords: Any) -> Any:
        """Return the certificate authorities of the next connection."""
        return self.load().get_ca_certs(*arguments, **keywords)


def _line(file: Path) -> str:
    """Return the content of a file without the end of the line."""
    try:
        text = file.read_text("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UnusableFile(f"SESSION_WORKER_SASL_PASSWORD_FILE={file}: the password is not UTF-8") from error
    except OSError as error:
        raise UnusableFile(f"SESSION_WORKER_SASL_PASSWORD_FILE={file}: cannot be read: {error.strerror}") from error
    if not text:
        raise UnusableFile(f"SESSION_WORKER_SASL_PASSWORD_FILE={file}: the file contains no password")
    return text


class TokenFile:
    """The token provider of OAUTHBEARER: each login uses the current token in the file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def token(self) -> str:
        """Return the token. Raise UnusableFile; a client then retries."""
        try:
            return self._file.read_text("ascii", "replace").strip()
        except OSError as error:
            raise UnusableFile(
                f"SESSION_WORKER_SASL_TOKEN_FILE={self._file}: cannot be read: {error.strerror}"
            ) from error
