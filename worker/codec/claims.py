"""Encode and decode claims, verdicts and a profile's first claim."""

from typing import Any, Literal

import orjson
from msgspec import Struct

from worker.codec.headers import TRACE_PARENT, Cause
from worker.codec.records import ConsumerRecord, ProducerRecord
from worker.codec.snapshot import encode_json
from worker.domain.profile import Claim

Answer = Literal["first", "later", "demoted"]


class ClaimMessage(Struct, frozen=True, gc=False):
    """A session's claim to be the first of *profile_id*; a dry claim asks and changes nothing."""

    profile_id: str
    claim: Claim
    dry: bool
    cause: Cause


class VerdictMessage(Struct, frozen=True, gc=False):
    """The answer to a claim, or the notice that another session demoted this one; *cause* is that of the claiming record."""

    profile_id: str
    claim: Claim
    dry: bool
    answer: Answer
    cause: Cause


def _cause_headers(cause: Cause) -> list[tuple[str, bytes]]:
    headers = [("ce_id", cause.event_id.encode()), ("ce_time", cause.time.encode())]
    if cause.traceparent is not None:
        headers.append((TRACE_PARENT, cause.traceparent))
    return headers


def _cause_from_headers(record: ConsumerRecord) -> Cause:
    headers = dict(record.headers)
    event_id, time = headers["ce_id"].decode(), headers["ce_time"].decode()
    return Cause(event_id, time, record.timestamp, headers.get(TRACE_PARENT))


def encode_claim(topic: str, partition: int, message: ClaimMessage) -> ProducerRecord:
    """Return the record of a claim; its key is the profileId."""
    created, integration_id = message.claim
    value = encode_json({"integrationId": integration_id, "created": created, "dry": message.dry})
    key = message.profile_id.encode()
    return ProducerRecord(topic, partition, key, value, message.cause.timestamp, _cause_headers(message.cause))


def decode_claim(record: ConsumerRecord) -> ClaimMessage | None:
    """Return the claim in a record; None if no worker wrote the record."""
    try:
        value = orjson.loads(record.value or b"")
        claim = Claim(value["created"], value["integrationId"])
        return ClaimMessage((record.key or b"").decode(), claim, value["dry"], _cause_from_headers(record))
    except (ValueError, LookupError, TypeError):
        return None


def encode_verdict(topic: str, partition: int, message: VerdictMessage) -> ProducerRecord:
    """Return the record of a verdict; its key is the integrationId."""
    created, integration_id = message.claim
    value = encode_json(
        {"profileId": message.profile_id, "created": created, "dry": message.dry, "answer": message.answer}
    )
    key = integration_id.encode()
    return ProducerRecord(topic, partition, key, value, message.cause.timestamp, _cause_headers(message.cause))


def decode_verdict(record: ConsumerRecord) -> VerdictMessage | None:
    """Return the verdict in a record; None if no worker wrote the record."""
    try:
        value = orjson.loads(record.value or b"")
        claim = Claim(value["created"], (record.key or b"").decode())
        return VerdictMessage(value["profileId"], claim, value["dry"], value["answer"], _cause_from_headers(record))
    except (ValueError, LookupError, TypeError):
        return None


def encode_first_claim(claim: Claim) -> bytes:
    """Return a profile's first claim in the form of the profiles table and of its changelog."""
    return encode_json({"integrationId": claim.integration_id, "created": claim.created})


def decode_first_claim(entry: bytes) -> Claim:
    """Return the first claim in an entry of the profiles table."""
    value: dict[str, Any] = orjson.loads(entry)
    return Claim(value["created"], value["integrationId"])
