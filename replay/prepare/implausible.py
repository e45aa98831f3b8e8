"""Checks for input that is valid but implausible: doubtful names, repeated rows, odd times, nothing to rank."""

# ruff: noqa: S608 - numbers and expressions of our own
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from replay.duckdb_session import integers, parquet
from replay.prepare.log_account import Acceptable, Finding
from replay.prepare.logged_impressions import LISTED, Locate
from replay.prepare.staged_log import Bools, Ints, StagedLog
from replay.sources.columns import DOUBTFUL
from replay.times import plausible_ms, utc
from streams.settings import Exposures

FAR_MS = 3 * 365 * 86_400_000  # an event this far from nearly all others is stray
DAY_MS = 86_400_000
FIRST_LOGS_MS = 788_918_400_000  # 1995: MovieLens begins in 1996, and counts of seconds from 2001 end here in 2026
MIN_COARSE_EVENTS = 10  # with fewer events, equal times of the day may be a coincidence
ZERO_SHARE = 20  # the name 0 is a placeholder if it has this many times the mean number of events of other names

# Each normal form is computed from the one before it: names that become equal in a form differ only by its subject.
_FORMS = {
    "blanks around them": "trim({}, ' \t\r\n\u00a0\u3000')",
    "invisible marks": "regexp_replace({}, '[\ufeff\u200b\u200c\u200d\u2060]', '', 'g')",
    "leading zeros": "regexp_replace({}, '^0+([0-9]+)$', '\\1')",
    "a trailing .0": "regexp_replace({}, '^([+-]?[0-9]+)[.]0+$', '\\1')",
    "Unicode normalisation": "nfc_normalize({})",
    "upper and lower case": "lower({})",
}


def doubtful_names(
    connection: duckdb.DuckDBPyConnection, column: Literal["user", "item"], log: StagedLog, locate: Locate
) -> tuple[Finding, ...]:
    """Return findings about the names in `column`."""
    known = log.users if column == "user" else log.items
    return (
        *_similar_names(connection, column, known),
        *_placeholders(column, known, log, locate),
        *_rounded_names(column, known),
    )


def _similar_names(connection: duckdb.DuckDBPyConnection, column: str, known: pa.Array) -> tuple[Finding, ...]:
    """Return a finding if names differ only by one of _FORMS."""
    connection.register("known", pa.table({"name": known}))
    forms, expression = ["name AS f0"], "name"
    for number, form in enumerate(_FORMS.values(), start=1):
        expression = form.format(expression)
        forms.append(f"{expression} AS f{number}")
    query = f"SELECT {', '.join(forms)} FROM known"
    last = f"f{len(_FORMS)}"
    if not integers(connection, f"SELECT count(*) FROM ({query}) WHERE f0 <> {last}")[0]:
        return ()  # every name is in the last form
    connection.execute(f"CREATE OR REPLACE TEMP TABLE names AS {query}")
    if integers(connection, f"SELECT count(DISTINCT {last}) FROM names")[0] == len(known):
        return ()
    distinct = ", ".join(f"count(DISTINCT f{n})" for n in range(len(_FORMS) + 1))
    counts = integers(connection, f"SELECT {distinct} FROM names")
    parts, first = [], list[str]()
    for number, form_name in enumerate(_FORMS, start=1):
        if merged := counts[number - 1] - counts[number]:
            parts.append(f"{merged:,} by {form_name}")
            groups = connection.execute(
                f"""SELECT list(f0 ORDER BY f0)[:3] FROM names GROUP BY f{number}
                HAVING count(DISTINCT f{number - 1}) > 1 ORDER BY 1 LIMIT ?""",
                [LISTED],
            )
            first += [" and ".join(ascii(name) for name in names) for (names,) in groups.fetchall()]
    if not parts:
        return ()
    total = counts[0] - counts[len(_FORMS)]
    sentence = (
        f"{total:,} {column}s differ from another {column} only {', '.join(parts)}: they are treated as different"
    )
    return (Finding(name=f"similar-{column}s", count=total, sentence=sentence, first=tuple(first)),)


def _placeholders(column: str, known: pa.Array, log: StagedLog, locate: Locate) -> tuple[Finding, ...]:
    """Return a finding if names of a column look like placeholders for a missing value."""
    lower = pc.utf8_lower(pc.utf8_trim(known, " "))
    doubtful = pc.or_(pc.equal(known, "0"), pc.is_in(lower, pa.array(DOUBTFUL, known.type)))
    codes = np.flatnonzero(doubtful.to_numpy(zero_copy_only=False))
    if not len(codes):
        return ()
    events, first = np.zeros(len(known), np.int64), np.full(len(known), log.rows)
    for begin, (values,) in log.blocks(column):
        indices = np.flatnonzero(np.isin(values, codes))
        np.add.at(events, values[indices], 1)
        np.minimum.at(first, values[indices], indices + begin)
    cases = []  # (-events, name, first row)
    for code in codes.tolist():
        name, count = known[code].as_py(), int(events[code])
        if name != "0" or count > ZERO_SHARE * (log.rows - count) / max(1, len(known) - 1):
            cases.append((-count, name, int(first[code])))
    if not cases:
        return ()
    total = -sum(negative_count for negative_count, _, _ in cases)
    return (
        Finding(
            name=f"placeholder-{column}s",
            count=total,
            sentence=f"{total:,} events have a {column} that may be a placeholder for a missing value; it is treated "
            f"as one {column}: --null refuses it",
            first=tuple(
                f"{locate(*log.origin(row))}: {name!a}, {-negative_count:,} events"
                for negative_count, name, row in sorted(cases)[:LISTED]
            ),
        ),
    )


def _rounded_names(column: str, known: pa.Array) -> tuple[Finding, ...]:
    """Return a finding if names are numbers with an exponent."""
    known = known.filter(pc.match_substring(known, "+"))
    found = known.filter(pc.match_substring_regex(known, r"^[+-]?\d([.,]\d+)?[eE]\+\d+$"))
    if not len(found):
        return ()
    sentence = (
        f"{len(found):,} {column}s are numbers with an exponent: a spreadsheet or a float may have rounded several "
        f"{column}s to each"
    )
    first = tuple(ascii(name) for name in found[:LISTED].to_pylist())
    return (Finding(name=f"rounded-{column}s", count=len(found), sentence=sentence, first=first),)


_DOUBTS = {
    "rating-scale": "{} ratings are above 5, and ratings of 4 and above are clicks, as on a scale of 1 to 5: for "
    "another scale give --click-from (`click_from` in a map), such as 8 of 10",
    "click-scale": "{} values of the column click are above 1, and all from 1 on are clicks: for a measure such as "
    "seconds give --click-from (`click_from` in a map)",
    "missing-ratings": "{} ratings are -1, and are exposures like others below the threshold (not rated? --null -1 "
    "refuses them)",
    "quoted-rows": "{} lines within quotes look like rows, and are part of another row (a quote that is not closed? "
    '`quote = ""` in a map reads quotes as ordinary characters)',
    "empty-files": "{} files have no row",
    "left-out-files": "{} files of the folder are not read: backups, unfinished files, or compressed copies of files "
    "beside them (name such a file to read it)",
}


def doubts(found: dict[str, tuple[int, list[str]]]) -> tuple[Finding, ...]:
    """Return the findings of the readers of files, from count and first locations of each."""
    return tuple(
        Finding(name=name, count=count, sentence=_DOUBTS[name].format(f"{count:,}"), first=tuple(first))
        for name, (count, first) in found.items()
    )


def early_times(log: StagedLog) -> tuple[Finding, ...]:
    """Return a finding if all events are in the plausible years before the first public logs."""
    if not plausible_ms()[0] <= log.last < FIRST_LOGS_MS:
        return ()
    sentence = (
        f"all {log.rows:,} events are before 1995, up to {utc(log.last)} (times that are counted from 2001 or 1904?)"
    )
    return (Finding(name="early-times", count=log.rows, sentence=sentence),)


def future_times(log: StagedLog, locate: Locate, now: int) -> tuple[Finding, ...]:
    """Return a finding if events are more than a day later than `now`, ms since 1970."""
    if log.last <= now + DAY_MS:
        return ()
    count, first = _select_times(log, locate, lambda time: time > now + DAY_MS)
    sentence = f"{count:,} events are in the future, up to {utc(log.last)} (day and month, a unit or a clock?)"
    return (Finding(name="future-times", count=count, sentence=sentence, first=first),)


def coarse_times(log: StagedLog) -> tuple[Finding, ...]:
    """Return a finding if all events have the same time of the day, like dates without hours."""
    coarse = all((time % DAY_MS == log.first % DAY_MS).all() for _, (time,) in log.blocks("time"))
    if log.rows < MIN_COARSE_EVENTS or not coarse:
        return ()
    differ = log.first < log.last
    finding = "have the same time of the day (dates without hours?)" if differ else "have the same time"
    sentence = f"all {log.rows:,} events {finding}: events of a user with equal times are ordered as in the log"
    return (Finding(name="coarse-times", count=log.rows, sentence=sentence),)


def stray_times(
    connection: duckdb.DuckDBPyConnection, ordered: Path, rows: int, log: StagedLog, locate: Locate
) -> tuple[Finding, ...]:
    """Return a finding if events lie FAR_MS, and twice the span of the others, from 98 % of the events.

    `ordered` is the sorted log, of which the first `rows` rows are sent; `log` has the locations of rows.
    """
    if not may_be_stray(log):
        return ()
    edge = max(1, rows // 100)
    times = f"(SELECT time, file_row_number AS n FROM {parquet(ordered, row_numbers=True)} WHERE n < {rows})"
    quantiles = connection.execute(
        f"""SELECT min(time), max(time), min(time) FILTER (n >= {edge}), max(time) FILTER (n < {rows - edge})
        FROM {times}"""
    ).fetchone()
    if quantiles is None or rows < 3 * edge:
        return ()
    first, last, low, high = quantiles
    margin = max(FAR_MS, 2 * (high - low))
    if low - first <= margin and last - high <= margin:
        return ()
    far = f"(time BETWEEN {first} AND {low - margin - 1} OR time BETWEEN {high + margin + 1} AND {last})"
    (count,) = integers(connection, f"SELECT count(*) FROM {times} WHERE {far}")
    _, first_cases = _select_times(
        log,
        locate,
        lambda time: ((time >= first) & (time < low - margin)) | ((time > high + margin) & (time <= last)),
    )
    sentence = (
        f"{count:,} events are years away from the others, which are between {utc(low)} and {utc(high)}: options that "
        "are spans of event time, such as --epoch, would not work as meant (a clock that was never set?)"
    )
    return (Finding(name=Acceptable.STRAY_TIMES, count=count, sentence=sentence, first=first_cases),)


def may_be_stray(log: StagedLog) -> bool:
    """Return True if some events of a log are far from others."""
    return log.last - log.first > FAR_MS


def nothing_to_rank(counts: dict[str, int], policy: Exposures, policies: tuple[Exposures, ...]) -> tuple[Finding, ...]:
    """Return a finding for a log without clicks, and for one without exposures that should have logged ones."""
    if not counts["clicks"]:
        sentence = f"none of the {sum(counts[k] for k in _KINDS):,} events is a click: nothing can be ranked or learnt"
        if policy == "rated":
            sentence += " (--click-from says from which rating on an event is a click)"
        return (Finding(name=Acceptable.NO_CLICKS, count=1, sentence=sentence),)
    if policy == "logged" and not counts["exposures"]:
        others = " or ".join(f"--exposures {other}" for other in policies if other != "logged")
        sentence = "the log has no exposures, and the exposure policy is logged: devices will upload no r2" + (
            f"; {others} adds exposures" if others else ""
        )
        return (Finding(name="no-exposures", count=1, sentence=sentence),)
    return ()


_KINDS = ("clicks", "exposures", "past_clicks", "candidates")


def _select_times(log: StagedLog, locate: Locate, condition: Callable[[Ints], Bools]) -> tuple[int, tuple[str, ...]]:
    """Return the number of events whose time fulfils `condition`, and location and time of the first ones."""
    count, first = 0, list[str]()
    for begin, (times,) in log.blocks("time"):
        indices = np.flatnonzero(condition(times))
        count += len(indices)
        for i in indices[: LISTED - len(first)].tolist():
            first.append(f"{locate(*log.origin(begin + i))}: {utc(int(times[i]))}")
    return count, tuple(first)
