"""Checks for input that is valid but implausible: doubtful names, repeated rows, odd times, nothing to rank."""

# ruff: noqa: S608 - numbers and expressions of our own
from __future__ import annotations

from pathlib import Path

import duckdb

from replay.duckdb_session import parquet
from replay.prepare.log_account import Acceptable, Finding
from replay.prepare.logged_impressions import LISTED, Place
from replay.sources.columns import DOUBTFUL
from replay.times import utc
from streams.settings import Exposures

FAR_MS = 3 * 365 * 86_400_000  # an event this far from nearly all others is stray
DAY_MS = 86_400_000
COARSE_LEAST = 10  # events of which it is no chance that all are at one time of the day
ZERO_SHARE = 20  # a name 0 with this many times as many events as the others have is no number like the others

# Each form is of the one before it: names that first agree in a form differ only by its subject.
_FORMS = {
    "blanks around them": "trim({}, ' \t\r\n\u00a0\u3000')",
    "invisible marks": "regexp_replace({}, '[\ufeff\u200b\u200c\u200d\u2060]', '', 'g')",
    "a trailing .0": "regexp_replace({}, '^([+-]?[0-9]+)[.]0+$', '\\1')",
    "Unicode normalisation": "nfc_normalize({})",
    "upper and lower case": "lower({})",
}


def doubtful_names(connection: duckdb.DuckDBPyConnection, column: str, place: Place) -> tuple[Finding, ...]:
    """Return what is found in the names of `column` (user or item) in the view `staged`."""
    forms, expression = ["name AS f0"], "name"
    for number, form in enumerate(_FORMS.values(), start=1):
        expression = form.format(expression)
        forms.append(f"{expression} AS f{number}")
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE names AS
        SELECT {", ".join(forms)} FROM (SELECT DISTINCT "{column}" AS name FROM staged)"""
    )
    return (*_similar_names(connection, column), *_placeholders(connection, column, place))


def _similar_names(connection: duckdb.DuckDBPyConnection, column: str) -> tuple[Finding, ...]:
    """Return a finding if names in the table `names` differ only by one of _FORMS."""
    counts = connection.execute(
        f"SELECT {', '.join(f'count(DISTINCT f{n})' for n in range(len(_FORMS) + 1))} FROM names"
    ).fetchone()
    assert counts is not None
    parts, first = [], list[str]()
    for number, what in enumerate(_FORMS, start=1):
        if merged := counts[number - 1] - counts[number]:
            parts.append(f"{merged:,} by {what}")
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
        f"{total:,} {column}s differ from another only {', '.join(parts)}: each is counted as a {column} of its own"
    )
    return (Finding(name=f"similar-{column}s", count=total, sentence=sentence, first=tuple(first)),)


def _placeholders(connection: duckdb.DuckDBPyConnection, column: str, place: Place) -> tuple[Finding, ...]:
    """Return a finding if names of `column` in the view `staged` are words for no value, or most events are of 0."""
    found = connection.execute(
        f"""WITH counts AS (
            SELECT "{column}" AS name, count(*) AS events, min(row) AS row FROM staged
            WHERE "{column}" IN (SELECT f0 FROM names WHERE f0 = '0' OR lower(trim(f0)) IN (SELECT unnest(?)))
            GROUP BY name
        )
        SELECT name, events, file, line FROM counts JOIN staged USING (row)
        WHERE name <> '0' OR events > {ZERO_SHARE} * ((SELECT count(*) FROM staged) - events)
            / greatest(1, (SELECT count(*) FROM names) - 1)
        ORDER BY events DESC, name""",
        [list(DOUBTFUL)],
    ).fetchall()
    if not found:
        return ()
    total = sum(events for _, events, _, _ in found)
    return (
        Finding(
            name=f"placeholder-{column}s",
            count=total,
            sentence=f"{total:,} events have a {column} whose name may mean that there is none; it is one {column} "
            "here: --null refuses it",
            first=tuple(
                f"{place(file, line)}: {name!a}, {events:,} events" for name, events, file, line in found[:LISTED]
            ),
        ),
    )


def future_times(connection: duckdb.DuckDBPyConnection, place: Place, now: int) -> tuple[Finding, ...]:
    """Return a finding if events of the view `staged` are more than a day later than `now`, ms since 1970."""
    row = connection.execute("SELECT count(*), max(time) FROM staged WHERE time > ?", [now + DAY_MS]).fetchone()
    if row is None or not row[0]:
        return ()
    examples = connection.execute(
        "SELECT file, line, time FROM staged WHERE time > ? ORDER BY row LIMIT ?", [now + DAY_MS, LISTED]
    ).fetchall()
    sentence = f"{row[0]:,} events are in the future, up to {utc(row[1])} (day and month, a unit or a clock?)"
    first = tuple(f"{place(file, line)}: {utc(time)}" for file, line, time in examples)
    return (Finding(name="future-times", count=row[0], sentence=sentence, first=first),)


def coarse_times(connection: duckdb.DuckDBPyConnection) -> tuple[Finding, ...]:
    """Return a finding if all events of the view `staged` are at one time of the day, as dates without hours are."""
    row = connection.execute(
        f"SELECT count(*), min(time % {DAY_MS}), max(time % {DAY_MS}), max(time) - min(time) FROM staged"
    ).fetchone()
    if row is None or row[0] < COARSE_LEAST or row[1] != row[2]:
        return ()
    what = "are at one time of the day (dates without hours?)" if row[3] else "have one and the same time"
    sentence = f"all {row[0]:,} events {what}: those of a user on a day are ordered as in the log"
    return (Finding(name="coarse-times", count=row[0], sentence=sentence),)


def repeated_rows(connection: duckdb.DuckDBPyConnection, place: Place) -> tuple[Finding, ...]:
    """Return a finding if rows of the view `staged` are identical: all are events."""
    connection.execute(
        """CREATE TEMP TABLE repeated AS SELECT min(row) AS row, count(*) AS times FROM staged
        GROUP BY hash(user, item, time, kind, impression) HAVING count(*) > 1"""
    )
    row = connection.execute("SELECT coalesce(sum(times - 1), 0)::BIGINT FROM repeated").fetchone()
    if not row or not row[0]:
        return ()
    examples = connection.execute(
        "SELECT file, line, times FROM staged JOIN repeated USING (row) ORDER BY row LIMIT ?", [LISTED]
    ).fetchall()
    first = tuple(f"{place(file, line)}: {times:,} times" for file, line, times in examples)
    sentence = f"{row[0]:,} rows repeat another row exactly (sent twice?): every one is an event"
    return (Finding(name="repeated-rows", count=row[0], sentence=sentence, first=first),)


def stray_times(connection: duckdb.DuckDBPyConnection, ordered: Path, rows: int, place: Place) -> tuple[Finding, ...]:
    """Return a finding if events lie FAR_MS, and twice the span of the others, from 98 % of the events.

    `ordered` is the sorted log, of which the first `rows` rows are sent; places are found in the view `staged`.
    """
    edge = max(1, rows // 100)
    log = f"(SELECT time, file_row_number AS n FROM {parquet(ordered, row_numbers=True)} WHERE n < {rows})"
    found = connection.execute(
        f"SELECT min(time), max(time), min(time) FILTER (n >= {edge}), max(time) FILTER (n < {rows - edge}) FROM {log}"
    ).fetchone()
    if found is None or rows < 3 * edge:
        return ()
    first, last, low, high = found
    margin = max(FAR_MS, 2 * (high - low))
    if low - first <= margin and last - high <= margin:
        return ()
    far = f"(time BETWEEN {first} AND {low - margin - 1} OR time BETWEEN {high + margin + 1} AND {last})"
    row = connection.execute(f"SELECT count(*) FROM {log} WHERE {far}").fetchone()
    assert row is not None
    examples = connection.execute(
        f"SELECT file, line, time FROM staged WHERE {far} ORDER BY row LIMIT ?", [LISTED]
    ).fetchall()
    sentence = (
        f"{row[0]:,} events are years away from the others, which are between {utc(low)} and {utc(high)}: spans of "
        "event time, as of --epoch and --retrain-every, would be bent (a clock that was never set?)"
    )
    places = tuple(f"{place(file, line)}: {utc(time)}" for file, line, time in examples)
    return (Finding(name=Acceptable.STRAY_TIMES, count=row[0], sentence=sentence, first=places),)


def nothing_to_rank(counts: dict[str, int], policy: Exposures, policies: tuple[Exposures, ...]) -> tuple[Finding, ...]:
    """Return a finding for a log without clicks, and for one without exposures that should have logged ones."""
    if not counts["clicks"]:
        sentence = f"no click is among the {sum(counts[k] for k in _KINDS):,} events: nothing can be ranked or learnt"
        return (Finding(name=Acceptable.NO_CLICKS, count=1, sentence=sentence),)
    if policy == "logged" and not counts["exposures"]:
        others = " or ".join(f"--exposures {one}" for one in policies if one != "logged")
        sentence = "the log has clicks only, and the exposure policy is logged: no r2 ever goes up" + (
            f"; {others} adds exposures" if others else ""
        )
        return (Finding(name="no-exposures", count=1, sentence=sentence),)
    return ()


_KINDS = ("clicks", "exposures", "past_clicks", "candidates")
