"""Section 9, firstSession: the smallest claim ever made on a profile, in every order of arrival."""

from itertools import permutations

import pytest

from tests.contract.conftest import CUP, HOUR, SENT, SENT_AT, Network, Outcome, Till, cart
from worker.codec.records import ConsumerRecord
from worker.testing import Fault, StreamDriver, Update

NINE, TEN, ELEVEN = "2026-11-22T09:00:00.000Z", "2026-11-22T10:00:00.000Z", "2026-11-22T11:00:00.000Z"


def claiming(profile: str, at: str = SENT_AT, **more: object) -> dict[str, object]:
    return {"customerSession": {"profileId": profile, **more}, "occurredAt": at}


def is_first(outcome: Outcome) -> bool:
    first: bool = outcome.snapshot["firstSession"]
    return first


def test_a_session_without_profile_is_first(till):
    assert is_first(till.update({}))
    assert is_first(till.update({"profileId": ""}, "s-2"))


def test_a_profiles_only_session_is_first_and_stays_it(till):
    assert is_first(till.update({"profileId": "p"}))
    assert is_first(till.update({}))
    assert is_first(till.update({"profileId": "p"}))
    assert is_first(till.update({"state": "closed"}))


def test_a_later_session_of_the_profile_is_not_first_and_stays_it(till):
    till.one(claiming("p", NINE), "s-1")
    assert not is_first(till.one(claiming("p", TEN), "s-2"))
    assert not is_first(till.update({}, "s-2"))
    assert is_first(till.update({}, "s-1"))


def test_each_profile_has_its_own_first(till):
    assert is_first(till.one(claiming("p"), "s-1"))
    assert is_first(till.one(claiming("q"), "s-2"))
    assert is_first(till.one(claiming("P"), "s-3"))


# ------------------------------------------------------------------------------------------------- order of arrival

CLAIMS = {
    "three times": {"s-1": TEN, "s-2": NINE, "s-3": ELEVEN},
    "the same time": {"s-1": TEN, "s-10": TEN, "s-2": TEN},
    "two at the same time": {"s-2": NINE, "s-1": NINE, "s-0": TEN},
    "UTF-8, where UTF-16 sorts the other way": {"\U00010000": TEN, "\uffff": TEN, "\U0001ffff": TEN},
}
FIRST = {
    "three times": "s-2",
    "the same time": "s-1",
    "two at the same time": "s-1",
    "UTF-8, where UTF-16 sorts the other way": "\uffff",
}


@pytest.mark.parametrize("case", CLAIMS)
def test_every_order_of_arrival_ends_in_the_same_bytes(case):
    endings = []
    for order in permutations(CLAIMS[case].items()):
        till = Till()
        last: dict[str, bytes] = {}
        for key, at in order:
            partition = list(CLAIMS[case]).index(key)
            for outcome in till.send(claiming("p", at), key, partition=partition, offset=0):
                last[outcome.key.decode()] = outcome.raw
        endings.append(last)
    assert all(ending == endings[0] for ending in endings)
    assert [key for key, raw in endings[0].items() if b'"firstSession":true' in raw] == [FIRST[case]]


@pytest.mark.parametrize("case", CLAIMS)
def test_every_order_of_arrival_over_partitions_ends_in_the_same_answer(case):
    for order in permutations(CLAIMS[case].items()):
        network = Network()
        for key, at in order:
            network.send(claiming("p", at), key)
        firsts = {key for key, session in network.driver.sessions().items() if session["firstSession"]}
        assert firsts == {FIRST[case]}
        assert {snapshot.snapshot["updateCount"] for snapshot in network.snapshots} == {1}


def test_an_earlier_claim_that_comes_later_demotes_who_had_been_first(till):
    before = till.one(claiming("p", TEN), "s-1").snapshot
    created, again = till.send(claiming("p", NINE), "s-2")
    assert (created.event, created.key, is_first(created)) == ("created", b"s-2", True)
    assert (again.event, again.key, is_first(again)) == ("reclassified", b"s-1", False)
    assert again.snapshot == {**before, "firstSession": False}
    assert not is_first(till.update({}, "s-1"))


def test_only_who_had_been_first_is_demoted_and_only_once(till):
    till.one(claiming("p", TEN), "s-1")
    till.one(claiming("p", ELEVEN), "s-2")
    assert [outcome.key for outcome in till.send(claiming("p", NINE), "s-3")] == [b"s-3", b"s-1"]
    assert [outcome.key for outcome in till.send(claiming("p", "2026-11-22T08:00:00Z"), "s-4")] == [b"s-4", b"s-3"]
    assert [outcome.key for outcome in till.send(claiming("p", "2026-11-22T08:30:00Z"), "s-5")] == [b"s-5"]


def test_a_closed_or_cancelled_session_is_demoted_too_and_keeps_its_state(till):
    till.one(claiming("p", TEN, state="closed", **cart(CUP)), "s-1")
    till.take_back({"position": 0, "quantity": 1}, key="s-1")
    _created, again = till.send(claiming("p", NINE), "s-2")
    assert (again.event, again.snapshot["state"]) == ("reclassified", "partially_returned")
    assert again.snapshot["cartItems"][0]["returnedQuantity"] == 1


def test_created_is_what_counts_and_not_when_the_profile_was_given(till):
    till.one({"customerSession": {}, "occurredAt": NINE}, "s-1")
    till.one(claiming("p", TEN), "s-2")
    _updated, again = till.send(claiming("p", ELEVEN), "s-1")
    assert (_updated.event, is_first(_updated)) == ("updated", True)
    assert (again.key, again.event) == (b"s-2", "reclassified")


# --------------------------------------------------------------------------------------------- changes of a profile


def test_a_session_that_changes_its_profile_claims_the_new_one_with_its_own_created(till):
    till.one(claiming("p", TEN), "s-1")
    till.one(claiming("q", NINE), "s-2")
    till.one(claiming("r", ELEVEN), "s-3")
    assert not is_first(till.one(claiming("q", SENT_AT), "s-1"))
    updated, again = till.send(claiming("r", SENT_AT), "s-1")
    assert (updated.event, updated.key, is_first(updated)) == ("updated", b"s-1", True)
    assert (again.event, again.key, is_first(again)) == ("reclassified", b"s-3", False)


def test_a_claim_is_not_taken_back_by_a_change_of_profile(till):
    till.one(claiming("p", NINE), "s-1")
    till.one(claiming("q"), "s-1")
    assert not is_first(till.one(claiming("p", TEN), "s-2"))


def test_a_claim_is_not_taken_back_by_discarding_the_profile(till):
    till.one(claiming("p", NINE), "s-1")
    assert is_first(till.update({"profileId": ""}, "s-1"))
    assert not is_first(till.one(claiming("p", TEN), "s-2"))
    assert is_first(till.update({"profileId": "p"}, "s-1"))


def test_a_session_that_was_not_first_is_first_while_it_is_anonymous(till):
    till.one(claiming("p", NINE), "s-1")
    answers = [is_first(till.update({"profileId": profile}, "s-2")) for profile in ("p", "", "p", "")]
    assert answers == [False, True, False, True]


def test_a_session_that_no_longer_has_the_profile_is_not_demoted(till):
    till.one(claiming("p", TEN), "s-1")
    till.update({"profileId": ""}, "s-1")
    assert [outcome.key for outcome in till.send(claiming("p", NINE), "s-2")] == [b"s-2"]
    assert is_first(till.update({}, "s-1"))


def test_a_session_that_comes_back_to_a_profile_is_not_first_when_an_earlier_one_claimed_it_meanwhile(till):
    till.one(claiming("p", TEN), "s-1")
    till.update({"profileId": "q"}, "s-1")
    till.one(claiming("p", NINE), "s-2")
    assert not is_first(till.update({"profileId": "p"}, "s-1"))


def test_a_claim_is_not_taken_back_by_deletion(till):
    till.one(claiming("p", NINE), "s-1")
    till.delete("s-1")
    assert not is_first(till.one(claiming("p", TEN), "s-2"))
    assert not is_first(till.one(claiming("p", TEN), "s-1"))


def test_a_deleted_session_is_not_published_again_when_an_earlier_claim_turns_up(till):
    till.one(claiming("p", TEN), "s-1")
    till.delete("s-1")
    assert [outcome.key for outcome in till.send(claiming("p", NINE), "s-2")] == [b"s-2"]


def test_a_session_created_anew_is_not_demoted_by_word_for_the_one_before(till):
    till.one(claiming("p", TEN), "s-1")
    till.delete("s-1")
    anew = till.send(claiming("p", NINE), "s-1")
    assert [(outcome.event, is_first(outcome)) for outcome in anew] == [("created", True)]
    assert is_first(till.update({}, "s-1"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"x": 1}, "unknown_field"),
        ({"state": "cancelled"}, "invalid_state"),
        ({"additionalCosts": {"a": {"price": 999_999_999_999.999}, "b": {"price": 1e-9}}}, "number_out_of_range"),
        ({"attributes": {"a": "x" * 1000}}, "session_too_large"),
    ],
)
def test_a_rejected_update_record_claims_nothing(fields, code):
    till = Till(max_snapshot_bytes=1000)
    assert till.one(claiming("p", NINE, **fields), "s-1").code == code
    assert is_first(till.one(claiming("p", TEN), "s-2"))


def test_a_profile_that_a_cancellation_ignored_is_not_claimed(till):
    till.one({"customerSession": {"state": "closed"}, "occurredAt": NINE}, "s-1")
    revoked = till.one(claiming("p", state="cancelled"), "s-1")
    assert (revoked.headers["ignored-fields"], is_first(revoked)) == ("profileId", True)
    assert is_first(till.one(claiming("p", TEN), "s-2"))


def test_a_duplicate_claims_nothing_new(till):
    record = {**claiming("p", NINE), "eventId": "e"}
    till.one(record, "s-1")
    assert till.send(record, "s-1") == []
    assert not is_first(till.one(claiming("p", TEN), "s-2"))


# ---------------------------------------------------------------------------------------------------------- dry runs


def dry(profile: str, at: str) -> dict[str, object]:
    return {**claiming(profile, at), "dry": True}


def test_a_dry_run_asks_whether_it_would_be_first_without_claiming(till):
    assert is_first(till.one(dry("p", NINE), "s-1"))
    assert is_first(till.one(claiming("p", TEN), "s-2"))
    would_be = till.send(dry("p", NINE), "s-1")
    assert [(outcome.event, is_first(outcome)) for outcome in would_be] == [("created.dry_run", True)]
    assert not is_first(till.one(dry("p", ELEVEN), "s-3"))
    assert is_first(till.update({}, "s-2"))


def test_in_a_dry_run_the_sessions_own_earlier_claim_counts_like_any_other(till):
    till.one(claiming("p", TEN), "s-1")
    assert not is_first(till.one(dry("p", ELEVEN), "s-1"))
    assert is_first(till.one(dry("p", NINE), "s-1"))


def test_a_dry_return_shows_the_answer_that_the_session_has(till):
    till.one(claiming("p", NINE), "s-1")
    till.one(claiming("p", TEN, state="closed", **cart(CUP)), "s-2")
    assert not is_first(till.one({"return": {"returnedCartItems": [{"position": 0}]}, "dry": True}, "s-2"))


# ------------------------------------------------------------------------------------------------------- waiting


def test_a_snapshot_is_published_only_once_its_answer_is_known_and_only_its_own_session_waits(network):
    driver = network.driver
    driver.send(Update({"customerSession": {"profileId": "p", "referralCode": "1"}}, "s-1"))
    driver.send(Update({"customerSession": {"referralCode": "2"}}, "s-1"))
    driver.send(Update({"customerSession": {"profileId": "q", "referralCode": "3"}}, "s-1"))
    driver.send(Update({"customerSession": {"referralCode": "4"}}, "s-1"))
    driver.send(Update({"customerSession": {}}, "s-2"))
    driver.run(cycles=1)
    assert [snapshot.key for snapshot in network.snapshots] == [b"s-2"]
    assert len(network.published("profile-claims")) == 1
    driver.run()
    of_one = [snapshot.snapshot for snapshot in network.snapshots if snapshot.key == b"s-1"]
    assert [session["referralCode"] for session in of_one] == ["1", "2", "3", "4"]
    assert [session["profileId"] for session in of_one] == ["p", "p", "q", "q"]
    assert all(session["firstSession"] for session in of_one)


def test_dry_runs_that_ask_the_same_at_the_same_time_are_all_answered(network):
    for _again in range(3):
        network.driver.send(Update(dry("p", TEN), "s-1", timestamp=SENT))
    network.driver.send(Update(claiming("p", ELEVEN), "s-1", timestamp=SENT))
    network.driver.run()
    assert [is_first(outcome) for outcome in network.published("session-dry-runs")] == [True] * 3
    assert [is_first(outcome) for outcome in network.snapshots] == [True]


def test_a_tombstone_and_a_new_session_wait_in_their_order_too(network):
    for value in (b'{"customerSession": {"profileId": "p"}}', None, b'{"customerSession": {}}', b'{"type": "reopen"}'):
        network.driver.send(Update(value, "s-1"))
    network.driver.run()
    assert [snapshot.event for snapshot in network.snapshots] == ["created", "deleted", "created"]
    assert [rejection.code for rejection in network.rejections] == ["invalid_transition"]


def test_a_demotion_while_the_session_changes_its_profile_leaves_no_false_answer():
    """Whether word of the demotion comes before or after the change, the answers in the end are the same."""
    for steps in range(8):
        network = Network()
        network.send(claiming("p", TEN), "s-1")
        network.driver.send(Update(claiming("q"), "s-1", timestamp=SENT))
        for _step in range(steps):
            network.driver.run(cycles=1)
        network.send(claiming("p", NINE), "s-2")
        sessions = network.driver.sessions()
        assert {key: session["firstSession"] for key, session in sessions.items()} == {"s-1": True, "s-2": True}
        assert sessions["s-1"]["profileId"] == "q"


def test_a_crash_at_any_step_ends_in_the_same_answers():
    def feed(driver: StreamDriver) -> None:
        for at, key in ((TEN, "s-1"), (NINE, "s-2"), (ELEVEN, "s-3")):
            driver.send(Update(claiming("p", at), key, timestamp=SENT))

    calm = StreamDriver(4)
    feed(calm)
    calm.run()
    for step in range(1, calm.steps + 1):
        struck = StreamDriver(4)
        feed(struck)
        struck.run({step: Fault.CRASH})
        assert struck.sessions() == calm.sessions()
    assert [key for key, session in calm.sessions().items() if session["firstSession"]] == ["s-2"]


# -------------------------------------------------------------------------------------------------------- forgetting


def forget(network: Network, profile: str, partition: int) -> None:
    network.put("profile-claims", partition, ConsumerRecord(0, SENT + HOUR, profile.encode(), None, ()))


@pytest.mark.parametrize("partition", [0, 1, 2, 3])
def test_a_null_claim_makes_the_worker_forget_the_profile_wherever_it_is_sent(network, partition):
    network.send(claiming("p", NINE), "s-1")
    forget(network, "p", partition)
    network.send(claiming("p", TEN), "s-2")
    assert is_first(network.snapshots[-1])
    network.send(claiming("p", ELEVEN), "s-3")
    assert not is_first(network.snapshots[-1])
    assert [(snapshot.event, snapshot.key) for snapshot in network.snapshots] == [
        ("created", b"s-1"),
        ("created", b"s-2"),
        ("created", b"s-3"),
    ]


def test_a_forgotten_profile_is_gone_from_the_changelog_too(network):
    network.send(claiming("p", NINE), "s-1")
    network.send(claiming("q", NINE), "s-2")
    forget(network, "p", network.home("p"))
    changelog = {record.key: record.raw for record in network.published("profile-first-sessions")}
    assert changelog[b"p"] is None
    assert changelog[b"q"] is not None
    network.strike(Fault.CRASH)
    network.send(claiming("p", TEN), "s-3")
    network.send(claiming("q", TEN), "s-4")
    firsts = {key: session["firstSession"] for key, session in network.driver.sessions().items()}
    assert firsts == {"s-1": True, "s-2": True, "s-3": True, "s-4": False}


@pytest.mark.parametrize("key", [b"never", b"", b"\xff", None])
def test_forgetting_a_profile_that_nobody_claimed_changes_nothing(network, key):
    network.send(claiming("p", NINE), "s-1")
    for partition in range(4):
        network.put("profile-claims", partition, ConsumerRecord(0, SENT, key, None, ()))
    assert [record.key for record in network.published("profile-first-sessions")] == [b"p"]
    network.send(claiming("p", TEN), "s-2")
    assert not is_first(network.snapshots[-1])


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b'{"created": 1}', b"\xff"])
@pytest.mark.parametrize("topic", ["profile-claims", "profile-verdicts"])
def test_what_no_stage_wrote_on_an_inner_topic_stops_nothing(network, topic, value):
    for partition in range(4):
        network.put(topic, partition, ConsumerRecord(0, SENT, b"p", value, ()))
    network.send(claiming("p", NINE), "s-1")
    assert is_first(network.snapshots[-1])
