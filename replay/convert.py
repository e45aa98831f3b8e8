"""Conversion of a source to the generic log in Parquet, or to a RecBole atomic file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.atomic_file import atomically
from replay.errors import SourceError
from replay.sources.columns import KINDS
from streams.records import Kind

ENDINGS = (".parquet", ".inter")
LAST_NS = 2**63 // 1_000_000  # ms: a timestamp in ns ends in the year 2262

_GENERIC = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("timestamp", pa.timestamp("ns", "UTC")),
        ("event", pa.dictionary(pa.int8(), pa.string())),
        ("impression", pa.int64()),
    ]
)


def convert(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """Write events to `path`, in the format that its ending names, and return their number.

    The file appears when it is complete. Raises SourceError for another ending, for what the format can't hold, and if
    there is no event.
    """
    if path.suffix not in ENDINGS:
        raise SourceError(f"{path}: the output ends in {' or '.join(ENDINGS)}")
    try:
        with atomically(path) as part:
            rows = (_parquet if path.suffix == ".parquet" else _recbole)(map(_with_texts, batches), part)
            if not rows:
                raise SourceError(f"{path} is not written: the source has no event")
            return rows
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


def _with_texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in ("user", "item"):
        batch = batch.set_column(batch.schema.names.index(name), name, batch[name].cast(pa.string()))
    return batch


def _parquet(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    words = pa.array([next((w for w, kind in KINDS.items() if kind == code), None) for code in range(max(Kind) + 1)])
    rows = 0
    with pq.ParquetWriter(path, _GENERIC, compression="zstd") as writer:
        for batch in batches:
            ms, below = batch["time"].to_numpy(), 0
            if len(ms) and ms.max() >= LAST_NS:
                raise SourceError(f"a time of {ms.max()} ms is beyond the year 2262, where Parquet's nanoseconds end")
            if "ns" in batch.schema.names:
                below = pc.fill_null(batch["ns"], 0).to_numpy()
            event = words.take(batch["kind"])
            if event.null_count:
                raise SourceError("the stream of an experiment has candidates, which a log can't hold")
            impression = pc.if_else(pc.equal(batch["impression"], 0), None, batch["impression"])
            time = pa.array(ms * 1_000_000 + below).cast(pa.timestamp("ns", "UTC"))
            columns = [batch["user"], batch["item"], time, event.dictionary_encode().cast(_GENERIC.field(3).type)]
            writer.write_batch(pa.record_batch([*columns, impression], schema=_GENERIC))
            rows += batch.num_rows
    return rows


def _recbole(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\tlabel:float\n")
        for batch in batches:
            _write_lines(batch, file)
            rows += batch.num_rows
    return rows


def _write_lines(batch: pa.RecordBatch, file: TextIO) -> None:
    for name in ("user", "item"):
        bad = batch[name].filter(pc.match_substring_regex(batch[name], "[\\t\\r\\n]"))
        if len(bad):
            raise SourceError(f"{name} {bad[0].as_py()!r} has a tab or a line end, which an .inter file can't hold")
    seconds = np.char.mod("%.3f", batch["time"].to_numpy() / 1000)
    labels = np.where(batch["kind"].to_numpy() == Kind.EXPOSURE, "0", "1")
    columns = (batch["user"].to_pylist(), batch["item"].to_pylist(), seconds.tolist(), labels.tolist())
    file.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))
