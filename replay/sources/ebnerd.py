"""Reader of EB-NeRD, a news log with real exposures: the past clicks of each user, then complete impressions.

Two layouts of a folder are read: `ebnerd_demo_impressions.parquet` with `ebnerd_demo_history.parquet` (one row per
article in view; one row per past click), and the public one, `train` and/or `validation` with `behaviors.parquet` and
`history.parquet` (lists in columns). Past clicks come first, as Kind.PAST_CLICK: the histories of both splits overlap,
so equal (user, time, item) count once, and clicks at or after the first impression of the user are left out; both
are counted. The clicked articles of an impression are clicks, the others exposures. Times without a zone are read as
UTC.
"""

# ruff: noqa: S608 - paths and column names of our own: duckdb takes no parameters there
from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from replay.duckdb_session import database, parquet
from replay.errors import RowError, RowErrors, SourceError
from replay.sources.schema import BATCH, IMPRESSIONS, ROWS
from replay.times import LATEST, plausible_ms, plausible_years
from streams.records import Kind
from streams.settings import Exposures

FLAT = ("ebnerd_demo_impressions.parquet", "ebnerd_demo_history.parquet")
SPLITS = ("train", "validation")
LISTS = ("behaviors.parquet", "history.parquet")
LEFT_OUT = ("past clicks that are in a history twice", "past clicks not before the user's first impression")

_MS = "timestamp * 1000::HUGEINT AS time"  # nothing that a column holds overflows
_FLAT_SHOWN = f"""SELECT user_id AS user, {_MS}, item_id AS item, clicked,
    impression_id AS impression, file_row_number AS row FROM {{file}}"""
_FLAT_READ = f"SELECT user_id AS user, {_MS}, item_id AS item, file_row_number AS row FROM {{file}}"
# a clicked article that is not in the in-view list comes after it: it was shown, since it was clicked
_LISTS_SHOWN = """SELECT user, time, item, list_contains(taken, item)::TINYINT AS clicked, impression, row FROM (
    SELECT user_id AS user, epoch_ms(impression_time) AS time, unnest(list_concat(article_ids_inview,
            list_filter(article_ids_clicked, lambda clicked: NOT list_contains(article_ids_inview, clicked)))) AS item,
        article_ids_clicked AS taken, impression_id AS impression, file_row_number AS row FROM {file})"""
_LISTS_READ = """SELECT user_id AS user, epoch_ms(unnest(impression_time_fixed)) AS time,
    unnest(article_id_fixed) AS item, file_row_number AS row FROM {file}"""
_REASONS = {
    "user IS NULL OR item IS NULL": "user or item is missing",
    "time IS NULL": "time is missing",
    "time < 0": "time is negative",
    f"time > {LATEST}": "time is beyond the year 9999",
    "time NOT BETWEEN {} AND {} - 1".format(*plausible_ms()): "time is outside the years {} to {}".format(
        *plausible_years()
    ),
}
_SHOWN_REASONS = _REASONS | {
    f"impression IS NULL OR impression NOT BETWEEN 1 AND {IMPRESSIONS - 1}": "impression is no positive number",
    "clicked IS NULL OR clicked NOT IN (0, 1)": "clicked is not 0 or 1",
}
_WHOLE = ("user", "item", "impression", "time")
_INTEGERS = {sign + size for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")}


def files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the layout in `folder`, impressions before their history; empty if there is none."""
    flat = tuple(folder / name for name in FLAT)
    if flat[0].exists():
        return flat
    return tuple(folder / split / name for split in SPLITS if (folder / split).is_dir() for name in LISTS)


def ebnerd(folder: Path, _policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS`. Raises SourceError if files or columns are missing; bad rows go to `errors`."""
    paths = files(folder)
    if not paths:
        raise SourceError(f"{folder} has neither {FLAT[0]} nor a folder {' or '.join(SPLITS)} with {LISTS[0]}")
    in_view, clicked = (_FLAT_SHOWN, _FLAT_READ) if paths[0].name == FLAT[0] else (_LISTS_SHOWN, _LISTS_READ)
    with database(Path(tempfile.gettempdir()), f"{folder}: reading failed") as connection:
        impressions = [_valid(connection, path, in_view, _SHOWN_REASONS, errors) for path in paths[::2]]
        history = [_valid(connection, path, clicked, _REASONS, errors) for path in paths[1::2]]
        connection.execute(f"CREATE VIEW shown AS {' UNION ALL '.join(impressions)}")
        connection.execute(f"CREATE VIEW past AS {' UNION ALL '.join(history)}")
        connection.execute(
            """CREATE TEMP TABLE clicks AS SELECT past.*, coalesce(time >= first, false) AS late
            FROM (SELECT user, item, time, min(row) AS row, count(*) AS times FROM past GROUP BY ALL) past
            LEFT JOIN (SELECT user, min(time) AS first FROM shown GROUP BY user) USING (user)"""
        )
        ((twice, late),) = connection.execute(
            "SELECT coalesce(sum(times - 1), 0)::BIGINT, count(*) FILTER (late) FROM clicks"
        ).fetchall()
        errors.left_out += Counter(dict(zip(LEFT_OUT, (twice, late), strict=True)))
        columns = "user::VARCHAR AS user, item::VARCHAR AS item, time::BIGINT AS time"
        yield from _rows(
            connection,
            f"""SELECT {columns}, {int(Kind.PAST_CLICK)} AS kind, 0 AS impression
            FROM clicks WHERE NOT late ORDER BY row, user, time, item""",
        )
        kind = f"CASE clicked WHEN 1 THEN {int(Kind.CLICK)} ELSE {int(Kind.EXPOSURE)} END AS kind"
        yield from _rows(connection, f"SELECT {columns}, {kind}, impression FROM shown")


def _valid(
    connection: duckdb.DuckDBPyConnection, path: Path, query: str, reasons: dict[str, str], errors: RowErrors
) -> str:
    """Return the query for the valid rows of a file; the others are added to `errors`. Raises SourceError."""
    if not path.exists():
        raise SourceError(f"{path}: there is no such file")
    rows = query.format(file=parquet(path, row_numbers=True))
    reason = "CASE " + " ".join(f"WHEN {test} THEN '{text}'" for test, text in reasons.items()) + " END"
    try:
        for name, kind, *_ in connection.execute(f"DESCRIBE {rows}").fetchall():
            if name in _WHOLE and kind not in _INTEGERS:
                raise SourceError(f"{path}: wrong columns: {name} comes out as {kind}, not as whole numbers")
        bad = connection.execute(f"SELECT row + 1, {reason} AS why FROM ({rows}) WHERE why IS NOT NULL ORDER BY row")
        while (invalid := bad.fetchone()) is not None:
            errors.add(RowError(path, *invalid, unit="row"))
        if connection.execute(f"SELECT 1 FROM ({rows}) LIMIT 1").fetchone() is None:
            raise SourceError(f"{path} is empty")
    except duckdb.BinderException as error:
        raise SourceError(f"{path}: wrong columns: {str(error).splitlines()[0]}") from error
    except duckdb.Error as error:
        raise SourceError(f"{path}: {str(error).splitlines()[0]}") from error
    return f"SELECT * FROM ({rows}) WHERE ({reason}) IS NULL"


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    try:
        for batch in connection.sql(query).to_arrow_reader(BATCH):
            yield pa.record_batch([c.cast(f.type) for c, f in zip(batch.columns, ROWS, strict=True)], schema=ROWS)
    except OSError as error:  # a duckdb.Error that Arrow has wrapped
        raise duckdb.Error(str(error)) from error
