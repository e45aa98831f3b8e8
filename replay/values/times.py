"""Times of a log, read into integer nanoseconds since 1970 (UTC).

A number is s, ms, us or ns by its size, a text is ISO 8601. What is then outside the plausible years is refused: dates,
years, hours and spreadsheet days that are written as numbers would otherwise pass as seconds of 1970. With a unit or a
format that the user gives, any time up to the year 9999 is taken.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from replay.errors import InvalidError, shown
from replay.times import EXCEL_1970, LATEST, MS, NS, TimeUnit, plausible_ms, plausible_years
from replay.values.likely_times import number_cause, text_cause

DETECTED: Final[tuple[TimeUnit, ...]] = ("s", "ms", "us", "ns")

ROUNDED = re.compile(r"\s*\d(?:[.,]\d{1,5})?E\+\d+\s*", re.ASCII)  # how spreadsheets show a number of 12 digits
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICKS = range(620_000_000_000_000_000, 663_000_000_000_000_000)  # .NET's of 1965 to 2101; as ns they are 1989 to 1991
_ZONE = re.compile(r"\s*(?:UTC|GMT|Z)$", re.ASCII | re.IGNORECASE)
_OFFSET = re.compile(r"\s+([+-]\d\d:?\d\d)$", re.ASCII)
_BELOW_US = re.compile(r"[.,]\d{6}(\d{1,3})", re.ASCII)


@dataclass(frozen=True)
class Times:
    """A reader of times. None: the unit by the size of a number; ISO 8601; UTC."""

    unit: TimeUnit | None = None
    format: str | None = None  # of strptime
    tz: str | None = None  # IANA name of the zone of times that name none
    options: bool = True  # errors name the option by which a log is read otherwise: not every time is of such a log

    @property
    def explicit(self) -> bool:
        """True if implausible times are taken, because the unit or the format is given."""
        return self.unit is not None or self.format is not None

    def ns(self, value: object) -> int:
        """Return a text or a number as a time. Raises InvalidError."""
        if isinstance(value, Decimal):
            value = int(value) if value == value.to_integral_value() else float(value)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if value is None:
            raise InvalidError("time is missing", "")
        if isinstance(value, str) and ROUNDED.fullmatch(value):
            raise InvalidError("time is rounded", f"{shown(value)}: by a spreadsheet? export the column as text")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidError("time is neither a number nor ISO 8601", shown(value))
        number = number_of(value)
        if self.format is not None:
            whole = isinstance(number, float) and number.is_integer()
            ns = self._formatted(str(int(number) if whole and number is not None else value))
        elif number is None:
            ns = self._iso(str(value))
        else:
            ns = self._counted(number, value)
        if not 0 <= ns < (LATEST + 1) * MS:
            raise InvalidError("time is negative" if ns < 0 else "time is beyond the year 9999", shown(value))
        self._check_plausible(ns, number, value)
        return ns

    def _check_plausible(self, ns: int, number: float | None, value: object) -> None:
        begin, end = plausible_ms()
        ticks = number is not None and TICKS.start <= number < TICKS.stop
        if self.explicit or (begin * MS <= ns < end * MS and not ticks):
            return
        first, last = plausible_years()
        cause = "" if number is None else number_cause(number, options=self.options)
        raise InvalidError(f"time is outside the years {first} to {last}", f"{shown(value)} {cause}".rstrip())

    def _counted(self, number: float, value: object) -> int:
        if isinstance(number, float) and not math.isfinite(number):
            raise InvalidError("time is not a finite number", shown(value))
        if number > LATEST * MS:  # in any unit; it may be too large for arithmetic with floats
            raise InvalidError("time is beyond the year 9999", shown(value))
        if number < 0:
            raise InvalidError("time is negative", shown(value))
        if self.unit == "excel":
            return self.local(scaled(number - EXCEL_1970, "excel"))
        return scaled(number, self.unit or detected(number))

    def _iso(self, text: str) -> int:
        plain = _OFFSET.sub(r"\1", _ZONE.sub("", text.strip()))
        try:
            moment = datetime.fromisoformat(plain)
        except ValueError as error:
            raise InvalidError(
                "time is neither a number nor ISO 8601", text_cause(text, options=self.options)
            ) from error
        below = _BELOW_US.search(plain)
        known = moment.replace(tzinfo=UTC) if moment.tzinfo is None and _ZONE.search(text.strip()) else moment
        return self._of(known) + (int(below[1].ljust(3, "0")) if below else 0)

    def _formatted(self, text: str) -> int:
        assert self.format is not None
        try:
            return self._of(datetime.strptime(text.strip(), self.format))  # noqa: DTZ007 - _of gives it a zone
        except ValueError as error:
            raise InvalidError(f"time is not written as {self.format}", shown(text)) from error

    def _of(self, moment: datetime) -> int:
        past = moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH
        ns = (past.days * 86_400 + past.seconds) * NS["s"] + past.microseconds * NS["us"]
        return ns if moment.tzinfo else self.local(ns)

    def local(self, ns: int) -> int:
        """Return the time of a moment that was read as if its zone were UTC; of an hour that is there twice, the first.

        Times before 1970 and beyond the year 9999 are returned as they are.
        """
        if self.tz is None or not 0 <= ns <= LATEST * MS:
            return ns
        seconds, below = divmod(ns, NS["s"])
        moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=ZoneInfo(self.tz))
        return int(moment.timestamp()) * NS["s"] + below


def detected(number: float) -> TimeUnit:
    """Return the unit in which a number is a plausible time; or else seconds, or ms for what is too large for them."""
    begin, end = plausible_ms()
    for unit in DETECTED:
        if begin * MS <= number * NS[unit] < end * MS:
            return unit
    return "s" if number * NS["s"] <= LATEST * MS else "ms"


def scaled(number: float, unit: TimeUnit) -> int:
    """Return a number of units in ns; fractions are rounded to microseconds, as a float of seconds holds no more."""
    return number * NS[unit] if isinstance(number, int) else round(number * (NS[unit] / NS["us"])) * NS["us"]


def number_of(value: str | float) -> int | float | None:
    """Return the number that a value is; None for other texts."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if value.strip().lstrip("-").isdecimal() else float(value.replace("_", "x"))
    except ValueError:
        return None
