"""Reader of a log in Parquet: whole columns are read at once, as `values.events` does for every format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from replay.errors import EmptyFileError, InvalidError, RowError, RowErrors, SourceError
from replay.sources import columns
from replay.sources.paths import columns_at, type_at
from replay.sources.schema import BATCH
from replay.sources.text.containers import PARQUET, PIPED_PARQUET, foreign, is_pipe
from replay.values.events import EventReader
from replay.values.table import Table

_DIGITS = {pa.float16(): 11, pa.float32(): 24}  # binary digits of floats that hold few


def parquet_log(path: Path, reader: EventReader, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.READ`. Raises SourceError for a file that is no such log; bad rows go to `errors`."""
    errors.opens(path)
    with open_parquet(path) as file:
        try:
            known = columns_at(file.schema_arrow, reader.log_map.paths)
            top = file.schema_arrow.names  # a name may be there twice
            names = columns.columns([*top, *(path for path in known if path not in top)], reader.log_map)
        except InvalidError as error:
            raise SourceError(f"{path}: {error.reason}: {error.detail}; {columns.HINT}") from error
        for column, name in names.items():
            if problem := _wrong_type(column, name, type_at(file.schema_arrow, known[name]), reader):
                raise SourceError(f"{path}: wrong columns: {name}, the {column}, {problem}")
        if not file.metadata.num_rows:
            raise EmptyFileError(f"{path} is empty")
        first = 1
        try:
            for batch in file.iter_batches(batch_size=BATCH, columns=list(names.values()), use_threads=False):
                batch.validate(full=True)  # above all text that is not UTF-8
                arrays = [_column(batch, known[name]) for name in names.values()]
                rows = pa.RecordBatch.from_arrays(arrays, names=list(names))
                _check_exact(path, rows, first)
                lines = np.arange(first, first + batch.num_rows)
                yield reader.events(Table(path, rows, lines, "row"), errors)
                first += batch.num_rows
        except SourceError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: of Python's values
            raise SourceError(f"{path}, near row {first:,}: {error}") from error


def _column(batch: pa.RecordBatch, steps: list[str]) -> pa.Array:
    column = batch[steps[0]]
    return pc.struct_field(column, steps[1:]) if steps[1:] else column


def _wrong_type(column: str, name: str, kind: pa.DataType, reader: EventReader) -> str:
    """Return why a column of this type can't be read as `column`; "" if it can."""
    if column not in ("slate", "history") and pa.types.is_nested(kind):
        fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
        hint = f": name one of its fields, such as {name}.{fields[0]}" if fields else ""
        return f"is {kind}, not one value per row{hint}"
    if column not in ("timestamp", columns.TIME_OF_DAY):
        if pa.types.is_temporal(kind):
            return "is a column of times"
    elif kind in _DIGITS and reader.log_map.time_unit is None:
        return f"has numbers of {kind}, which round times to minutes: --time-unit takes them as they are"
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return f"is {kind}: write the column as list"
    lists = isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    if (
        column in ("slate", "history")
        and pa.types.is_nested(kind)
        and not (lists and not pa.types.is_nested(kind.value_type))
    ):
        return f"is {kind}, not a list of names"
    return ""


def _check_exact(path: Path, rows: pa.RecordBatch, first: int) -> None:
    """Raise RowError for a user, an item or an impression in a short float that may be a rounded number."""
    for column in ("user", "item", "impression"):
        if column in rows.schema.names and (digits := _DIGITS.get(rows[column].type)):
            numbers = pc.fill_null(pc.cast(rows[column], pa.float64()), 0).to_numpy()
            for index in np.flatnonzero(np.isfinite(numbers) & (np.abs(numbers) >= 2**digits))[:1].tolist():
                raise RowError(
                    path, first + index, f"{column} is a float too large to be exact", str(numbers[index]), unit="row"
                )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open the Parquet file. Raises SourceError if it is missing or in another format."""
    if path.is_dir():
        raise SourceError(f"{path} is a folder: a file is needed here")
    if is_pipe(path):
        raise SourceError(f"{path} {PIPED_PARQUET}")
    try:
        if path.stat().st_size == 0:
            raise EmptyFileError(f"{path} is empty")
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        with path.open("rb") as file:
            head = file.read(512)
        problem = "" if head.startswith(PARQUET) else foreign(head)
        raise SourceError(f"{path} {problem or f'is not Parquet: {error}'}") from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
