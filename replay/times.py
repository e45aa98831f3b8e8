"""Units of time, the years in which an event of a log is plausible, spans of options, and times as text."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Final, Literal

TimeUnit = Literal["s", "ms", "us", "ns", "m", "h", "d", "excel"]

LATEST = 253_402_300_799_999  # end of the year 9999, ms
FIRST_YEAR = 1990  # of plausible events: the first public logs are a few years younger
MS = 1_000_000  # ns
NS: Final[dict[TimeUnit, int]] = {
    "s": 1_000_000_000,
    "ms": MS,
    "us": 1000,
    "ns": 1,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "excel": 86_400_000_000_000,  # days since 1899-12-30, as spreadsheets count them
}
EXCEL_1970 = 25_569  # 1970-01-01 as a spreadsheet's day

_SPANS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


@functools.cache
def plausible_years() -> tuple[int, int]:
    """Return the first and the last year in which an event of a log is plausible: 1990 and the next year."""
    return FIRST_YEAR, datetime.now(UTC).year + 1


@functools.cache
def plausible_ms() -> tuple[int, int]:
    """Return the begin of the plausible years and their end, ms since 1970."""
    first, last = plausible_years()
    begin, end = (datetime(year, 1, 1, tzinfo=UTC) for year in (first, last + 1))
    return int(begin.timestamp()) * 1000, int(end.timestamp()) * 1000


def span(text: str) -> int:
    """Parse a span such as 6h, 1d, 90s or 500ms into milliseconds. Raises ValueError."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    if unit not in _SPANS or not digits.isdecimal() or int(digits) == 0:
        raise ValueError(f"{text!r} is not a span of time: write for example 90s, 30m, 6h or 1d")
    return int(digits) * _SPANS[unit]


def utc(milliseconds: int) -> str:
    """Return a time in ms since 1970 as text, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
