"""The tables of a run as Arrow: items by name, times as timestamps, codes as words, arrays as lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from deploy.user_error import UserError
from streams.database import run_state, schema
from streams.records import Kind

Keys = NDArray[np.int64]

_TIMES = {"time", "group_time", "trained_until"}  # and what ends in _wall
_SPANS = {"r2_age"}
_ITEMS = {("interactions", "item"), ("outcomes", "target"), ("item_embeddings", "item")}
_ITEM_LISTS = {("outcomes", "candidates"), ("click_uploads", "items")}
_VECTORS = {("negative_memories", "r2"), ("item_embeddings", "vector")}
_ALL_RUNS = {"run"}  # the same in every row


def meanings(table: str) -> dict[str, str]:
    """Return the meaning of each column, with its unit. Raises UserError if there is no such table."""
    return {column.name: column.doc or "" for column in _table(table).columns if column.name not in _ALL_RUNS}


def read(connection: sa.Connection, run: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of `run`, of all columns or of some; `ranks` becomes a column per variant, such as `rank_mc2sf`.

    Raises UserError if there is no such table or column.
    """
    source = _table(table)
    known = meanings(table)
    wanted = list(known) if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"table {table} has no column {unknown[0]!r}, but {', '.join(known)}")
    rows = connection.execute(
        sa.select(*(source.c[name] for name in wanted)).where(source.c.run == run).order_by(*source.primary_key)
    ).all()
    by_column = dict(zip(wanted, zip(*rows, strict=True) if rows else [()] * len(wanted), strict=True))
    names = _Names(connection, run) if wanted and table != "items" else None
    arrays: dict[str, pa.Array] = {}
    for name, values in by_column.items():
        if name == "ranks":
            variants = sorted({variant for each in values for variant in each})
            arrays |= {f"rank_{v}": pa.array([each.get(v) for each in values], pa.int32()) for v in variants}
        else:
            arrays[name] = _column(table, source.c[name], values, names)
    return pa.table(arrays)


def _table(name: str) -> sa.Table:
    known = schema.public_tables()
    if name not in known:
        raise UserError(f"there is no table {name!r}, but {', '.join(sorted(known))}")
    return known[name]


class _Names:
    """The names of a run's items, by key."""

    def __init__(self, connection: sa.Connection, run: str) -> None:
        names = run_state.item_names(connection, run)
        self._keys = np.array([*names], np.int64)
        self._names = pa.array(list(names.values()), pa.string())

    def of(self, keys: Keys) -> pa.Array:
        """Return names, null for a key without one."""
        if not len(self._keys):
            return pa.nulls(len(keys), pa.string())
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._names.take(pa.array(at, mask=self._keys[at] != keys))


def _column(table: str, column: sa.Column[object], values: Sequence[object], names: _Names | None) -> pa.Array:
    of_table = table, column.name
    if names is not None and of_table in _ITEMS:
        array = names.of(np.array(values, np.int64))
    elif names is not None and of_table in _ITEM_LISTS:
        ends, keys = _unpacked(values, np.dtype("<i8"))
        array = pa.ListArray.from_arrays(ends, names.of(keys))
    elif of_table in _VECTORS:
        array = pa.ListArray.from_arrays(*_unpacked(values, np.dtype("<f4")))
    elif of_table == ("interactions", "kind"):
        array = pa.DictionaryArray.from_arrays(pa.array(values, pa.int8()), [kind.name.lower() for kind in Kind])
    elif isinstance(column.type, sa.JSON):
        array = pa.array([None if v is None else msgspec.json.encode(v).decode() for v in values], pa.string())
    else:
        array = pa.array(values, _type(column))
    return array


def _type(column: sa.Column[object]) -> pa.DataType:
    if column.name in _TIMES or column.name.endswith("_wall"):
        return pa.timestamp("ms", "UTC")
    if column.name in _SPANS:
        return pa.duration("ms")
    kinds = {int: pa.int64(), str: pa.string(), bool: pa.bool_(), float: pa.float64(), bytes: pa.binary()}
    return kinds[column.type.python_type]


def _unpacked(values: Sequence[object], dtype: np.dtype[Any]) -> tuple[pa.Array, NDArray[Any]]:
    """Return the ends of arrays that are stored as bytes, and their contents one after the other."""
    arrays = [np.frombuffer(value, dtype) for value in values if isinstance(value, bytes)]
    ends = np.cumsum([0, *(len(each) for each in arrays)]).astype(np.int32)
    return pa.array(ends), np.concatenate([np.zeros(0, dtype), *arrays])
