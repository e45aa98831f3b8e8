"""Columns of times: all values of an Arrow array at once, with the results of `Times.ns` on each."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from replay.errors import InvalidError
from replay.times import LATEST, MS, NS, TimeUnit, plausible_ms
from replay.values.times import DETECTED, TICKS, Times
from replay.values.whole_numbers import all_digits, is_text

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_UTC = r"(?i)\s*(?:UTC|GMT|Z)$"
_MOMENTS: Final[dict[str, TimeUnit]] = {"s": "s", "ms": "ms", "us": "us", "ns": "ns"}


def time_column(column: pa.Array, times: Times) -> tuple[pa.Array, pa.Array]:
    """Return (ms since 1970, ns within the ms); null in both where `times` refuses the value."""
    if is_moment(column):
        return _moments(column, times)
    if times.format is None and times.unit != "excel":
        units = (times.unit,) if times.unit else DETECTED
        if pa.types.is_integer(column.type):
            return _columns(*_integers(pc.cast(column, pa.int64(), safe=False), units, any_year=times.explicit))
        if pa.types.is_floating(column.type):
            return _columns(*_floats(pc.cast(column, pa.float64()), units, any_year=times.explicit))
        if is_text(column):
            return _texts(pc.cast(column, pa.string()), times)
    return _one_by_one(column, times)


def is_moment(column: pa.Array) -> bool:
    """Return True for timestamps and dates."""
    return bool(pa.types.is_timestamp(column.type) or pa.types.is_date(column.type))


def _columns(ms: Ints, below: Ints, valid: Bools) -> tuple[pa.Array, pa.Array]:
    return pa.array(ms, mask=~valid), pa.array(below.astype(np.int32), mask=~valid)


def _integers(
    column: pa.Array, units: tuple[TimeUnit, ...], *, any_year: bool, ticks: bool = True
) -> tuple[Ints, Ints, Bools]:
    numbers = pc.fill_null(column, -1).to_numpy(zero_copy_only=False)
    ms, below, valid = np.zeros_like(numbers), np.zeros_like(numbers), np.zeros(len(numbers), bool)
    for unit in units:
        matches = _in_range(numbers, unit, any_year=any_year, ticks=ticks)
        if NS[unit] >= MS:
            ms[matches] = numbers[matches] * (NS[unit] // MS)
        else:
            ms[matches], rest = np.divmod(numbers[matches], MS // NS[unit])
            below[matches] = rest * NS[unit]
        valid |= matches
    return ms, below, valid


def _floats(column: pa.Array, units: tuple[TimeUnit, ...], *, any_year: bool) -> tuple[Ints, Ints, Bools]:
    numbers = pc.fill_null(column, -1.0).to_numpy(zero_copy_only=False)
    us, valid = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), bool)
    for unit in units:
        matches = _in_range(numbers, unit, any_year=any_year)
        us[matches] = np.rint(numbers[matches] * (NS[unit] / NS["us"])).astype(np.int64)
        valid |= matches
    valid &= us < (LATEST + 1 if any_year else plausible_ms()[1]) * 1000  # rounded up
    return us // 1000, us % 1000 * 1000, valid


def _in_range(numbers: Ints | NDArray[np.float64], unit: TimeUnit, *, any_year: bool, ticks: bool = True) -> Bools:
    """Return True for each number of units that is a time of a plausible, or of any, year.

    With `ticks`, a number of ns that may be .NET's ticks is none.
    """
    begin, end = (0, LATEST + 1) if any_year else plausible_ms()
    matches = (numbers >= -(-begin * MS // NS[unit])) & (numbers < min(-(-end * MS // NS[unit]), 2**63 - 1))
    if unit == "ns" and ticks and not any_year:
        matches &= (numbers < TICKS.start) | (numbers >= TICKS.stop)
    return np.asarray(matches)


def _texts(column: pa.Array, times: Times) -> tuple[pa.Array, pa.Array]:
    units = (times.unit,) if times.unit else DETECTED
    if all_digits(column):
        return _columns(*_integers(pc.cast(column, pa.int64()), units, any_year=times.explicit))
    trimmed = pc.utf8_trim_whitespace(column)
    whole = pc.match_substring_regex(trimmed, "^-?[0-9]{1,18}$")
    if pc.all(whole).as_py():
        return _columns(*_integers(pc.cast(trimmed, pa.int64()), units, any_year=times.explicit))
    try:
        moments = pc.cast(pc.replace_substring_regex(trimmed, _UTC, ""), pa.timestamp("ns"))
    except pa.ArrowInvalid:  # a zone, a number, a year beyond 2262, or no time
        return _one_by_one(column, times)
    zoned = times.tz is not None and pc.any(pc.match_substring_regex(trimmed, _UTC)).as_py()
    return _one_by_one(column, times) if zoned or pc.any(whole).as_py() else _moments(moments, times)


def _moments(column: pa.Array, times: Times) -> tuple[pa.Array, pa.Array]:
    kind = column.type
    if pa.types.is_date32(kind):
        days = pc.cast(pc.cast(column, pa.int32()), pa.int64())
        ms, below, valid = _integers(days, ("d",), any_year=times.explicit)
    else:
        unit = _MOMENTS[kind.unit] if pa.types.is_timestamp(kind) else "ms"
        ms, below, valid = _integers(pc.cast(column, pa.int64()), (unit,), any_year=times.explicit, ticks=False)
    if times.tz is not None and not (pa.types.is_timestamp(kind) and kind.tz):
        seconds, index = np.unique(ms // 1000, return_inverse=True)
        local = [times.local(int(second) * NS["s"]) // MS for second in seconds]
        ms = np.array(local, np.int64)[index] + ms % 1000
    return _columns(ms, below, valid)


def _one_by_one(column: pa.Array, times: Times) -> tuple[pa.Array, pa.Array]:
    try:
        encoded = pc.dictionary_encode(column)
    except pa.ArrowNotImplementedError:  # a list, a struct
        encoded = pa.DictionaryArray.from_arrays(pa.array(range(len(column)), pa.int32()), pa.nulls(len(column)))
    times_ns = [_ns(value, times) for value in encoded.dictionary.to_pylist()]
    ms = pa.array([None if ns is None else ns // MS for ns in times_ns], pa.int64())
    below = pa.array([None if ns is None else ns % MS for ns in times_ns], pa.int32())
    return ms.take(encoded.indices), below.take(encoded.indices)


def _ns(value: object, times: Times) -> int | None:
    try:
        return times.ns(value)
    except InvalidError:
        return None
