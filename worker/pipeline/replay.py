"""Runs both stages over a file, in memory.

INPUT is JSON Lines, one update record a line; what is published comes out as JSON Lines, in order. Claims are settled
on the spot, so nothing waits and nothing but the sessions and profiles is kept. No record is a stray here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from worker.codec.claims import decode_verdict
from worker.codec.lines import BadLine, Line, read
from worker.codec.records import ConsumerRecord, ProducerRecord, partition_of_session
from worker.codec.snapshot import decode_session, split_entry
from worker.domain.limits import Rules
from worker.pipeline.lane import Lane, MemoryTable, Overlay
from worker.pipeline.profiles import Profiles
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology

_ADOPT_EVERY = 1024


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
        for line in read(lines):
            partition = line.partition or 0
            yield self.fold(partition, self._record(partition, line))

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
        """Count the outcomes of the records so far, by their names in pipeline/outcomes.py."""
        self._adopt()
        return self._session_lane.counts

    def sessions(self) -> Iterator[dict[str, Any]]:
        """Yield the sessions as they are now, as plain data."""
        self._adopt()
        return (orjson.loads(split_entry(entry)[0]) for entry in self._table.values())

    def _settle(self, published: list[ProducerRecord]) -> None:
        """Publish what the sessions stage sent; the profiles stage answers its questions first."""
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
        """Fold a verdict into its session; a demoted session is published in its own partition."""
        sessions, _profiles = self._overlays
        here = sessions.partition
        verdict = _consumed(answer)
        entry = sessions.table.get(answer.key or b"")
        if entry is not None:
            message = decode_verdict(verdict)
            if message is not None and message.answer == "demoted":
                session = decode_session(split_entry(entry)[0])
                sessions.partition = partition_of_session(session.id)
        self._sessions.fold(sessions, answer.topic, verdict)
        sessions.partition = here

    def _adopt(self) -> None:
        for overlay in self._overlays:
            overlay.adopt()
        self._overlays = Overlay(self._session_lane), Overlay(self._profile_lane)

    def _record(self, partition: int, line: Line) -> ConsumerRecord:
        due = self._next_offsets.get(partition, 0)
        offset = due if line.offset is None else line.offset
        if not due <= offset < 1 << 40:
            raise BadLine(line.number, f"offset {offset} of partition {partition} does not rise above {due - 1}")
        self._next_offsets[partition] = offset + 1
        return ConsumerRecord(offset, line.timestamp, line.key, line.value, line.headers)


def _consumed(record: ProducerRecord) -> ConsumerRecord:
    return ConsumerRecord(0, record.timestamp, record.key, record.value, record.headers)
