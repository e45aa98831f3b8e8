"""The speed of reading a log in CSV and JSON lines: `python -m benchmarks.import_log [--before CHECKOUT] [--events N]`.

Contenders read the same generated file, each in a process of its own, in turns: `mc2sf` with every check of every row;
`before`, the reader of an older checkout; and bare reading of all columns as text by pyarrow, polars and duckdb, which
checks nothing and numbers no line. `import_log.json` has medians of events per CPU second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pyarrow import json as json_lines

from benchmarks.machine import described
from replay.errors import RowErrors
from replay.sources.source import parse

RESULT = Path(__file__).with_name("import_log.json")
REPEATS, PIECE = 3, 1_000_000
LOGS = {
    "numbers.csv": "user and item are numbers, times are seconds",
    "texts.csv": "names, ISO times, a quoted title",
    "texts.jsonl": "the same as JSON lines",
}


def generate(path: Path, events: int, log: str) -> None:
    """Write a log of `events` rows: one in five a click, five events an impression."""
    chance = np.random.default_rng(1)
    if log.endswith(".jsonl"):
        with path.open("wb") as file:
            for first in range(0, events, PIECE):
                pl.DataFrame(_piece(chance, first, min(PIECE, events - first), log)).write_ndjson(file)
        return
    form = csv.WriteOptions(quoting_style="none" if log.startswith("numbers") else "needed")
    with csv.CSVWriter(path, _piece(chance, 0, 0, log).schema, write_options=form) as writer:
        for first in range(0, events, PIECE):
            writer.write_table(_piece(chance, first, min(PIECE, events - first), log))


def _piece(chance: np.random.Generator, first: int, rows: int, log: str) -> pa.Table:
    numbers = np.arange(first, first + rows)
    user = pa.array(chance.integers(0, 100_000, -(-rows // 5)).repeat(5)[:rows]).cast(pa.string())
    item = pa.array(chance.integers(0, 20_000, rows)).cast(pa.string())
    seconds = pa.array(1_684_393_203 + numbers // 10)
    columns: dict[str, Any] = {
        "user": user,
        "item": item,
        "timestamp": seconds,
        "event": pa.array(["click", "exposure"]).take(pa.array((chance.random(rows) > 0.2).astype(np.int8))),
        "impression": pa.array(numbers // 5 + 1),
    }
    if log.startswith("texts"):
        columns |= {
            "user": pc.binary_join_element_wise("user", user, "-"),
            "timestamp": seconds.cast(pa.timestamp("s")).cast(pa.string()),
            "title": pc.binary_join_element_wise("what,", item, " "),
        }
    return pa.table(columns)


def _mc2sf(path: Path) -> int:
    return sum(batch.num_rows for batch in parse(f"log:{path}").read("logged", RowErrors()))


def _pyarrow(path: Path) -> int:
    if path.suffix == ".jsonl":
        return sum(batch.num_rows for batch in json_lines.open_json(path, json_lines.ReadOptions(use_threads=False)))
    names = path.open().readline().strip().replace('"', "").split(",")
    options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    read = csv.ReadOptions(use_threads=False, block_size=1 << 22)
    return sum(batch.num_rows for batch in csv.open_csv(path, read_options=read, convert_options=options))


def _polars(path: Path) -> int:
    return (pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_csv(path, infer_schema=False)).height


def _duckdb(path: Path) -> int:
    connection = duckdb.connect(config={"threads": 1})
    reader = "read_json(?)" if path.suffix == ".jsonl" else "read_csv(?, all_varchar = true)"
    rows = connection.sql(f"SELECT * FROM {reader}", params=[str(path)])  # noqa: S608 - one of two words
    return sum(batch.num_rows for batch in rows.to_arrow_reader(100_000))


CONTENDERS: dict[str, Callable[[Path], int]] = {
    "mc2sf": _mc2sf,
    "before": _mc2sf,
    "pyarrow": _pyarrow,
    "polars": _polars,
    "duckdb": _duckdb,
}


def one(contender: str, path: Path) -> dict[str, float]:
    """Return the events per CPU second of one reading."""
    CONTENDERS[contender](path.with_stem(f"{path.stem}-small"))  # imports
    begun = time.process_time()
    events = CONTENDERS[contender](path)
    cpu = time.process_time() - begun
    return {"events_per_cpu_second": events / cpu}


def measured(path: Path, before: Path | None, repeats: int) -> dict[str, Any]:
    """Return the medians of each contender, and how many times as fast as it mc2sf is by CPU time."""
    here = Path(__file__).parents[1]
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(repeats):
        for name in CONTENDERS:
            root = before if name == "before" else here
            if root is not None:
                command = [sys.executable, __file__, "--contender", name, "--file", str(path)]
                paths = os.pathsep.join([str(root), str(here)])  # the older checkout has no such benchmark
                result = subprocess.run(  # noqa: S603 - this file, in a process of its own
                    command, env=os.environ | {"PYTHONPATH": paths}, check=True, capture_output=True
                )
                found.setdefault(name, []).append(json.loads(result.stdout))
    rows = {name: {k: median(run[k] for run in runs) for k in runs[0]} for name, runs in found.items()}
    own = rows["mc2sf"]["events_per_cpu_second"]
    return {
        name: {
            "events_per_cpu_second": round(row["events_per_cpu_second"]),
            "mc2sf_is_faster_by": round(own / row["events_per_cpu_second"], 3),
        }
        for name, row in rows.items()
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--before", type=Path, help="a checkout of an older version")
    parser.add_argument("--logs", default=",".join(LOGS), help="those of other names are kept in the result")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--contender", choices=CONTENDERS, help="measure this one alone, on --file")
    parser.add_argument("--file", type=Path)
    asked = parser.parse_args()
    if asked.contender:
        print(json.dumps(one(asked.contender, asked.file)))
        return
    logs: dict[str, Any] = json.loads(asked.out.read_text())["logs"] if asked.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mc2sf-") as folder:
        for log in asked.logs.split(","):
            path = Path(folder) / log
            generate(path, asked.events, log)
            generate(path.with_stem(f"{path.stem}-small"), 1000, log)
            size = {"events": asked.events, "repeats": asked.repeats, "mb": path.stat().st_size >> 20}
            logs[log] = {"log": LOGS[log], **size, **measured(path, asked.before, asked.repeats)}
            print(json.dumps({log: logs[log]}))
            path.unlink()
    machine = described(("pyarrow", "polars", "duckdb"))
    result = {"logs": logs, "machine": machine}
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
