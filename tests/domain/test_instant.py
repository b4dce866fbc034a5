"""Times: RFC 3339 forms in, the snapshot's one form out, which sorts as the times do."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.instants import LATEST_MILLISECONDS, instant, to_instant

unhurried = settings(deadline=None)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


OFFSETS = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001


@unhurried
@given(MOMENTS, OFFSETS, st.integers(0, 12), st.sampled_from("Tt"))
def test_a_time_with_any_offset_and_any_number_of_decimals_is_the_same_time_in_utc(moment, offset, decimals, mark):
    there = moment.astimezone(offset)
    fraction = f".{moment.microsecond:06d}000000"[: decimals + 1] if decimals else ""
    zone = there.strftime("%z")
    text = there.strftime(f"%Y-%m-%d{mark}%H:%M:%S") + fraction + f"{zone[:3]}:{zone[3:]}"
    expected = moment.replace(microsecond=int(fraction[1:7].ljust(6, "0")) if fraction else 0)
    assert to_instant(text) == written(expected)


@unhurried
@given(MOMENTS, st.integers(0, 12), st.sampled_from("Tt"), st.sampled_from("Zz"))
def test_utc_may_be_written_as_z_in_either_case(moment, decimals, mark, zone):
    fraction = f".{moment.microsecond:06d}000000"[: decimals + 1] if decimals else ""
    expected = moment.replace(microsecond=int(fraction[1:7].ljust(6, "0")) if fraction else 0)
    assert to_instant(moment.strftime(f"%Y-%m-%d{mark}%H:%M:%S") + fraction + zone) == written(expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1969-12-31T23:59:59.999Z", "before 1970"),
        ("1969-12-31T23:59:59Z", "before 1970"),
        ("1970-01-01T00:59:59+01:00", "before 1970"),
        ("0001-01-01T00:00:00+01:00", "outside the years"),
        ("9999-12-31T23:30:00-01:00", "outside the years"),
        ("2026-02-29T00:00:00Z", "day"),
        ("2026-13-01T00:00:00Z", "month"),
        ("0000-01-01T00:00:00Z", "year"),
    ],
)
def test_a_time_that_does_not_exist_or_that_no_snapshot_can_name_is_an_error(text, why):
    with pytest.raises(ValueError, match=why):
        to_instant(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1000, "1970-01-01T00:00:01.000Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
        (-(2**63), "1970-01-01T00:00:00.000Z"),
        (LATEST_MILLISECONDS, "9999-12-31T23:59:59.999Z"),
        (LATEST_MILLISECONDS + 1, "9999-12-31T23:59:59.999Z"),
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_milliseconds_are_written_as_far_as_a_time_can_name_them(milliseconds, text):
    assert instant(milliseconds) == text


@unhurried
@given(st.integers(0, LATEST_MILLISECONDS))
def test_every_millisecond_is_written_and_read_back(milliseconds):
    text = instant(milliseconds)
    assert to_instant(text) == text
    assert (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1) == milliseconds


@unhurried
@given(st.integers(), st.integers())
def test_times_sort_as_their_texts_do(one, other):
    if one <= other:
        assert instant(one) <= instant(other)
    else:
        assert instant(one) >= instant(other)
