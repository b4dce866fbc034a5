"""Generate the JSON Schemas and the AsyncAPI document from the model and the topology."""

import json
from collections import defaultdict
from typing import Any, Final, Literal, Union, get_args

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from worker.codec.claims import Answer
from worker.codec.headers import REJECTION_HEADERS, Cause, SnapshotHeaders, v1_headers
from worker.codec.records import ConsumerRecord
from worker.domain.lifecycle import MOVES, Event
from worker.domain.limits import Rules
from worker.domain.model import SESSION_FIELDS, BareBody, Snapshot, SnapshotV1, Text1000, Time, UpdateRecord
from worker.domain.rejections import ROWS
from worker.pipeline.replay import Replay
from worker.pipeline.topology import STAGES, TOPICS, Topic, Topology

Json = dict[str, Any]

VERSION: Final = "0.1.0"
V1: Final = "customer-sessions-v1"
"""Placeholder for the name of the v1 view's topic, which has no default name."""
NAMES: Final = Topology(partitions=None, v1=V1)


def documents() -> dict[str, str]:
    """Return every document of `schemas/` by file name; the texts are deterministic."""
    examples = _examples()
    bodies = {
        "update-record": _update_record(),
        "snapshot": _schema(Snapshot),
        "snapshot-v1": _schema(SnapshotV1),
        "rejection-headers": headers_of_rejections(),
    }
    files = {_file(name): _finished(name, body, examples[name]) for name, body in bodies.items()}
    files["asyncapi.json"] = asyncapi()
    return {name: json.dumps(document, ensure_ascii=False, indent=2) + "\n" for name, document in files.items()}


def _file(name: str) -> str:
    return f"{name}.schema.json"


def _finished(name: str, body: Json, examples: list[Any]) -> Json:
    """Return a schema with its title and description first, and with the referenced types after the examples."""
    head = {"$schema": _Plain.schema_dialect, "$id": f"urn:session-worker:schema:{name}"}
    head |= {word: body[word] for word in ("title", "description", "type")}
    definitions = body.pop("$defs")
    return {**head, **body, "examples": examples, "$defs": definitions}


# ----------------------------------------------------------------------------------------------------- examples

SENT: Final = 1_795_372_800_000
_CUP: Final = {"name": "Espresso cup", "sku": "cup", "quantity": 2, "price": 4.5, "category": "tableware"}

EXAMPLES: Final[tuple[tuple[str, Json], ...]] = (
    (  # the body of a Talon.One request, unchanged
        "cart-7",
        {
            "customerSession": {"profileId": "ada", "state": "open", "couponCodes": ["SPRING"], "cartItems": [_CUP]},
            "responseContent": ["customerSession", "triggeredCampaigns"],
        },
    ),
    ("cart-7", {"type": "update", "integrationId": "cart-7", "customerSession": {"coupon": "", "referral": "BOB-4"}}),
    ("cart-7", {"customerSession": {"state": "cancelled"}}),
    (  # a receipt, from a till that numbers its records
        "till-3",
        {
            "type": "update",
            "integrationId": "receipt-4711",
            "eventId": "till-3/88211",
            "occurredAt": "2026-11-22T19:42:08+01:00",
            "applicationId": 1,
            "customerSession": {
                "profileId": "ada",
                "storeIntegrationId": "store-12",
                "loyaltyCards": ["LC-2203"],
                "state": "closed",
                "cartItems": [
                    {**_CUP, "quantity": 3, "additionalCosts": {"engraving": {"price": 0.1}}},
                    {"sku": "chair", "quantity": 1, "price": 89, "product": {"name": "Chair"}, "weight": 6.25},
                    {"sku": "discount", "quantity": 1, "price": -5, "attributes": {"reason": "scratch"}},
                ],
                "additionalCosts": {"delivery": {"price": 12.9}},
                "attributes": {"cashier": 17, "paidBy": ["card", "voucher"]},
            },
        },
    ),
    ("receipt-4711", {"return": {"returnedCartItems": [{"sku": "cup", "quantity": 1}]}}),
    (
        "receipt-4711",
        {"type": "return", "integrationId": "receipt-4711", "return": {"returnedCartItems": [{"position": 1}]}},
    ),
    ("receipt-4712", {"customerSession": {"state": "closed", "cartItems": [_CUP]}}),
    ("receipt-4712", {"type": "reopen", "integrationId": "receipt-4712"}),
    ("cart-8", {"dry": True, "customerSession": {"profileId": "ada", "cartItems": [_CUP], "identifiers": ["kiosk-2"]}}),
    (  # a bare session from PHP, with echoed fields
        "cart-10",
        {"state": "open", "cartItems": [{**_CUP, "attributes": []}], "attributes": [], "updateCount": 3, "total": 9},
    ),
)
"""Update records with their keys; the worker accepts them in this order."""

_REFUSED: Final[tuple[tuple[str, Json], ...]] = (
    ("cart-7", {"customerSession": {"cartItem": [_CUP]}}),
    ("cart-9", {"customerSession": {"cartItems": [{"sku": "cup", "quantity": 2}]}}),
    ("receipt-4711", {"return": {"returnedCartItems": [{"sku": "cup", "quantity": 9}]}}),
    ("receipt-4711", {"type": "reopen"}),
)


def _examples() -> dict[str, list[Any]]:
    """Return examples from the outputs of the update records: the first snapshot in every state, all rejections."""
    run = Replay(Rules(), NAMES.v1)
    snapshots: dict[str, Json] = defaultdict(dict)
    rejections = []
    for offset, (key, value) in enumerate((*EXAMPLES, *_REFUSED)):
        record = ConsumerRecord(offset, SENT + offset * 60_000, key.encode(), orjson.dumps(value))
        for published in run.fold(0, record):
            if published.topic == NAMES.rejections:
                rejections.append({name: text.decode() for name, text in published.headers})
            else:
                snapshot = orjson.loads(published.value or b"")
                snapshots[published.topic].setdefault(snapshot["state"], snapshot)
    return {
        "update-record": [value for _key, value in EXAMPLES],
        "snapshot": [*snapshots[NAMES.sessions].values(), *snapshots[NAMES.dry_runs].values()],
        "snapshot-v1": [*snapshots[V1].values()],
        "rejection-headers": rejections,
    }


# ------------------------------------------------------------------------------------------------------ schemas

_NULL: Final[Json] = {"type": "null"}


def _given(*names: str) -> Json:
    return {"required": [*names], "properties": {name: {"not": _NULL} for name in names}}


def _kind(kind: str, required: str, **fields: Json) -> Json:
    named = {"type": {"enum": [kind, None]}, "customerSession": _NULL, "return": _NULL, **fields}
    return {"title": kind, "required": [required], "properties": named}


_ANONYMOUS: Final[Json] = {
    "if": {"properties": {"profileId": {"const": ""}}},
    "then": {"properties": {"firstSession": {"const": True}}},
}
_SESSION: Final[Json] = {
    "not": {
        "anyOf": [
            _given("coupon", "couponCodes"),
            _given("referral", "referralCode"),
            {"required": ["state"], "properties": {"state": {"const": "partially_returned"}}},
        ]
    }
}
_RULES: Final[dict[str, Json]] = {
    "UpdateRecord": {
        "oneOf": [
            _kind("update", "customerSession", customerSession={"type": "object"}),
            _kind("return", "return", **{"return": {"type": "object"}}),
            _kind("reopen", "type", type={"const": "reopen"}, dry={"enum": [False, None]}),
        ]
    },
    "CustomerSession": _SESSION,
    "BareBody": {**_SESSION, "anyOf": [_given(name) for name in sorted(SESSION_FIELDS)]},
    "ReturnedCartItem": {"oneOf": [_given("position"), _given("sku")]},
    "Snapshot": _ANONYMOUS,
    "SnapshotV1": _ANONYMOUS,
}
"""Rules of the contract between fields, by the name of the type."""


class _Plain(GenerateJsonSchema):
    """A generator without titles of fields, and with only the first line of docstrings."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic calls this for each field
        return False

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Json:
        written = super().typed_dict_schema(schema)
        if "description" in written:
            written["description"] = written["description"].partition("\n")[0]
        return {**written, **_RULES.get(written["title"], {})}


def _schema(of: Any) -> Json:
    return TypeAdapter(of).json_schema(schema_generator=_Plain)


def _update_record() -> Json:
    """Return the schema of both forms of an update record."""
    head = {
        "title": "UpdateRecordValue",
        "description": "The value of an update record without its wrapping: an update record, or a bare session.",
        "type": "object",
    }
    return {**head, **_schema(Union[UpdateRecord, BareBody])}  # noqa: UP007 - TypedDicts have no `|` in Python 3.11


def _object(required: Json, optional: Json | None = None) -> Json:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": [*required]}


def headers_of_rejections() -> Json:
    code, number = {"$ref": "#/$defs/code"}, {"pattern": "^[0-9]+$"}
    known: dict[str, Json] = {
        "rejection-code": code,
        "rejection-pointer": {
            "format": "json-pointer",
            "description": "The place of the fault in the value; empty for the whole value.",
        },
        "rejection-message": {"description": "The rule and the offending value, in one sentence."},
        "__streams.errors.topic": {
            "description": "The topic at which the record first arrived; the partition and the offset follow."
        },
        "__streams.errors.partition": number,
        "__streams.errors.offset": number,
        "__streams.errors.exception": code,
        "rejection-cut": {
            "description": "The parts that were cut to fit the topic, comma-separated: value, headers, key."
        },
    }
    return {
        "title": "RejectionHeaders",
        "description": "Why the worker refused an update record. The headers of the update record are kept beside these.",
        "type": "object",
        "properties": {
            name: {"type": "string", **known.get(name, {})} for name in (*REJECTION_HEADERS, "rejection-cut")
        },
        "required": [*REJECTION_HEADERS],
        "$defs": {"code": {"enum": [code for row in ROWS for code in row]}},
    }


# ------------------------------------------------------------------------------------------------------ AsyncAPI

_BINDING: Final = {"bindingVersion": "0.5.0"}
_TOPIC_CONFIGURATION: Final = ("retention.ms", "retention.bytes", "max.message.bytes")
"""The topic settings that AsyncAPI's binding for Kafka requires as numbers."""
_TRACE: Final[Json] = {
    "traceparent": {
        "type": "string",
        "maxLength": 512,
        "description": "W3C Trace Context of the update record, if it has one.",
    }
}


def asyncapi() -> Json:
    """Return the AsyncAPI document: every topic, and the topics that the worker reads and writes."""
    carried = _messages()
    roles = [(topic.reader, "receive", field) for field, topic in TOPICS.items()]
    roles += [(topic.writer, "send", field) for field, topic in TOPICS.items()]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "session-worker",
            "version": VERSION,
            "description": "Folds session-update records of shops into exact CustomerSessionV2 snapshots. The addresses "
            "are the topics' default names.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {field: _channel(field, topic, carried[field]) for field, topic in TOPICS.items()},
        "operations": {
            f"{action}-{field}": {"action": action, "channel": {"$ref": f"#/channels/{field}"}}
            for role, action, field in roles
            if role in STAGES
        },
        "components": {"schemas": {"CloudEvents": _cloud_events()}},
    }


def _channel(field: str, topic: Topic, messages: dict[str, Json]) -> Json:
    """Return the description of a topic; a topic that only workers use has the tag internal."""
    text = {**_schema(Text1000), "minLength": 1}
    key = {"integrationId": text, "profileId": text}.get(topic.key, {"description": topic.key})
    binding = {"kafka": {"key": key, **_BINDING}}
    stated = topic.configuration(max(Rules().max_record_bytes, Rules().max_snapshot_bytes))
    numbers = {name: int(stated[name]) for name in _TOPIC_CONFIGURATION if name in stated}
    return {
        "address": getattr(NAMES, field),
        "summary": topic.holds,
        "description": f"Key: {topic.key}. Written by: {topic.writer}. Read by: {topic.reader}.",
        "messages": {name: {"name": name, **message, "bindings": binding} for name, message in messages.items()},
        "tags": [{"name": "internal" if topic.is_internal else "public"}],
        "bindings": {"kafka": {"topicConfiguration": {"cleanup.policy": [topic.cleanup], **numbers}, **_BINDING}},
    }


def _messages() -> dict[str, dict[str, Json]]:
    """Return the messages of each topic, by its field of Topology."""
    claim = {"integrationId": _schema(Text1000), "created": _schema(Time)}
    dry = {"dry": {"type": "boolean", "description": "True for the claim of a dry run, which changes nothing."}}
    answer = {"profileId": _schema(Text1000), "created": _schema(Time), **dry, "answer": {"enum": [*get_args(Answer)]}}
    forgotten: Json = {"summary": "Deletes the profile of the key.", "payload": _NULL}
    tried = dict.fromkeys(event for (state, kind, _), event in MOVES.items() if state is None or kind == "return")
    headers = {"type": "object", "properties": _TRACE}
    updates: dict[str, Json] = {
        "update-record": {"payload": {"$ref": _file("update-record")}, "headers": headers},
        "tombstone": {"summary": "Deletes the session of the key.", "payload": _NULL, "headers": headers},
    }
    return {
        "updates": updates,
        "rekeyed": updates,
        "sessions": _snapshots("snapshot"),
        "rejections": {
            "rejection": {
                "summary": "The update record as it arrived; it may not be JSON.",
                "contentType": "application/octet-stream",
                "payload": {},
                "headers": {"$ref": _file("rejection-headers")},
            }
        },
        "dry_runs": {"snapshot": {"payload": {"$ref": _file("snapshot")}, "headers": _events(*tried, dry=True)}},
        "claims": {"claim": {"payload": _object({**claim, **dry})}, "tombstone": forgotten},
        "verdicts": {"verdict": {"payload": _object(answer)}},
        "first_sessions": {"claim": {"payload": _object(claim)}, "tombstone": forgotten},
        "v1": _snapshots("snapshot-v1", v1=True),
    }


def _snapshots(name: str, *, v1: bool = False) -> dict[str, Json]:
    changes = _events(*dict.fromkeys(MOVES.values()), "reclassified", v1=v1)
    return {
        "snapshot": {"payload": {"$ref": _file(name)}, "headers": changes},
        "tombstone": {"payload": _NULL, "headers": _events("deleted", v1=v1)},
    }


def _events(*events: Event | Literal["reclassified"], dry: bool = False, v1: bool = False) -> Json:
    """Return the schema of the headers of snapshots with *events*, each with its own ce_type."""
    writer, what = SnapshotHeaders(0), Cause("", "", 0, None)
    written = [writer.of(what, event, dry=dry) for event in events]
    types = [dict(v1_headers(headers) if v1 else headers)["ce_type"].decode() for headers in written]
    return {"allOf": [{"$ref": "#/components/schemas/CloudEvents"}], **_object({"ce_type": {"enum": types}})}


def _cloud_events() -> Json:
    required = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "<topic>/<partition>/<offset> of the update record's origin."},
        "ce_source": {"type": "string", "pattern": "^/applications/[0-9]+$"},
        "ce_time": _schema(Time),
        "content-type": {"const": "application/json"},
    }
    ignored = {
        "type": "string",
        "description": "Fields that were ignored because the session was not open, comma-separated.",
    }
    private = {"type": "string", "description": "Private state of the worker."}
    return {**_object(required, {**_TRACE, "ignored-fields": ignored}), "patternProperties": {"^worker-": private}}
