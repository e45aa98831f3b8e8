from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.times import LATEST, MS_FROM, iso, milliseconds, span

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001 - the zone is the test's matter


@given(MOMENTS, st.integers(-23, 23))
def test_a_moment_is_the_same_in_any_zone_and_utc_without_one(moment: datetime, hours: int) -> None:
    whole = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ms = round(whole.replace(tzinfo=UTC).timestamp() * 1000)
    there = whole.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=hours)))
    assert iso(whole.isoformat()) == iso(whole.isoformat() + "Z") == iso(there.isoformat()) == ms


@given(st.integers(0, MS_FROM - 1), st.integers(MS_FROM, LATEST))
def test_small_numbers_are_seconds_and_large_ones_milliseconds(seconds: int, ms: int) -> None:
    for form in (int, str):
        assert milliseconds(form(ms)) == ms
        if seconds * 1000 <= LATEST:
            assert milliseconds(form(seconds)) == seconds * 1000


def test_fractions_of_a_second_are_kept() -> None:
    assert milliseconds(1.5) == milliseconds("1.5") == 1500
    assert milliseconds("1970-01-01T00:00:01.5") == 1500


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nan", "finite"),
        (float("inf"), "finite"),
        ("-1", "negative"),
        (-0.5, "negative"),
        ("1969-12-31", "negative"),
        ("yesterday", "neither"),
        ("", "neither"),
        ("1_000", "neither"),
        ("9" * 5000, "neither"),
        (LATEST + 1, "9999"),
        ("9999-12-31T23:59:59-05:00", "9999"),
    ],
)
def test_what_is_no_time_is_refused_with_the_reason(value: str | float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        milliseconds(value)


@given(st.text())
def test_any_text_is_a_time_or_a_reason(text: str) -> None:
    try:
        assert 0 <= milliseconds(text) <= LATEST
    except ValueError as error:
        assert "time" in str(error)  # noqa: PT017 - both ends are right


def test_spans() -> None:
    assert [span(text) for text in ("500ms", "90s", "30m", "6h", "1d", "2w")] == [
        500,
        90_000,
        1_800_000,
        21_600_000,
        86_400_000,
        1_209_600_000,
    ]
    for text in ("", "6", "h", "0h", "-1h", "1.5h", "6 h", "6y"):
        with pytest.raises(ValueError, match="no span"):
            span(text)
