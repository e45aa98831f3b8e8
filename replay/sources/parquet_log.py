"""Reader of the generic exposure log as Parquet: whole columns are checked, and rows only if a column is not valid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from replay.errors import InvalidError, RowError, RowErrors, SourceError
from replay.sources import columns
from replay.sources.columns import KINDS, NEEDED, NO_VALUE
from replay.sources.schema import BATCH, FINER, NAME_BYTES, READ, ROWS, Row, batches
from replay.values.time_column import is_moment, time_column
from replay.values.times import Times


def parquet(path: Path, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS`. Raises SourceError for a file that is no such log; bad rows go to `errors`."""
    errors.opens(path)
    with opened(path) as file:
        try:
            wanted = columns.columns(file.schema_arrow.names)
        except InvalidError as error:
            raise SourceError(f"{path}: {error.reason}: {error.detail}") from error
        if not file.metadata.num_rows:
            raise SourceError(f"{path} is empty")
        first = 1
        try:
            for batch in file.iter_batches(batch_size=BATCH, columns=list(wanted.values()), use_threads=False):
                batch.validate(full=True)  # above all text that is not UTF-8
                renamed = batch.select(list(wanted.values())).rename_columns(list(wanted))
                whole = _whole(renamed)
                yield from (
                    [_placed(whole, first, errors)] if whole is not None else _by_row(path, renamed, first, errors)
                )
                first += batch.num_rows
        except SourceError:
            raise
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            OverflowError,
        ) as error:  # the last two: a value that Python can't hold
            raise SourceError(f"{path}, near row {first:,}: {error}") from error


def opened(path: Path) -> pq.ParquetFile:
    """Open the Parquet file. Raises SourceError if it is missing or in another format."""
    if path.is_dir():
        raise SourceError(f"{path} is a folder: a file is needed here")
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is empty")
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise SourceError(f"{path} is not Parquet: {error}") from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


def _whole(batch: pa.RecordBatch) -> pa.RecordBatch | None:
    """Return the batch as ROWS if every value is valid; None if rows must be checked one by one."""
    if any(batch[name].null_count for name in NEEDED):
        return None
    names = [_names(batch[name]) for name in ("user", "item")]
    time, below = time_column(batch["timestamp"], Times())
    kind = pc.index_in(_text(batch["event"]), pa.array(list(KINDS))) if _is_text(batch["event"]) else None
    numbers = _impressions(batch)
    if None in (*names, kind, numbers) or kind is None or kind.null_count or time.null_count:
        return None
    codes = pa.array(np.array([int(k) for k in KINDS.values()], np.int8)).take(kind)
    return pa.record_batch([*names, time, codes, numbers, below], schema=ROWS.append(FINER))


def _is_text(column: pa.Array) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text(column: pa.Array) -> pa.Array:
    return pc.cast(column, pa.string())


def _names(column: pa.Array) -> pa.Array | None:
    """Return a column of users or items as text; None if rows must be checked one by one."""
    if not (_is_text(column) or pa.types.is_integer(column.type)):
        return None
    text = _text(column)
    if pc.any(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(text)), pa.array(NO_VALUE))).as_py():
        return None
    sizes = pc.min_max(pc.binary_length(text)).as_py()
    plain = (sizes["min"] or 0) > 0 and (sizes["max"] or 0) <= NAME_BYTES
    return text if plain and not pc.any(pc.match_substring(text, "\0")).as_py() else None


def _impressions(batch: pa.RecordBatch) -> pa.Array | None:
    """Return the numbers of impressions, 0 for none; None if rows must be checked one by one."""
    if "impression" not in batch.schema.names:
        return pa.array(np.zeros(batch.num_rows, np.int64))
    column = batch["impression"]
    if not (_is_text(column) or pa.types.is_integer(column.type)):
        return None
    encoded = pc.dictionary_encode(_text(column))
    try:
        numbers = [columns.impression(name) for name in encoded.dictionary.to_pylist()]
    except InvalidError:
        return None
    return pc.fill_null(pa.array(numbers, pa.int64()).take(encoded.indices), 0)


def _by_row(path: Path, batch: pa.RecordBatch, first: int, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    if is_moment(batch["timestamp"]):
        at = batch.schema.names.index("timestamp")
        batch = batch.set_column(at, "timestamp", pc.cast(batch["timestamp"], pa.string()))

    def rows() -> Iterator[Row]:
        for number, found in enumerate(batch.to_pylist(), first):
            errors.line = number
            try:
                yield columns.row(found)
            except InvalidError as error:
                errors.add(RowError(path, number, error.reason, error.detail, unit="row"))

    return batches(rows(), errors)


def _placed(batch: pa.RecordBatch, first: int, errors: RowErrors) -> pa.RecordBatch:
    """Add the columns POSITION to rows that are adjacent in their file, from row `first` on."""
    places = np.full(batch.num_rows, len(errors.files) - 1, np.int16), np.arange(first, first + batch.num_rows)
    rows, below = batch.columns[: len(ROWS)], batch["ns"]
    return pa.record_batch([*rows, *map(pa.array, places), below], schema=READ)
