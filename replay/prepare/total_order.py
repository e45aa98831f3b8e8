"""The total order of a log, computed on disk: source rows are staged as Parquet, duckdb sorts them into another file.

Order: time of the impression group in ms, user, its ns within the ms, first source row of the group, time, source row.
The time of a group is that of its first event. Memory stays within `duckdb_session.MEMORY` for any size of log.
"""

# ruff: noqa: S608 - paths and numbers of our own; duckdb takes no parameters in COPY and views
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replay.duckdb_session import parquet, quoted
from replay.errors import SourceError
from replay.prepare import logged_impressions
from replay.prepare.logged_impressions import LoggedImpressions, Place
from replay.sources.schema import READ
from streams.records import Kind

_FORMAT = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, DICTIONARY_SIZE_LIMIT 1000, ROW_GROUP_SIZE 65536)"
_KINDS = {
    Kind.CLICK: "clicks",
    Kind.EXPOSURE: "exposures",
    Kind.PAST_CLICK: "past_clicks",
    Kind.CANDIDATE: "candidates",
}
_STAGED = READ.append(pa.field("row", pa.int64(), nullable=False))


@dataclass(frozen=True)
class Selection:
    """The part of a log that is replayed: event times in [start, end), and the `users` users of the smallest MD5."""

    start: int | None = None
    end: int | None = None
    users: int | None = None


@dataclass(frozen=True)
class SortResult:
    """Numbers of rows that are in the sorted log and outside the selection; and the impressions of the whole log."""

    rows: int
    outside: int
    impressions: LoggedImpressions


def stage(batches: Iterator[pa.RecordBatch], path: Path, progress: Callable[[int], None]) -> int:
    """Write batches to `path` and return the number of rows; adds source row numbers to rows without a `position`.

    Raises SourceError if the file can't be written.
    """
    try:
        return _stage(batches, path, progress)
    except OSError as error:
        raise SourceError(f"{path} can't be written: {error}") from error


def _stage(batches: Iterator[pa.RecordBatch], path: Path, progress: Callable[[int], None]) -> int:
    total = 0
    writer = None
    try:
        for batch in batches:
            rows = batch
            if "position" not in batch.schema.names:
                numbers = pa.array(np.arange(total, total + batch.num_rows))
                known = batch.schema.names
                columns = [batch[f.name] if f.name in known else pa.nulls(batch.num_rows, f.type) for f in READ]
                rows = pa.record_batch([*columns, numbers], schema=_STAGED)
            writer = writer or pq.ParquetWriter(
                path,
                rows.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[name for name in ("kind", "file", "ns") if name in rows.schema.names],  # the others are
                write_statistics=False,  # of many values: a dictionary of them would cost more than it saves
            )
            writer.write_batch(rows)
            total += batch.num_rows
            progress(total)
    finally:
        if writer is not None:
            writer.close()
    return total


def sort(
    connection: duckdb.DuckDBPyConnection, staged: Path, path: Path, selection: Selection, span: int, place: Place
) -> SortResult:
    """Write the selected rows of `staged` to `path` in total order, with the per-user sequence number `seq`.

    Impressions are split by `span` (ms); exposures of items that are clicked in their impression are left out.
    Raises SourceError if an impression is too large for a record.
    """
    connection.execute(f"CREATE VIEW staged AS SELECT * REPLACE (coalesce(ns, 0) AS ns) FROM {parquet(staged)}")
    impressions = logged_impressions.group(connection, span, place)
    grouped = """SELECT s.*, coalesce(g.first.time, s.time) AS group_time, coalesce(g.first.ns, s.ns) AS group_ns,
            coalesce(g.first.row, s.row) AS group_row
        FROM events s LEFT JOIN groups g ON s.impression <> 0 AND s.user = g.user AND s.impression = g.impression"""
    where = _where(selection)
    connection.execute(
        f"""COPY (
            SELECT user, item, time, kind, impression,
                row_number() OVER (PARTITION BY user ORDER BY group_time, group_ns, group_row, time, ns, row) - 1 AS seq
            FROM ({grouped}) WHERE {where}
            ORDER BY group_time, user, group_ns, group_row, time, ns, row
        ) TO {quoted(path)} {_FORMAT}"""
    )
    outside = f"SELECT count(*) FROM ({grouped}) WHERE NOT ({where})"
    return SortResult(
        count(connection, path),
        _integers(connection, outside)[0] if where != "true" else 0,
        impressions,
    )


def number(connection: duckdb.DuckDBPyConnection, positioned: Path, path: Path) -> None:
    """Write rows that have a `position` in the total order to `path`, with the per-user sequence number `seq`."""
    connection.execute(
        f"""COPY (
            SELECT user, item, time, kind, impression,
                row_number() OVER (PARTITION BY user ORDER BY position) - 1 AS seq
            FROM {parquet(positioned)} ORDER BY position
        ) TO {quoted(path)} {_FORMAT}"""
    )


def sort_by_arrival(connection: duckdb.DuckDBPyConnection, positioned: Path, path: Path) -> None:
    """Write rows that have an `arrival` and a `position` to `path` in order of arrival; `seq` is numbered again."""
    connection.execute(
        f"""COPY (
            SELECT user, item, time, kind, impression, arrival,
                row_number() OVER (PARTITION BY user ORDER BY position) - 1 AS seq
            FROM {parquet(positioned)} ORDER BY arrival, position
        ) TO {quoted(path)} {_FORMAT}"""
    )


def count(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Return the number of rows of `path`."""
    return _integers(connection, f"SELECT count(*) FROM {parquet(path)}")[0]


def contents(connection: duckdb.DuckDBPyConnection, path: Path, rows: int) -> dict[str, int]:
    """Count what the first `rows` rows of a sorted log contain: the fields of `plan.Contents`."""
    log = f"(SELECT * FROM {parquet(path, row_numbers=True)} WHERE file_row_number < {rows})"
    kinds = ", ".join(f"count(*) FILTER (kind = {int(kind)})" for kind in _KINDS)
    found = _integers(
        connection, f"SELECT count(DISTINCT user), count(DISTINCT item), min(time), max(time), {kinds} FROM {log}"
    )
    groups = f"SELECT DISTINCT user, impression FROM {log} WHERE impression <> 0"
    impressions = _integers(connection, f"SELECT count(*) FROM ({groups})")[0]
    group = "CASE impression WHEN 0 THEN -seq ELSE impression END"
    times = f"SELECT min({group}) AS low, max({group}) AS high, count(*) AS events FROM {log} GROUP BY user, time"
    ties = _integers(connection, f"SELECT coalesce(sum(events), 0) FROM ({times}) WHERE low <> high")[0]
    names = ["users", "items", "first", "last", *_KINDS.values()]
    return dict(zip(names, found, strict=True)) | {"impressions": impressions, "ties": ties}


def _integers(connection: duckdb.DuckDBPyConnection, query: str) -> list[int]:
    """Return the only row of a query over integers."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return [int(value) for value in row]


def _where(selection: Selection) -> str:
    parts = []
    if selection.start is not None:
        parts.append(f"group_time >= {int(selection.start)}")
    if selection.end is not None:
        parts.append(f"group_time < {int(selection.end)}")
    if selection.users is not None:
        chosen = f"SELECT user FROM staged GROUP BY user ORDER BY md5(user), user LIMIT {int(selection.users)}"
        parts.append(f"user IN ({chosen})")
    return " AND ".join(parts) or "true"
