"""Load the settings, and report the value and the source of each, or the first that is invalid."""

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
"""Upper bound in characters of an invalid value in a message; a longer value may be a key instead of its file name."""


class WrongSetting(Exception):
    """A setting is invalid; the message is one line with the reason and without secrets."""


def load() -> Settings:
    """Return the settings. Raise WrongSetting if one is invalid."""
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting(_message(error)) from None
    except (SettingsError, OSError) as error:
        raise WrongSetting(str(error)) from None


class InForce(NamedTuple):
    """The value and the source of a setting, for display; secrets are masked."""

    name: str
    value: str
    source: str


def in_force(settings: Settings) -> Iterator[InForce]:
    """Yield every setting of *settings*, as `load` returned them, with its source."""
    origins = _origins()
    for field in Settings.model_fields:
        value = getattr(settings, field)
        yield InForce(variable(field), "–" if value is None else str(value), origins.get(field, "default"))


def example_file() -> str:
    """Return a TOML file with every setting and its default as comments."""
    lines = [f"# {PREFIX}… variables and the file {ENV_FILE} override this file."]
    for name, field in Settings.model_fields.items():
        if name != "config":
            default = field.get_default(call_default_factory=True)
            value = default if isinstance(default, int) else str(default or "")
            lines += ["", f"# {field.description}", f"# {name} = {json.dumps(value)}"]
    return "\n".join(lines)


def _origins() -> dict[str, str]:
    """Return the source of each setting that is not a default."""
    origins: dict[str, str] = {}
    for source, values in sources_of(Settings).items():
        origins = dict.fromkeys(values(), source) | origins
    return origins


def _message(error: ValidationError) -> str:
    """Return the first error as one line; the line does not repeat secrets and values of unknown settings."""
    wrong = error.errors(include_url=False)[0]
    message = wrong["msg"].removeprefix("Value error, ")
    if not wrong["loc"]:
        return message
    field = str(wrong["loc"][0])
    source = _origins().get(field, "environment")
    is_toml = source not in {"environment", ENV_FILE}
    where = (field if is_toml else variable(field)) + ("" if source == "environment" else f" in {source}")
    if wrong["type"] == "extra_forbidden":
        return f"{where}: unknown setting{_hint(field, wrong['input'], is_toml=is_toml)}"
    given = repr(wrong["input"])
    is_secret = SecretStr in get_args(Settings.model_fields[field].annotation) or len(given) > _MAX_REPEATED
    return f"{where}: {message}" + ("" if is_secret else f", but it is {given}")


def _hint(name: str, value: object, *, is_toml: bool) -> str:
    """Return the setting that the operator probably meant; in a TOML file also one with a prefix or inside a table."""
    field = name.lower().removeprefix(PREFIX.lower())
    if is_toml and field in Settings.model_fields:
        return f"; write {field}: names in this file are in lower case and have no prefix"
    if is_toml and isinstance(value, dict) and (inside := _settings_in(value)):
        return (
            f"; write {inside[0]} above all tables: names in this file are in lower case, without prefix, in no table"
        )
    nearest = get_close_matches(field, Settings.model_fields, n=1)
    return f"; did you mean {nearest[0] if is_toml else variable(nearest[0])}?" if nearest else ""


def _settings_in(table: dict[str, Any]) -> list[str]:
    """Return the names of settings in a table and in its inner tables."""
    names = [name.lower().removeprefix(PREFIX.lower()) for name in table]
    inner = [found for value in table.values() if isinstance(value, dict) for found in _settings_in(value)]
    return [name for name in names if name in Settings.model_fields] + inner
