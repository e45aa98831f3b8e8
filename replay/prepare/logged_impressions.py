"""The impressions of a staged log: split where they last too long, refused where they are too large for a record.

A number that comes again every day, a session's id or a constant makes one impression of events that were not shown
together, and all its clicks would be ranked with what was known before its first event. So an impression ends where
there was no event for the longest span, and is cut into pieces of at most that span; the first piece keeps its number.
"""

# ruff: noqa: S608 - numbers of our own
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import duckdb

from replay.errors import SourceError
from replay.prepare.log_account import Finding
from replay.sources.schema import IMPRESSIONS
from streams.records import Kind

GROUP_EVENTS = 2000  # the most events of one impression: they must fit into one record
LISTED = 5

Place = Callable[[int | None, int | None], str]


class LargeImpressionError(SourceError):
    """An impression does not fit into a record; `file` and `line` are the place of its first event, as for a Place."""

    def __init__(self, message: str, file: int | None, line: int | None) -> None:
        self.file, self.line = file, line
        super().__init__(message)


@dataclass(frozen=True)
class LoggedImpressions:
    """The longest span in ms and the most events of an impression as the log has them, and what was changed."""

    longest: int
    largest: int
    none: int  # events without an impression
    clicked_exposures: int  # left out
    findings: tuple[Finding, ...]


def group(connection: duckdb.DuckDBPyConnection, span: int, place: Place) -> LoggedImpressions:
    """Create the view `events` of the view `staged`, and the table `groups` of its impressions.

    In `events` impressions are split by `span` (ms), and exposures are left out whose item is clicked in the same
    impression: trackers log an exposure for every item that was shown, but a click is no sign of rejection. Raises
    LargeImpressionError if one is too large for a record.
    """
    connection.execute("CREATE VIEW events AS SELECT * FROM staged")
    _groups(connection)
    longest, largest, long = _integers(
        connection,
        f"""SELECT coalesce(max(last - first.time), 0), coalesce(max(events), 0),
            count(*) FILTER (last - first.time > {span}) FROM groups""",
    )
    (none,) = _integers(connection, "SELECT count(*) FROM staged WHERE impression = 0")
    findings = [_split(connection, span, place)] if long else []
    connection.execute(
        f"""CREATE TEMP TABLE clicked AS SELECT e.row FROM events e
        SEMI JOIN (SELECT user, impression, item FROM events WHERE impression <> 0 AND kind = {int(Kind.CLICK)})
            USING (user, impression, item)
        WHERE e.impression <> 0 AND e.kind = {int(Kind.EXPOSURE)}"""
    )
    (clicked,) = _integers(connection, "SELECT count(*) FROM clicked")
    if clicked:
        findings.append(_clicked(connection, clicked, place))
    if findings:
        connection.execute(
            f"""CREATE OR REPLACE VIEW events AS SELECT * FROM {"split" if long else "staged"}
            WHERE row NOT IN (SELECT row FROM clicked)"""
        )
        _groups(connection)
    _refuse_large(connection, place)
    return LoggedImpressions(longest, largest, none, clicked, tuple(findings))


def _split(connection: duckdb.DuckDBPyConnection, span: int, place: Place) -> Finding:
    connection.execute(
        f"""CREATE TEMP TABLE pieces AS
        WITH gaps AS (
            SELECT row, user, impression, time, time - lag(time) OVER at_time > {span} AS gap
            FROM staged SEMI JOIN (SELECT user, impression FROM groups WHERE last - first.time > {span})
                USING (user, impression)
            WINDOW at_time AS (PARTITION BY user, impression ORDER BY time, row)
        ), stretches AS (
            SELECT *, count(*) FILTER (gap) OVER (PARTITION BY user, impression ORDER BY time, row) AS stretch FROM gaps
        ), cut AS (
            SELECT *, (time - min(time) OVER (PARTITION BY user, impression, stretch)) // {span + 1} AS piece
            FROM stretches
        )
        SELECT row, (impression::HUGEINT * 6364136223846793005 + stretch * 1000003 + piece) % {IMPRESSIONS - 1} + 1
            AS impression
        FROM cut WHERE stretch > 0 OR piece > 0"""
    )
    for view in ("split", "events"):
        connection.execute(
            f"""CREATE OR REPLACE VIEW {view} AS
            SELECT s.* REPLACE (coalesce(p.impression, s.impression)::BIGINT AS impression)
            FROM staged s LEFT JOIN pieces p USING (row)"""
        )
    longest = connection.execute(
        f"""SELECT s.file, s.line, g.user, g.events, g.last - g.first.time AS length
        FROM groups g JOIN staged s ON s.row = g.first.row WHERE length > {span} ORDER BY length DESC, s.row LIMIT ?""",
        [LISTED],
    ).fetchall()
    long, numbers, users = _integers(
        connection,
        f"""SELECT count(*) FILTER (last - first.time > {span}), count(DISTINCT impression), count(DISTINCT user)
        FROM groups""",
    )
    cause = "the column holds one value" if numbers == 1 < users else "numbers that begin again, or ids of sessions?"
    return Finding(
        name="long-impressions",
        count=long,
        sentence=f"{long:,} impressions last longer than {timedelta(milliseconds=span)} and were split; the longest "
        f"lasts {timedelta(milliseconds=longest[0][4])} ({cause}): --impression-span sets the limit",
        first=tuple(
            f"{place(file, line)}: {events:,} events of user {user} in {timedelta(milliseconds=length)}"
            for file, line, user, events, length in longest
        ),
    )


def _clicked(connection: duckdb.DuckDBPyConnection, count: int, place: Place) -> Finding:
    examples = connection.execute(
        "SELECT file, line, user, item FROM staged SEMI JOIN clicked USING (row) ORDER BY row LIMIT ?", [LISTED]
    ).fetchall()
    sentence = f"{count:,} exposures are of an item that is clicked in the same impression: they are left out"
    first = tuple(f"{place(file, line)}: user {user}, item {item}" for file, line, user, item in examples)
    return Finding(name="clicked-exposures", count=count, sentence=sentence, first=first)


def _groups(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE groups AS
        SELECT user, impression, min({'time': time, 'ns': ns, 'row': row}) AS first,
            max(time) AS last, count(*) AS events
        FROM events WHERE impression <> 0 GROUP BY user, impression"""
    )


def _refuse_large(connection: duckdb.DuckDBPyConnection, place: Place) -> None:
    found = connection.execute(
        """SELECT g.user, g.events, s.impression, s.file, s.line FROM groups g JOIN staged s ON s.row = g.first.row
        WHERE g.events > ? ORDER BY g.first.row""",
        [GROUP_EVENTS],
    ).fetchone()
    if found:
        user, events, impression, file, line = found
        at = place(file, line)  # the number of a text is a hash: the line shows the text
        which = f"{at}: the impression of this line" if at else f"impression {impression}"
        raise LargeImpressionError(
            f"{which} of user {user} has {events:,} events: at most {GROUP_EVENTS:,}; if the column holds a constant "
            "or the id of a session, leave it out or set a shorter --impression-span",
            file,
            line,
        )


def _integers(connection: duckdb.DuckDBPyConnection, query: str) -> list[int]:
    """Return the only row of a query over integers."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return [int(value) for value in row]
