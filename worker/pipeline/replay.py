"""Runs both stages over a file, in memory.

INPUT is JSON Lines, one update record a line; what is published comes out as JSON Lines, in order. Claims are settled
on the spot, so nothing waits and nothing but the sessions and profiles is kept. No record is a stray here.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
import orjson

from worker.domain.model import Rules, Session
from worker.pipeline import wire
from worker.pipeline.lane import Lane, MemoryTable, Overlay
from worker.pipeline.profiles import Profiles
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology
from worker.pipeline.wire import ConsumerRecord, ProducerRecord

_ADOPT_EVERY = 1024


class BadLine(Exception):
    """A line of the input is not in the offline form; *number* counts from 1."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One update record as a line of a file gives it."""

    timestamp: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    value: msgspec.Raw
    key: str | None = None
    partition: int = 0
    offset: int | None = None
    headers: dict[str, str] = {}


class Replay:
    """Folds update records one by one, from any number of partitions, over one table of sessions."""

    def __init__(self, rules: Rules, v1_topic: str | None = None) -> None:
        self.topology = Topology(partitions=None, v1=v1_topic)
        self._sessions = Sessions(rules, self.topology)
        self._profiles = Profiles(self.topology)
        self._table = MemoryTable[bytes, bytes]()
        self._session_lane = Lane(self._sessions, 0, self._table, {})
        self._profile_lane = Lane(self._profiles, 0, MemoryTable[bytes, bytes](), {})
        self._overlays = Overlay(self._session_lane), Overlay(self._profile_lane)
        self._next_offsets: dict[int, int] = {}
        self.records = 0

    def lines(self, lines: Iterable[bytes]) -> Iterator[list[ProducerRecord]]:
        """Fold the lines of a file; yield what each of them publishes.

        Raises BadLine for one that is not in the form, after what came before it.
        """
        decoder = msgspec.json.Decoder(Line)
        for number, text in enumerate(lines, 1):
            if text.isspace():
                continue
            try:
                line = decoder.decode(text)
                partition, record = self._record(line)
            except (msgspec.DecodeError, ValueError) as error:
                raise BadLine(number, str(error)) from error
            yield self.fold(partition, record)

    def fold(self, partition: int, record: ConsumerRecord) -> list[ProducerRecord]:
        """Fold one update record of a partition and give what is published, claims and verdicts left out."""
        sessions, _profiles = self._overlays
        sessions.partition = partition
        self._sessions.fold(sessions, self.topology.updates, record)
        published: list[ProducerRecord] = []
        self._settle(published)
        self.records += 1
        if self.records % _ADOPT_EVERY == 0:
            self._adopt()
        return published

    def counts(self) -> Counter[str]:
        """Count what became of the records so far: events, `rejected.<code>`, `duplicate`, `skipped`, `dry_run`."""
        self._adopt()
        return self._session_lane.counts

    def sessions(self) -> Iterator[Session]:
        """Yield the sessions as they are now."""
        self._adopt()
        return (wire.decode(wire.unpack(entry)[0]) for entry in self._table.values())

    def _settle(self, published: list[ProducerRecord]) -> None:
        """Take what the sessions stage sent; questions to the profiles stage are answered before going on."""
        sessions, profiles = self._overlays
        sent, sessions.out = sessions.out, []
        for record in sent:
            if record.topic != self.topology.claims:
                published.append(record)
                continue
            self._profiles.fold(profiles, record.topic, _consumed(record))
            answers, profiles.out = profiles.out, []
            for answer in answers:
                if answer.topic == self.topology.verdicts:
                    self._take_to(answer)
                    self._settle(published)

    def _take_to(self, answer: ProducerRecord) -> None:
        """Give a verdict to its session; one that was demoted is published in its own partition."""
        sessions, _profiles = self._overlays
        here = sessions.partition
        verdict = _consumed(answer)
        message = wire.decode_verdict(verdict)
        entry = sessions.table.get(answer.key or b"")
        if message is not None and message.answer == "demoted" and entry is not None:
            session = wire.decode(wire.unpack(entry)[0])
            sessions.partition = wire.partition_of_session(session["id"])
        self._sessions.fold(sessions, answer.topic, verdict)
        sessions.partition = here

    def _adopt(self) -> None:
        for overlay in self._overlays:
            overlay.adopt()
        self._overlays = Overlay(self._session_lane), Overlay(self._profile_lane)

    def _record(self, line: Line) -> tuple[int, ConsumerRecord]:
        due = self._next_offsets.get(line.partition, 0)
        offset = due if line.offset is None else line.offset
        if not 0 <= line.partition < 1 << 13:
            raise ValueError(f"partition {line.partition} is not one of 0 to 8191")
        if not due <= offset < 1 << 40:
            raise ValueError(f"offset {offset} of partition {line.partition} does not rise above {due - 1}")
        self._next_offsets[line.partition] = offset + 1
        headers = [(name, text.encode()) for name, text in line.headers.items()]
        key = None if line.key is None else line.key.encode()
        return line.partition, ConsumerRecord(offset, line.timestamp, key, _value(bytes(line.value)), headers)


def written(record: ProducerRecord, rejections: str) -> bytes:
    """Write a published record as a line of the output; a rejection's value is text, any other's is JSON."""
    value: object = None
    if record.value is not None:
        is_raw = record.topic == rejections
        value = record.value.decode(errors="replace") if is_raw else orjson.Fragment(record.value)
    line = {
        "topic": record.topic,
        "partition": record.partition,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "value": value,
        "timestamp": record.timestamp,
        "headers": {name: text.decode(errors="replace") for name, text in record.headers},
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _consumed(record: ProducerRecord) -> ConsumerRecord:
    return ConsumerRecord(0, record.timestamp, record.key, record.value, record.headers)


# ------------------------------------------------------------------------------------------------ values in a line

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[ \t\r\n]+')


def _is_compact(text: bytes) -> bool:
    """Tell whether a JSON text surely has no white space outside its strings, and no escapes inside them."""
    return b"\\" not in text and len(b"".join(text.split(b'"')[::2]).split()) == 1


def _value(text: bytes) -> bytes | None:
    """Give the value that a line means: null, the text of a string, or the compact JSON of an object."""
    if text == b"null":
        return None
    if text.startswith(b'"'):
        return msgspec.json.decode(text, type=str).encode()
    if not text.startswith(b"{"):
        raise ValueError("value is neither an object nor a string nor null")
    return text if _is_compact(text) else _TOKENS.sub(_tightened, text)


def _tightened(token: re.Match[bytes]) -> bytes:
    """Drop white space and write a string's characters unescaped; numbers and the order of keys stay as written."""
    text = token[0]
    if not text.startswith(b'"'):
        return b""
    return orjson.dumps(orjson.loads(text)) if b"\\u" in text else text
