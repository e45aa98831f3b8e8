"""Columns of whole numbers that are written as text, recognized by the bytes of a whole column at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGITS = 18  # a number of that many is below 2^63


def is_text(column: pa.Array) -> bool:
    """Return True for strings of any layout."""
    kind = column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def all_digits(column: pa.StringArray, *, leading_zeros: bool = True) -> bool:
    """Return True if every value is 1 to DIGITS ASCII digits; False for an empty column."""
    if column.null_count or not len(column):
        return False
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    sizes = np.diff(ends)
    if sizes.min() < 1 or sizes.max() > DIGITS:
        return False
    codes = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    digits = codes.min() >= ord("0") and codes.max() <= ord("9")
    return bool(digits and (leading_zeros or (codes[ends[:-1] - ends[0]] != ord("0")).all()))


def canonical_numbers(column: pa.Array) -> pa.Array | None:
    """Return a column without nulls as integers; None unless all are whole numbers without leading zeros or signs."""
    if is_text(column):
        column = pc.cast(column, pa.string())
        if not all_digits(column, leading_zeros=False):
            return None
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    try:
        return pc.cast(column, pa.int64())
    except pa.ArrowInvalid:  # a fraction, or 2^63 and more
        return None
