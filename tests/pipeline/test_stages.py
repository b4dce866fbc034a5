"""The two stages, message by message: the invariants S3, S4 and P1 to P4 of their theories of operation."""

import orjson
import pytest

from worker.codec.claims import (
    ClaimMessage,
    VerdictMessage,
    decode_first_claim,
    decode_verdict,
    encode_claim,
    encode_verdict,
)
from worker.codec.headers import Cause
from worker.codec.records import ConsumerRecord, batch_bytes
from worker.domain.limits import Rules
from worker.domain.profile import Claim
from worker.pipeline.lane import Lane, MemoryTable, Overlay
from worker.pipeline.profiles import Profiles
from worker.pipeline.sessions import Sessions
from worker.pipeline.topology import Topology

TOPOLOGY = Topology(partitions=1)
NOW = 1_795_372_800_000
CREATED = "2026-11-22T18:40:00.000Z"
EARLIER = "2026-11-22T10:00:00.000Z"
CLAIM = Claim(CREATED, "s-1")
WHAT = Cause("session-updates/0/9", EARLIER, NOW, None)


class Stage:
    """A stage over one lane, whose cycles are never committed."""

    def __init__(self, stage, batch_bytes: int | None = None) -> None:
        self.stage = stage
        self.overlay = Overlay(Lane(stage, 0, MemoryTable(), {}, batch_bytes))
        self.offset = 0

    def fold(self, topic: str, key: bytes | None, value: bytes | None, headers=()) -> list:
        before = len(self.overlay.out)
        self.stage.fold(self.overlay, topic, ConsumerRecord(self.offset, NOW, key, value, headers))
        self.offset += 1
        return self.overlay.out[before:]


class SessionsStage(Stage):
    def __init__(self, topic_bytes: int | None = None) -> None:
        super().__init__(Sessions(Rules(), TOPOLOGY), topic_bytes)

    def update(self, **session) -> list:
        return self.fold(TOPOLOGY.updates, b"s-1", orjson.dumps({"customerSession": session}))

    def verdict(self, answer, profile_id: str = "p-1", claim: Claim = CLAIM, *, dry: bool = False) -> list:
        sent = encode_verdict(TOPOLOGY.verdicts, 0, VerdictMessage(profile_id, claim, dry, answer, WHAT))
        return self.fold(TOPOLOGY.verdicts, sent.key, sent.value, sent.headers)


@pytest.fixture
def sessions():
    return SessionsStage()


class TestSessions:
    def test_a_record_that_needs_a_verdict_publishes_its_claim_and_nothing_else(self, sessions):
        (claim,) = sessions.update(profileId="p-1")
        assert (claim.topic, claim.key) == (TOPOLOGY.claims, b"p-1")
        assert sessions.overlay.table.get(b"s-1") is None

    @pytest.mark.parametrize(("answer", "is_first"), [("first", True), ("later", False)])
    def test_its_verdict_publishes_it_and_then_the_records_behind_it(self, sessions, answer, is_first):
        sessions.update(profileId="p-1")
        assert sessions.update(attributes={"a": 1}) == []
        created, updated = sessions.verdict(answer)
        for record in (created, updated):
            assert orjson.loads(record.value)["firstSession"] is is_first
        assert orjson.loads(updated.value)["updateCount"] == 2

    @pytest.mark.parametrize(
        ("profile_id", "claim"),
        [("p-2", CLAIM), ("p-1", Claim(EARLIER, "s-1")), ("p-1", Claim(CREATED, "s-2"))],
    )
    def test_a_verdict_that_nobody_waits_for_changes_nothing(self, sessions, profile_id, claim):
        sessions.update(profileId="p-1")
        assert sessions.verdict("first", profile_id, claim) == []
        assert sessions.overlay.awaiting_verdict.get(b"s-1") is not None
        assert sessions.overlay.table.get(b"s-1") is None

    def test_a_dry_verdict_is_none_for_a_record_that_is_not_dry(self, sessions):
        sessions.update(profileId="p-1")
        assert sessions.verdict("first", dry=True) == []

    def test_a_verdict_that_is_repeated_changes_nothing(self, sessions):
        sessions.update(profileId="p-1")
        sessions.verdict("first")
        assert sessions.verdict("first") == []

    def test_a_first_session_that_is_demoted_is_published_again_once(self, sessions):
        sessions.update(profileId="p-1")
        sessions.verdict("first")
        (reclassified,) = sessions.verdict("demoted")
        assert orjson.loads(reclassified.value)["firstSession"] is False
        assert sessions.verdict("demoted") == []

    @pytest.mark.parametrize(("profile_id", "created"), [("p-2", CREATED), ("p-1", EARLIER)])
    def test_word_of_a_demotion_that_is_not_about_the_session_any_more_changes_nothing(
        self, sessions, profile_id, created
    ):
        sessions.update(profileId="p-1")
        sessions.verdict("first")
        assert sessions.verdict("demoted", profile_id, Claim(created, "s-1")) == []

    def test_word_of_a_demotion_of_a_session_that_is_gone_changes_nothing(self, sessions):
        assert sessions.verdict("demoted") == []

    def test_a_session_is_demoted_under_a_head_too(self, sessions):
        sessions.update(profileId="p-1")
        sessions.verdict("first")
        sessions.update(profileId="p-2")
        (reclassified,) = sessions.verdict("demoted")
        assert orjson.loads(reclassified.value)["profileId"] == "p-1"
        (updated,) = sessions.verdict("first", "p-2")
        assert orjson.loads(updated.value)["firstSession"] is True

    def test_a_follower_that_needs_a_verdict_becomes_the_head_of_those_behind_it(self, sessions):
        sessions.update(profileId="p-1")
        sessions.update(profileId="p-2")
        sessions.update(attributes={"a": 1})
        created, claim = sessions.verdict("first")
        assert (created.topic, claim.topic, claim.key) == (TOPOLOGY.sessions, TOPOLOGY.claims, b"p-2")
        changed, updated = sessions.verdict("later", "p-2")
        assert orjson.loads(changed.value)["profileId"] == "p-2"
        assert orjson.loads(updated.value)["updateCount"] == 3

    def test_all_dry_runs_that_ask_the_same_are_answered_by_one_verdict(self, sessions):
        dry = {"dry": True, "customerSession": {"profileId": "p-1"}}
        for _time in range(2):
            sessions.fold(TOPOLOGY.updates, b"s-1", orjson.dumps(dry))
        assert sessions.overlay.awaiting_verdict.get(b"s-1") is None
        assert [record.topic for record in sessions.verdict("first", dry=True)] == [TOPOLOGY.dry_runs] * 2
        assert sessions.verdict("first", dry=True) == []

    def test_a_snapshot_that_fills_a_batch_of_its_topic_is_published_and_one_byte_more_is_refused(self):
        (published,) = SessionsStage().update(state="closed")
        size = batch_bytes(published.key, published.value, published.headers)
        assert SessionsStage(topic_bytes=size).update(state="closed") == [published]
        (refused,) = SessionsStage(topic_bytes=size - 1).update(state="closed")
        headers = dict(refused.headers)
        assert (refused.topic, headers["rejection-code"]) == (TOPOLOGY.rejections, b"record_too_large")
        assert headers["rejection-message"].startswith(
            b"The snapshot after this update record must have at most %d bytes (max.message.bytes of customer-sessions)"
            % (size - 1)
        )

    def test_a_session_with_a_profile_claims_only_with_room_to_be_demoted(self):
        unbounded = SessionsStage()
        claim = unbounded.update(profileId="p-1")
        (published,) = unbounded.verdict("later")
        size = batch_bytes(published.key, published.value, published.headers) + 640
        assert SessionsStage(topic_bytes=size).update(profileId="p-1") == claim
        (refused,) = SessionsStage(topic_bytes=size - 1).update(profileId="p-1")
        assert dict(refused.headers)["rejection-code"] == b"record_too_large"

    def test_a_dry_run_is_refused_like_the_update_it_tries(self):
        (refused,) = SessionsStage(topic_bytes=100).fold(TOPOLOGY.updates, b"s-1", b'{"dry":true,"customerSession":{}}')
        assert dict(refused.headers)["rejection-code"] == b"record_too_large"

    def test_a_verdict_that_no_stage_wrote_is_counted_and_left(self, sessions):
        assert sessions.fold(TOPOLOGY.verdicts, b"s-1", b"what?") == []
        assert sessions.overlay.counts["unreadable"] == 1


class ProfilesStage(Stage):
    def __init__(self) -> None:
        super().__init__(Profiles(TOPOLOGY))

    def claim(self, created: str, integration_id: str, *, dry: bool = False) -> list[tuple]:
        message = ClaimMessage("p-1", Claim(created, integration_id), dry, WHAT)
        sent = encode_claim(TOPOLOGY.claims, 0, message)
        published = self.fold(TOPOLOGY.claims, sent.key, sent.value, sent.headers)
        return [self.told(record) for record in published]

    @staticmethod
    def told(record) -> tuple:
        if record.topic == TOPOLOGY.first_sessions:
            return ("table", *decode_first_claim(record.value))
        verdict = decode_verdict(ConsumerRecord(0, NOW, record.key, record.value, record.headers))
        assert verdict is not None
        return (verdict.answer, *verdict.claim)


@pytest.fixture
def profiles():
    return ProfilesStage()


class TestProfiles:
    def test_the_first_claim_is_kept_and_answered(self, profiles):
        assert profiles.claim(CREATED, "s-1") == [("table", CREATED, "s-1"), ("first", CREATED, "s-1")]

    def test_the_same_claim_again_gets_the_same_answer_and_changes_nothing(self, profiles):
        profiles.claim(CREATED, "s-1")
        assert profiles.claim(CREATED, "s-1") == [("first", CREATED, "s-1")]

    def test_a_later_claim_is_answered_so(self, profiles):
        profiles.claim(EARLIER, "s-1")
        assert profiles.claim(CREATED, "s-2") == [("later", CREATED, "s-2")]

    @pytest.mark.parametrize("earlier", [(EARLIER, "s-9"), (CREATED, "s-0")])
    def test_an_earlier_claim_demotes_the_one_that_was_first_after_its_own_answer(self, profiles, earlier):
        profiles.claim(CREATED, "s-1")
        assert profiles.claim(*earlier) == [("table", *earlier), ("first", *earlier), ("demoted", CREATED, "s-1")]

    def test_a_dry_claim_is_answered_and_leaves_no_trace(self, profiles):
        profiles.claim(CREATED, "s-1")
        assert profiles.claim(EARLIER, "s-2", dry=True) == [("first", EARLIER, "s-2")]
        assert profiles.claim(CREATED, "s-1", dry=True) == [("first", CREATED, "s-1")]
        assert profiles.claim(CREATED, "s-2", dry=True) == [("later", CREATED, "s-2")]
        assert profiles.claim(CREATED, "s-1") == [("first", CREATED, "s-1")]

    def test_a_null_makes_the_worker_forget_the_profile(self, profiles):
        profiles.claim(EARLIER, "s-1")
        (forgotten,) = profiles.fold(TOPOLOGY.claims, b"p-1", None)
        assert (forgotten.topic, forgotten.key, forgotten.value) == (TOPOLOGY.first_sessions, b"p-1", None)
        assert profiles.fold(TOPOLOGY.claims, b"p-1", None) == []
        assert profiles.claim(CREATED, "s-2")[-1] == ("first", CREATED, "s-2")

    def test_a_wish_to_be_forgotten_is_sent_where_the_profile_is(self, profiles):
        topology = Topology(partitions=8)
        here = 1 + topology.home(b"p-1", 0)
        overlay = Overlay(Lane(Profiles(topology), here % 8, MemoryTable(), {}))
        overlay.lane.stage.fold(overlay, topology.claims, ConsumerRecord(0, NOW, b"p-1", None))
        (sent,) = overlay.out
        assert (sent.topic, sent.partition, sent.value) == (topology.claims, here - 1, None)

    def test_a_claim_that_no_stage_wrote_is_counted_and_left(self, profiles):
        assert profiles.fold(TOPOLOGY.claims, b"p-1", b"what?") == []
        assert profiles.overlay.counts["unreadable"] == 1
