"""A short run of the fault suite: a dozen faults, each of another kind, and nothing lost, doubled or out of order."""

import asyncio

import pytest

from tests.chaos import faults
from tests.chaos.faults import FAULTS, schedule
from tests.chaos.suite import run

SEED = 12
RATE = 100
KINDS = (
    faults.one_killed,
    faults.all_killed,
    faults.killed_while_restoring,
    faults.killed_while_rebalancing,
    faults.frozen_beyond_the_session_timeout,
    faults.stopped_and_started,
    faults.leader_killed,
    faults.transaction_coordinator_killed,
    faults.connections_reset,
    faults.connections_half_open,
    faults.tables_deleted,
    faults.clock_an_hour_off,
)


@pytest.mark.timeout(600)
def test_a_dozen_faults_of_as_many_kinds_lose_double_and_disorder_nothing(tmp_path):
    report = asyncio.run(run(schedule(len(KINDS), SEED, KINDS), SEED, RATE, tmp_path))
    print(report.table())
    assert sum(map(len, report.gaps.values())) == len(report.gaps) == len(KINDS)
    assert report.is_good
    assert report.found["outputs"] > 1_000


@pytest.mark.timeout(600)
def test_replaced_topics_and_clusters_begin_a_life_without_the_old_one(tmp_path):
    kinds = faults.topics_replaced_while_running, faults.topics_replaced_while_stopped, faults.cluster_replaced
    report = asyncio.run(run(schedule(len(kinds), SEED, kinds), SEED, RATE, tmp_path))
    print(report.table())
    assert report.lives == len(kinds) + 1
    assert report.is_good
    assert report.found["outputs"] > 1_000


def test_a_schedule_is_the_same_for_a_seed_and_has_every_kind_before_any_comes_again():
    drawn = schedule(2 * len(FAULTS), 7)
    assert drawn == schedule(2 * len(FAULTS), 7) != schedule(2 * len(FAULTS), 8)
    assert set(drawn[: len(FAULTS)]) == set(drawn[len(FAULTS) :]) == set(FAULTS)
