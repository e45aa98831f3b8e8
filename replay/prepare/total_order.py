"""The total order of a log, made on disk: rows as they come go to one Parquet file, duckdb sorts them to another.

Order: time of the unit, user, unit by its first row, time, row. A unit is an impression, or a row without one; its time
is that of its first event. duckdb spills to a folder of its own, so memory stays within MEMORY whatever the log's size.
"""

# ruff: noqa: S608 - paths and numbers of our own; duckdb takes no parameters in COPY and views
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replay.errors import SourceError
from replay.sources.schema import ROWS
from streams.records import Kind

MEMORY = "512MB"
UNIT_EVENTS = 2000  # of one impression: a larger one would not fit into one record

_FORMAT = "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 65536)"
_KINDS = {
    Kind.CLICK: "clicks",
    Kind.EXPOSURE: "exposures",
    Kind.PAST_CLICK: "past_clicks",
    Kind.CANDIDATE: "candidates",
}
_STAGED = ROWS.append(pa.field("row", pa.int64(), nullable=False))


@dataclass(frozen=True)
class Selection:
    """Which part of a log is meant: event times in [start, end), and `users` users, those of the smallest MD5."""

    start: int | None = None
    end: int | None = None
    users: int | None = None


@contextmanager
def database(folder: Path, failed: str = "sorting failed") -> Iterator[duckdb.DuckDBPyConnection]:
    """A duckdb connection in memory that spills into `folder`; its errors are told as SourceError, after `failed`."""
    with tempfile.TemporaryDirectory(prefix="spill-", dir=folder) as spill:
        connection = duckdb.connect(
            config={"memory_limit": MEMORY, "temp_directory": spill, "threads": 2, "preserve_insertion_order": True}
        )
        try:
            yield connection
        except duckdb.Error as error:
            raise SourceError(f"{failed}: {error}") from error
        finally:
            connection.close()


def stage(batches: Iterator[Any], path: Path, progress: Callable[[int], None]) -> int:
    """Write batches to `path`; rows of a source are numbered as they come. Returns how many there are.

    Raises SourceError where the disk takes no more.
    """
    try:
        return _stage(batches, path, progress)
    except OSError as error:
        raise SourceError(f"{path} can't be written: {error}") from error


def _stage(batches: Iterator[Any], path: Path, progress: Callable[[int], None]) -> int:
    total = 0
    writer = None
    try:
        for batch in batches:
            rows = batch
            if "place" not in batch.schema.names:
                numbers = pa.array(np.arange(total, total + batch.num_rows))
                rows = pa.record_batch([*batch.columns, numbers], schema=_STAGED)
            writer = writer or pq.ParquetWriter(path, rows.schema, compression="zstd", compression_level=1)
            writer.write_batch(rows)
            total += batch.num_rows
            progress(total)
    finally:
        if writer is not None:
            writer.close()
    return total


def sort(connection: duckdb.DuckDBPyConnection, staged: Path, path: Path, selection: Selection) -> None:
    """Write the selected rows of `staged` to `path` in total order, with the number `seq` of each event of its user.

    Raises SourceError where an impression is too large for a record.
    """
    connection.execute(f"CREATE VIEW staged AS SELECT * FROM read_parquet({quoted(staged)})")
    connection.execute(
        """CREATE TEMP TABLE units AS
        SELECT user, impression, min({'time': time, 'row': row}) AS first, count(*) AS events
        FROM staged WHERE impression <> 0 GROUP BY user, impression"""
    )
    large = connection.execute(
        "SELECT user, impression, events FROM units WHERE events > ? ORDER BY first.row", [UNIT_EVENTS]
    ).fetchone()
    if large:
        raise SourceError(f"impression {large[1]} of user {large[0]} has {large[2]:,} events: at most {UNIT_EVENTS:,}")
    connection.execute(
        f"""COPY (
            WITH unit AS (
                SELECT s.*, coalesce(u.first.time, s.time) AS unit_time, coalesce(u.first.row, s.row) AS unit_row
                FROM staged s LEFT JOIN units u ON s.impression <> 0 AND s.user = u.user AND s.impression = u.impression
            )
            SELECT user, item, time, kind, impression,
                row_number() OVER (PARTITION BY user ORDER BY unit_time, unit_row, time, row) - 1 AS seq
            FROM unit WHERE {_where(selection)}
            ORDER BY unit_time, user, unit_row, time, row
        ) TO {quoted(path)} {_FORMAT}"""
    )


def number(connection: duckdb.DuckDBPyConnection, placed: Path, path: Path) -> None:
    """Write rows that have a `place` in the total order to `path`, with the number `seq` of each event of its user."""
    connection.execute(
        f"""COPY (
            SELECT user, item, time, kind, impression, row_number() OVER (PARTITION BY user ORDER BY place) - 1 AS seq
            FROM read_parquet({quoted(placed)}) ORDER BY place
        ) TO {quoted(path)} {_FORMAT}"""
    )


def arrived(connection: duckdb.DuckDBPyConnection, placed: Path, path: Path) -> None:
    """Write rows that have an `arrival` and a `place` to `path` in order of arrival, numbered anew for each user."""
    connection.execute(
        f"""COPY (
            SELECT user, item, time, kind, impression, arrival,
                row_number() OVER (PARTITION BY user ORDER BY place) - 1 AS seq
            FROM read_parquet({quoted(placed)}) ORDER BY arrival, place
        ) TO {quoted(path)} {_FORMAT}"""
    )


def count(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """How many rows `path` has."""
    return int(_one(connection, f"SELECT count(*) FROM read_parquet({quoted(path)})")[0])


def contents(connection: duckdb.DuckDBPyConnection, path: Path, rows: int) -> dict[str, int]:
    """What the first `rows` rows of a sorted log contain: see `plan.Contents`."""
    log = f"(SELECT * FROM read_parquet({quoted(path)}, file_row_number = true) WHERE file_row_number < {rows})"
    kinds = ", ".join(f"count(*) FILTER (kind = {int(kind)})" for kind in _KINDS)
    found = _one(
        connection, f"SELECT count(DISTINCT user), count(DISTINCT item), min(time), max(time), {kinds} FROM {log}"
    )
    units = f"SELECT DISTINCT user, impression FROM {log} WHERE impression <> 0"
    impressions = _one(connection, f"SELECT count(*) FROM ({units})")[0]
    unit = "CASE impression WHEN 0 THEN -seq ELSE impression END"
    times = f"SELECT user, time, count(DISTINCT {unit}) AS units, count(*) AS events"
    ties = _one(
        connection, f"SELECT coalesce(sum(events), 0) FROM ({times} FROM {log} GROUP BY user, time) WHERE units > 1"
    )
    names = ["users", "items", "first", "last", *_KINDS.values()]
    return dict(zip(names, map(int, found), strict=True)) | {"impressions": int(impressions), "ties": int(ties[0])}


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _where(selection: Selection) -> str:
    parts = ["true"]
    if selection.start is not None:
        parts.append(f"unit_time >= {int(selection.start)}")
    if selection.end is not None:
        parts.append(f"unit_time < {int(selection.end)}")
    if selection.users is not None:
        chosen = f"SELECT user FROM staged GROUP BY user ORDER BY md5(user), user LIMIT {int(selection.users)}"
        parts.append(f"user IN ({chosen})")
    return " AND ".join(parts)


def quoted(path: Path) -> str:
    """The path as a literal of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
