"""Times and spans of logs and options: parse them into integer milliseconds since 1970 (UTC), and print them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

MS_FROM = 100_000_000_000  # numbers from here up are milliseconds (March 1973), below they are seconds (until 5138)
LATEST = 253_402_300_799_999  # end of the year 9999

_SPANS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def milliseconds(value: str | float) -> int:
    """Parse epoch seconds, epoch milliseconds or ISO 8601 (UTC without a zone). Raises ValueError with the reason."""
    if isinstance(value, str):
        try:
            number: float = int(value) if value.lstrip("-").isdecimal() else float(value.replace("_", "x"))
        except ValueError:
            return iso(value)
    else:
        number = value
    if isinstance(number, float) and not math.isfinite(number):  # an int may be too large for a float
        raise ValueError("time is not a finite number")
    if number < 0:
        raise ValueError("time is negative")
    result = int(number) if number >= MS_FROM else round(number * 1000)
    if result > LATEST:
        raise ValueError("time is beyond the year 9999")
    return result


def iso(text: str) -> int:
    """Parse ISO 8601 into milliseconds; UTC without a zone. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError("time is neither a number nor ISO 8601") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    result = round(moment.timestamp() * 1000)
    if result < 0:
        raise ValueError("time is negative")
    if result > LATEST:
        raise ValueError("time is beyond the year 9999")
    return result


def span(text: str) -> int:
    """Parse a span such as 6h, 1d, 90s or 500ms into milliseconds. Raises ValueError."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    if unit not in _SPANS or not digits.isdecimal() or int(digits) == 0:
        raise ValueError(f"{text!r} is no span of time: write for example 90s, 30m, 6h or 1d")
    return int(digits) * _SPANS[unit]


def utc(milliseconds: int) -> str:
    """Return a time in ms since 1970 as text, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
