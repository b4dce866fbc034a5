"""The verifier finds nothing in what a sound run published, and each way of tampering with that."""

import asyncio
import json
import random
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import orjson
import pytest

from tests.chaos import verifier
from tests.chaos.crew import run_verifier
from tests.chaos.feed import astray, consumed, topics_of
from tests.chaos.verifier import Published, verify
from tests.kafka.workers import Crew
from worker.codec.lines import dumped, read
from worker.local.simulator.day import simulate
from worker.testing import StreamDriver, Update

PARTITIONS = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run():
    """Give the update records, what both stages made of them in memory, and what the command replays."""
    driver = StreamDriver(PARTITIONS, choose=random.Random(7).randrange, max_poll_records=50)
    for line in astray(read(map(orjson.dumps, simulate(2_000, seed=7))), PARTITIONS):
        driver.send(Update(line.value, line.key, line.partition, line.timestamp, tuple(line.headers)))
    driver.run()
    updates, published = topics_of(driver)
    lines = [dumped(it["partition"], consumed(it)) for it in updates]
    return updates, published, verifier.replay(b"".join(lines))


def judged(run, tamper=lambda published: None, **options):
    updates, published, replayed = run
    copy = Published(*map(list, published))
    tamper(copy)
    return verify(updates, copy, replayed, PARTITIONS, **options).counts()


def header(record, name):
    return dict(record["headers"]).get(name, b"").decode()


def last_and_sole(snapshots):
    """Find where a snapshot is that has others of its session before and behind it, all of them from update records."""
    again = {it["key"] for it in snapshots if header(it, "ce_type").endswith("reclassified") or it["value"] is None}
    keys = [it["key"] for it in snapshots]
    return next(at for at, key in enumerate(keys) if key not in again and key in keys[:at] and key in keys[at + 1 :])


def test_the_verifier_imports_nothing_of_the_worker():
    told = "import sys, tests.chaos.verifier; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run((sys.executable, "-c", told), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tests" in loaded.split()
    assert "worker" not in loaded.split()


def test_a_sound_run_has_no_flaw(run):
    _updates, published, _replayed = run
    assert judged(run) == {}
    kinds = {header(it, "ce_type") for it in published.sessions}
    assert {"customersession.reclassified", "customersession.deleted", "customersession.partially_returned"} <= kinds
    assert len(published.rejections) > 10
    assert published.dry_runs
    assert any(it["partition"] != int(header(it, "ce_id").split("/")[1]) for it in published.sessions)


def test_a_lost_snapshot_rejection_and_dry_run_are_found(run):
    def tamper(published):
        del published.sessions[last_and_sole(published.sessions)]
        del published.rejections[3]
        del published.dry_runs[2]

    assert judged(run, tamper) == {"lost": 3}


def test_a_lost_last_snapshot_is_found_by_a_reader_of_the_compacted_topic_too(run):
    def tamper(published):
        key = published.sessions[last_and_sole(published.sessions)]["key"]
        del published.sessions[max(at for at, it in enumerate(published.sessions) if it["key"] == key)]

    assert judged(run, tamper) == {"lost": 1, "final": 1}
    assert judged(run, tamper, is_compacted=True) == {"final": 1}


def test_a_compacted_topic_is_right_when_the_last_snapshots_are(run):
    def compact(published):
        last = {it["key"]: at for at, it in enumerate(published.sessions)}
        published.sessions[:] = [it for at, it in enumerate(published.sessions) if last[it["key"]] == at]

    assert judged(run, compact, is_compacted=True) == {}
    assert judged(run, compact)["lost"] > 100


def test_a_doubled_snapshot_rejection_and_dry_run_are_found(run):
    def tamper(published):
        at = last_and_sole(published.sessions)
        published.sessions.insert(at, published.sessions[at])
        published.rejections.append(published.rejections[0])
        published.dry_runs.append(published.dry_runs[0])

    assert judged(run, tamper) == {"doubled": 3}


def test_a_record_that_was_both_accepted_and_refused_is_doubled(run):
    def tamper(published):
        twin = deepcopy(published.rejections[0])
        _topic, partition, offset = header(published.dry_runs[0], "ce_id").split("/")
        fields = {"__streams.errors.partition": partition.encode(), "__streams.errors.offset": offset.encode()}
        twin["headers"] = [(name, fields.get(name, value)) for name, value in twin["headers"]]
        published.rejections.append(twin)

    assert judged(run, tamper) == {"doubled": 1, "wrong": 1}


def test_two_swapped_snapshots_of_a_session_are_found(run):
    def tamper(published):
        at = last_and_sole(published.sessions)
        key = published.sessions[at]["key"]
        before = max(number for number, it in enumerate(published.sessions[:at]) if it["key"] == key)
        published.sessions[before], published.sessions[at] = published.sessions[at], published.sessions[before]

    assert judged(run, tamper) == {"out of order": 1}


def foreign(snapshots, **headers):
    stranger = deepcopy(snapshots[last_and_sole(snapshots)])
    given = {name: value.encode() for name, value in headers.items()}
    stranger["headers"] = [(name, given.get(name, value)) for name, value in stranger["headers"]]
    return stranger


@pytest.mark.parametrize("origin", ["session-updates/0/99999999", "session-updates/99/0", "", "nothing"])
def test_a_snapshot_that_no_update_record_explains_is_foreign(run, origin):
    def tamper(published):
        at = last_and_sole(published.sessions)
        published.sessions.insert(at, foreign(published.sessions, ce_id=origin))

    assert judged(run, tamper) == {"foreign": 1}


def test_a_snapshot_of_a_duplicate_is_foreign(run):
    updates, published, _replayed = run
    known = {tuple(header(it, "ce_id").split("/")[1:3]) for it in published.sessions + published.dry_runs}
    known |= {
        (header(it, "__streams.errors.partition"), header(it, "__streams.errors.offset")) for it in published.rejections
    }
    silent = [it for it in updates if (str(it["partition"]), str(it["offset"])) not in known]
    assert len(silent) > 5

    def tamper(published):
        origin = f"session-updates/{silent[0]['partition']}/{silent[0]['offset']}"
        published.sessions.insert(last_and_sole(published.sessions), foreign(published.sessions, ce_id=origin))

    assert judged(run, tamper) == {"foreign": 1}


def test_a_changed_byte_is_found_in_the_middle_and_at_the_end(run):
    def change(published, at):
        twin = dict(published.sessions[at])
        twin["value"] = twin["value"].replace(b'"applicationId":1', b'"applicationId":2')
        published.sessions[at] = twin

    def last(published):
        key = published.sessions[last_and_sole(published.sessions)]["key"]
        change(published, max(at for at, it in enumerate(published.sessions) if it["key"] == key))

    assert judged(run, lambda published: change(published, last_and_sole(published.sessions))) == {"wrong": 1}
    assert judged(run, last) == {"wrong": 1, "final": 1}


def test_another_rejection_code_and_another_timestamp_are_wrong(run):
    def tamper(published):
        refused = deepcopy(published.rejections[0])
        refused["headers"] = [
            (name, b"session_too_large" if name == "rejection-code" else value) for name, value in refused["headers"]
        ]
        published.rejections[0] = refused
        published.dry_runs[0] = {**published.dry_runs[0], "timestamp": 1}

    assert judged(run, tamper) == {"wrong": 2}


def test_a_snapshot_away_from_home_is_wrong(run):
    def tamper(published):
        at = last_and_sole(published.sessions)
        published.sessions[at] = {**published.sessions[at], "partition": 5}

    assert judged(run, tamper) == {"wrong": 1}


def test_two_first_sessions_of_a_profile_are_found(run):
    def tamper(published):
        at = max(number for number, it in enumerate(published.sessions) if it["value"] and not is_first(it))
        key = published.sessions[at]["key"]
        for number, it in enumerate(published.sessions):
            if it["key"] == key and it["value"]:
                published.sessions[number] = {**it, "value": with_first(it["value"], b"true")}

    found = judged(run, tamper)
    assert found.pop("first sessions") >= 1
    assert found.pop("final") == 1
    assert found.keys() <= {"foreign"}  # it may have been published again for it


def is_first(record):
    return json.loads(record["value"])["firstSession"]


def with_first(value, answer):
    return value.replace(b'"firstSession":false,"updateCount"', b'"firstSession":' + answer + b',"updateCount"')


def test_no_first_session_of_a_profile_is_found(run):
    def tamper(published):
        sole = last_and_sole(published.sessions)
        at = next(
            number
            for number, it in enumerate(published.sessions)
            if number >= 0 and it["value"] and json.loads(it["value"])["profileId"] and is_first(it)
            if not any(other["key"] == it["key"] for other in published.sessions[number + 1 :])
        )
        assert sole != at
        it = published.sessions[at]
        value = it["value"].replace(b'"firstSession":true,"updateCount"', b'"firstSession":false,"updateCount"')
        published.sessions[at] = {**it, "value": value}

    found = judged(run, tamper)
    assert found["first sessions"] >= 1
    assert found["final"] == 1


def test_a_demotion_that_no_claim_explains_is_foreign(run):
    def tamper(published):
        at = next(n for n, it in enumerate(published.sessions) if header(it, "ce_type").endswith("reclassified"))
        other = header(published.sessions[last_and_sole(published.sessions)], "ce_id")
        again = dict(published.sessions[at])
        again["headers"] = [
            (name, f"{other}/reclassified".encode() if name == "ce_id" else value) for name, value in again["headers"]
        ]
        published.sessions[at] = again

    assert judged(run, tamper) == {"foreign": 1}


def test_a_session_that_arrives_through_two_partitions_cannot_be_judged(run):
    updates, published, replayed = run
    one = {**updates[-1], "key": b"new", "value": b'{"customerSession": {}}', "offset": 10**6}
    with pytest.raises(ValueError, match="b'new' arrives through several partitions"):
        verify([*updates, one, {**one, "partition": 0}], published, replayed, PARTITIONS)


def test_a_verifier_that_comes_to_no_verdict_is_not_taken_for_one_that_found_no_flaw(tmp_path):
    with Crew("127.0.0.1:1", tmp_path) as nobody, pytest.raises(AssertionError, match="no verdict"):
        asyncio.run(run_verifier(nobody))


def test_a_topic_that_is_held_open_is_named(kafka, monkeypatch):
    from aiokafka import AIOKafkaProducer

    from tests.kafka.topics import Record, create, own, send

    monkeypatch.setattr(verifier, "PATIENCE_SECONDS", 1)

    async def scenario():
        topic = own("open")
        await create(kafka, topic)
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await send(producer, topic, [Record(b"k", b"v")])
            with pytest.raises(verifier.Unread, match=f"{topic}/0 is held at 0 of 1"):
                await verifier.read(kafka, topic)
            await producer.commit_transaction()
        return await verifier.read(kafka, topic)

    records, partitions = asyncio.run(scenario())
    assert ([it["key"] for it in records], partitions) == ([b"k"], 1)
