"""The seam: one update record applied to its session's table entry, bytes in and bytes out.

`apply` is a function of the entry, the update record and the limits. It reads no lane and no topic, so another
implementation of it may take its place.
"""

from dataclasses import dataclass
from typing import Final, Literal

from msgspec import Struct

from worker.codec.headers import Cause, SnapshotHeaders, cause_of
from worker.codec.records import Origin, batch_bytes
from worker.codec.snapshot import (
    add_event_id,
    check_event_id,
    decode_session,
    encode_json,
    event_entry,
    split_entry,
)
from worker.domain.lifecycle import Event
from worker.domain.limits import Rules
from worker.domain.model import Request
from worker.domain.profile import Claim
from worker.domain.rejections import Rejection, must_be, placed, shown
from worker.domain.session import FoldResult, fold
from worker.pipeline.topology import HEADERS_BYTES

_DEMOTION_BYTES: Final = 640
"""Upper bound in bytes by which a demotion makes a snapshot's headers larger: it names another record and its trace."""


class ParsedUpdate(Struct, frozen=True, gc=False):
    """An update record whose fields are valid, and the topic and offset at which the worker read it.

    *value* is as it arrived; *text* is the JSON in it.
    """

    topic: str
    offset: int
    key: bytes
    origin: Origin
    value: bytes | None
    text: bytes | None
    request: Request

    @property
    def stands_alone(self) -> bool:
        """Whether the update record is judged as if no session existed: a dry update (rule S6 of sessions.py)."""
        return self.request.dry and self.request.kind == "update"


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a session: the operator's rules, and the largest batch in bytes that the snapshots' topic takes.

    *batch_bytes* is None where no topic limits a batch, as in an offline replay.
    """

    rules: Rules
    topic: str
    batch_bytes: int | None = None


Question = tuple[str, Claim]
"""A profileId, and the claim of a session to be the first of that profile."""


class Accepted(Struct, frozen=True, gc=False):
    """What an accepted update record publishes under *key*; *snapshot* is None if the session is deleted.

    A lane may hold thousands of these, so they keep neither the record nor what was parsed of it. *cause* is what the
    headers say of the record. *events* are the remembered eventIds, *ignored* the fields that a session in its state does not take. *question* is
    there if the profile's first session is not known: firstSession is false until a verdict answers the question.
    """

    key: bytes
    cause: Cause
    dry: bool
    event: Event
    snapshot: bytes | None = None
    events: bytes = b""
    ignored: tuple[str, ...] = ()
    question: Question | None = None


Unchanged = Literal["duplicate", "absent"]
"""The update record changes nothing: it was accepted before, or it deletes a session that does not exist."""


def apply(entry: bytes | None, update: ParsedUpdate, limits: Limits) -> Accepted | Rejection | Unchanged:
    """Return what an update record makes of a session's table *entry*; None is the entry of no session."""
    request, origin = update.request, update.origin
    if entry is not None and update.stands_alone:
        entry = None
    if request.kind == "delete":
        return (
            "absent"
            if entry is None
            else Accepted(update.key, cause_of(origin, request.occurred_at), dry=False, event="deleted")
        )
    before, events = split_entry(entry) if entry is not None else (None, b"")
    if request.event_id is not None and not request.dry:
        event = event_entry(request.event_id, update.text or b"")
        known = check_event_id(events, event)
        if known == "duplicate":
            return "duplicate"
        if known == "reused":
            rule = "new, since it came before with another value"
            return must_be(placed("/eventId", request.places), rule, shown(request.event_id), "event_id_reused")
        events = add_event_id(events, event)
    session = decode_session(before) if before is not None else None
    folded = fold(session, request, origin.session_id if session is None else session.id, limits.rules)
    if isinstance(folded, Rejection):
        return folded
    snapshot = encode_json(folded.session)
    refusal = _oversize(update, folded, snapshot, events, limits)
    if refusal is not None:
        return refusal
    after = folded.session
    question = (after.profileId, Claim(after.created, after.integrationId)) if folded.claims else None
    cause = cause_of(origin, request.occurred_at)
    return Accepted(update.key, cause, request.dry, folded.event, snapshot, events, folded.ignored, question)


def _oversize(
    update: ParsedUpdate, folded: FoldResult, snapshot: bytes, events: bytes, limits: Limits
) -> Rejection | None:
    """Return the rejection of a snapshot that is too large for the operator or for its topic (S8)."""
    limit, topic_bytes = limits.rules.max_snapshot_bytes, limits.batch_bytes
    has_profile = folded.session.profileId != ""
    # A first session may be demoted later: its size is that with "false", whenever that comes.
    size = len(snapshot) + (folded.session.firstSession and has_profile)
    if size > limit:
        allowed = f"at most {limit} bytes (SESSION_WORKER_MAX_SNAPSHOT_BYTES)"
        message = f"The snapshot after this update record must have {allowed}, but it would have {size}."
        return Rejection("session_too_large", "", message)
    if topic_bytes is None or size + HEADERS_BYTES <= topic_bytes:
        return None
    cause = cause_of(update.origin, update.request.occurred_at)
    headers = SnapshotHeaders(limits.rules.application_id).of(
        cause, folded.event, ignored=folded.ignored, events=events
    )
    size = batch_bytes(update.key, snapshot, headers) + (_DEMOTION_BYTES if has_profile else 0)
    if size <= topic_bytes:
        return None
    allowed = f"at most {topic_bytes} bytes (max.message.bytes of {limits.topic})"
    message = f"The snapshot after this update record must have {allowed} with its headers, but it would have {size}."
    return Rejection("record_too_large", "", message)
