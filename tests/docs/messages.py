"""Collects what the worker says to an operator: each WARNING, and each message that may end it.

Three kinds of places in the code write such a message:

1. a call of `log.warning`, `log.error`, `log.critical` or `log.exception`, anywhere in `worker/`;
2. a `raise` with a text, in a room of ROOMS, of any class but those of CAUGHT;
3. a `return`, a `yield` or an assignment of a text with at least SENTENCE_CHARACTERS, in a function of a room of ROOMS: these
   functions compose messages. The functions of PARTS are left out: what they write follows a message that is collected.

What varies is written `…`. A text without a constant part has its words from another place, which is collected by itself.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

WORKER = Path(__file__).parents[2] / "worker"
ROOMS = ("runtime", "kafka", "signals.py")
LEVELS = {"warning", "error", "critical", "exception"}
CAUGHT = {
    "BrokerError": "the worker retries it, or explains it with a remedy",
    "DeadlineExceeded": "the worker retries it",
    "KafkaConnectionError": "the worker retries it",
    "LeaderNotAvailableError": "the worker retries it",
    "NoResponse": "the worker retries it",
    "NotImplementedError": "it is a mistake of a programmer",
    "NotMember": "the worker waits for its next assignment",
    "NotSent": "the worker retries it",
    "OutcomeUnknown": "the worker opens its partitions again and logs why",
    "RuntimeError": "it is a mistake of a programmer, or a limit of workers for one folder",
    "TransactionAborted": "the worker commits the same again and logs why",
    "ValueError": "it is a mistake of a programmer",
    "_Judged": "the worker retries it and logs it",
    "StreamReplaced": "the worker opens its partitions again and logs why",
}
PARTS = {
    "_alter": "the command that follows what is wrong with a topic",
    "_defect": "the middle of `the batch at offset … No record after it can be read`",
    "_difference": "the end of `…: rebuilding from the changelog`",
    "_end": "the end of `no progress for …`",
    "_evidence": "the beginning of `… but no offset of … is committed`",
    "_lost": "the remedy for a topic that was deleted",
    "_producer": "the end of `no progress for …`",
    "_recount": "the remedy for a topic with another number of partitions",
}
FRAGMENTS = {
    "Kafka at … …": "its words are returned by functions of worker/runtime/access.py",
    "…. Trying again": "its words are returned by functions of worker/runtime/access.py",
    "If it is a new input with a new name": "the remedy of `… is not the topic that the state of the group …`",
    "To abort it at once run": "the end of `no progress for …`",
    "abort --topic … --partition …": "the end of `no progress for …`",
    "To skip them set": "the remedy of `… is below the log start offset`",
    "ending the open transaction of": "the beginning of `still waiting after … s`",
    "The oldest open transaction on": "the middle of `no stable offset for …`",
    "the coordinator does not show the members either": "the end of `JoinGroup has no answer for … s`",
    "the coordinator waits until all members join again": "the end of `JoinGroup has no answer for … s`",
    "asking for the": "the beginning of `still waiting after … s`",
    "beginning a transaction of": "the beginning of `still waiting after … s`",
    "reading the metadata of topics": "the beginning of `still waiting after … s`",
    "the task of its": "the middle of `The Kafka client of group … ended`",
    "check SESSION_WORKER_BROKERS": "the remedy of an address that cannot be reached",
    "has to be created and, by": "the middle of `partitions, but … is the most`",
    "in SESSION_WORKER_SASL_PASSWORD_FILE": "the end of `refuses the login`",
    "set an address of this machine": "the end of `the web server cannot listen`",
    "set another port, or 0": "the end of `the web server cannot listen`",
    "the input was": "the middle of `A topic's partitions cannot be removed`",
    "the offset after the batch": "the middle of `No record after it can be read`",
}
"""The beginnings of texts that are a part of a message, and which: they need no heading of their own."""
SENTENCE_CHARACTERS = 25
_VARIES = re.compile(r"%[-+0-9.]*[a-z]")


class Message(NamedTuple):
    text: str
    place: str


@cache
def texts() -> list[Message]:
    """Return every text with a constant part, with the place in the code that writes it."""
    return sorted({found for file in sorted(WORKER.rglob("*.py")) for found in _of(file)})


def messages() -> list[Message]:
    """Return every text that is a message of its own."""
    return [found for found in texts() if not found.text.startswith((*FRAGMENTS,))]


def _of(file: Path) -> Iterator[Message]:
    path = file.relative_to(WORKER)
    in_room = path.parts[0] in ROOMS
    for node in _walk(ast.parse(file.read_text("utf-8"))):
        written: ast.expr | None = None
        shortest = 1
        match node:
            case ast.Call(func=ast.Attribute(attr=attr), args=[first, *_]) if attr in LEVELS and not _is_warnings(node):
                written = first
            case ast.Call(func=ast.Attribute(attr="log"), args=[_level, first, *_]):
                written = first
            case ast.Call(func=ast.Attribute(attr="__init__"), args=[first]) if in_room:
                written, shortest = first, SENTENCE_CHARACTERS
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=arguments)) if in_room and name not in CAUGHT:
                written = next((it for it in arguments if _text(it)), None)
            case ast.Return(value=value) | ast.Yield(value=value) | ast.Assign(value=value) if (
                in_room and value is not None
            ):
                written, shortest = value, SENTENCE_CHARACTERS
        for text in _texts(written):
            if re.search(r"[A-Za-z]{3}", text) and len(text) >= shortest and " " in text.strip("… "):
                yield Message(text, f"worker/{path}:{getattr(node, 'lineno', 0)}")


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node that runs in a function, but those of PARTS; a call at the top of a module is none."""
    for function in ast.walk(node):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name not in PARTS:
            yield from ast.walk(function)


@cache
def codes_with_a_remedy() -> set[str]:
    """Return the name of each error code of Kafka for which a table `_REMEDIES` has what to do."""
    return {
        key.attr
        for file in WORKER.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
        if isinstance(node.target, ast.Name) and node.target.id == "_REMEDIES"
        for key in node.value.keys
        if isinstance(key, ast.Attribute)
    }


@cache
def functions() -> set[str]:
    """Return the name of every function in the rooms of ROOMS."""
    return {
        node.name
        for file in WORKER.rglob("*.py")
        if file.relative_to(WORKER).parts[0] in ROOMS
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _is_warnings(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "warnings"


def _texts(node: ast.expr | None) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[0].isupper():
        for argument in node.args:  # an exception that is returned
            yield from _texts(argument)
    elif isinstance(node, ast.Tuple):
        for element in node.elts:
            yield from _texts(element)
    elif node is not None and (text := _text(node)):
        yield text


def _text(node: ast.expr) -> str:
    """Return a text with `…` for what varies; empty if the expression is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return _VARIES.sub("…", text)
        case ast.JoinedStr(values=values):
            return "".join(_text(it) or "…" for it in values)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text(left) + _text(right)
    return ""
