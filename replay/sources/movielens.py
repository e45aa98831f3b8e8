"""Readers of MovieLens: ML-1M's ratings.dat (`user::item::rating::seconds`) and ML-100K's u.data (tab-separated)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, shown
from replay.sources.schema import NAME_BYTES, Row, batches
from replay.sources.text.lines import lines
from replay.times import MS
from replay.values.times import Times
from streams.records import Kind
from streams.settings import Exposures

LIKED = 4  # policy `rated`: ratings from this value up are clicks, lower ones are exposures


def movielens(path: Path, separator: str, policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS` from a file of ratings: one event per rating, a click unless `rated` decides."""
    return batches(_rows(path, separator, policy, errors), errors)


def _rows(path: Path, separator: str, policy: Exposures, errors: RowErrors) -> Iterator[Row]:
    times = Times(options=False)
    smallest_click = LIKED if policy == "rated" else 0
    for number, line in lines(path, errors, "latin-1"):
        parts = line.split(separator)
        if len(parts) != 4:
            detail = f"{len(parts)} instead of user, item, rating, timestamp"
            errors.add(RowError(path, number, "wrong columns", detail))
            continue
        user, item, rating, seconds = parts
        reason = ""
        if not (user.isascii() and user.isdecimal() and item.isascii() and item.isdecimal()):
            reason, value = "user or item is not a number", line
        elif max(len(user), len(item)) > NAME_BYTES:
            reason, value = f"user or item of more than {NAME_BYTES} bytes", line
        elif len(rating) != 1 or rating not in "12345":
            reason, value = "rating is not 1 to 5", rating
        elif not (seconds.isascii() and seconds.isdecimal() and len(seconds) <= 12):
            reason, value = ("time is negative" if seconds.startswith("-") else "time is not whole seconds"), seconds
        if reason:
            errors.add(RowError(path, number, reason, shown(value)))
            continue
        try:
            ms = times.ns(seconds) // MS
        except InvalidError as error:
            errors.add(RowError(path, number, error.reason, error.detail))
            continue
        yield user, item, ms, Kind.CLICK if int(rating) >= smallest_click else Kind.EXPOSURE, 0
