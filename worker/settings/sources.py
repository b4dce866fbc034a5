"""The sources of settings: the environment, an .env file, a TOML file."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from dotenv.parser import parse_stream
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

PREFIX: Final = "SESSION_WORKER_"
ENV_FILE: Final = ".env"
TOML_FILE: Final = "session-worker.toml"
_ENCODING: Final = "utf-8-sig"
"""UTF-8; a byte order mark is skipped."""


class _Environment(EnvSettingsSource):
    """The environment; unknown variables with the prefix of settings are returned too, so that they are refused."""

    def __call__(self) -> dict[str, Any]:
        prefix = PREFIX.lower()
        ours = {name: value for name, value in self.env_vars.items() if name.startswith(prefix)}
        unknown = {
            name.removeprefix(prefix): value for name, value in ours.items() if not _is_service_link(name, value or "")
        }
        return unknown | super().__call__()


class _Toml(TomlConfigSettingsSource):
    """A TOML file; a byte order mark is skipped."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding=_ENCODING))


def _is_service_link(name: str, value: str) -> bool:
    """Return True for a variable that Kubernetes sets in each container for a Service named session-worker."""
    return bool(re.search(r"_service_host$|_service_port(_|$)|_port_\d+_(tc|ud|sct)p(_|$)", name)) or (
        name.endswith("_port") and bool(re.match(r"(tc|ud|sct)p://", value))
    )


def sources_of(settings: type[BaseSettings]) -> dict[str, PydanticBaseSettingsSource]:
    """Return the sources of settings by precedence, with their names for messages."""
    environment = _Environment(settings)
    with _reading(ENV_FILE):
        _check_lines(Path(ENV_FILE))
        dotenv = DotEnvSettingsSource(settings, ENV_FILE, env_file_encoding=_ENCODING)
    file = str((dotenv() | environment()).get("config") or TOML_FILE)
    with _reading(file):
        toml = _Toml(settings, file)
        if "config" in toml():
            raise ValueError("config must not be in the TOML file: set SESSION_WORKER_CONFIG to the path of this file")
    return {"environment": environment, ENV_FILE: dotenv, file: toml}


@contextmanager
def _reading(file: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from error
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error


def _check_lines(file: Path) -> None:
    """Raise ValueError for a line that python-dotenv would skip with a warning."""
    if file.is_file():
        with file.open(encoding=_ENCODING) as lines:
            for binding in parse_stream(lines):
                if binding.error:
                    raise ValueError(f"line {binding.original.line} is not NAME=value")


def variable(field: str) -> str:
    return PREFIX + field.upper()
