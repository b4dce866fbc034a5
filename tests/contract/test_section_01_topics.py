"""Section 1, topics: what is at home stays, what is a stray is sent home once, with its origin."""

import pytest

from tests.contract.conftest import HOUR, SENT, SENT_AT, TRACE, Network, Outcome, cart, encoded
from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.pipeline.topology import TOPICS, Topology
from worker.testing import StreamDriver, Update

REKEYED = "session-updates-rekeyed"
EMPTY: dict[str, object] = {"customerSession": {}}
ANYTHING = "integrationId, or anything"
TABLE = [
    ("updates", "session-updates", ANYTHING, "delete"),
    ("rekeyed", REKEYED, "integrationId", "delete"),
    ("sessions", "customer-sessions", "integrationId", "compact"),
    ("rejections", "session-rejections", "as it arrived", "delete"),
    ("dry_runs", "session-dry-runs", "integrationId", "delete"),
    ("claims", "profile-claims", "profileId", "delete"),
    ("verdicts", "profile-verdicts", "integrationId", "delete"),
    ("first_sessions", "profile-first-sessions", "profileId", "compact"),
]


@pytest.mark.parametrize(("field", "name", "key", "cleanup"), TABLE)
def test_the_topics_have_these_names_keys_and_cleanup_policies(field, name, key, cleanup):
    assert getattr(Topology(4), field) == name
    assert TOPICS[field][:2] == (key, cleanup)


def test_there_is_no_other_topic_but_the_v1_view():
    assert set(TOPICS) == {field for field, *_rest in TABLE} | {"v1"}
    assert Topology(4).v1 is None


def test_every_record_has_its_topics_key_and_lies_where_the_default_partitioner_puts_that_key(network):
    """Except rejections: they lie in the lane that refused them, with the key with which they arrived."""
    for number in range(20):
        session = {"profileId": f"p-{number % 3}"}
        network.send({"integrationId": f"s-{number}", "customerSession": session}, b"other")
        network.send({"dry": True, "customerSession": session}, f"s-{number}")
    topology = network.topology
    keys = {
        topology.rekeyed: {
            name for name in map("s-{}".format, range(20)) if network.home(name) != network.home("other")
        },
        topology.sessions: {f"s-{number}" for number in range(20)},
        topology.dry_runs: {f"s-{number}" for number in range(20)},
        topology.claims: {f"p-{number}" for number in range(3)},
        topology.verdicts: {f"s-{number}" for number in range(20)},
        topology.first_sessions: {f"p-{number}" for number in range(3)},
    }
    for topic, expected in keys.items():
        records = network.published(topic)
        assert {record.key.decode() for record in records} == expected, topic
        assert all(record.partition == network.home(record.key.decode()) for record in records), topic


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
@pytest.mark.parametrize("partitions", [1, 4, 7, 1000])
def test_home_is_where_kafkas_murmur2_puts_the_key(key, hashed, partitions):
    """The hashes are those of Kafka's own test of its Utils.murmur2."""
    driver = StreamDriver(partitions)
    driver.feed([Update(EMPTY, key, (hashed & 0x7FFFFFFF) % partitions)])
    assert driver.published(REKEYED) == []
    (snapshot,) = driver.published("customer-sessions")
    assert snapshot.partition == (hashed & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("value", [EMPTY, {"integrationId": "s-1", **EMPTY}, {"integrationId": None, **EMPTY}])
def test_a_record_at_home_is_processed_where_it_is(network, value):
    network.send(value)
    assert network.strays == []
    assert [snapshot.partition for snapshot in network.snapshots] == [network.home("s-1")]


@pytest.mark.parametrize("key", [None, b"", b"\xff", "s-2", "s-1"])
def test_a_record_of_any_key_in_its_sessions_partition_is_processed_there(network, key):
    home = network.home("s-1")
    for number in range(3):
        network.send({"integrationId": "s-1", "customerSession": {"attributes": {"a": number}}}, key, home)
        network.send({"customerSession": {"profileId": f"p-{number}"}}, "s-1")
    assert network.strays == []
    assert [snapshot.snapshot["updateCount"] for snapshot in network.snapshots] == [1, 2, 3, 4, 5, 6]
    assert {(snapshot.key, snapshot.partition) for snapshot in network.snapshots} == {(b"s-1", home)}


def test_the_order_of_a_partition_is_kept_whatever_the_keys(network):
    """Of four records of one partition, the third closes the session; the last comes too late."""
    home = network.home("s-1")
    for key, state in (("s-1", "open"), (None, "open"), ("x", "closed"), ("s-1", "open")):
        network.driver.send(Update({"integrationId": "s-1", "customerSession": {"state": state}}, key, home))
    network.driver.run()
    assert [snapshot.event for snapshot in network.snapshots] == ["created", "updated", "closed"]
    assert [rejection.code for rejection in network.rejections] == ["session_not_open"]


def test_a_record_of_the_right_key_is_a_stray_where_its_session_is_not_at_home(network):
    """The key names a session of this partition, the field one of another."""
    network.send({"customerSession": {}}, "s-1")
    other = next(name for name in map("t-{}".format, range(99)) if network.home(name) != network.home("s-1"))
    network.send({"integrationId": other, "customerSession": {}}, "s-1")
    assert [stray.key for stray in network.strays] == [other.encode()]


# ------------------------------------------------------------------------------------------------------- strays

HOME = Network().home("s-1")
AWAY = Network().away("s-1")
NAMED = {"integrationId": "s-1", **EMPTY}
STRAYS = [
    pytest.param(NAMED, "s-2", AWAY, id="the wrong key"),
    pytest.param(NAMED, None, AWAY, id="a null key"),
    pytest.param(NAMED, b"", AWAY, id="an empty key"),
    pytest.param(NAMED, b"\xff\xfe", AWAY, id="a key that is not UTF-8"),
    pytest.param(EMPTY, "s-1", AWAY, id="the wrong partition"),
    pytest.param(NAMED, "s-1", AWAY, id="the wrong partition, with the field"),
]


@pytest.mark.parametrize(("value", "key", "partition"), STRAYS)
def test_a_stray_is_forwarded_once_and_unchanged_with_the_right_key_and_its_origin(network, value, key, partition):
    network.send(NAMED, None, partition)  # so that the stray is not at offset 0
    network.send(value, key, partition, timestamp=SENT + 5, headers=[("a", b"1"), ("a", b"2"), ("n", None)])
    _first, forwarded = network.driver.published(REKEYED)
    assert (forwarded.key, forwarded.partition) == (b"s-1", HOME)
    assert forwarded.timestamp == SENT + 5
    assert forwarded.headers[:3] == [("a", b"1"), ("a", b"2"), ("n", None)]
    assert forwarded.value == encoded(value)
    told = b" ".join(text or b"" for _name, text in forwarded.headers[3:]).decode(errors="replace")
    assert all(part in told for part in ("session-updates", str(partition), "1", str(SENT + 5)))


@pytest.mark.parametrize(("value", "key", "partition"), STRAYS)
def test_a_stray_is_folded_at_home_as_if_it_had_arrived_there(network, value, key, partition):
    trace = [("traceparent", TRACE.encode())]
    network.send(NAMED, None, partition)
    network.send(value, key, partition, timestamp=SENT + 5, headers=trace)
    _created, updated = network.snapshots
    assert (updated.partition, updated.key, updated.event) == (HOME, b"s-1", "updated")
    assert updated.timestamp == SENT + 5
    assert updated.headers["ce_id"] == f"session-updates/{partition}/1"
    assert updated.headers["ce_time"] == "2026-11-22T18:40:00.005Z"
    assert updated.headers["traceparent"] == TRACE
    assert "a" not in updated.headers


@pytest.mark.parametrize(("value", "key", "partition"), STRAYS)
def test_a_session_that_a_stray_creates_has_its_id_and_times_from_the_origin(network, value, key, partition):
    network.send(EMPTY, "s-9", partition, timestamp=SENT - HOUR)
    network.send(value, key, partition, timestamp=SENT)
    session = network.driver.sessions()["s-1"]
    assert session["id"] == partition * 2**40 + 1 + 1
    assert session["created"] == session["updated"] == SENT_AT


def test_mixed_keys_and_partitions_do_not_split_a_session(network):
    network.send(EMPTY)
    network.send(NAMED, "s-2")
    network.send(NAMED, None, AWAY)
    network.send(EMPTY, "s-1", AWAY)
    assert network.session["updateCount"] == 4
    assert {(snapshot.partition, snapshot.key) for snapshot in network.snapshots} == {(HOME, b"s-1")}


def test_well_keyed_feeds_pay_nothing(network):
    for number in range(50):
        network.send({"integrationId": f"s-{number}", **EMPTY}, f"s-{number}")
    assert network.strays == []
    assert len(network.snapshots) == 50


def test_a_tombstone_in_the_wrong_partition_deletes_the_session_at_home(network):
    network.send(EMPTY)
    network.send(None, "s-1", AWAY, timestamp=SENT + 7)
    (stray,) = network.strays
    assert (stray.raw, stray.key, stray.partition, stray.timestamp) == (None, b"s-1", HOME, SENT + 7)
    deleted = network.snapshots[-1]
    assert (deleted.event, deleted.raw, deleted.partition, deleted.timestamp) == ("deleted", None, HOME, SENT + 7)
    assert deleted.headers["ce_id"] == f"session-updates/{AWAY}/0"
    assert network.driver.sessions() == {}


def test_update_records_of_one_session_that_come_through_one_partition_keep_their_order(network):
    for number in range(30):
        network.driver.send(
            Update({"integrationId": "s-1", "customerSession": {"referralCode": f"r-{number}"}}, None, AWAY)
        )
    network.driver.run()
    referrals = [snapshot.snapshot["referralCode"] for snapshot in network.snapshots]
    assert referrals == [f"r-{number}" for number in range(30)]


def test_update_records_of_one_session_that_come_through_several_partitions_all_apply(network):
    for partition in range(4):
        for number in range(5):
            network.driver.send(
                Update({"customerSession": {"attributes": {f"{partition}/{number}": 1}}}, "s-1", partition)
            )
    network.driver.run()
    assert network.session["updateCount"] == 20
    assert len(network.session["attributes"]) == 20


# --------------------------------------------------------------------------------------------- refusals of strays


@pytest.mark.parametrize(("value", "key", "partition"), STRAYS)
def test_a_stray_that_the_session_refuses_is_rejected_at_home_as_it_arrived(network, value, key, partition):
    network.send({"integrationId": "s-1", "customerSession": {"state": "closed"}}, None, partition)
    network.send(value, key, partition, timestamp=SENT + 5, headers=[("a", b"1"), ("a", b"2")])
    (raw,) = network.driver.published("session-rejections")
    (rejection,) = network.rejections
    assert (rejection.code, rejection.partition) == ("session_not_open", HOME)
    assert rejection.key == (key.encode() if isinstance(key, str) else key)
    assert rejection.timestamp == SENT + 5
    assert raw.headers[:2] == [("a", b"1"), ("a", b"2")]
    assert not any(name.startswith("worker-") for name in rejection.headers)
    assert _place(rejection) == ("session-updates", str(partition), "1")


def test_a_refusal_that_needs_no_session_is_made_where_the_record_is_even_for_a_stray(network):
    network.send({"integrationId": "s-1", "customerSession": {"cartItem": []}}, None, AWAY)
    (rejection,) = network.rejections
    assert (rejection.code, rejection.partition) == ("unknown_field", AWAY)
    assert _place(rejection) == ("session-updates", str(AWAY), "0")
    assert network.strays == []


def test_a_record_that_cannot_be_parsed_is_refused_where_it_is(network):
    network.send(b"{", "s-1", AWAY)
    (rejection,) = network.rejections
    assert (rejection.code, rejection.partition, rejection.key, rejection.raw) == ("malformed_json", AWAY, b"s-1", b"{")


def test_a_strays_occurred_at_is_held_against_its_origins_timestamp(network):
    """An hour after the origin's own time is allowed, a millisecond more is not, whenever the stray gets home."""
    network.driver.advance(10 * 3600)
    network.send({**NAMED, "occurredAt": "2026-11-22T19:40:00.000Z"}, None, AWAY, timestamp=SENT)
    network.send({**NAMED, "occurredAt": "2026-11-22T19:40:00.001Z"}, None, AWAY, timestamp=SENT)
    assert [snapshot.event for snapshot in network.snapshots] == ["created"]
    assert [rejection.code for rejection in network.rejections] == ["occurred_in_future"]


def test_a_stray_whose_key_and_headers_outgrow_64_kib_is_too_large_to_be_sent_home(network):
    room = (64 << 10) - len("filler")
    network.send(NAMED, None, AWAY, headers=[("filler", b"x" * room)])
    assert len(network.strays) == len(network.snapshots) == 1
    network.send(NAMED, None, AWAY, headers=[("filler", b"x" * (room + 1))])
    assert len(network.strays) == len(network.snapshots) == 1
    (rejection,) = network.rejections
    assert (rejection.code, rejection.partition) == ("record_too_large", AWAY)


def test_a_record_at_home_may_have_large_headers(network):
    network.send(EMPTY, headers=[("filler", b"x" * (1 << 20))])
    assert [snapshot.event for snapshot in network.snapshots] == ["created"]


# ------------------------------------------------------------------------------------------------ missing origin

HEADERLESS: list[tuple[tuple[str, bytes], ...]] = [
    (),
    (("worker-origin", b""),),
    (("worker-origin", b"session-updates"),),
    (("worker-origin", b"session-updates/0/1"),),
    (("worker-origin", b"session-updates/0/1/x"),),
    (("worker-origin", b"session-updates/-1/1/0"),),
    (("worker-origin", b"session-updates/0/-1/0"),),
    (("worker-origin", b"\xff/0/0/0"),),
    (("other", b"session-updates/0/1/0"),),
    (("worker-origin-key", b"s-1"),),
]


@pytest.mark.parametrize("headers", HEADERLESS)
@pytest.mark.parametrize("value", [b'{"customerSession":{}}', b"{", b"\x1f\x8b a damaged gzip", None])
def test_a_record_on_the_rekeyed_topic_without_origin_headers_is_missing_origin(network, headers, value):
    network.put(REKEYED, HOME, ConsumerRecord(0, SENT, b"s-1", value, headers))
    (rejection,) = network.rejections
    assert (rejection.code, rejection.pointer, rejection.partition) == ("missing_origin", "", HOME)
    assert (rejection.key, rejection.raw, rejection.timestamp) == (b"s-1", value, SENT)
    assert network.snapshots == []


def test_origin_headers_count_only_on_the_rekeyed_topic(network):
    forged = [("worker-origin", b"elsewhere/3/77/1"), ("worker-origin-key", b"forged")]
    network.send(EMPTY, headers=forged)
    (snapshot,) = network.snapshots
    assert snapshot.headers["ce_id"] == f"session-updates/{HOME}/0"
    assert snapshot.timestamp == SENT
    assert snapshot.snapshot["id"] == HOME * 2**40 + 1


def test_a_stray_that_carries_forged_origin_headers_is_still_told_by_its_real_origin(network):
    forged = [("worker-origin", b"elsewhere/3/77/1"), ("worker-origin-key", b"forged")]
    network.send(NAMED, None, AWAY, headers=forged)
    network.send({"integrationId": "s-1", "type": "reopen"}, None, AWAY, headers=forged)
    (snapshot,) = network.snapshots
    assert snapshot.headers["ce_id"] == f"session-updates/{AWAY}/0"
    (rejection,) = network.rejections
    assert (rejection.key, _place(rejection)) == (None, ("session-updates", str(AWAY), "1"))
    assert rejection.headers["worker-origin"] == "elsewhere/3/77/1"


@pytest.mark.parametrize("value", [b'{"customerSession":{}}', b"{"])
def test_no_header_on_the_rekeyed_topic_makes_a_record_that_no_topic_takes(network, value):
    """The name of a topic has at most 249 characters; whoever writes a longer one there is not the worker."""
    origin = b"t" * 500_000 + b"/0/0/0"
    network.put(REKEYED, HOME, ConsumerRecord(0, SENT, b"s-1", value, [("worker-origin", origin)]))
    assert [outcome.what for outcome in network.snapshots + network.rejections] == ["missing_origin"]


def test_partitions_are_independent_of_each_other():
    """The same records in one partition or in many give the same sessions, but for their ids."""
    records = [Update({"integrationId": f"s-{n % 7}", "customerSession": cart()}, f"k-{n % 5}") for n in range(70)]
    finals = []
    for partitions in (1, 3, 16):
        driver = StreamDriver(partitions, Rules())
        driver.feed(records)
        finals.append({key: {**session, "id": 0} for key, session in driver.sessions().items()})
    assert finals[0] == finals[1] == finals[2]
    assert len(finals[0]) == 7


def _place(rejection: Outcome) -> tuple[str, ...]:
    return tuple(rejection.headers[f"__streams.errors.{name}"] for name in ("topic", "partition", "offset"))
