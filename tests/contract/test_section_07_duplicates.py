"""Section 7, duplicates: what an eventId that came before means."""

import pytest

from tests.contract.conftest import CUP, SENT, Network, Till, cart, encoded
from worker.testing import Fault, Update


def event(event_id: str | None, session: dict[str, object] | None = None, **more: object) -> dict[str, object]:
    return {"eventId": event_id, "customerSession": session or {}, **more}


def test_an_event_that_came_before_with_the_same_bytes_is_dropped_and_counted(till):
    assert till.one(event("e-1", {"attributes": {"a": 1}})).event == "created"
    assert till.send(event("e-1", {"attributes": {"a": 1}}), timestamp=SENT + 1) == []
    assert till.counts() == {"created": 1, "duplicate": 1}
    after = till.update({}).snapshot
    assert (after["updateCount"], after["updated"]) == (2, "2026-11-22T18:40:00.000Z")


@pytest.mark.parametrize(
    "again",
    [
        b'{"eventId":"e-1","customerSession":{"attributes":{"a":2}}}',
        b'{"eventId":"e-1","customerSession":{"attributes":{"a":1}}} ',
        b'{"customerSession":{"attributes":{"a":1}},"eventId":"e-1"}',
        b'{"eventId":"e-1","customerSession":{"attributes":{"a":1.0}}}',
        b'{"eventId":"e-1","type":"reopen"}',
        b'{"eventId":"e-1","return":{"returnedCartItems":[{"sku":"a"}]}}',
    ],
)
def test_an_event_that_came_before_with_other_bytes_is_reused(till, again):
    till.one(b'{"eventId":"e-1","customerSession":{"attributes":{"a":1}}}')
    rejection = till.one(again)
    assert (rejection.code, rejection.pointer) == ("event_id_reused", "/eventId")
    assert till.update({}).snapshot["attributes"] == {"a": 1}


@pytest.mark.parametrize("event_id", ["e-10", "E-1", "e-1 ", "é", "e\u0301"])
def test_another_event_id_is_no_duplicate(till, event_id):
    till.one(event("e-1"))
    till.one(event("e\u00e9"))
    assert till.one(event(event_id)).event == "updated"


@pytest.mark.parametrize("record", [{"customerSession": {"attributes": {"a": 1}}}, event(None)])
def test_an_update_record_without_event_id_is_never_a_duplicate(till, record):
    assert [till.one(record).snapshot["updateCount"] for _again in range(4)] == [1, 2, 3, 4]


def test_the_last_32_accepted_are_remembered_and_the_33rd_makes_the_first_forgotten(till):
    for number in range(32):
        till.one(event(f"e-{number}"))
    assert till.send(event("e-0")) == []
    assert till.one(event("e-32")).event == "updated"
    assert till.send(event("e-1")) == []
    forgotten = till.one(event("e-0"))
    assert (forgotten.event, forgotten.snapshot["updateCount"]) == ("updated", 34)


def test_a_duplicate_does_not_become_younger_by_being_repeated(till):
    for number in range(32):
        till.one(event(f"e-{number}"))
        till.send(event("e-0"))
    till.one(event("e-32"))
    assert till.one(event("e-0")).event == "updated"


def test_records_without_event_id_push_none_out(till):
    till.one(event("e-1"))
    for _number in range(100):
        till.update({})
    assert till.send(event("e-1")) == []


def test_each_session_remembers_its_own(till):
    till.one(event("e-1"), "s-1")
    assert till.one(event("e-1"), "s-2").event == "created"
    assert till.one(event("e-1", {"attributes": {"a": 1}}), "s-3").event == "created"
    assert till.send(event("e-1"), "s-1") == []


def test_a_deleted_session_forgets_its_own(till):
    till.one(event("e-1"))
    till.delete()
    assert till.one(event("e-1", {"referralCode": "r"})).event == "created"
    till.delete()
    assert till.one(event("e-1")).event == "created"


def test_the_session_is_asked_only_after_the_duplicates(till):
    """A repeated close of a closed session is a duplicate, and a reused id is one in any state."""
    closing = event("e-1", {"state": "closed", **cart(CUP)})
    taking = {"eventId": "e-2", "return": {"returnedCartItems": [{"position": 0}]}}
    till.one(closing)
    assert till.send(closing) == []
    till.one(taking)
    assert till.send(taking) == []
    assert till.send(closing) == []
    till.one(event("e-3", {"state": "cancelled"}))
    assert till.send(taking) == []
    assert till.one(event("e-1", {"state": "cancelled"})).code == "event_id_reused"
    assert till.one({"eventId": "e-2", "type": "reopen"}).code == "event_id_reused"


def test_reopenings_are_judged_alike(till):
    till.update({"state": "closed"})
    assert till.one({"type": "reopen", "eventId": "e"}).event == "reopened"
    assert till.send({"type": "reopen", "eventId": "e"}) == []


def test_a_record_with_invalid_fields_is_refused_before_it_could_be_a_duplicate(till):
    broken = {"eventId": "e-1", "customerSession": {"x": 1}}
    till.one(event("e-1"))
    assert till.one(broken).code == "unknown_field"
    late = {**event("e-1"), "occurredAt": "2026-11-22T19:40:00.001Z"}
    assert till.one(late).code == "occurred_in_future"


@pytest.mark.parametrize(
    "refused",
    [
        {"customerSession": {"x": 1}},
        {"customerSession": {"state": "partially_returned"}},
        {"customerSession": {"attributes": {"a": "x" * 900}}},
        {"type": "reopen"},
        {"return": {"returnedCartItems": [{"position": 0}]}},
        {
            "customerSession": {
                "additionalCosts": {"a": {"price": 999_999_999_999.999}, "b": {"price": 1e-9}},
            },
        },
    ],
)
def test_a_rejected_record_does_not_use_its_event_id_up(refused):
    till = Till(max_snapshot_bytes=1000)
    till.update({})
    record = {"eventId": "e-1", **refused}
    code = till.one(record).code
    assert till.one(record).code == code
    assert till.one(event("e-1")).event == "updated"


def test_a_dry_run_does_not_use_its_event_id_up_and_is_never_a_duplicate(till):
    dry = event("e-1", dry=True)
    assert till.one(dry).event == "created.dry_run"
    assert till.one(dry).event == "created.dry_run"
    assert till.one(event("e-1", {"referralCode": "r"})).event == "created"
    assert till.one(dry).event == "created.dry_run"
    assert till.send(event("e-1", {"referralCode": "r"})) == []


def test_a_dry_return_does_not_use_its_event_id_up_and_is_never_a_duplicate(till):
    till.one(event("e-1", {"state": "closed", **cart(CUP)}))
    taking = {"eventId": "e-1", "return": {"returnedCartItems": [{"position": 0}]}, "dry": True}
    assert till.one(taking).event == "partially_returned.dry_run"
    assert till.one({**taking, "eventId": "e-2"}).event == "partially_returned.dry_run"
    assert till.one({**taking, "eventId": "e-2", "dry": False}).event == "partially_returned"


def test_a_duplicate_of_a_record_that_still_waits_for_its_verdict_is_one(network):
    value = event("e-1", {"profileId": "p"})
    for _again in range(3):
        network.driver.send(Update(value, "s-1"))
    network.driver.run()
    assert [outcome.event for outcome in network.snapshots] == ["created"]
    assert network.driver.counts()["duplicate"] == 2


def test_remembered_events_survive_a_crash_and_a_reclassification():
    network = Network()
    network.send(event("e-1", {"profileId": "p"}), "s-1")
    network.send(event("e-2", {"profileId": "p"}, occurredAt="2026-01-01T00:00:00Z"), "s-0")
    assert [outcome.event for outcome in network.snapshots] == ["created", "created", "reclassified"]
    network.strike(Fault.CRASH)
    network.send(event("e-1", {"profileId": "p"}), "s-1")
    network.send(event("e-1"), "s-1")
    assert network.driver.counts()["duplicate"] == 1
    assert [rejection.code for rejection in network.rejections] == ["event_id_reused"]


@pytest.mark.parametrize("fault", list(Fault))
def test_a_redelivery_never_counts_twice_even_without_event_id(fault):
    """What the producer itself sends twice is another record: only an eventId tells that it is one."""
    network = Network()
    network.send({"customerSession": {"attributes": {"a": 1}}})
    network.strike(fault)
    network.send({"customerSession": {"attributes": {"b": 1}}})
    assert network.session["updateCount"] == (3 if fault is Fault.DUPLICATE else 2)


def test_a_stray_and_the_same_record_at_home_are_duplicates_of_each_other(network):
    value = encoded(event("e-1", integrationId="s-1"))
    network.send(value, "s-1")
    network.send(value, None, network.away("s-1"))
    network.send(value, "other")
    assert [outcome.event for outcome in network.snapshots] == ["created"]
    assert network.driver.counts()["duplicate"] == 2
