"""Suggestion of a log's map as TOML: columns by their usual names, kinds of events, and the format of times."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from replay.errors import EmptyFileError, InvalidError, SourceError
from replay.sources.log_map import GENERIC, Column, LogMap
from replay.sources.source import parse
from replay.sources.text.containers import STDIN
from replay.suggest.sample import Sample, sample
from replay.suggest.usual_names import CLICKED, NAMES, SHOWN, plain
from replay.values.events import number_of
from replay.values.likely_times import number_cause, text_formats
from replay.values.times import Times

_SLATE = re.compile(r"\S+-[01](?: \S+-[01])*")
_TRUTHS: Final[dict[float | None, str]] = {1.0: "click", 0.0: "exposure"}
_DATE = re.compile(r"\s*(\d{1,4}([-/.])(\d{1,2}|[A-Za-z]{3})\2\d{1,4}|\d{8})\s*")
_TIME_OF_DAY = re.compile(r"\s*(\d{1,2}:\d\d(:\d\d([.,]\d+)?)?(\s*[AaPp][Mm])?|\d{6})\s*")
_OPTION = re.compile(r"--time-(unit|format) (\S+)")


def suggestion(text: str, log_map: LogMap | None) -> str:
    """Return a map for the source `log:FILE`, as TOML with comments on uncertain guesses.

    The fields of `log_map` are kept. Raises SourceError for another source, or if the file can't be read.
    """
    source, known = parse(text, log_map), log_map or GENERIC
    if source.scheme != "log":
        raise SourceError(f"{text}: only log:FILE takes a map")
    rest = text.partition(":")[2]
    files = source.files or (STDIN if rest == "-" else Path(rest).expanduser(),)
    return "\n".join(_lines(_first_sample(files, known), known)) + "\n"


def _first_sample(files: Sequence[Path], log_map: LogMap) -> Sample:
    """Return the sample of the first file with rows. Raises SourceError as `sample`."""
    for path in files[:-1]:
        with suppress(EmptyFileError):
            return sample(path, log_map)
    return sample(files[-1], log_map)


def _lines(rows: Sample, log_map: LogMap) -> Iterator[str]:
    slate = next((name for name, cells in rows.columns.items() if all(map(_SLATE.fullmatch, cells))), None)
    of_rows = {name: cells for name, cells in rows.columns.items() if name != slate}
    columns, unsure = _columns(replace(rows, columns=of_rows), log_map, () if slate is None else ("user", "timestamp"))
    yield f"# columns in the log: {', '.join(map(_text, rows.columns))}"
    yield f"columns = {_table(columns)}" + (f"  # unsure: {', '.join(unsure)}" if unsure else "")
    needed = ("user", "timestamp") if slate else ("user", "item", "timestamp")
    missing = [name for name in needed if name not in columns]
    if missing:
        yield f"# nothing looks like {', '.join(missing)}: add it to columns"
    yield from _kinds(rows, columns, of_slates=slate is not None)
    if rows.header is not None and (not rows.header or all(name.isdecimal() for name in columns.values())):
        yield f"header = {str(rows.header).lower()}"
    if rows.comment:
        yield f"comment = {_text(rows.comment)}"
    if rows.separator not in (None, ","):
        yield f"separator = {_text(rows.separator)}"
    if rows.nested:
        yield f"nested = {_text(rows.nested)}"
    if log_map.encoding != "utf-8":
        yield f"encoding = {_text(log_map.encoding)}"
    elif not rows.is_utf8:
        yield 'encoding = "cp1252"  # unsure: the log is not UTF-8'
    if "timestamp" in columns:
        yield from _times(_cells(rows, columns["timestamp"]), log_map)
    if slate is not None:
        yield f'[slate]\ncolumn = {_text(slate)}\nclick_suffix = "-1"\nexposure_suffix = "-0"'


def _kinds(rows: Sample, columns: Mapping[str, str], *, of_slates: bool) -> Iterator[str]:
    if "event" in columns:
        words = dict.fromkeys(rows.columns[columns["event"]])
        kinds = {word: _kind(word) for word in words}
        unsure = [word for word, kind in kinds.items() if kind is None]
        if len(unsure) == len(kinds):
            kinds = {word: _TRUTHS.get(number_of(word)) for word in words}
        yield f"events = {_table({word: kind or 'ignore' for word, kind in kinds.items()})}" + (
            f"  # unsure: {', '.join(map(_text, unsure))}" if unsure else ""
        )
    elif "click" in columns:
        yield "click_from = 1  # unsure: rows below it are exposures"
    elif "rating" in columns:
        largest = max(number_of(value) or 0 for value in rows.columns[columns["rating"]])
        smallest = 4 if 1 < largest <= 5 else largest * 0.8
        yield f"click_from = {smallest:g}  # unsure: rows below it are exposures; the largest seen is {largest:g}"
    elif not of_slates:
        yield 'event = "click"  # unsure: no column tells clicks from exposures, so every row is a click'


def _columns(rows: Sample, log_map: LogMap, only: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the name in the log of each of our columns, and those that are guesses from the values alone.

    With `only`, no others are guessed.
    """
    columns: dict[str, str] = {name: log_map.columns[name] for name in log_map.columns}
    unsure: list[str] = []
    for steps in (0, 2, 1):  # the whole path of a field, then the last two names of it, then the last
        named = [name for name in rows.columns if not steps or name.count(".") >= steps]
        known_as = {plain(".".join(name.split(".")[-steps:])): name for name in reversed(named)}
        for column, names in NAMES.items():
            usual = (known_as[name] for name in names if known_as.get(name, "") not in ("", *columns.values()))
            known = next(usual, None)
            if (
                known is not None
                and column not in columns
                and not (column in ("click", "rating") and _decided(columns))
            ):
                columns[column] = known
                unsure += [column] if steps else []
    for column, fits in _FITS.items():
        if (
            column in columns
            or (only and column not in only)
            or (column in ("event", "rating") and (rows.header or _decided(columns)))
        ):
            continue
        free = [name for name in rows.columns if name not in columns.values() and fits(rows.columns[name])]
        guess = max(free, key=lambda name: column == "user" and _repeats(rows.columns[name]), default=None)
        if guess is not None:
            columns[column] = guess
            unsure.append(column)
    if "timestamp" in columns and "timestamp" not in log_map.columns:
        free = [name for name in rows.columns if name not in columns.values()]
        columns["timestamp"] = _date_and_time(rows, columns["timestamp"], free)
    return {name: columns[name] for name in NAMES if name in columns}, unsure


def _date_and_time(rows: Sample, name: str, free: Sequence[str]) -> str:
    """Return `DATE+TIME` if a column has only dates or only times of the day, and another has the rest; else `name`."""
    if all(map(_TIME_OF_DAY.fullmatch, rows.columns[name])):
        pairs = [(other, name) for other in free]
    else:
        pairs = [(name, other) for other in free if all(map(_TIME_OF_DAY.fullmatch, rows.columns[other]))]
        if not all(map(_DATE.fullmatch, rows.columns[name])):
            return name
    both = (f"{date}+{time}" for date, time in pairs if all(map(_DATE.fullmatch, rows.columns[date])))
    whole = (other for other, _ in pairs if plain(other) in NAMES["timestamp"] and _are_times(rows.columns[other]))
    return next(both, next(whole, name))


def _cells(rows: Sample, name: str) -> list[str]:
    """Return the values of a column, or of a date and a time of the day that are joined."""
    date, _, time = name.partition("+")
    if name in rows.columns or date not in rows.columns or time not in rows.columns:
        return rows.columns.get(name, [])
    return [f"{a.strip()} {b.strip()}" for a, b in zip(rows.columns[date], rows.columns[time], strict=False)]


def _decided(columns: Mapping[str, str]) -> bool:
    return not columns.keys().isdisjoint({"event", "click", "rating"})


def _are_times(values: Sequence[str]) -> bool:
    return all(_is_time(value) or text_formats(value) for value in values[:20])


def _are_words(values: Sequence[str]) -> bool:
    return len(set(values)) <= 12 and any(map(_kind, set(values)))


def _are_ratings(values: Sequence[str]) -> bool:
    return 3 <= len(set(values)) <= 11 and all(re.fullmatch(r"(10|\d)(\.[05]0*)?", value) for value in set(values))


def _repeats(values: Sequence[str]) -> bool:
    """Return True if a value occurs twice: a user comes again, the number of a row does not."""
    return len(set(values)) < len(values)


def _are_names(values: Sequence[str]) -> bool:
    return all(0 < len(value.strip()) <= 64 and " " not in value.strip() for value in values)


_FITS: Final[dict[Column, Callable[[Sequence[str]], object]]] = {  # in the order in which columns are guessed
    "timestamp": _are_times,
    "event": _are_words,
    "rating": _are_ratings,
    "user": _are_names,
    "item": _are_names,
}


def _is_time(value: str) -> bool:
    try:
        Times().ns(value)
    except InvalidError:
        return False
    return True


def _times(values: Sequence[str], log_map: LogMap) -> Iterator[str]:
    values = [value for value in values if value.strip()][:100]
    if log_map.time_format or log_map.time_unit or not values:
        yield from (f"{k} = {_text(v)}" for k in ("time_unit", "time_format", "tz") if (v := getattr(log_map, k)))
        return
    others = [value for value in values if not _is_time(value)]  # the few that are no times are wrong rows
    if 2 * len(others) < len(values):
        return
    cause = ""
    with suppress(ValueError):
        cause = number_cause(float(others[0]))
    if option := _OPTION.search(cause):
        unsure = "" if cause.startswith("looks like") else f"  # unsure: {cause.partition('?')[0]}"
        yield f"time_{option[1]} = {_text(option[2])}{unsure}"
        return
    counts = Counter(form for value in others for form in text_formats(value))
    formats = [form for form, count in counts.items() if count == max(counts.values()) and 2 * count > len(others)]
    if formats:
        more = f"  # unsure: or {' or '.join(map(_text, formats[1:]))}" if formats[1:] else ""
        yield f"time_format = {_text(formats[0])}{more}"
    else:
        yield f"# {_text(others[0])} is no time that is known: add time_format or time_unit"


def _kind(word: str) -> str | None:
    return "exposure" if plain(word) in SHOWN else "click" if plain(word) in CLICKED else None


def _table(pairs: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_text(key)} = {_text(value)}" for key, value in pairs.items()) + "}"


def _text(value: object) -> str:
    """Return a TOML string; control characters are escaped, so that a comment can hold it, too."""
    text = json.dumps(str(value), ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
