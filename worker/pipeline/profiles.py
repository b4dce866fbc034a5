"""The stage by profileId: folds claims into the profiles table, and answers them.

Theory of operation:

P1. The table holds the smallest claim ever made on a profile. It only ever gets smaller, so every order of arrival
    ends in the same one, and a claim that is made again gets an answer that agrees with what was published.
P2. An answer and the table's change are published in one transaction. A crash before it leaves the claim unread, a
    crash after it leaves it answered.
P3. Answers about one profile leave in one order, through this lane, and those to one session through one partition:
    a demotion never overtakes the verdict that it takes back.
P4. A dry claim is answered and leaves no trace.
"""

from worker.codec.claims import (
    Answer,
    ClaimMessage,
    VerdictMessage,
    decode_claim,
    decode_first_claim,
    encode_first_claim,
    encode_verdict,
)
from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.domain.limits import Rules
from worker.domain.profile import Claim, decide
from worker.pipeline import outcomes
from worker.pipeline.apply import Limits
from worker.pipeline.lane import Overlay
from worker.pipeline.topology import Topology


class Profiles:
    """The profiles stage, over the topics of *topology*."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.reads = (topology.claims,)
        self.parks: frozenset[str] = frozenset()

    def limits(self, batch_bytes: int | None) -> Limits:
        """Return no limits but the largest batch: no rule of the operator bounds a profile."""
        return Limits(Rules(), self.topology.first_sessions, batch_bytes)

    def fold(self, overlay: Overlay, topic: str, record: ConsumerRecord) -> None:
        """Fold a claim; a record without a value makes the worker forget the profile of its key."""
        key = record.key or b""
        if record.value is None:
            self._forget(overlay, topic, key, record)
            return
        message = decode_claim(record)
        if message is None:
            overlay.counts[outcomes.UNREADABLE] += 1
            return
        entry = overlay.table.get(key)
        first = None if entry is None else decode_first_claim(entry)
        decision = decide(first, message.claim)
        if decision.is_first and message.claim != first and not message.dry:
            self._change(overlay, key, encode_first_claim(message.claim), record.timestamp)
        self._answer(overlay, message, message.claim, "first" if decision.is_first else "later")
        if decision.demoted is not None and not message.dry:
            self._answer(overlay, message, decision.demoted, "demoted")

    def _answer(self, overlay: Overlay, message: ClaimMessage, to: Claim, answer: Answer) -> None:
        verdict = VerdictMessage(message.profile_id, to, message.dry, answer, message.cause)
        home = self.topology.home(to.integration_id.encode(), overlay.partition)
        overlay.out.append(encode_verdict(self.topology.verdicts, home, verdict))

    def _forget(self, overlay: Overlay, topic: str, key: bytes, record: ConsumerRecord) -> None:
        """Forget a profile, wherever the one who wished it sent the wish."""
        home = self.topology.home(key, overlay.partition)
        if home != overlay.partition:
            overlay.out.append(ProducerRecord(topic, home, key, None, record.timestamp, ()))
        elif overlay.table.get(key) is not None:
            self._change(overlay, key, None, record.timestamp)

    def _change(self, overlay: Overlay, key: bytes, entry: bytes | None, timestamp: int) -> None:
        overlay.table.put(key, entry)
        overlay.out.append(ProducerRecord(self.topology.first_sessions, overlay.partition, key, entry, timestamp, ()))
