"""Exactly once, whatever fails: every run with faults has to give what the run without them gave."""

import random
from collections import Counter, defaultdict

import pytest
from msgspec import structs

from tests.pipeline.feeds import feed
from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.pipeline.replay import Replay
from worker.testing import Fault, StreamDriver, Update

PARTITIONS = 4
OUTPUTS = ("customer-sessions", "session-rejections", "session-dry-runs", "customer-sessions-v1")


def by_key(driver: StreamDriver) -> dict[tuple[str, bytes | None], list[tuple]]:
    """Everything published, by topic and key, in its order there."""
    published = defaultdict(list)
    for topic in OUTPUTS:
        for record in driver.published(topic):
            published[topic, record.key].append(structs.astuple(record))
    return published


def run(updates: list[Update], faults: dict[int, Fault] | None = None, polled: int = 5) -> StreamDriver:
    driver = StreamDriver(PARTITIONS, v1_topic="customer-sessions-v1", max_poll_records=polled)
    for update in updates:
        driver.send(update)
    driver.run(faults)
    return driver


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.ABORT, Fault.REVOKE, Fault.SEEK_BACK])
def test_a_fault_after_any_single_step_changes_nothing_that_is_published(fault):
    updates = feed(500, 11, PARTITIONS)
    undisturbed = run(updates)
    expected = by_key(undisturbed)
    assert undisturbed.steps >= 100
    assert len(expected) > 200
    for step in range(1, undisturbed.steps + 1):
        assert by_key(run(updates, {step: fault})) == expected, f"{fault.name} after step {step}"


def test_a_crash_after_every_step_in_turn_changes_nothing_that_is_published():
    updates = feed(500, 12, PARTITIONS)
    expected = by_key(run(updates))
    # A cycle has four steps; a crash after each third lets every cycle commit, and none of them adopt.
    disturbed = run(updates, dict.fromkeys(range(3, 3_000, 3), Fault.CRASH))
    assert by_key(disturbed) == expected


def test_a_duplicate_with_an_event_id_is_dropped_and_one_without_counts_again():
    update = {"eventId": "e-1", "customerSession": {"attributes": {"a": 1}}}
    driver = StreamDriver()
    driver.feed([Update(update, "s-1"), Fault.DUPLICATE, Update({"customerSession": {}}, "s-2"), Fault.DUPLICATE])
    assert driver.sessions()["s-1"]["updateCount"] == 1
    assert driver.sessions()["s-2"]["updateCount"] == 2
    assert driver.counts()["duplicate"] == 1


@pytest.mark.parametrize("fault", list(Fault))
def test_faults_between_update_records_lose_and_double_nothing(fault):
    updates = feed(300, 13, PARTITIONS)
    items = [item for update in updates for item in (update, *([fault] if update.key else []))]
    driver = StreamDriver(PARTITIONS)
    driver.feed(items)
    accepted = Counter(dict(record.headers)["ce_id"] for record in driver.published("customer-sessions"))
    assert set(accepted.values()) == {1}


# --------------------------------------------------------------------------------------- against a sequential fold


def folded(updates: list[Update]) -> tuple[dict[str, dict], Replay]:
    """Fold the updates one after the other, each with the offset that the driver's input topic gave it."""
    replay = Replay(Rules())
    offsets: Counter[int] = Counter()
    for update in updates:
        key = update.key.encode() if isinstance(update.key, str) else update.key
        assert update.partition is not None
        assert update.timestamp is not None
        replay.fold(update.partition, ConsumerRecord(offsets[update.partition], update.timestamp, key, raw(update)))
        offsets[update.partition] += 1
    return {session["integrationId"]: session for session in replay.sessions()}, replay


def raw(update: Update) -> bytes | None:
    driver = StreamDriver(1)
    driver.send(update._replace(partition=0))
    return driver.records("session-updates", 0)[0].value


@pytest.mark.parametrize("seed", range(12))
def test_any_interleaving_ends_in_the_same_snapshots(seed):
    updates = feed(400, 14, PARTITIONS)
    expected, _replay = folded(updates)
    driver = StreamDriver(PARTITIONS, choose=random.Random(seed).randrange)
    driver.feed(updates)
    assert driver.sessions() == expected


@pytest.mark.parametrize("seed", range(50))
def test_random_schedules_of_faults_end_where_a_sequential_fold_ends(seed):
    chance = random.Random(seed)
    updates = feed(2_000, 100 + seed, PARTITIONS)
    expected, replay = folded(updates)
    driver = StreamDriver(PARTITIONS, choose=chance.randrange)
    steps = chance.sample(range(1, 800), 60)
    faults = {step: chance.choice([Fault.CRASH, Fault.ABORT, Fault.REVOKE, Fault.SEEK_BACK]) for step in steps}
    for update in updates:
        driver.send(update)
    driver.run(faults)
    assert driver.sessions() == expected
    told, counts = driver.counts(), replay.counts()
    assert told["duplicate"] == counts["duplicate"]
    assert {code: told[code] for code in told if code.startswith("rejected")} == {
        code: counts[code] for code in counts if code.startswith("rejected")
    }
    origins = Counter(dict(record.headers)["ce_id"] for record in driver.published("customer-sessions"))
    assert max(origins.values()) == 1
    assert driver.parked() == 0
