"""From a cell that lists the items of an impression, or the clicks before the log, to a row per item."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replay.sources.log_map import Slate
from replay.values.table import Table
from streams.records import Kind

_LIST = r"^\s*[\[{][^\[\]{}]*[\]}]\s*$"  # a list as JSON, Python, numpy or PostgreSQL write it
_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"]+)""", re.DOTALL)
_FILES_FROM = 1 << 36  # impressions without a number have that of their line and, above it, that of their file


def expanded(table: Table, kinds: pa.Array, slate: Slate, file: int) -> tuple[Table, pa.Array]:
    """Return a row for each item of each slate, and their kinds; a row without a slate stays as it is.

    The items are exposures, but for those with the suffix of a click and the `item` of a row that is a click: that one
    comes last if the slate does not have it. Without a column `impression` the number of the line is the impression.
    """
    rows = table.rows
    if "item" not in rows.schema.names:
        rows = rows.append_column("item", pa.nulls(rows.num_rows, pa.string()))
    parent, items = _cells(pc.if_else(pc.is_valid(kinds), _lists(rows["slate"], slate.separator), None))
    items, clicked = _unmarked(items, slate)
    named = pc.fill_null(pc.and_(pc.equal(kinds, int(Kind.CLICK)), pc.is_valid(rows["item"])), False)
    target = pc.cast(rows["item"], pa.string())
    hit = pc.fill_null(pc.and_(pc.equal(items, target.take(parent)), named.take(parent)), False)
    clicked = clicked | hit.to_numpy(zero_copy_only=False)
    alone = np.ones(rows.num_rows, np.bool_)  # rows that are an event of their own
    alone[parent.to_numpy()] = False
    if "impression" not in rows.schema.names:
        rows = rows.append_column("impression", pa.array(np.where(alone, 0, table.lines + file * _FILES_FROM)))
    missed = named.to_numpy(zero_copy_only=False) & ~alone
    missed[parent.to_numpy()[hit.to_numpy(zero_copy_only=False)]] = False
    own = np.flatnonzero(alone | missed)
    order = np.argsort(np.concatenate([parent.to_numpy(), own]), kind="stable")
    at = pa.array(np.concatenate([parent.to_numpy(), own])[order])
    of_slate = np.where(clicked, int(Kind.CLICK), int(Kind.EXPOSURE)).astype(np.int8)
    found = pa.concat_arrays([items, target.take(pa.array(own))]).take(pa.array(order))
    both = pa.concat_arrays([pa.array(of_slate), kinds.take(pa.array(own))]).take(pa.array(order))
    rows = rows.take(at)
    rows = rows.set_column(rows.schema.names.index("item"), "item", found)
    return Table(table.path, rows, table.lines[at.to_numpy()], table.unit), both


def _lists(column: pa.Array, separator: str) -> pa.Array:
    """Return a column of lists or of texts as lists."""
    if pa.types.is_nested(column.type):
        return column if pa.types.is_large_list(column.type) else pc.cast(column, pa.list_(column.type.value_type))
    text = pc.cast(column, pa.string())
    if not pc.any(pc.match_substring_regex(text, _LIST)).as_py():
        return pc.split_pattern(text, separator)
    cells = (cell if cell is None else split(cell, separator) for cell in text.to_pylist())
    return pa.array(cells, pa.list_(pa.string()))


def _cells(lists: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the row and the text of each item in a column of lists."""
    parent, items = pc.list_parent_indices(lists), pc.cast(pc.list_flatten(lists), pa.string())
    filled = pc.fill_null(pc.greater(pc.binary_length(pc.utf8_trim_whitespace(items)), 0), False)
    return pc.cast(parent, pa.int64()).filter(filled), items.filter(filled)


def split(text: str, separator: str) -> list[str]:
    """Return the items of a text with a separator, or of a list in brackets (`["a", "b"]`, `['a' 'b']`, `{a,b}`)."""
    if not re.match(_LIST, text):
        return text.split(separator)
    try:
        items = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
        return [str(item) for item in items if item is not None]
    except ValueError:
        return [re.sub(r"\\(.)", r"\1", "".join(parts)) for parts in _ITEM.findall(text.strip()[1:-1])]


def _unmarked(items: pa.Array, slate: Slate) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Return the items without the suffixes that mark them, and True for those that are marked as clicked."""
    clicked = np.zeros(len(items), np.bool_)
    for suffix in filter(None, (slate.click_suffix, slate.exposure_suffix)):
        ends = pc.ends_with(items, suffix)
        if suffix == slate.click_suffix:
            clicked = ends.to_numpy(zero_copy_only=False)
        items = pc.if_else(ends, pc.utf8_slice_codeunits(items, 0, -len(suffix)), items)
    return items, clicked


@dataclass
class Histories:
    """The clicks before the log, from a column of the first row of each user: in order, in the ms before `start`."""

    start: int  # time of the first event of the log, ms
    separator: str
    seen: set[object] = field(default_factory=set)

    def past(self, table: Table) -> tuple[Table, pa.Array]:
        """Return the past clicks of users that were not seen yet, with the ms of each in the column `timestamp`."""
        new = []
        for row, user in enumerate(table.rows["user"].to_pylist()):
            if user not in self.seen:
                self.seen.add(user)
                new.append(row)
        rows = table.rows.take(pa.array(new, pa.int64()))
        parent, items = _cells(_lists(rows["history"], self.separator))
        of = parent.to_numpy()
        ends = np.searchsorted(of, np.arange(len(new)), side="right")
        ms = self.start - (ends[of] - np.arange(len(of)))
        rows = pa.RecordBatch.from_arrays([rows["user"].take(parent), items], names=["user", "item"])
        return Table(table.path, rows, table.lines[np.array(new, np.int64)][of], table.unit), pa.array(ms, pa.int64())
