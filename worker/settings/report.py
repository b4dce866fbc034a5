"""Loads the settings, and says which are in force, where each comes from, and what is wrong with one."""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, get_args

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    SettingsError,
)

from worker.settings.model import Settings
from worker.settings.sources import ENV_FILE, PREFIX, sources_of, variable

_MAX_REPEATED: Final = 100
"""A wrong value that is longer is not repeated: it may be a key where the key's file is meant."""


class WrongSetting(Exception):
    """The settings are not usable; the message is one line that says why, without any secret."""


def load() -> Settings:
    """Read the settings; raise WrongSetting when one is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting(_told(error)) from None
    except (SettingsError, OSError) as error:
        raise WrongSetting(str(error)) from None


class InForce(NamedTuple):
    """A setting as it is in force, for a person to read; secrets are masked."""

    name: str
    value: str
    source: str


def in_force(settings: Settings) -> Iterator[InForce]:
    """Tell every setting that *settings*, as loaded, holds, and where it comes from."""
    origins = _origins()
    for field in Settings.model_fields:
        value = getattr(settings, field)
        yield InForce(variable(field), "–" if value is None else str(value), origins.get(field, "default"))


def example_file() -> str:
    """Write a TOML file in which every setting is a comment, with its default, for a person to start from."""
    lines = [f"# {PREFIX}… variables and the file {ENV_FILE} go over this file."]
    for name, field in Settings.model_fields.items():
        if name != "config":
            default = field.get_default(call_default_factory=True)
            value = default if isinstance(default, int) else str(default or "")
            lines += ["", f"# {field.description}", f"# {name} = {json.dumps(value)}"]
    return "\n".join(lines)


def _origins() -> dict[str, str]:
    """Name the source of each setting that has one."""
    origins: dict[str, str] = {}
    for source, values in sources_of(Settings).items():
        origins = dict.fromkeys(values(), source) | origins
    return origins


def _told(error: ValidationError) -> str:
    """Say in one line what is wrong first; what may be a secret, or misspelt, is not repeated."""
    wrong = error.errors(include_url=False)[0]
    message = wrong["msg"].removeprefix("Value error, ")
    if not wrong["loc"]:
        return message
    field = str(wrong["loc"][0])
    source = _origins().get(field, "environment")
    is_toml = source not in {"environment", ENV_FILE}
    where = (field if is_toml else variable(field)) + ("" if source == "environment" else f" in {source}")
    if wrong["type"] == "extra_forbidden":
        return f"{where}: there is no such setting{_hint(field, wrong['input'], is_toml=is_toml)}"
    given = repr(wrong["input"])
    is_secret = SecretStr in get_args(Settings.model_fields[field].annotation) or len(given) > _MAX_REPEATED
    return f"{where}: {message}" + ("" if is_secret else f", but it is {given}")


def _hint(name: str, value: object, *, is_toml: bool) -> str:
    """Name the setting that is meant; in a TOML file also one with the prefix of variables, or inside a table."""
    field = name.lower().removeprefix(PREFIX.lower())
    if is_toml and field in Settings.model_fields:
        return f"; write {field}: names in this file are lower case, no prefix"
    if is_toml and isinstance(value, dict) and (inside := _settings_in(value)):
        return f"; write {inside[0]} above all tables: names in this file are lower case, no prefix, in no table"
    nearest = get_close_matches(field, Settings.model_fields, n=1)
    return f"; is it {nearest[0] if is_toml else variable(nearest[0])}?" if nearest else ""


def _settings_in(table: dict[str, Any]) -> list[str]:
    """List the settings that a table holds, also in the tables of it."""
    names = [name.lower().removeprefix(PREFIX.lower()) for name in table]
    inner = [found for value in table.values() if isinstance(value, dict) for found in _settings_in(value)]
    return [name for name in names if name in Settings.model_fields] + inner
