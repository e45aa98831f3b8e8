"""Times of a log: as single values, as whole columns, and what is implausible."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import InvalidError
from replay.sources.log_map import LogMap
from replay.times import LATEST, MS, NS, TimeUnit, plausible_ms, plausible_years, span
from replay.values.time_column import time_column
from replay.values.times import Times

BEGIN, END = plausible_ms()
MOMENTS = st.datetimes(datetime(1990, 1, 2), datetime(2026, 12, 30))  # noqa: DTZ001 - the zone is the test's matter
ANY_YEAR = Times("s")


def refused(value: object, times: Times | None = None) -> str:
    with pytest.raises(InvalidError) as caught:
        (times or Times()).ns(value)
    return str(caught.value)


@settings(max_examples=30)
@given(MOMENTS, st.integers(-23, 23))
def test_a_moment_is_the_same_in_any_zone_and_utc_without_one(moment: datetime, hours: int) -> None:
    whole = moment.replace(tzinfo=UTC)
    there = whole.astimezone(timezone(timedelta(hours=hours)))
    us = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    texts = [moment.isoformat(), moment.isoformat() + "Z", there.isoformat(), f"{moment} UTC", f" {moment} gmt "]
    assert {Times().ns(text) for text in texts} == {us * 1000}


@settings(max_examples=50)
@given(st.integers(BEGIN * MS, END * MS - 1))
def test_a_number_is_of_the_unit_in_which_it_is_plausible(ns: int) -> None:
    for unit in ("s", "ms", "us"):
        number = ns // NS[unit]
        for value in (number, str(number), Decimal(number), float(number)):
            assert Times().ns(value) == number * NS[unit]
    if not BEGIN * MS <= ns < 663 * 10**15:  # what may be .NET's ticks is no ns
        assert Times().ns(ns) == ns


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (20230518, "looks like yyyymmdd: --time-format %Y%m%d"),
        ("20230518093000", "looks like yyyymmddhhmmss: --time-format %Y%m%d%H%M%S"),
        (202305180930, "looks like yyyymmddhhmm: --time-format %Y%m%d%H%M"),
        (2023051809, "looks like yyyymmddhh: --time-format %Y%m%d%H"),
        ("202305", "looks like yyyymm: --time-format %Y%m"),
        (2023, "looks like yyyy: --time-format %Y"),
        (340773.51, "looks like hours since 1970: --time-unit h"),
        (28_073_220, "looks like minutes since 1970: --time-unit m"),
        (19495, "looks like days since 1970: --time-unit d"),
        ("45064.2917", "looks like days of a spreadsheet: --time-unit excel"),
        (5, "--time-unit s takes any time"),
        (638_200_000_000_000_000, "(638200000000000000)"),  # .NET's ticks of 2023
        ("1970-01-01", "('1970-01-01')"),
        ("0001-01-01", "time is negative"),
        ("9999-12-31", "('9999-12-31')"),
        (str(plausible_years()[1] + 1) + "-01-01", "outside the years 1990 to"),
        ("11/15/2019 8:55:22 AM", "--time-format '%m/%d/%Y %I:%M:%S %p' would read it"),
        ("29-01-2021 07:01", "--time-format '%d-%m-%Y %H:%M' would read it"),
        ("03/04/2021", "'%m/%d/%Y' or --time-format '%d/%m/%Y' would read it"),
        ("1/13/23 8:00", "--time-format '%m/%d/%y %H:%M' would read it"),
        ("Thu, 09 Nov 2023 10:58:47 GMT", "--time-format '%a, %d %b %Y %H:%M:%S GMT' would read it"),
        ("[09/Nov/2023:10:58:47 +0000]", "--time-format '[%d/%b/%Y:%H:%M:%S %z]' would read it"),
        ("18MAY2023:07:00:03", "--time-format '%d%b%Y:%H:%M:%S' would read it"),
        ("Thu Nov 09 10:58:47 +0000 2023", "--time-format '%a %b %d %H:%M:%S %z %Y' would read it"),
    ],
)
def test_an_implausible_time_is_refused_with_its_likely_cause(value: object, cause: str) -> None:
    assert cause in refused(value)
    assert "--" not in refused(value, Times(options=False)), "of a time that is not in a log with such options"


@pytest.mark.parametrize(
    ("value", "times", "moment"),
    [
        (20230518, Times(format="%Y%m%d"), "2023-05-18"),
        (20230518.0, Times(format="%Y%m%d"), "2023-05-18"),
        ("20230518093000", Times(format="%Y%m%d%H%M%S"), "2023-05-18 09:30"),
        ("11/15/2019 8:55:22 AM", Times(format="%m/%d/%Y %I:%M:%S %p"), "2019-11-15 08:55:22"),
        ("29-01-2021 07:01", Times(format="%d-%m-%Y %H:%M", tz="Europe/Copenhagen"), "2021-01-29 06:01"),
        ("340773.5", Times("h"), "2008-11-15 21:30"),
        (19495, Times("d"), "2023-05-18"),
        (45064.5, Times("excel"), "2023-05-18 12:00"),
        (45064.5, Times("excel", tz="Europe/Copenhagen"), "2023-05-18 10:00"),
        ("2023-05-18 12:00", Times(tz="America/New_York"), "2023-05-18 16:00"),
        ("2023-05-18T12:00+02:00", Times(tz="America/New_York"), "2023-05-18 10:00"),
        ("2023-05-18 12:00 UTC", Times(tz="America/New_York"), "2023-05-18 12:00"),
        ("2023-05-18 05:00:00.000 -0700", Times(tz="America/New_York"), "2023-05-18 12:00"),  # Snowflake
        ("2023-05-18 12:00:00.5 +0000 UTC", Times(tz="America/New_York"), "2023-05-18T12:00:00.5"),  # Go
        ("2023-05-18T12:00+02:00 UTC", Times(), "2023-05-18 10:00"),
        (5, Times("s"), "1970-01-01T00:00:05"),
        ("1970-01-01T00:00:01.5", Times("s"), "1970-01-01T00:00:01.5"),
        ("9999-12-31", Times("s"), "9999-12-31"),
    ],
)
def test_a_unit_a_format_or_a_zone_says_how_to_read_a_time(value: object, times: Times, moment: str) -> None:
    past = datetime.fromisoformat(moment).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert times.ns(value) == past // timedelta(microseconds=1) * 1000


def test_fractions_are_kept_to_the_microsecond_and_in_text_to_the_nanosecond() -> None:
    assert Times().ns(1684393203.5) == Times().ns("1684393203.5") == 1684393203_500_000_000
    assert Times().ns("1605626494.471002") == 1605626494_471_002_000
    assert Times().ns("2020-11-17T15:21:34.471010123") == 1605626494_471_010_123


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
        ("1_684_393_203", "neither"),
        ("9" * 5000, "neither"),
        (LATEST * MS + MS, "9999"),
        (True, "neither"),
        ([1684393203], "neither"),
        (None, "missing"),
    ],
)
def test_what_is_no_time_is_refused_with_the_reason(value: object, reason: str) -> None:
    assert reason in refused(value, ANY_YEAR if value == LATEST * MS + MS else None)


def test_a_text_that_is_not_as_its_format_says_is_refused() -> None:
    assert "not written as %d.%m.%Y ('18.5.')" in refused("18.5.", Times(format="%d.%m.%Y"))


@settings(max_examples=50)
@given(st.text() | st.integers() | st.floats())
def test_any_value_is_a_time_or_a_reason(value: object) -> None:
    for times in (Times(), ANY_YEAR, Times("excel", tz="Asia/Tokyo"), Times(format="%Y%m%d")):
        try:
            assert 0 <= times.ns(value) <= LATEST * MS + MS
        except InvalidError as error:
            assert "time" in error.reason  # noqa: PT017 - both ends are right


NUMBERS = st.one_of(
    st.integers(BEGIN // 1000 - 10, END // 1000 + 10),
    *(st.integers(BEGIN * f, END * f) for f in (1, 10**3, 10**6)),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 10**14),
)
TEXTS = st.one_of(
    MOMENTS.map(str), MOMENTS.map(lambda m: m.isoformat() + "Z"), MOMENTS.map(lambda m: f"{m:%d.%m.%Y}"), st.text()
)
COLUMNS: list[tuple[Any, Any]] = [
    (NUMBERS, pa.int64()),
    (st.floats(BEGIN / 1000, END) | st.floats(), pa.float64()),
    (NUMBERS.map(str), pa.string()),
    (TEXTS, pa.large_string()),
    (NUMBERS.map(str) | TEXTS, pa.string()),
    (st.integers(0, 2**64 - 1), pa.uint64()),
    (NUMBERS.map(Decimal), pa.decimal128(20, 0)),
]


@pytest.mark.parametrize("times", [Times(), ANY_YEAR, Times("us"), Times("h"), Times(tz="Europe/Copenhagen")], ids=str)
@settings(max_examples=30)
@given(st.data())
def test_a_whole_column_is_read_as_its_values_are(times: Times, data: st.DataObject) -> None:
    values, kind = data.draw(st.sampled_from(COLUMNS))
    column = pa.array(data.draw(st.lists(values | st.none(), max_size=5)), kind)
    ms, below = time_column(column, times)
    for value, *found in zip(column.to_pylist(), ms.to_pylist(), below.to_pylist(), strict=True):
        try:
            assert found == list(divmod(times.ns(value), MS))
        except InvalidError:
            assert found == [None, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_arrow_are_read_in_any_unit_and_zone(unit: TimeUnit) -> None:
    ns = 1684393203_471_010_123 // NS[unit] * NS[unit]
    for zone, tz, shift in ((None, None, 0), ("UTC", "Asia/Tokyo", 0), (None, "Asia/Tokyo", -9 * 3600)):
        column = pa.array([ns // NS[unit], None], pa.timestamp(unit, zone))
        ms, below = time_column(column, Times(tz=tz))
        assert [ms[0].as_py() * MS + below[0].as_py(), ms[1].as_py()] == [ns + shift * NS["s"], None]


def test_dates_of_arrow_are_midnights_and_implausible_ones_are_refused() -> None:
    days = [date(2023, 5, 18), date(1970, 1, 1)]
    for kind in (pa.date32(), pa.date64()):
        assert time_column(pa.array(days, kind), Times())[0].to_pylist() == [1684368000000, None]
        assert time_column(pa.array(days, kind), ANY_YEAR)[0].to_pylist() == [1684368000000, 0]


def test_an_hour_that_a_zone_has_twice_is_the_first() -> None:
    local = datetime(2023, 10, 29, 2, 30, tzinfo=ZoneInfo("Europe/Copenhagen"))
    assert Times(tz="Europe/Copenhagen").ns("2023-10-29 02:30") == int(local.timestamp()) * NS["s"]


def test_every_unit_of_a_map_can_be_read() -> None:
    for unit in NS:
        assert Times(LogMap(time_unit=unit).time_unit).ns(0 if unit != "excel" else 25_569) == 0


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
        with pytest.raises(ValueError, match="is not a span of time"):
            span(text)
