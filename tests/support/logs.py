"""Small logs in files, and what the readers make of them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from replay.errors import OnError, RowErrors
from replay.sources.schema import ROWS, Row
from replay.sources.source import parse
from streams.records import Kind
from streams.settings import Exposures

HEADER = "user,item,timestamp,event\n"


def write(path: Path, data: str | bytes) -> Path:
    """Write a file, gzipped where its name ends in .gz."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def read(source: str, policy: Exposures | None = None, refusals: RowErrors | None = None) -> list[Row]:
    """The rows of a source, in its own order."""
    parsed = parse(source)
    found = parsed.read(policy or parsed.policies[0], refusals or RowErrors("stop"))
    return [row for batch in found for row in rows_of(batch)]


def skipped(source: str) -> tuple[list[Row], RowErrors]:
    """The rows of a source that can be read, and the account of the others."""
    on_error: OnError = "skip"
    refusals = RowErrors(on_error)
    return read(source, None, refusals), refusals


def rows_of(batch: Any) -> Iterator[Row]:
    """The rows of an Arrow batch that has the columns of ROWS."""
    for row in batch.select(ROWS.names).to_pylist():
        yield row["user"], row["item"], row["time"], Kind(row["kind"]), row["impression"]


def batch(rows: list[Row]) -> Any:
    """An Arrow batch of rows."""
    columns = zip(*rows, strict=True) if rows else [[]] * len(ROWS)
    return pa.record_batch([pa.array(list(c), f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)
