"""Generates the pages of docs/reference, and the picture of the topology, from the code."""

from collections.abc import Iterator, MutableMapping
from html import escape
from typing import Any, Final

import click

from worker.codec.headers import REJECTION_HEADERS
from worker.domain.lifecycle import MOVES
from worker.domain.limits import Rules
from worker.domain.rejections import ROWS
from worker.pipeline.topology import TOPICS, Topology
from worker.reference.schemas import asyncapi, headers_of_rejections
from worker.settings.model import Settings
from worker.settings.sources import variable

_GENERATED: Final = "<!-- `make reference` writes this page from the code. -->"
_WIDTH: Final = {"max_content_width": 100, "terminal_width": 100}
_MEANINGS: Final = {
    "record_too_large": "The value, or what the outputs must carry of the record, is over the limit of bytes.",
    "missing_origin": "A record on the topic of re-keyed records has no valid header with its origin.",
    "malformed_json": "The value is not UTF-8, not JSON, or not an object.",
    "missing_integration_id": "`integrationId` is empty, or omitted with a key that is null, empty or not UTF-8.",
    "unknown_type": "`type` is none of `update`, `return` and `reopen`, or cannot be determined.",
    "wrong_application": "`applicationId` is not `SESSION_WORKER_APPLICATION_ID`.",
    "unknown_field": "The contract does not know the field.",
    "ambiguous_field": "The record has two fields that contradict each other.",
    "invalid_field": "A field has the wrong JSON type, or is outside a limit of length, count or range.",
    "missing_price": "A cart item or an additional cost has no price.",
    "number_out_of_range": "A number has more digits, or a larger magnitude, than the worker can keep exactly.",
    "too_many_items": "The cart has more than 1,000 items.",
    "too_many_units": "The cart has more than 10,000 units.",
    "occurred_in_future": "`occurredAt` is more than one hour after the Kafka timestamp of the record.",
    "dry_not_supported": "A reopen cannot be a dry run.",
    "empty_return": "The return lists no items.",
    "ambiguous_item": "An entry of the return names both `position` and `sku`.",
    "missing_item": "An entry of the return names neither `position` nor `sku`.",
    "event_id_reused": "The session has accepted this `eventId` with another value.",
    "unknown_session": "A return or a reopen names a session that does not exist.",
    "invalid_state": "The update asks for a state that an update cannot set.",
    "session_not_open": "The update changes a session that is not open.",
    "invalid_transition": "The state of the session does not allow this return or reopen.",
    "unknown_item": "The session has no such cart item.",
    "return_exceeds_remaining": "The return takes more units than remain.",
    "session_too_large": "The snapshot would be larger than `SESSION_WORKER_MAX_SNAPSHOT_BYTES`.",
}
"""When a record is refused with each code; a code without a meaning fails the generation."""


def pages(commands: click.Group, statuses: str) -> dict[str, str]:
    """Return every page of docs/reference, by the name of its file.

    *commands* is the command line; *statuses* is a text with one Markdown table, that of the exit statuses.
    """
    bodies = {
        "settings": ("Settings", _settings()),
        "commands": ("Commands", _commands(commands)),
        "topics": ("Topics", _topics()),
        "headers": ("Headers", _headers()),
        "rejection-codes": ("Rejection codes", _codes()),
        "exit-statuses": ("Exit statuses", _statuses(statuses)),
        "lifecycle": ("Lifecycle of a session", _lifecycle()),
    }
    return {
        f"{name}.md": "\n".join((f"# {title}", "", _GENERATED, "", *body, "")) for name, (title, body) in bodies.items()
    }


def topology_diagram() -> str:
    """Return the picture of the topology as a Mermaid diagram, in a block of Markdown."""
    names = Topology(partitions=None, v1="the v1 topic, if set").named()
    lines = ["```mermaid", "flowchart LR"]
    lines += [f'  {field}[("{name}")]' for field, name in names.items()]
    for field, topic in TOPICS.items():
        lines.append(f"  {_node(topic.writer)} --> {field}")
        if topic.reader != "nobody":
            lines.append(f"  {field} --> {_node(topic.reader)}")
    return "\n".join((*lines, "```"))


def _node(actor: str) -> str:
    return {"sessions": "sessions_stage{{sessions stage}}", "profiles": "profiles_stage{{profiles stage}}"}.get(
        actor, f"{actor.replace(' ', '_')}([{actor}])"
    )


def _settings() -> Iterator[str]:
    yield "[Configure a worker](../guides/configure.md) says where the worker reads settings from. `–` means: not set."
    yield ""
    yield "| variable | default | meaning |"
    yield "| --- | --- | --- |"
    for name, field in Settings.model_fields.items():
        if name == "data_dir":
            default = "the user's data folder"
        elif field.default is None:
            default = "–"
        else:
            default = f"`{field.default}`"
        yield f"| `{variable(name)}` | {default} | {field.description} |"


def _commands(commands: click.Group) -> Iterator[str]:
    yield "All commands read the [settings](settings.md) and end with one of the [exit statuses](exit-statuses.md)."
    for path, command in _leaves("session-worker", commands):
        yield from ("", f"## {path}", "", "```text")
        yield from (line.rstrip() for line in _help(path, command, commands.context_settings))
        yield "```"


def _help(path: str, command: click.Command, inherited: MutableMapping[str, Any]) -> list[str]:
    """Return the lines of a command's help; click keeps the names of the help option that it is first asked with."""
    with click.Context(command, info_name=path, **{**inherited, **_WIDTH}) as context:
        return command.get_help(context).splitlines()


def _leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with the words that call it."""
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _leaves(f"{path} {name}", inner)
    else:
        yield path, command


def _topics() -> Iterator[str]:
    yield from (topology_diagram(), "")
    yield "The worker creates a topic that is missing with this configuration, and with the number of partitions of the"
    yield "input topic. `max.message.bytes` follows the limits of the settings; the table shows it for the default limits."
    yield ""
    yield "| topic | setting of its name | key | holds | written by | read by | configuration |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    names = Topology(partitions=None).named()
    largest = max(Rules().max_record_bytes, Rules().max_snapshot_bytes)
    for field, topic in TOPICS.items():
        configuration = "<br>".join(f"`{name}={value}`" for name, value in topic.configuration(largest).items())
        name = f"`{names[field]}`" if field in names else "–"
        cells = (
            name,
            f"`{variable(f'{field}_topic')}`",
            topic.key,
            topic.holds,
            topic.writer,
            topic.reader,
            configuration,
        )
        yield f"| {' | '.join(cells)} |"


def _headers() -> Iterator[str]:
    yield "## Headers of snapshots"
    yield ""
    yield "Snapshots, dry runs and the v1 view are CloudEvents 1.0 in binary mode."
    schema = asyncapi()["components"]["schemas"]["CloudEvents"]
    yield from ("", "| header | present | content |", "| --- | --- | --- |")
    for name, content in schema["properties"].items():
        yield f"| `{name}` | {'always' if name in schema['required'] else 'if there is one'} | {_content(content)} |"
    for pattern, content in schema["patternProperties"].items():
        yield f"| `{pattern.removeprefix('^')}…` | if there is one | {_content(content)} |"
    yield from ("", "Values of `ce_type`, by topic:", "", "| topic | values |", "| --- | --- |")
    for field, channel in asyncapi()["channels"].items():
        messages = channel["messages"].values()
        headers = [message.get("headers", {}).get("properties", {}) for message in messages]
        types = [name for properties in headers for name in properties.get("ce_type", {}).get("enum", ())]
        if types:
            yield f"| `{variable(f'{field}_topic')}` | {', '.join(f'`{name}`' for name in types)} |"
    yield from ("", "## Headers of rejections", "", "The headers of the record as it arrived, and these:", "")
    yield from ("| header | present | content |", "| --- | --- | --- |")
    for name, content in headers_of_rejections()["properties"].items():
        yield f"| `{name}` | {'always' if name in REJECTION_HEADERS else 'if there is one'} | {_content(content)} |"


def _content(schema: dict[str, object]) -> str:
    if "$ref" in schema:
        return "The [rejection code](rejection-codes.md)."
    if "const" in schema:
        return f"`{schema['const']}`"
    if "description" in schema:
        return escape(str(schema["description"]), quote=False)
    return f"Text that matches `{schema['pattern']}`." if "pattern" in schema else "Text."


def _codes() -> Iterator[str]:
    yield "The worker checks the rows in this order. The first row that fails gives the code. The codes of one row are checked"
    yield "together. Each rejection has a message that says what would be right."
    yield from ("", "| row | code | when |", "| --- | --- | --- |")
    for row, codes in enumerate(ROWS, 1):
        for code in codes:
            yield f"| {row} | `{code}` | {_MEANINGS[code]} |"


def _statuses(text: str) -> Iterator[str]:
    yield "A command that fails prints one line on standard error."
    yield ""
    yield from (line for line in text.splitlines() if line.startswith("|"))


def _lifecycle() -> Iterator[str]:
    yield "Each arrow is an accepted update record: its type, and the event in `ce_type`. A tombstone deletes a session in any"
    yield "state. No arrow leaves `cancelled`. Any other move is a [rejection](rejection-codes.md)."
    yield from ("", "```mermaid", "stateDiagram-v2")
    for (before, kind, after), event in MOVES.items():
        yield f"  {before or '[*]'} --> {after}: {kind} / {event}"
    yield "```"
