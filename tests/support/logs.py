"""Small logs in files, and the rows that readers return."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from replay.errors import RowErrors
from replay.sources.schema import ROWS, Row
from replay.sources.source import parse
from streams.records import Kind
from streams.settings import Exposures

HEADER = "user,item,timestamp,event\n"


def write(path: Path, data: str | bytes) -> Path:
    """Write a file, gzipped if its name ends in .gz."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def read(source: str, policy: Exposures | None = None, errors: RowErrors | None = None) -> list[Row]:
    """Return the rows of a source, in its own order."""
    parsed = parse(source)
    batches = parsed.read(policy or parsed.policies[0], errors or RowErrors("stop"))
    return [row for batch in batches for row in rows_of(batch)]


def skipped(source: str) -> tuple[list[Row], RowErrors]:
    """Return the valid rows of a source, and the errors of the others."""
    errors = RowErrors("skip")
    return read(source, None, errors), errors


def rows_of(batch: Any) -> Iterator[Row]:
    """Yield the rows of an Arrow batch that has the columns of ROWS."""
    for row in batch.select(ROWS.names).to_pylist():
        yield row["user"], row["item"], row["time"], Kind(row["kind"]), row["impression"]


def batch(rows: list[Row]) -> Any:
    """Return rows as an Arrow batch."""
    columns = zip(*rows, strict=True) if rows else [[]] * len(ROWS)
    return pa.record_batch([pa.array(list(c), f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)
