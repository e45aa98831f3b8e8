"""The form of the objects in JSON lines, from which msgspec decodes only the fields that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import UNSET, UnsetType

from replay.errors import InvalidError
from replay.sources.columns import columns
from replay.sources.log_map import LogMap

Numbers = npt.NDArray[np.int64]

LISTS = ("slate", "history")  # columns in which a value may be a list

# A union, not Any: msgspec refuses values of other types, and such lines are read by `_JsonLog.slow`.
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class JsonForm:
    """The log's names of our columns, which must be the same in all lines."""

    names: dict[str, str]
    needed: tuple[str, ...]
    nested: str | None
    decoder: msgspec.json.Decoder[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Create the decoder of a line."""
        kind = self._struct(self.needed if self.nested is None else ())
        if self.nested is not None:
            kind = self._struct((), ("nested", list[kind], msgspec.field(name=self.nested)))  # type: ignore[valid-type]
        object.__setattr__(self, "decoder", msgspec.json.Decoder(kind))

    def _struct(self, required: Sequence[str], *first: tuple[str, type, object]) -> type:
        """Return a struct with the fields `first`, and one for each column."""
        fields: list[tuple[str, object, object]] = [*first]
        for column, name in self.names.items():
            kind = Scalar | list[str | int] if column in LISTS else Scalar
            if column in required:
                fields.append((column, kind, msgspec.field(name=name)))
            else:
                fields.append((column, kind | UnsetType, msgspec.field(name=name, default=UNSET)))
        return msgspec.defstruct("Line", fields, gc=False, kw_only=True)

    def columns(self, lines: Sequence[Any], numbers: Numbers, data: bytes) -> tuple[pa.RecordBatch, Numbers] | None:
        """Return the rows of decoded lines with our column names, and the line number of each.

        Return None if a row lacks a column, a name occurs in several spellings in `data` (the text of the lines), or a
        column has values of several types.
        """
        lowered, by_column = data.lower(), {c: list(map(attrgetter(c), lines)) for c in self.names}
        may_lack = self.names if self.nested is not None else self.names.keys() - set(self.needed)
        written = {c: len(values) - (values.count(UNSET) if c in may_lack else 0) for c, values in by_column.items()}
        if self.nested is not None:
            inside = list(chain.from_iterable(line.nested for line in lines))
            sizes = [len(line.nested) for line in lines]
            for column, outer in by_column.items():
                values = list(map(attrgetter(column), inside))
                written[column] += len(values) - values.count(UNSET)
                around = chain.from_iterable(map(repeat, outer, sizes))
                by_column[column] = [o if i is UNSET else i for i, o in zip(values, around, strict=True)]
            numbers = np.repeat(numbers, sizes)
        for column, name in self.names.items():
            if lowered.count(f'"{name.lower()}"'.encode()) != written[column]:
                return None
        arrays = {}
        for column, values in by_column.items():
            missing = column in may_lack and UNSET in values
            if missing and column in self.needed:
                return None
            array = _array([None if v is UNSET else v for v in values] if missing else values)
            if array is None:
                return None
            arrays[column] = array
        return pa.RecordBatch.from_arrays([*arrays.values()], names=[*arrays]), numbers


def json_form(first: dict[str, object], log_map: LogMap) -> JsonForm | None:
    """Return the form of lines with the fields of `first`; None if one is missing, or columns are given by number."""
    try:
        names = columns(tuple(first), log_map)
    except InvalidError:
        return None
    named = log_map.named_columns
    if any(name.strip().lower() != named.get(column, column).strip().lower() for column, name in names.items()):
        return None
    return JsonForm(
        {"impression": "impression"} | names, tuple(dict.fromkeys((*log_map.needed, *named))), log_map.nested
    )


def _array(values: list[Any]) -> pa.Array | None:
    types = set(map(type, values)) - {type(None)}
    if bool in types and len(types) > 1:  # with floats, true would become 1.0
        return None
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError):
        if not types <= {str, int}:
            return None
        array = pa.array([value if value is None else str(value) for value in values])  # ids, some of them in quotes
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array
