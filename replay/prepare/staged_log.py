"""The rows of a log before they are sorted: columns of numbers on disk, names in memory.

Users and items are numbered. Each column is one file of numbers only, so any range of rows can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from replay.errors import SourceError

Ints = NDArray[np.signedinteger]
Bools = NDArray[np.bool_]

BLOCK = 1 << 18  # number of rows that are read together
_NEW = 1 << 20  # number of names that are added together
_STAGED = {
    "user": np.int32,
    "item": np.int32,
    "time": np.int64,
    "kind": np.int8,
    "impression": np.int64,
    "file": np.int32,
    "line": np.int64,
    "ns": np.int32,
}
_SORTED = ("user", "item", "time", "ns", "kind", "impression")  # columns that are sorted
_DTYPES = _STAGED | {f"{name} in parts": _STAGED[name] for name in _SORTED} | {"row in parts": np.int64}
_MISSING = {"file": -1, "line": 0, "ns": 0}


@dataclass(frozen=True)
class Columns:
    """Rows as arrays of equal length. `user` is in the order of the names; `row` numbers the rows of the source."""

    user: Ints
    item: Ints
    time: Ints  # ms
    ns: Ints  # within the ms
    kind: Ints
    impression: Ints  # 0: none
    row: Ints

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row)

    def take(self, selection: Ints | Bools) -> Columns:
        """Return the rows at these positions, or for which `selection` is true."""
        indices = np.flatnonzero(selection) if selection.dtype == np.bool_ else selection
        return Columns(*(getattr(self, field.name)[indices] for field in fields(self)))


def changes(*columns: Ints) -> Ints:
    """Return the positions at which a column differs from the row before, and position 0."""
    differ = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        differ |= column[1:] != column[:-1]
    return np.append(0, np.flatnonzero(differ) + 1)


def repeats(values: NDArray[np.integer]) -> Bools:
    """Return True for each value that occurs more than once."""
    ordered = np.sort(values)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return np.zeros(len(values), np.bool_)
    return np.asarray(repeated[np.searchsorted(repeated, values).clip(max=len(repeated) - 1)] == values)


class Names:
    """Dictionary that maps names to numbers: provisional ones while rows are read, final ones from `finish`."""

    def __init__(self) -> None:
        self.known = pa.array([], pa.large_string())
        self._new: list[pa.Array] = []
        self._pending = self._given = 0
        self._finals: list[Ints] = []

    def codes(self, column: pa.Array) -> Ints:
        """Return a provisional number for each value."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = encoded.indices.to_numpy() + np.int32(self._given)
        self._new.append(encoded.dictionary.cast(pa.large_string()))
        self._given += len(encoded.dictionary)
        self._pending += len(encoded.dictionary)
        if self._pending > max(_NEW, len(self.known)):
            self._merge()
        return np.asarray(codes, np.int32)

    def finish(self) -> Ints:
        """Sort the names, `known`, by their bytes, and return the final number for each provisional one."""
        self._merge()
        order = pc.sort_indices(self.known)
        rank = np.empty(len(order), np.int32)
        rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
        self.known = self.known.take(order)
        finals: Ints = rank[np.concatenate(self._finals)]
        return finals

    def _merge(self) -> None:
        """Number the names that were added since the last merge."""
        encoded = pa.concat_arrays([self.known, *self._new]).dictionary_encode()
        self._finals.append(encoded.indices.to_numpy()[len(self.known) :])
        self.known, self._new, self._pending = encoded.dictionary, [], 0


class StagedLog:
    """The rows of a source, in its order."""

    def __init__(self, folder: Path) -> None:
        """Create an empty log, whose columns are written into the new folder `folder`."""
        self.folder = folder
        self._names = {"user": Names(), "item": Names()}
        self._finals: dict[str, Ints] = {}
        self._written: set[str] = set()  # columns that are not all zeros
        self.rows = 0
        self.first, self.last = 2**63 - 1, -1  # times, ms

    @property
    def users(self) -> pa.Array:
        """The names of users by their numbers, in order."""
        return self._names["user"].known

    @property
    def items(self) -> pa.Array:
        """The names of items by their numbers, in order."""
        return self._names["item"].known

    def fill(self, batches: Iterable[pa.RecordBatch], progress: Callable[[int], None]) -> None:
        """Write batches of `schema.READ`, or of a part of it. Raises SourceError if a file can't be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._files() as files:
            for batch in batches:
                if batch.num_rows:
                    self._append(batch, files)
                    progress(self.rows)
        if self.rows:
            self._finals = {column: names.finish() for column, names in self._names.items()}

    def _append(self, batch: pa.RecordBatch, files: dict[str, BinaryIO]) -> None:
        for name in _STAGED:
            if name in self._names:
                values = self._names[name].codes(batch[name])
            elif name not in batch.schema.names or batch[name].null_count == batch.num_rows:
                values = np.full(batch.num_rows, _MISSING[name], _DTYPES[name])
            else:
                column = batch[name].fill_null(_MISSING[name]) if batch[name].null_count else batch[name]
                values = column.to_numpy()
            if name == "time":
                self.first, self.last = min(self.first, int(values.min())), max(self.last, int(values.max()))
            self._write(files, name, self.rows, values)
        self.rows += batch.num_rows

    @contextmanager
    def _files(self) -> Iterator[dict[str, BinaryIO]]:
        """Yield a place for files that are written; at the end they have all rows, and are closed."""
        files: dict[str, BinaryIO] = {}
        try:
            yield files
            for name, file in files.items():
                file.truncate(self.rows * np.dtype(_DTYPES[name]).itemsize)
            self._written |= set(files)
        finally:
            for file in files.values():
                file.close()

    def _write(self, files: dict[str, BinaryIO], name: str, first: int, values: Ints) -> None:
        """Write values from row `first` on; a part of a file that is not written reads as zeros."""
        if not values.any():
            return
        path = self.folder / name
        try:
            file = files[name] if name in files else files.setdefault(name, path.open("wb", buffering=0))
            data = np.ascontiguousarray(values, _DTYPES[name]).data.cast("B")
            file.seek(first * (len(data) // len(values)))
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise SourceError(f"{path} can't be written: {error}") from error

    def column(self, name: str, first: int = 0, rows: int = -1) -> Ints:
        """Return `rows` values from row `first` on (-1: all); users and items by their final numbers."""
        rows = self.rows - first if rows < 0 else min(rows, self.rows - first)
        if name in self._written:
            dtype = np.dtype(_DTYPES[name])
            values = np.asarray(np.memmap(str(self.folder / name), dtype, "r", first * dtype.itemsize, (rows,)))
        else:
            values = np.zeros(rows, _DTYPES[name])
        return self._finals[name][values] if name in self._finals else values

    def blocks(self, *names: str) -> Iterator[tuple[int, tuple[Ints, ...]]]:
        """Yield (first row, values of the columns) of BLOCK rows at a time."""
        for first in range(0, self.rows, BLOCK):
            yield first, tuple(self.column(name, first, BLOCK) for name in names)

    def parts(self, number: int) -> Iterator[Columns]:
        """Yield the rows in at most `number` parts, each with all rows of its users, in the order of the source.

        Raises SourceError if a file can't be written.
        """
        if number == 1:
            yield Columns(*[*(self.column(name) for name in _SORTED), np.arange(self.rows)])
            return
        for first, end in pairwise([0, *self._write_parts(number)]):
            if first < end:
                yield Columns(*(self.column(f"{name} in parts", first, end - first) for name in (*_SORTED, "row")))

    def _write_parts(self, number: int) -> list[int]:
        """Write the columns in the order of the parts, and return where each part ends."""
        sizes = np.zeros(number, np.int64)
        for _, (user,) in self.blocks("user"):
            sizes += np.bincount(user % number, minlength=number)
        ends = np.cumsum(sizes)
        at = ends - sizes
        with self._files() as files:
            for first, columns in self.blocks(*_SORTED):
                part = (columns[0] % number).astype(np.uint16)
                order = np.argsort(part, kind="stable")  # of 16 bits: by their digits, without comparing
                ordered = [*(values[order] for values in columns), order + first]
                counts = np.bincount(part, minlength=number)
                for begin, end, to in zip(np.cumsum(counts) - counts, np.cumsum(counts), at, strict=True):
                    for name, values in zip((*_SORTED, "row"), ordered, strict=True):
                        self._write(files, f"{name} in parts", to, values[begin:end])
                at += counts
        return [int(end) for end in ends]

    def origin(self, row: int) -> tuple[int | None, int | None]:
        """Return the file and the line of a row, as arguments of `RowErrors.location`."""
        file, line = (int(self.column(name, row, 1)[0]) for name in ("file", "line"))
        return (None if file < 0 else file), line or None

    def names_of(self, row: int) -> tuple[str, str]:
        """Return the user and the item of a row."""
        user, item = (int(self.column(name, row, 1)[0]) for name in ("user", "item"))
        return self.users[user].as_py(), self.items[item].as_py()
