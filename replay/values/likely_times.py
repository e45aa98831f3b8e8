"""Causes of a time that can't be read or is implausible, with the option that would read it in a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import product
from typing import Final

from replay.errors import shown, shown_number
from replay.times import EXCEL_1970, LATEST, MS, NS, TimeUnit, plausible_ms, plausible_years

_DIGITS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_WORDS = {"%Y": "yyyy", "%m": "mm", "%d": "dd", "%H": "hh", "%M": "mm", "%S": "ss"}
_UNITS: Final[dict[TimeUnit, str]] = {
    "m": "minutes since 1970",
    "h": "hours since 1970",
    "d": "days since 1970",
    "excel": "days of a spreadsheet",
}
_DATES = (
    "%Y-%m-%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d.%m.%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d.%m.%y",
    "%Y.%m.%d",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%Y/%m/%d",
    "%d %b %Y",
    "%b %d %Y",
    "%b %d, %Y",
)
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_OTHERS = (
    "%a, %d %b %Y %H:%M:%S GMT",
    "[%d/%b/%Y:%H:%M:%S %z]",
    "%d%b%Y:%H:%M:%S",  # SAS
    "%d-%b-%y %I.%M.%S.%f %p",  # Oracle
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",
)
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?(\s*[AaPp][Mm])?", re.ASCII)
_FEW_DIGITS = re.compile(r" \+ \d+$", re.ASCII)  # of `replay.values.joined_times`
_PUNCTUATION = re.compile(r"[^\w%]", re.ASCII)
_FORMATS = (*(date + hour for date, hour in product(_DATES, _HOURS)), *_OTHERS)


def number_cause(number: float, *, options: bool = True) -> str:
    """Return the likely meaning of a number that is no plausible time; empty if none is known.

    With `options` it names the option of a log that would read it.
    """
    digits = str(int(number)) if number == int(number) else ""
    form = _DIGITS.get(len(digits), "")
    if form and form in _plausible_formats(digits, (form,)):
        words = "".join(_WORDS[form[i : i + 2]] for i in range(0, len(form), 2))
        return f"looks like {words}" + (f": --time-format {form}" if options else "")
    begin, end = plausible_ms()
    for unit, name in _UNITS.items():
        if begin <= (number - (EXCEL_1970 if unit == "excel" else 0)) * NS[unit] / MS < end:
            return f"looks like {name}" + (f": --time-unit {unit}" if options else "")
    any_year = " --time-unit s takes any time up to the year 9999" if options else ""
    if begin / 1000 <= number <= LATEST / 1000:
        return f"seconds in the future?{any_year}"
    return f"counts from 0?{any_year}" if 0 <= number < begin / 1000 else ""


def text_formats(text: str) -> tuple[str, ...]:
    """Return the strptime formats by which a text is a plausible time."""
    text = text.strip()
    marks = _marks(text)
    return tuple(_plausible_formats(text, tuple(form for form in _FORMATS if _marks(form) == marks)))


def text_cause(text: str, *, options: bool = True) -> str:
    """Return the text and why it is likely no time; with `options` the options of a log that would read it."""
    if _TIME_OF_DAY.fullmatch(text.strip()):
        joins = " --columns timestamp=DATE+TIME joins two columns" if options else ""
        return f"{shown(text)}: a time of the day without a date?{joins}"
    if _FEW_DIGITS.search(text):
        return f"{shown(text)}: six digits are needed in a time of the day, or four with a format without seconds"
    formats = [f"--time-format '{form}'" for form in text_formats(text)] if options else []
    return shown_number(text) + (f": {' or '.join(formats[:2])} would read it" if formats else "")


def _marks(text: str) -> list[str]:
    """Return the punctuation of a text, without signs of a zone: it is the same in a text and in its format."""
    return [mark for mark in _PUNCTUATION.findall(text) if mark != "+"]


def _plausible_formats(text: str, formats: tuple[str, ...]) -> Iterator[str]:
    first, last = plausible_years()
    for form in formats:
        try:
            moment = datetime.strptime(text, form)  # noqa: DTZ007 - only its year is looked at
        except ValueError:
            continue
        if first <= moment.year <= last:
            yield form
