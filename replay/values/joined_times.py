"""Times whose date and time of day are in two columns of a log."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from replay.sources.columns import TIME_OF_DAY
from replay.values.whole_numbers import is_text

_MIDNIGHT: Final = r"[T ]00:00(:00([.,]0+)?)?$"  # a date as databases and spreadsheets export it


def joined(rows: pa.RecordBatch, time_format: str | None) -> pa.RecordBatch:
    """Return the rows with one column `timestamp`: the text of the date, a blank, and the text of the time of day.

    It is null if one of them is missing. A time of day in digits only must have all its digits, since 1012 may be 10:12
    or, as a number without its zeros, 00:10:12; others are joined to what is no time.
    """
    dates, times = (_texts(rows[name]) for name in ("timestamp", TIME_OF_DAY))
    if time_format is None:
        dates = pc.replace_substring_regex(dates, _MIDNIGHT, "")
    digits = 4 if time_format is not None and "%S" not in time_format else 6
    short = pc.and_(pc.match_substring_regex(times, "^[0-9]+$"), pc.not_equal(pc.utf8_length(times), digits))
    both = pc.binary_join_element_wise(dates, pc.if_else(short, " + ", " "), times, "")
    names = [name for name in rows.schema.names if name != TIME_OF_DAY]
    return rows.select(names).set_column(names.index("timestamp"), "timestamp", both)


def _texts(column: pa.Array) -> pa.Array:
    """Return the values as text without blanks around it; null if nothing is left."""
    if is_text(column) or pa.types.is_primitive(column.type) or pa.types.is_null(column.type):
        texts = pc.cast(column, pa.string())
    else:
        texts = pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)
