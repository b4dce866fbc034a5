"""The stage by integrationId: folds update records into sessions, and publishes their snapshots.

Theory of operation. The stage parses an update record, routes it to the partition of its session, and applies it to the
session's state (apply.py). An update record that gives a session a profile needs a verdict first: is this the profile's
first session?

S1. The stage folds such a record before it asks, so a rejected record claims nothing. Then it publishes the claim, and
    the record waits as the session's *head*. Before the verdict arrives nothing of the record is published or in the
    table.
S2. Later records of that session queue behind the head, in order. Records of other sessions go on.
S3. A verdict belongs to the head with the same integrationId, profileId and created. After the verdict the stage
    applies the queued records, up to one that becomes a head itself. A verdict that no head waits for changes nothing,
    so a verdict that is repeated after a crash does no harm.
S4. A demotion changes the table at once, also under a head. It touches the stored session only, and only while that
    session has the profile, the created and the firstSession that the demotion is about.
S5. Heads, queued records and the ledger's lists change in the same overlay as the table. After a crash before the
    commit the record is new. After a crash behind the commit the record is not done and its claim is sent. It becomes
    the head again without a second claim (the ledger's L3). Only the head may change its session, so the state cannot
    have moved in between.
S6. A dry update depends on no state. It asks without being a head, and no record waits behind it.
S7. A record is done as soon as its outcome is in the overlay: published, rejected, forwarded or dropped.
S8. A snapshot that is too large for the operator's limit or for its topic is rejected before anything else happens. A
    session with a profile leaves room for a demotion, which cannot be rejected.
"""

from msgspec import structs

from worker.codec.claims import ClaimMessage, VerdictMessage, decode_verdict, encode_claim
from worker.codec.headers import (
    SnapshotHeaders,
    encode_rejection,
    encode_stray,
    origin_of_stray,
    v1_headers,
)
from worker.codec.records import MAX_FRAME_BYTES, ConsumerRecord, Origin, ProducerRecord, frame_bytes
from worker.codec.snapshot import as_first_session, decode_session, encode_json, join_entry, split_entry
from worker.codec.update import read, too_large
from worker.codec.wrapping import unwrap
from worker.domain.limits import Rules
from worker.domain.rejections import Rejection, shown
from worker.domain.session import v1_view
from worker.pipeline import outcomes
from worker.pipeline.apply import Accepted, Limits, ParsedUpdate, apply
from worker.pipeline.lane import Overlay, Pending
from worker.pipeline.topology import Topology


class Sessions:
    """The sessions stage under the operator's *rules*, over the topics of *topology*."""

    def __init__(self, rules: Rules, topology: Topology) -> None:
        self.rules = rules
        self.topology = topology
        self.reads = (topology.verdicts, topology.rekeyed, topology.updates)
        self.parks = frozenset((topology.rekeyed, topology.updates))
        self._headers = SnapshotHeaders(rules.application_id)

    def limits(self, batch_bytes: int | None) -> Limits:
        """Return the limits of a lane whose changelog takes batches of at most *batch_bytes*."""
        return Limits(self.rules, self.topology.sessions, batch_bytes)

    def fold(self, overlay: Overlay, topic: str, record: ConsumerRecord) -> None:
        """Fold an update record, a forwarded stray, or a verdict."""
        if topic == self.topology.verdicts:
            self._take_verdict(overlay, record)
        elif not self._take(overlay, topic, record):
            overlay.ledgers[topic].done(record.offset)  # S7

    # ----------------------------------------------------------------------------------- parse, route and apply

    def _take(self, overlay: Overlay, topic: str, record: ConsumerRecord) -> bool:
        """Parse, route and apply an update record; return True if it has to wait for a verdict."""
        record_key, value = record.key, record.value
        origin = Origin(topic, overlay.partition, record.offset, record.timestamp, record_key, record.headers)
        if topic != self.topology.updates:
            first_origin = origin_of_stray(record)
            if first_origin is None:
                self._reject(overlay, value, origin, _without_origin(record, self.rules))
                return False
            origin = first_origin
        text, envelope = value, None
        if value is not None and (value[:1] != b"{" or origin.headers):
            unwrapped = unwrap(value, origin.headers, self.rules)
            if isinstance(unwrapped, Rejection):
                self._reject(overlay, value, origin, unwrapped)
                return False
            text, envelope = unwrapped
        request = read(text, origin.key, origin.timestamp, self.rules, envelope)
        if isinstance(request, Rejection):
            self._reject(overlay, value, origin, request)
            return False
        key = request.integration_id.encode()
        entry = overlay.table.get(key)
        if entry is None:  # every session of this lane's table is at home here
            home = self.topology.home(key, overlay.partition)
            if home != overlay.partition:
                self._forward(overlay, home, key, value, origin)
                return False
        update = ParsedUpdate(topic, record.offset, key, origin, value, text, request)
        if overlay.awaiting_verdict.get(key) is not None and not update.stands_alone:
            overlay.ledgers[topic].park(record.offset, is_head=False)
            overlay.queued_behind.put(key, (*(overlay.queued_behind.get(key) or ()), update))
            return True
        return self._apply(overlay, update, entry)

    def _forward(self, overlay: Overlay, home: int, key: bytes, value: bytes | None, origin: Origin) -> None:
        """Send a stray to the partition of its session."""
        frame, size = frame_bytes(origin.key, origin.headers), len(value or b"")
        most = self.rules.max_record_bytes + MAX_FRAME_BYTES
        if frame > MAX_FRAME_BYTES or frame + size > most:
            rule = f"at most {MAX_FRAME_BYTES} bytes of key and headers, and {most} with its value as it arrived"
            message = (
                f"A record outside its session's partition must have {rule}, but it has {frame} and {frame + size}."
            )
            self._reject(overlay, value, origin, Rejection("record_too_large", "", message))
            return
        overlay.counts[outcomes.FORWARDED] += 1
        overlay.out.append(encode_stray(self.topology.rekeyed, home, key, value, origin))

    def _apply(self, overlay: Overlay, update: ParsedUpdate, entry: bytes | None) -> bool:
        """Apply an update record to its session's *entry*; return True if it has to wait for a verdict."""
        result = apply(entry, update, overlay.lane.limits)
        if isinstance(result, Accepted):
            if result.question is not None:
                self._claim(overlay, Pending(update.topic, update.offset, result.question, result))
                return True
            self._publish(overlay, result)
        elif isinstance(result, Rejection):
            self._reject(overlay, update.value, update.origin, result)
        else:
            overlay.counts[result] += 1
        return False

    # -------------------------------------------------------------------------------------- claims and verdicts

    def _claim(self, overlay: Overlay, pending: Pending) -> None:
        """Ask for a verdict, unless that was done before a crash (S5); the update record waits for it (S1)."""
        question, accepted = pending.question, pending.accepted
        ledger = overlay.ledgers[pending.topic]
        if not ledger.not_done.get(pending.offset):
            profile_id, claim = question
            home = self.topology.home(profile_id.encode(), overlay.partition)
            message = ClaimMessage(profile_id, claim, accepted.dry, accepted.cause)
            overlay.out.append(encode_claim(self.topology.claims, home, message))
            ledger.park(pending.offset, is_head=True)
        if accepted.dry:
            overlay.dry_awaiting.put(question, (*(overlay.dry_awaiting.get(question) or ()), pending))
        else:
            overlay.awaiting_verdict.put(accepted.key, pending)

    def _take_verdict(self, overlay: Overlay, record: ConsumerRecord) -> None:
        message = decode_verdict(record)
        if message is None:
            overlay.counts[outcomes.UNREADABLE] += 1
            return
        question = (message.profile_id, message.claim)
        key = message.claim.integration_id.encode()
        is_first = message.answer == "first"
        if message.answer == "demoted":
            self._demote(overlay, key, message)
        elif message.dry:
            for pending in overlay.dry_awaiting.get(question) or ():
                self._settle(overlay, pending, is_first=is_first)
            overlay.dry_awaiting.put(question, None)
        else:
            head = overlay.awaiting_verdict.get(key)
            if head is not None and head.question == question:
                overlay.awaiting_verdict.put(key, None)
                self._settle(overlay, head, is_first=is_first)
                self._release(overlay, key)

    def _settle(self, overlay: Overlay, pending: Pending, *, is_first: bool) -> None:
        """Publish what waited, now that its firstSession is known (S3)."""
        accepted = pending.accepted
        if is_first and accepted.snapshot is not None:
            accepted = structs.replace(accepted, snapshot=as_first_session(accepted.snapshot))
        self._publish(overlay, accepted)
        overlay.ledgers[pending.topic].done(pending.offset)

    def _release(self, overlay: Overlay, key: bytes) -> None:
        """Apply the records queued behind a head that is done, up to the first that becomes a head itself (S3)."""
        queued = overlay.queued_behind.get(key) or ()
        for place, update in enumerate(queued):
            if self._apply(overlay, update, overlay.table.get(key)):
                overlay.queued_behind.put(key, queued[place + 1 :] or None)
                return
            overlay.ledgers[update.topic].done(update.offset)
        overlay.queued_behind.put(key, None)

    def _demote(self, overlay: Overlay, key: bytes, message: VerdictMessage) -> None:
        """Publish a session again because another session is its profile's first (S4)."""
        entry = overlay.table.get(key)
        if entry is None:
            return
        snapshot, events = split_entry(entry)
        session = decode_session(snapshot)
        if not session.firstSession:
            return
        if (session.profileId, session.created) != (message.profile_id, message.claim.created):
            return
        session.firstSession = False
        snapshot = encode_json(session)
        overlay.table.put(key, join_entry(snapshot, events))
        overlay.counts[outcomes.RECLASSIFIED] += 1
        cause = structs.replace(message.cause, event_id=f"{message.cause.event_id}/reclassified")
        headers = self._headers.of(cause, "reclassified", events=events)
        self._send(overlay, key, snapshot, cause.timestamp, headers)

    # ------------------------------------------------------------------------------------------------- publishing

    def _publish(self, overlay: Overlay, accepted: Accepted) -> None:
        """Publish the snapshot after an accepted record; it becomes the session's state unless this is a dry run."""
        key, cause, event, snapshot = accepted.key, accepted.cause, accepted.event, accepted.snapshot
        if accepted.dry:
            overlay.counts[outcomes.DRY_RUN] += 1
            headers = self._headers.of(cause, event, dry=True)
            topic = self.topology.dry_runs
            overlay.out.append(ProducerRecord(topic, overlay.partition, key, snapshot, cause.timestamp, headers))
            return
        overlay.table.put(key, None if snapshot is None else join_entry(snapshot, accepted.events))
        overlay.counts[event] += 1
        headers = self._headers.of(cause, event, ignored=accepted.ignored, events=accepted.events)
        self._send(overlay, key, snapshot, cause.timestamp, headers)

    def _send(
        self, overlay: Overlay, key: bytes, snapshot: bytes | None, timestamp: int, headers: list[tuple[str, bytes]]
    ) -> None:
        """Send a snapshot or a tombstone, and its v1 view if the operator wants that."""
        partition = overlay.partition
        overlay.out.append(ProducerRecord(self.topology.sessions, partition, key, snapshot, timestamp, headers))
        if self.topology.v1 is not None:
            view = None if snapshot is None else encode_json(v1_view(decode_session(snapshot)))
            v1 = v1_headers(headers)
            overlay.out.append(ProducerRecord(self.topology.v1, partition, key, view, timestamp, v1))

    def _reject(self, overlay: Overlay, value: bytes | None, origin: Origin, rejection: Rejection) -> None:
        """Publish a rejection; drop a record of another application if the operator skips those."""
        if rejection.code == "wrong_application" and self.rules.other_applications == "skip":
            overlay.counts[outcomes.SKIPPED] += 1
            return
        overlay.counts[outcomes.REJECTED[rejection.code]] += 1
        topic, limit = self.topology.rejections, self.rules.max_record_bytes
        overlay.out.append(encode_rejection(topic, overlay.partition, value, origin, rejection, limit))


def _without_origin(record: ConsumerRecord, rules: Rules) -> Rejection:
    """Return the rejection of a record on the topic of strays whose headers have no origin; its size is judged first."""
    value = record.value
    unwrapped = unwrap(value, record.headers, rules) if value is not None else None
    if isinstance(unwrapped, Rejection):
        if unwrapped.code == "record_too_large":
            return unwrapped
    elif unwrapped is not None and len(unwrapped[0]) > rules.max_record_bytes:
        return too_large(unwrapped[0], rules)
    names = shown([name for name, _value in record.headers])
    message = (
        f"A record on this topic must have its origin in its last headers, as a worker writes it, but it has {names}."
    )
    return Rejection("missing_origin", "", message)
