"""The total order of a log, computed in parts: each part is sorted in memory, and the parts are merged on disk.

Order: time of the impression group in ms, user, its ns within the ms, first source row of the group, time, source row.
The time of a group is that of its first event. A part has about PART rows, with all of a user, so memory does not grow
with the log. Logs to which events were added are numbered by duckdb, within `duckdb_session.MEMORY`.
"""

# ruff: noqa: S608 - paths and numbers of our own; duckdb takes no parameters in COPY and views
from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replay.duckdb_session import integers, parquet, quoted
from replay.errors import SourceError
from replay.prepare import logged_impressions, sorted_parts
from replay.prepare.logged_impressions import Groups, ImpressionRules, Locate, LoggedImpressions
from replay.prepare.repeated_rows import RepeatedRows
from replay.prepare.sorted_parts import Order, SortedPart, StoredPart, merge, with_group_starts
from replay.prepare.staged_log import Bools, Columns, Ints, StagedLog
from replay.sources.schema import ROWS
from streams.records import Kind

PART = 1 << 19  # number of rows that are sorted in memory: few enough for the cache of a processor

_FORMAT = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, DICTIONARY_SIZE_LIMIT 1000, ROW_GROUP_SIZE 65536)"
_WRITE = 1 << 16
_KINDS = {
    Kind.CLICK: "clicks",
    Kind.EXPOSURE: "exposures",
    Kind.PAST_CLICK: "past_clicks",
    Kind.CANDIDATE: "candidates",
}
_SORTED = ROWS.append(pa.field("seq", pa.int64(), nullable=False))


@dataclass(frozen=True)
class Selection:
    """The part of a log that is replayed: event times in [start, end), and the `users` users with the smallest MD5."""

    start: int | None = None
    end: int | None = None
    users: int | None = None


@dataclass(frozen=True)
class SortResult:
    """Numbers of rows inside and outside the selection, and counts and findings of the log."""

    rows: int
    outside: int
    contents: dict[str, int]  # of the selected rows, as `contents` counts them
    impressions: LoggedImpressions
    repeated: RepeatedRows
    write: Callable[[Path], None]  # writes the selected rows in total order; raises SourceError


def write_positioned(batches: Iterator[pa.RecordBatch], path: Path, progress: Callable[[int], None]) -> int:
    """Write batches with a `position` in the total order to `path` and return the number of rows.

    Raises SourceError if the file can't be written.
    """
    total = 0
    writer = None
    try:
        for batch in batches:
            writer = writer or _writer(path, batch.schema)
            writer.write_batch(batch)
            total += batch.num_rows
            progress(total)
    except OSError as error:
        raise SourceError(f"{path} can't be written: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return total


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # only `kind` has few values: a dictionary of another column would cost more than it saves
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=1, use_dictionary=["kind"], write_statistics=False
    )


def sort(
    log: StagedLog, selection: Selection, span: int, locate: Locate, part: int = PART, *, keep: bool = True
) -> SortResult:
    """Sort the selected rows of `log`, and count their contents; without `keep` only count them.

    Impressions are split by `span` (ms); exposures of items that are clicked in their impression are left out.
    `part` is the number of rows that are sorted in memory. Raises SourceError if an impression is too large for a
    record, or a file can't be written.
    """
    parts = -(-log.rows // part)
    rules, repeated, contents = ImpressionRules(log, span, locate), RepeatedRows(), _Contents(log)
    order, chosen = Order.of(log), _chosen(log, selection.users)
    outside = 0
    stored: list[StoredPart] = []
    for number, read in enumerate(log.parts(parts)):
        groups = logged_impressions.find_groups(read)
        duplicates = logged_impressions.duplicate_items(read, groups)
        repeated.add(read, duplicates)
        rows, groups = rules.apply(read, groups, duplicates)
        of, impressions = groups.of_row, len(groups.user)
        if selection != Selection():
            impressions = int(_inside(selection, groups, chosen).sum())
        first = with_group_starts(rows, groups)
        inside = _inside(selection, first, chosen)
        if not inside.all():
            outside += int((~inside).sum())
            rows, first, of = rows.take(inside), first.take(inside), of[inside]
        if len(rows):
            contents.add(rows, of, impressions, order)
        if len(rows) and keep:
            sorted_ = sorted_parts.sort(rows, first, order)
            stored.append(StoredPart(sorted_, None if parts == 1 else log.folder / f"part-{number}", part))

    def write(path: Path) -> None:
        try:
            _write(log, path, merge(stored, order))
        except OSError as error:
            raise SourceError(f"{path} can't be written: {error}") from error

    return SortResult(contents.rows, outside, contents.counts(), rules.result(), repeated, write)


class _Contents:
    """Counts what the parts of a log contain, as `contents` does."""

    def __init__(self, log: StagedLog) -> None:
        self._users, self._items = np.zeros(len(log.users), np.bool_), np.zeros(len(log.items), np.bool_)
        self._kinds = np.zeros(max(_KINDS) + 1, np.int64)
        self._first, self._last = log.last, log.first
        self._impressions = self._ties = self.rows = 0

    def add(self, part: Columns, of: Ints, impressions: int, order: Order) -> None:
        """Count a part, which has all rows of its users; `of` is `Groups.of_row`."""
        self._users[part.user] = True
        self._items[part.item] = True
        self._kinds += np.bincount(part.kind, minlength=len(self._kinds))
        self._first, self._last = min(self._first, int(part.time.min())), max(self._last, int(part.time.max()))
        self._impressions += impressions
        self._ties += sorted_parts.ties(part, of, order)
        self.rows += len(part)

    def counts(self) -> dict[str, int]:
        """Return the counts of all parts."""
        counts = {"users": int(self._users.sum()), "items": int(self._items.sum())}
        counts |= {"first": self._first, "last": self._last}
        counts |= {name: int(self._kinds[kind]) for kind, name in _KINDS.items()}
        return counts | {"impressions": self._impressions, "ties": self._ties}


def _chosen(log: StagedLog, users: int | None) -> Bools | None:
    """Return True for each selected user, or None if all users are selected."""
    if users is None:
        return None
    names = log.users.to_pylist()
    first = sorted(range(len(names)), key=lambda i: (hashlib.md5(names[i].encode()).hexdigest(), names[i]))  # noqa: S324 - it only has to spread
    chosen = np.zeros(len(names), np.bool_)
    chosen[first[:users]] = True
    return chosen


def _inside(selection: Selection, first: Columns | Groups, chosen: Bools | None) -> Bools:
    """Return True for each row of a selected user, and of an impression group that begins in the span."""
    inside = np.ones(len(first.user), np.bool_) if chosen is None else chosen[first.user]
    if selection.start is not None:
        inside &= first.time >= selection.start
    if selection.end is not None:
        inside &= first.time < selection.end
    return inside


def _write(log: StagedLog, path: Path, parts: Iterator[SortedPart]) -> None:
    """Write sorted rows with their names to `path`."""
    with _writer(path, _SORTED) as writer:
        for part in parts:
            for start in range(0, len(part), _WRITE):
                rows = part.slice(start, start + _WRITE)
                names = (log.users.take(pa.array(rows.user)), log.items.take(pa.array(rows.item)))
                columns = (rows.time, rows.kind, rows.impression, rows.seq)
                texts = (name.cast(pa.string()) for name in names)
                writer.write_batch(pa.record_batch([*texts, *map(pa.array, columns)], schema=_SORTED))


def number(connection: duckdb.DuckDBPyConnection, positioned: Path, path: Path, *, by_arrival: bool = False) -> None:
    """Write rows that have a `position` in the total order to `path`, with the per-user sequence number `seq`.

    `by_arrival`: the rows have an `arrival`, too, and are written in its order.
    """
    arrival = "arrival, " if by_arrival else ""
    connection.execute(
        f"""COPY (
            SELECT user, item, time, kind, impression, {arrival}
                row_number() OVER (PARTITION BY user ORDER BY position) - 1 AS seq
            FROM {parquet(positioned)} ORDER BY {arrival}position
        ) TO {quoted(path)} {_FORMAT}"""
    )


def contents(connection: duckdb.DuckDBPyConnection, path: Path, rows: int) -> dict[str, int]:
    """Count what the first `rows` rows of a sorted log contain: the fields of `plan.Contents`."""
    log = f"(SELECT * FROM {parquet(path, row_numbers=True)} WHERE file_row_number < {rows})"
    kinds = ", ".join(f"count(*) FILTER (kind = {int(kind)})" for kind in _KINDS)
    counts = integers(
        connection, f"SELECT count(DISTINCT user), count(DISTINCT item), min(time), max(time), {kinds} FROM {log}"
    )
    groups = f"SELECT DISTINCT user, impression FROM {log} WHERE impression <> 0"
    impressions = integers(connection, f"SELECT count(*) FROM ({groups})")[0]
    group = "CASE impression WHEN 0 THEN -seq ELSE impression END"
    times = f"SELECT min({group}) AS low, max({group}) AS high, count(*) AS events FROM {log} GROUP BY user, time"
    ties = integers(connection, f"SELECT coalesce(sum(events), 0) FROM ({times}) WHERE low <> high")[0]
    names = ["users", "items", "first", "last", *_KINDS.values()]
    return dict(zip(names, counts, strict=True)) | {"impressions": impressions, "ties": ties}
