"""The ledger: its encoding, its limit, and the rules L1 to L7 of its theory of operation."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from worker.pipeline.ledger import MAX_METADATA_BYTES, Ledger, differing, digests

STREAM = digests(["cluster", *(f"topic-{number}/id" for number in range(6))])


@st.composite
def ledgers(draw):
    start = draw(st.integers(0, 2**40))
    gaps = draw(st.lists(st.integers(1, 2**30), max_size=60))
    heads = draw(st.lists(st.booleans(), min_size=len(gaps), max_size=len(gaps)))
    offset, not_done = start, {}
    for gap, is_head in zip(gaps, heads, strict=True):
        offset += gap
        not_done[offset] = is_head
    stream = draw(st.sampled_from([b"", STREAM]))
    return Ledger(offset + draw(st.integers(1, 2**40)), not_done, draw(st.integers(0, 2**42)), stream)


@given(ledgers())
def test_the_encoding_gives_the_ledger_back(ledger):
    restored = Ledger.restore(*ledger.commit())
    assert (restored.next, restored.not_done, restored.stream) == (ledger.next, ledger.not_done, ledger.stream)
    assert max(restored.redo, restored.next) == max(ledger.redo, ledger.next)
    assert list(restored.not_done) == sorted(ledger.not_done)


@given(ledgers())
def test_the_committed_offset_is_the_first_not_done_or_next(ledger):
    offset, _metadata = ledger.commit()
    assert offset == min(ledger.not_done, default=ledger.next)


@given(ledgers(), st.data())
def test_a_record_that_is_done_never_lengthens_the_encoding(ledger, data):
    while ledger.not_done:
        before = len(ledger.commit()[1])
        ledger.done(data.draw(st.sampled_from(sorted(ledger.not_done))))
        assert len(ledger.commit()[1]) <= before


def fill(ledger: Ledger, gap: int) -> int:
    """Park records until there is no room; give the offset that was held back."""
    offset = ledger.next
    while ledger.has_room(offset):
        ledger.park(offset, is_head=offset % 3 == 0)
        ledger.next = offset + 1
        offset += gap
    return offset


@pytest.mark.parametrize("gap", [1, 63, 64, 5_000, 2**33])
@pytest.mark.parametrize("start", [0, 2**39])
def test_a_full_ledger_fits_the_commits_metadata_however_far_next_runs(gap, start):
    ledger = Ledger(start)
    fill(ledger, gap)
    ledger.next = 2**62
    assert len(ledger.commit()[1].encode()) <= MAX_METADATA_BYTES
    assert Ledger.restore(*ledger.commit()).not_done == ledger.not_done


def test_thousands_of_records_fit():
    ledger = Ledger(stream=STREAM)
    fill(ledger, 1)
    assert len(ledger.not_done) > 3_000


@given(st.lists(st.tuples(st.sampled_from(["park", "done", "head"]), st.integers(1, 200)), max_size=400))
def test_room_is_never_promised_that_the_encoding_has_not_got(steps):
    ledger = Ledger(7)
    for what, number in steps:
        offset = ledger.next + number * number
        if what == "park":
            for place in range(offset, offset + 40):
                if ledger.has_room(place):
                    ledger.park(place, is_head=False)
                    ledger.next = place + 1
        elif ledger.not_done:
            listed = list(ledger.not_done)[number % len(ledger.not_done)]
            if what == "done":
                ledger.done(listed)
            else:
                ledger.park(listed, is_head=True)
        ledger.next += number
        assert len(ledger.commit()[1]) <= MAX_METADATA_BYTES
        assert list(ledger.not_done) == sorted(ledger.not_done)


def test_a_full_ledger_has_room_again_when_records_in_its_middle_are_done():
    ledger = Ledger()
    held_back = fill(ledger, 5_000)
    for offset in list(ledger.not_done)[500:600]:
        ledger.done(offset)
    assert ledger.has_room(held_back)


def test_a_copy_changes_alone():
    ledger = Ledger(5)
    ledger.park(5, is_head=True)
    twin = ledger.copy()
    twin.done(5)
    twin.next = 9
    assert (ledger.next, ledger.not_done) == (5, {5: True})


NOT_A_WORKERS = [
    "",
    "not base64!",
    "CQAB",
    "!",
    "é",
    "====",
    "Ag==",
    "AgAA",
    "AQAAAA==",
    "AoCA",
    "AgAAAIA=",
    "Aw==",
    "AwA=",
    "AwAAAAA=",
    "AxwA",
]
"""Metadata of other clients, of another version, and cut short."""


@pytest.mark.parametrize("metadata", NOT_A_WORKERS)
def test_metadata_that_no_worker_wrote_is_an_error(metadata):
    with pytest.raises(ValueError):
        Ledger.restore(0, metadata)


@given(ledgers(), st.integers(0, 2**41))
def test_metadata_copied_to_another_offset_is_an_error(ledger, other):
    """A tool may keep the metadata when it moves an offset (L5)."""
    offset, metadata = ledger.commit()
    assume(other != offset)
    with pytest.raises(ValueError):
        Ledger.restore(other, metadata)


def test_commit_with_nothing_parked_still_carries_a_mark():
    """Else an offset of another client looks like a worker's (L5)."""
    offset, metadata = Ledger(1 << 40).commit()
    assert (offset, bool(metadata)) == (1 << 40, True)
    assert len(metadata) <= 16


def test_accepted_redo_is_committed_until_next_reaches_it():
    """An operator has accepted that records below it are folded again (L6)."""
    ledger = Ledger(3, redo=5).copy()
    assert Ledger.restore(*ledger.commit()).redo == 5
    ledger.next = 6
    assert ledger.commit() == Ledger(6).commit()


def test_mark_names_what_the_state_was_built_from():
    """So that a replaced topic is seen after a restart (L7)."""
    ledger = Ledger(7, stream=STREAM).copy()
    assert Ledger.restore(*ledger.commit()).stream == STREAM
    assert len(ledger.commit()[1]) <= 64


@pytest.mark.parametrize(
    ("then", "now", "places"),
    [
        (["k", "a/1", "b/2"], ["k", "a/1", "b/2"], []),
        (["k", "a/1", "b/2"], ["k", "a/1", "b/3"], [2]),
        (["k", "a/1", "b/2"], ["l", "a/2", "b/2"], [0, 1]),
        (["k", "", "b/2"], ["k", "a/1", ""], []),
        ([], ["k", "a/1"], []),
    ],
    ids=["the same", "a topic", "a cluster and a topic", "unknown ids", "a mark without digests"],
)
def test_digests_show_which_identity_differs(then, now, places):
    assert differing(digests(then), digests(now)) == differing(digests(now), digests(then)) == places
