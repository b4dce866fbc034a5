"""The generated documents: they say what the worker does, and every record that it publishes fits them."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner

from tests.contract.conftest import EVENTS, HOUR, TRACE, Network, Till, encoded
from worker.cli import main
from worker.codec.headers import REJECTION_HEADERS
from worker.codec.records import ConsumerRecord
from worker.codec.update import read
from worker.domain.limits import Rules
from worker.domain.rejections import ROWS, Rejection
from worker.pipeline.topology import TOPICS, Topology
from worker.reference.schemas import EXAMPLES, SENT, V1, VERSION, documents

ROOT = Path(__file__).parents[2]
DOCUMENTS: dict[str, Any] = {name: json.loads(text) for name, text in documents().items()}
ASYNCAPI = DOCUMENTS["asyncapi.json"]
SCHEMAS = {
    name.removesuffix(".schema.json"): schema for name, schema in DOCUMENTS.items() if name.endswith(".schema.json")
}
VALIDATORS = {
    name: jsonschema_rs.Draft202012Validator(schema, validate_formats=True) for name, schema in SCHEMAS.items()
}
EACH_EXAMPLE = [
    pytest.param(name, example, id=f"{name}-{number}")
    for name, schema in SCHEMAS.items()
    for number, example in enumerate(schema["examples"])
]


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a document."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)


# ----------------------------------------------------------------------------------------------------- the files


def test_the_folder_holds_what_the_code_generates():
    assert {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "schemas").iterdir()} == documents(), (
        "run `make schemas`"
    )


def test_the_command_writes_them(tmp_path):
    result = CliRunner().invoke(main, ["schemas", "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "new").iterdir()} == documents()
    assert all(str(tmp_path / "new" / name) in result.output for name in documents())


def test_the_texts_are_json_of_two_spaces_that_ends_with_a_newline():
    for text in documents().values():
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


# ------------------------------------------------------------------------------------------------- JSON Schemas


def test_there_is_a_schema_of_everything_that_is_public():
    assert set(SCHEMAS) == {"update-record", "snapshot", "snapshot-v1", "rejection-headers"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_of_2020_12_with_a_stable_id_and_words_for_people(name):
    schema = SCHEMAS[name]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:session-worker:schema:{name}"
    assert jsonschema_rs.meta.is_valid(schema)
    assert list(schema)[:5] == ["$schema", "$id", "title", "description", "type"]
    assert len(schema["examples"]) >= 4
    assert all("\n" not in inner["description"] for inner in walk(schema) if isinstance(inner.get("description"), str))


@pytest.mark.parametrize("name", SCHEMAS)
def test_fields_have_no_titles_and_no_defaults(name):
    for inner in walk(SCHEMAS[name]):
        for field in inner.get("properties", {}).values():
            assert not {"title", "default"} & field.keys()


@pytest.mark.parametrize(("name", "example"), EACH_EXAMPLE)
def test_every_example_is_valid(name, example):
    VALIDATORS[name].validate(example)


@pytest.mark.parametrize(("key", "value"), EXAMPLES)
def test_the_worker_accepts_the_examples_of_update_records(key, value):
    assert value in SCHEMAS["update-record"]["examples"]
    assert not isinstance(read(encoded(value), key.encode(), SENT, Rules()), Rejection)


def test_the_examples_of_update_records_show_every_kind():
    told = [(value.get("type"), *value) for _key, value in EXAMPLES if "cartItems" not in value]
    assert len(told) == len(EXAMPLES) - 1, "one is a bare body"
    assert {kind for kind, *_names in told} == {None, "update", "return", "reopen"}
    assert any(kind is None and "return" in names for kind, *names in told)
    assert any("dry" in names for _kind, *names in told)
    assert any("responseContent" in names for _kind, *names in told)


def test_the_other_examples_are_what_is_published_for_them():
    till = Till(v1_topic=V1)
    published = [
        outcome
        for minute, (key, value) in enumerate(EXAMPLES)
        for outcome in till.send(value, key, timestamp=SENT + minute * 60_000)
    ]
    assert "session-rejections" not in {outcome.topic for outcome in published}
    sent = {
        "snapshot": [o.snapshot for o in published if o.topic in ("customer-sessions", "session-dry-runs")],
        "snapshot-v1": [o.snapshot for o in published if o.topic == V1],
    }
    for name, states in (("snapshot", 5), ("snapshot-v1", 4)):
        examples = SCHEMAS[name]["examples"]
        assert len(examples) == states
        assert {example["state"] for example in examples} == {"open", "closed", "cancelled", "partially_returned"}
        assert all(example in sent[name] for example in examples)


@pytest.mark.parametrize(
    ("example", "value"),
    [
        (0, {"customerSession": {"cartItem": [EXAMPLES[0][1]["customerSession"]["cartItems"][0]]}}),
        (1, {"customerSession": {"cartItems": [{"sku": "cup", "quantity": 2}]}}),
        (2, {"return": {"returnedCartItems": [{"sku": "cup", "quantity": 9}]}}),
        (3, {"type": "reopen"}),
    ],
)
def test_the_examples_of_rejections_are_what_is_published(example, value):
    till = Till()
    for key, accepted in EXAMPLES:
        till.send(accepted, key, timestamp=SENT + HOUR)
    refused = till.one(value, "receipt-4711" if example else "cart-7", offset=len(EXAMPLES) + example)
    assert refused.headers == SCHEMAS["rejection-headers"]["examples"][example]


# --------------------------------------------------------------------------------------------- what is refused

ITEM: dict[str, Any] = {"sku": "cup", "quantity": 1, "price": 1}


def session(**changes: Any) -> dict[str, Any]:
    return {"customerSession": changes}


def back(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"return": {"returnedCartItems": [*entries]}}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "update"},
        {"type": "refund", **session()},
        {"type": "update", "customerSession": None},
        {"type": "return", **session()},
        {"type": "update", **back({"sku": "cup"})},
        {"type": "reopen", **session()},
        {"type": "reopen", **back({"sku": "cup"})},
        {"type": "reopen", "dry": True},
        {**session(), **back({"sku": "cup"})},
        {**session(), "customersession": {}},
        {**session(), "integrationId": ""},
        {**session(), "eventId": "x" * 256},
        {**session(), "occurredAt": "yesterday"},
        {**session(), "occurredAt": SENT},
        {**session(), "dry": "true"},
        session(cartItem=[]),
        session(coupon="A", couponCodes=["A"]),
        session(referral="A", referralCode="A"),
        session(evaluableCampaignIds=[2.5]),
        session(loyaltyCards=["a", "b"]),
        session(cartItems=[{**ITEM, "quantity": 0}]),
        session(cartItems=[{**ITEM, "quantity": True}]),
        session(cartItems=[{**ITEM, "sku": ""}]),
        session(cartItems=[{**ITEM, "price": None}]),
        session(cartItems=[{**ITEM, "price": 1e12}]),
        session(cartItems=[{"sku": "cup", "quantity": 1}]),
        session(cartItems=[ITEM] * 1001),
        session(additionalCosts={"delivery": 3}),
        session(additionalCosts=[{"price": 1}]),
        session(attributes=[1]),
        {"profileId": None},
        {"updateCount": 3, "integrationId": "s-1"},
        {"cartItem": []},
        {"cartItems": [], "cartItem": []},
        {"cartItems": [], "type": "update"},
        {"cartItems": [], "customerSession": {}},
        {"coupon": "A", "couponCodes": ["A"]},
        {"state": "open", "applicationId": "1"},
        back(),
        back({}),
        back({"position": 0, "sku": "cup"}),
        back({"position": -1}),
        back({"sku": "cup", "quantity": 0}),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_the_schema_and_the_worker_refuse_an_update_record_that_is_none(value):
    assert not VALIDATORS["update-record"].is_valid(value)
    assert isinstance(read(encoded(value), b"s-1", SENT, Rules()), Rejection)


@pytest.mark.parametrize(
    "value",
    [
        session(cartItems=[{**ITEM, "quantity": 2.0}], evaluableCampaignIds=[7.0]),
        session(coupon="A", couponCodes=None, referral=None, referralCode="B"),
        {"type": None, "return": None, **session(state=None, cartItems=[{**ITEM, "name": None}])},
        {"customerSession": None, **back({"position": 0.0, "sku": None, "quantity": None})},
        {"type": "reopen", "dry": None, "customerSession": None, "return": None, "responseContent": 7},
        session(cartItems=[{**ITEM, "position": "echoed", "prices": {"base": {}}}]),
        session(attributes={"anything": [{"goes": None}]}),
        session(cartItems=[ITEM] * 1000),
        session(attributes=[], additionalCosts=[], cartItems=[{**ITEM, "attributes": [], "additionalCosts": []}]),
        session(id=1, created=None, integrationId=5, applicationId="x", firstSession="x", total=[], discounts={"a": 1}),
        {
            "profileId": "p",
            "integrationId": "s-2",
            "applicationId": 1,
            "dry": True,
            "responseContent": [],
            "type": None,
        },
        {"coupon": "A", "updateCount": 3, "closurePrediction": 0.5, "customerSession": None, "return": None},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_nulls_whole_floats_and_read_only_fields_are_accepted_as_the_worker_does(value):
    VALIDATORS["update-record"].validate(value)
    assert not isinstance(read(encoded(value), b"s-1", SENT, Rules()), Rejection)


def test_no_update_may_ask_for_partially_returned():
    asked = session(state="partially_returned")
    assert not VALIDATORS["update-record"].is_valid(asked)
    till = Till()
    for before in ({"dry": True, **asked}, asked):
        assert till.one(before).code == "invalid_state"
    for move in (session(state="open"), session(state="closed", cartItems=[ITEM]), back({"position": 0})):
        till.one(move)
        assert till.one(asked).code == "invalid_state"


UNSAYABLE = {"wrong_application", "number_out_of_range", "too_many_units"}
"""What refuses some of the mutants below and no schema can say: a setting, digits, numbers in attributes, a sum."""
ODDITIES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2.0, 2.5, -1, 10_000, 10_001, 1e12, 1e-10, 2**63, 1e300),
    *("", "x", "closed", "reopen", "2026-11-22T18:40:00Z", "x" * 101, "x" * 256, "x" * 1001),
    *([], [None], ["x"], [7], ["x"] * 6, [{}], [{"sku": "x"}], {}, {"x": 1}, {"price": 1}, {"x": {"price": 1}}),
)
ADDITIONS: tuple[Any, ...] = (None, True, 1, "x", "reopen", [], {}, {"returnedCartItems": [{"sku": "x"}]})
FIELDS = sorted({name for inner in walk(SCHEMAS["update-record"]) for name in inner.get("properties", {})})


def mutants(value: Any) -> Iterator[Any]:
    """Yield *value* changed in one place: an oddity instead of what is there, a field left out, a field added."""
    yield from ODDITIES
    if isinstance(value, dict):
        for name in value:
            yield {other: inner for other, inner in value.items() if other != name}
            yield from ({**value, name: mutant} for mutant in mutants(value[name]))
        for name in FIELDS:
            if name not in value:
                yield from ({**value, name: addition} for addition in ADDITIONS)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], mutant, *value[index + 1 :]] for mutant in mutants(inner))


def test_the_schema_accepts_what_the_worker_accepts_and_refuses_what_it_refuses():
    """Over every example changed in one place: 14,000 records."""
    unsaid = set()
    for _key, example in EXAMPLES:
        for mutant in mutants(example):
            request = read(json.dumps(mutant).encode(), b"s-1", SENT, Rules())
            if isinstance(request, Rejection) and VALIDATORS["update-record"].is_valid(mutant):
                unsaid.add(request.code)
                assert request.code in UNSAYABLE, (mutant, request)
            elif not isinstance(request, Rejection):
                VALIDATORS["update-record"].validate(mutant)
    assert unsaid == UNSAYABLE


def test_the_schema_of_snapshots_knows_that_an_anonymous_session_is_a_first_one():
    for name in ("snapshot", "snapshot-v1"):
        anonymous = {**SCHEMAS[name]["examples"][0], "profileId": "", "firstSession": True}
        VALIDATORS[name].validate(anonymous)
        assert not VALIDATORS[name].is_valid({**anonymous, "firstSession": False})


BROKEN: list[tuple[str, dict[str, Any]]] = [
    *((name, {"id": 0}) for name in ("snapshot",)),
    *((name, {"total": "9.00"}) for name in ("snapshot", "snapshot-v1")),
    *((name, {"state": "returned"}) for name in ("snapshot", "snapshot-v1")),
    *((name, {"created": "2026-11-22T18:40:00Z"}) for name in ("snapshot", "snapshot-v1")),
    *((name, {"updated": "2026-11-22T19:40:00.000+01:00"}) for name in ("snapshot", "snapshot-v1")),
    *((name, {"cartItems": [ITEM]}) for name in ("snapshot", "snapshot-v1")),
    *((name, {"effects": []}) for name in ("snapshot", "snapshot-v1")),
    *((name, {"profileId": None}) for name in ("snapshot", "snapshot-v1")),
    ("snapshot", {"couponCodes": []}),
    ("snapshot", {"closurePrediction": 1.5}),
    ("snapshot", {"updateCount": 0}),
    ("snapshot-v1", {"couponCodes": ["SPRING"]}),
    ("snapshot-v1", {"discounts": {"SPRING": 1.0}}),
    ("rejection-headers", {"rejection-code": "nonsense"}),
    ("rejection-headers", {"__streams.errors.exception": "java.lang.Exception"}),
    ("rejection-headers", {"__streams.errors.offset": 7}),
    ("rejection-headers", {"__streams.errors.partition": "one"}),
    ("rejection-headers", {"rejection-pointer": "customerSession"}),
]


@pytest.mark.parametrize(("name", "broken"), BROKEN)
def test_a_snapshot_or_headers_with_one_wrong_field_are_refused(name, broken):
    assert not VALIDATORS[name].is_valid({**SCHEMAS[name]["examples"][0], **broken})


@pytest.mark.parametrize(
    ("name", "optional"),
    [
        ("snapshot", {"couponCodes"}),
        ("snapshot-v1", set()),
        ("rejection-headers", set()),
    ],
)
def test_what_is_always_there_is_required(name, optional):
    example = SCHEMAS[name]["examples"][0]
    for field in example:
        rest = {other: value for other, value in example.items() if other != field}
        assert VALIDATORS[name].is_valid(rest) == (field in optional), field


def test_rejection_headers_are_the_eight_of_the_contract_with_every_code():
    schema = SCHEMAS["rejection-headers"]
    assert tuple(schema["required"]) == REJECTION_HEADERS
    assert set(schema["properties"]) == {*REJECTION_HEADERS, "rejection-cut"}
    assert {field["type"] for field in schema["properties"].values()} == {"string"}
    for code in (code for row in ROWS for code in row):
        VALIDATORS["rejection-headers"].validate({**schema["examples"][0], "rejection-code": code})


# ----------------------------------------------------------------------------------------------------- AsyncAPI

CHANNELS: dict[str, Any] = ASYNCAPI["channels"]


def test_every_reference_leads_somewhere():
    references = [
        (name, inner["$ref"]) for name, document in DOCUMENTS.items() for inner in walk(document) if "$ref" in inner
    ]
    assert {reference for _name, reference in references} >= {f"{name}.schema.json" for name in SCHEMAS}
    for name, reference in references:
        file, _hash, pointer = reference.partition("#/")
        place = DOCUMENTS[file or name]
        for step in pointer.split("/") if pointer else ():
            place = place[step]
        assert isinstance(place, dict)


def test_the_asyncapi_document_has_what_version_3_requires():
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert ASYNCAPI.keys() == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert ASYNCAPI["info"].keys() == {"title", "version", "description", "license"}
    for channel in CHANNELS.values():
        assert channel.keys() == {"address", "summary", "description", "messages", "tags", "bindings"}
        assert channel["messages"]
        for name, message in channel["messages"].items():
            assert message["name"] == name
            assert {"payload", "bindings"} <= message.keys()
            assert message.keys() <= {"name", "summary", "contentType", "payload", "headers", "bindings"}
            assert message["bindings"]["kafka"].keys() == {"key", "bindingVersion"}
    for operation in ASYNCAPI["operations"].values():
        assert operation.keys() == {"action", "channel"}


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ASYNCAPI["info"]["version"] == VERSION == project["version"]
    assert ASYNCAPI["info"]["title"] == project["name"]
    assert ASYNCAPI["info"]["license"]["name"] == project["license"]


ROOM = {"max.message.bytes": (1 << 20) + (128 << 10)}
KEPT = {"retention.ms": -1, "retention.bytes": -1}
NUMBERS = {"rekeyed": {**KEPT, **ROOM}, "claims": KEPT, "verdicts": KEPT, "first_sessions": {}}


def test_every_topic_has_a_channel_with_its_default_name_and_configuration():
    names = {field.name: field.default for field in fields(Topology) if field.name != "partitions"}
    assert set(CHANNELS) == set(TOPICS) == set(names)
    for field, topic in TOPICS.items():
        channel = CHANNELS[field]
        assert channel["address"] == (names[field] or "customer-sessions-v1")
        binding = channel["bindings"]["kafka"]
        configuration = {"cleanup.policy": [topic.cleanup], **NUMBERS.get(field, ROOM)}
        assert binding == {"topicConfiguration": configuration, "bindingVersion": "0.5.0"}
        assert channel["summary"] == topic.holds
        assert all(word in channel["description"] for word in (topic.key, topic.writer, topic.reader))


def test_the_worker_receives_what_its_stages_read_and_sends_what_they_write():
    operations: dict[str, set[str]] = {"receive": set(), "send": set()}
    for name, operation in ASYNCAPI["operations"].items():
        field = operation["channel"]["$ref"].removeprefix("#/channels/")
        assert name == f"{operation['action']}-{field}"
        operations[operation["action"]].add(field)
    assert operations["receive"] == {"updates", "rekeyed", "claims", "verdicts"}
    assert operations["send"] == set(TOPICS) - {"updates"}


def test_topics_between_the_stages_are_tagged_as_internal():
    internal = {field for field, channel in CHANNELS.items() if channel["tags"] == [{"name": "internal"}]}
    public = {field for field, channel in CHANNELS.items() if channel["tags"] == [{"name": "public"}]}
    assert internal == {"rekeyed", "claims", "verdicts", "first_sessions"}
    assert public == set(TOPICS) - internal


def types_of(field: str) -> list[str]:
    """Give every ce_type that a channel names."""
    headers = [message["headers"]["properties"]["ce_type"] for message in CHANNELS[field]["messages"].values()]
    return [name for enum in headers for name in enum["enum"]]


def test_the_types_of_events_are_those_of_the_contract():
    dry = [event for event in EVENTS if event.endswith(".dry_run")]
    assert sorted(types_of("sessions")) == sorted(f"customersession.{event}" for event in EVENTS if event not in dry)
    assert sorted(types_of("dry_runs")) == sorted(f"customersession.{event}" for event in dry)
    assert types_of("v1") == [f"v1.{name}" for name in types_of("sessions")]


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Make a validator of a schema in the AsyncAPI document."""
    schema = DOCUMENTS.get(schema.get("$ref", ""), schema)
    return jsonschema_rs.Draft202012Validator({**schema, "components": ASYNCAPI["components"]}, validate_formats=True)


def fitting(field: str, key: bytes | None, raw: bytes | None, headers: dict[str, str]) -> list[str]:
    """Name the messages of a channel that a record fits."""
    found = []
    key_text, text = (None if given is None else given.decode(errors="replace") for given in (key, raw))
    for name, message in CHANNELS[field]["messages"].items():
        is_json = message.get("contentType", ASYNCAPI["defaultContentType"]) == "application/json"
        value = json.loads(text) if is_json and text is not None else text
        parts = [(message["bindings"]["kafka"]["key"], key_text), (message["payload"], value)]
        if "headers" in message:
            parts.append((message["headers"], headers))
        if all(validator(schema).is_valid(part) for schema, part in parts):
            found.append(name)
    return found


def a_day() -> Network:
    """Let everything happen that brings something on a topic."""
    network = Network(v1_topic=V1, max_record_bytes=2000)
    trace = [("traceparent", TRACE.encode())]
    for minute, (key, value) in enumerate(EXAMPLES):
        network.send(value, key, timestamp=SENT + minute * 60_000, headers=trace)
    early = {**session(profileId="ada", cartItems=[ITEM]), "occurredAt": "2026-11-20T10:00:00Z", "eventId": "e-1"}
    network.send(early, "early")
    for value in (session(identifiers=["x"]), session(state="closed"), {"dry": True, **back({"position": 0})}):
        network.send(value, "early")
    network.send(session(state="cancelled", cartItems=[]), "early")
    network.send(session(state="reopened"), "early")
    network.send(b"\xff" * 2001, b"\xff", 0, headers=[("big", b"x" * 70_000)])
    network.send(None, "early", network.away("early"))
    network.put("profile-claims", network.away("ada"), ConsumerRecord(0, SENT, b"ada", None))
    return network


def test_every_record_that_is_published_fits_one_message_of_its_channel_and_none_is_left_over():
    network = a_day()
    met, types = set(), set()
    for field in TOPICS:
        for record in network.published(CHANNELS[field]["address"]):
            found = fitting(field, record.key, record.raw, record.headers)
            assert len(found) == 1, (field, record, found)
            met.add((field, *found))
            types.add(record.headers.get("ce_type"))
    assert met == {
        (field, name) for field, channel in CHANNELS.items() if field != "updates" for name in channel["messages"]
    }
    assert types > {*types_of("sessions"), *types_of("dry_runs"), *types_of("v1")}


def test_every_header_that_is_published_is_described():
    network = a_day()
    shared = ASYNCAPI["components"]["schemas"]["CloudEvents"]
    described = {*shared["properties"], "ce_type"}
    sent = {name for record in network.snapshots for name in record.headers}
    assert list(shared["patternProperties"]) == ["^worker-"]
    assert {name for name in sent if not name.startswith("worker-")} == described
    (cut,) = [record.headers for record in network.rejections if record.code == "record_too_large"]
    assert cut.keys() == SCHEMAS["rejection-headers"]["properties"].keys()
    assert cut["rejection-cut"] == "value,headers"


def test_what_is_sent_to_the_input_topic_fits_its_channel():
    for key, value in EXAMPLES:
        assert fitting("updates", key.encode(), encoded(value), {"traceparent": TRACE}) == ["update-record"]
        assert fitting("updates", None, encoded(value), {}) == ["update-record"]
    assert fitting("updates", b"s-1", None, {}) == ["tombstone"]
    assert not fitting("updates", b"s-1", b"{}", {})


def test_a_record_that_the_worker_does_not_publish_fits_no_message():
    (snapshot, *_rest) = a_day().snapshots
    key, raw, headers = snapshot.key, snapshot.raw, snapshot.headers
    assert fitting("sessions", key, raw, headers) == ["snapshot"]
    for name in ("ce_specversion", "ce_id", "ce_source", "ce_time", "content-type", "ce_type"):
        assert not fitting("sessions", key, raw, {other: text for other, text in headers.items() if other != name})
        assert name == "ce_id" or not fitting("sessions", key, raw, {**headers, name: "1.1"})
    assert not fitting("sessions", None, raw, headers)
    assert not fitting("sessions", b"", raw, headers)
    assert not fitting("sessions", key, None, headers)
    assert not fitting("sessions", key, b"{}", headers)
    assert not fitting("v1", key, raw, headers)
    assert not fitting("dry_runs", key, raw, headers)
    assert not fitting("verdicts", key, b'{"profileId":"ada","created":"2026-11-22T10:00:00.000Z","dry":false}', {})
    assert not fitting("rejections", key, raw, {"rejection-code": "invalid_field"})
