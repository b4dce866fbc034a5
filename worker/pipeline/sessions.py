"""The stage by integrationId: folds update records into sessions, and publishes their snapshots.

Theory of operation. A record is read (its fields), routed (is it at home?) and applied (to the session's state). One
that gives a session a profile has to know first whether that makes it the profile's first session:

S1. It is folded, so that a record which is refused claims nothing; then its claim is published and it becomes the
    session's *head*. Nothing of it is in the table and nothing of it is published until the verdict is there.
S2. Later records of that session follow behind the head, in order; those of other sessions go on.
S3. A verdict is taken by the head that asked for it: the one with the same integrationId, profileId and created. Then
    the followers are applied until one of them becomes a head. A verdict that nobody waits for changes nothing, so
    one that is repeated after a crash is harmless.
S4. Word that a session was demoted changes the table at once, also under a head: it touches the stored session only,
    and only when that still has the profile, the created and the firstSession that the word is about.
S5. Heads, followers and the ledger's lists change in the same overlay as the table. A crash before the commit leaves
    the record new; after it, the record is not done, its claim is sent, and it becomes the head again without asking
    (the ledger's L3). State cannot have moved in between: only the head itself may change its session.
S6. A dry update asks without being a head: it depends on no state, so nobody waits behind it.
S7. A record is done as soon as its outcome is in the overlay: published, refused, forwarded, dropped.
S8. What the snapshots' topic does not take is refused before anything else comes of it, like what an operator's limit
    does not. A session that has a profile leaves room to be demoted: that cannot be refused.
"""

from msgspec import structs

from worker.domain.model import Rejection, Request, Rules, Session
from worker.domain.profile import Claim
from worker.domain.refusals import must_be, placed, shown
from worker.domain.request import read, too_large
from worker.domain.session import Folded, fold, v1_view
from worker.pipeline import wire
from worker.pipeline.lane import Accepted, Arrival, Overlay, Pending
from worker.pipeline.topology import HEADERS_BYTES, Topology
from worker.pipeline.wire import ClaimMessage, ConsumerRecord, Origin, ProducerRecord, SnapshotHeaders, VerdictMessage
from worker.pipeline.wrapping import unwrap

_DEMOTION_BYTES = 640
"""How much longer the headers may be that tell of a demotion: they name another record and its traceparent (S8)."""


class Sessions:
    """The sessions stage under the operator's *rules*, over the topics of *topology*."""

    topic_bytes: int | None = None
    """The `max.message.bytes` of the snapshots' topic, where there is one (S8)."""

    def __init__(self, rules: Rules, topology: Topology) -> None:
        self.rules = rules
        self.topology = topology
        self.reads = (topology.verdicts, topology.rekeyed, topology.updates)
        self.parks = frozenset((topology.rekeyed, topology.updates))
        self._headers = SnapshotHeaders(rules.application_id)

    def fold(self, overlay: Overlay, topic: str, record: ConsumerRecord) -> None:
        """Fold an update record, a stray that was sent home, or a verdict."""
        if topic == self.topology.verdicts:
            self._take_verdict(overlay, record)
        elif not self._take(overlay, topic, record):
            overlay.ledgers[topic].done(record.offset)  # S7

    # ------------------------------------------------------------------------------------ read, route and apply

    def _take(self, overlay: Overlay, topic: str, record: ConsumerRecord) -> bool:
        """Read and route an update record; tell whether it has to wait."""
        record_key, value = record.key, record.value
        origin = Origin(topic, overlay.partition, record.offset, record.timestamp, record_key, record.headers)
        if topic != self.topology.updates:
            told = wire.origin_of_stray(record)
            if told is None:
                self._refuse(overlay, value, origin, _lost(record, self.rules))
                return False
            origin = told
        text, envelope = value, None
        if value is not None and (value[:1] != b"{" or origin.headers):
            unwrapped = unwrap(value, origin.headers, self.rules)
            if isinstance(unwrapped, Rejection):
                self._refuse(overlay, value, origin, unwrapped)
                return False
            text, envelope = unwrapped
        request = read(text, origin.key, origin.timestamp, self.rules, envelope)
        if isinstance(request, Rejection):
            self._refuse(overlay, value, origin, request)
            return False
        key = request.integration_id.encode()
        entry = overlay.table.get(key)
        if entry is None:  # this lane has no session that is not at home
            home = self.topology.home(key, overlay.partition)
            if home != overlay.partition:
                self._forward(overlay, home, key, value, origin)
                return False
        arrival = Arrival(topic, record.offset, key, origin, value, text, request)
        if overlay.heads.get(key) is not None and not _stands_alone(request):
            overlay.ledgers[topic].park(record.offset, is_head=False)
            overlay.followers.put(key, (*(overlay.followers.get(key) or ()), arrival))
            return True
        return self._apply(overlay, arrival, entry)

    def _forward(self, overlay: Overlay, home: int, key: bytes, value: bytes | None, origin: Origin) -> None:
        frame, size = wire.frame_bytes(origin.key, origin.headers), len(value or b"")
        most = self.rules.max_record_bytes + wire.MAX_FRAME_BYTES
        if frame > wire.MAX_FRAME_BYTES or frame + size > most:
            rule = f"at most {wire.MAX_FRAME_BYTES} bytes of key and headers, and {most} with its value as it arrived"
            message = (
                f"A record outside its session's partition must have {rule}, but it has {frame} and {frame + size}."
            )
            self._refuse(overlay, value, origin, Rejection("record_too_large", "", message))
            return
        overlay.counts["forwarded"] += 1
        overlay.out.append(wire.forwarded(self.topology.rekeyed, home, key, value, origin))

    def _apply(self, overlay: Overlay, arrival: Arrival, entry: bytes | None) -> bool:
        """Fold an arrival into its session, the table's *entry*; tell whether it has to wait for a verdict."""
        origin, value, text, request = arrival.origin, arrival.value, arrival.text, arrival.request
        if _stands_alone(request):
            entry = None
        snapshot, events = wire.unpack(entry) if entry is not None else (None, b"")
        if request.kind == "delete":
            if entry is not None:
                self._delete(overlay, arrival)
            return False
        if request.event_id is not None and not request.dry:
            event = wire.event_entry(request.event_id, text or b"")
            known = wire.recollect(events, event)
            if known == "duplicate":
                overlay.counts["duplicate"] += 1
                return False
            if known == "reused":
                rule = "new, since it came before with another value"
                reused = must_be(placed("/eventId", request.places), rule, shown(request.event_id), "event_id_reused")
                self._refuse(overlay, value, origin, reused)
                return False
            events = wire.remember(events, event)
        session = wire.decode(snapshot) if snapshot is not None else None
        session_id = origin.session_id if session is None else session.id
        folded = fold(session, request, session_id, self.rules)
        if isinstance(folded, Rejection):
            self._refuse(overlay, value, origin, folded)
            return False
        snapshot = wire.encode(folded.session)
        refusal = self._oversize(arrival, folded, snapshot, events)
        if refusal is not None:
            self._refuse(overlay, value, origin, refusal)
            return False
        cause = wire.happening(origin, request.occurred_at)
        accepted = Accepted(arrival.key, cause, request.dry, folded.event, folded.ignored, snapshot, events)
        if folded.claims:
            self._claim(overlay, arrival, folded.session, accepted)
            return True
        self._publish(overlay, accepted)
        return False

    def _oversize(self, arrival: Arrival, folded: Folded, snapshot: bytes, events: bytes) -> Rejection | None:
        """Refuse a snapshot that is too large for the operator, or for its topic (S8)."""
        limit, topic_bytes = self.rules.max_snapshot_bytes, self.topic_bytes
        has_profile = folded.session.profileId != ""
        # A first session may be demoted later: its size is that with "false", whenever that comes.
        size = len(snapshot) + (folded.session.firstSession and has_profile)
        if size > limit:
            allowed = f"at most {limit} bytes (SESSION_WORKER_MAX_SNAPSHOT_BYTES)"
            message = f"The snapshot after this update record must have {allowed}, but it would have {size}."
            return Rejection("session_too_large", "", message)
        if topic_bytes is None or size + HEADERS_BYTES <= topic_bytes:
            return None
        what = wire.happening(arrival.origin, arrival.request.occurred_at)
        headers = self._headers.of(what, folded.event, ignored=folded.ignored, events=events)
        size = wire.batch_bytes(arrival.key, snapshot, headers) + (_DEMOTION_BYTES if has_profile else 0)
        if size <= topic_bytes:
            return None
        topic = self.topology.sessions
        allowed = f"at most {topic_bytes} bytes (max.message.bytes of {topic})"
        message = (
            f"The snapshot after this update record must have {allowed} with its headers, but it would have {size}."
        )
        return Rejection("record_too_large", "", message)

    def _delete(self, overlay: Overlay, arrival: Arrival) -> None:
        overlay.table.put(arrival.key, None)
        overlay.counts["deleted"] += 1
        headers = self._headers.of(wire.happening(arrival.origin, arrival.request.occurred_at), "deleted")
        self._send(overlay, arrival.key, None, arrival.origin.timestamp, headers)

    # -------------------------------------------------------------------------------------- claims and verdicts

    def _claim(self, overlay: Overlay, arrival: Arrival, session: Session, accepted: Accepted) -> None:
        """Ask for a verdict, unless that was done before a crash (S5), and let the arrival wait for it (S1)."""
        profile_id, dry = session.profileId, accepted.dry
        claim = Claim(session.created, arrival.request.integration_id)
        pending = Pending(arrival.topic, arrival.offset, profile_id, claim, accepted)
        ledger = overlay.ledgers[arrival.topic]
        if not ledger.not_done.get(arrival.offset):
            home = self.topology.home(profile_id.encode(), overlay.partition)
            message = ClaimMessage(profile_id, claim, dry, accepted.cause)
            overlay.out.append(wire.encode_claim(self.topology.claims, home, message))
            ledger.park(arrival.offset, is_head=True)
        if dry:
            question = (profile_id, claim)
            overlay.asked.put(question, (*(overlay.asked.get(question) or ()), pending))
        else:
            overlay.heads.put(arrival.key, pending)

    def _take_verdict(self, overlay: Overlay, record: ConsumerRecord) -> None:
        message = wire.decode_verdict(record)
        if message is None:
            overlay.counts["unreadable"] += 1
            return
        question = (message.profile_id, message.claim)
        key = message.claim.integration_id.encode()
        is_first = message.answer == "first"
        if message.answer == "demoted":
            self._demote(overlay, key, message)
        elif message.dry:
            for pending in overlay.asked.get(question) or ():
                self._settle(overlay, pending, is_first=is_first)
            overlay.asked.put(question, None)
        else:
            head = overlay.heads.get(key)
            if head is not None and (head.profile_id, head.claim) == question:
                overlay.heads.put(key, None)
                self._settle(overlay, head, is_first=is_first)
                self._release(overlay, key)

    def _settle(self, overlay: Overlay, pending: Pending, *, is_first: bool) -> None:
        """Publish what waited, now that its firstSession is known (S3)."""
        accepted = pending.accepted
        if is_first:
            accepted = structs.replace(accepted, snapshot=wire.as_first_session(accepted.snapshot))
        self._publish(overlay, accepted)
        overlay.ledgers[pending.topic].done(pending.offset)

    def _release(self, overlay: Overlay, key: bytes) -> None:
        """Apply the followers of a head that is done, up to the first that becomes a head itself (S3)."""
        followers = overlay.followers.get(key) or ()
        for place, arrival in enumerate(followers):
            if self._apply(overlay, arrival, overlay.table.get(key)):
                overlay.followers.put(key, followers[place + 1 :] or None)
                return
            overlay.ledgers[arrival.topic].done(arrival.offset)
        overlay.followers.put(key, None)

    def _demote(self, overlay: Overlay, key: bytes, message: VerdictMessage) -> None:
        """Publish a session again that another one turned out to be before (S4)."""
        entry = overlay.table.get(key)
        if entry is None:
            return
        snapshot, events = wire.unpack(entry)
        session = wire.decode(snapshot)
        if not session.firstSession:
            return
        if (session.profileId, session.created) != (message.profile_id, message.claim.created):
            return
        session.firstSession = False
        snapshot = wire.encode(session)
        overlay.table.put(key, wire.pack(snapshot, events))
        overlay.counts["reclassified"] += 1
        what = structs.replace(message.what, event_id=f"{message.what.event_id}/reclassified")
        headers = self._headers.of(what, "reclassified", events=events)
        self._send(overlay, key, snapshot, what.timestamp, headers)

    # ------------------------------------------------------------------------------------------------- publishing

    def _publish(self, overlay: Overlay, accepted: Accepted) -> None:
        """Publish the snapshot of an accepted record, and make it the session's state unless it was a dry run."""
        key, cause, dry, event, ignored, snapshot, events = structs.astuple(accepted)
        if dry:
            overlay.counts["dry_run"] += 1
            headers = self._headers.of(cause, event, dry=True)
            topic = self.topology.dry_runs
            overlay.out.append(ProducerRecord(topic, overlay.partition, key, snapshot, cause.timestamp, headers))
            return
        overlay.table.put(key, wire.pack(snapshot, events))
        overlay.counts[event] += 1
        headers = self._headers.of(cause, event, ignored=ignored, events=events)
        self._send(overlay, key, snapshot, cause.timestamp, headers)

    def _send(
        self, overlay: Overlay, key: bytes, snapshot: bytes | None, timestamp: int, headers: list[tuple[str, bytes]]
    ) -> None:
        """Send a snapshot or a tombstone, and its v1 view where that is asked for."""
        partition = overlay.partition
        overlay.out.append(ProducerRecord(self.topology.sessions, partition, key, snapshot, timestamp, headers))
        if self.topology.v1 is not None:
            view = None if snapshot is None else wire.encode(v1_view(wire.decode(snapshot)))
            v1 = wire.v1_headers(headers)
            overlay.out.append(ProducerRecord(self.topology.v1, partition, key, view, timestamp, v1))

    def _refuse(self, overlay: Overlay, value: bytes | None, origin: Origin, why: Rejection) -> None:
        """Publish a rejection, or drop a record of another application where the operator wants that."""
        if why.code == "wrong_application" and self.rules.other_applications == "skip":
            overlay.counts["skipped"] += 1
            return
        overlay.counts[f"rejected.{why.code}"] += 1
        topic, limit = self.topology.rejections, self.rules.max_record_bytes
        overlay.out.append(wire.rejected(topic, overlay.partition, value, origin, why, limit))


def _stands_alone(request: Request) -> bool:
    """Tell whether a request is judged as if no session existed (S6)."""
    return request.dry and request.kind == "update"


def _lost(record: ConsumerRecord, rules: Rules) -> Rejection:
    """Refuse a record on the topic of strays that does not tell its origin; only its size is judged before that."""
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
