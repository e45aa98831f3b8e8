"""The speed and the memory of `mc2sf data inspect`: `python -m benchmarks.inspect_log [--events 1000000,10000000]`.

`mc2sf` is the whole command on a generated log in CSV: every check of every row, and the findings.
polars and duckdb only read all columns of the same file as text, and hold or count them. Each reading is a process of
its own, in turns. `inspect_log.json` has the medians of CPU seconds, wall seconds and peak memory, and for the second
log the shares of CPU time in the parts of the command.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import re
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.import_log import CONTENDERS, generate
from benchmarks.machine import described

RESULT = Path(__file__).with_name("inspect_log.json")


def _inspect(path: Path) -> int:
    from deploy.cli.main import main  # noqa: PLC0415 - not measured with the others

    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), suppress(SystemExit):
        main(["data", "inspect", f"log:{path}"])
    return 0


PARTS = {
    "records and lines found": [("csv_records", "cut")],
    "fields parsed by pyarrow": [("csv_log", "_parse_fast")],
    "names, times, kinds and impressions checked": [("events", "events")],
    "names numbered and columns written": [("staged_log", "_append"), ("staged_log", "finish")],
    "read again, in parts": [("staged_log", "parts")],
    "counts and ties": [("total_order", "add")],
    "names compared": [("implausible", "doubtful_names")],
}
READERS = {"mc2sf": _inspect, "polars": CONTENDERS["polars"], "duckdb": CONTENDERS["duckdb"]}


def one(reader: str, path: Path) -> dict[str, float]:
    """Return seconds and memory of one reading."""
    READERS[reader](path.with_name("small.csv"))  # imports
    cpu, wall = time.process_time(), time.monotonic()
    READERS[reader](path)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall, "peak_mb": int(peak[1]) / 1024}


def shares(path: Path) -> dict[str, float]:
    """Return the share of the CPU time of `data inspect` in each of its parts."""
    _inspect(path.with_name("small.csv"))  # imports
    profile = cProfile.Profile(time.process_time)
    profile.runcall(_inspect, path)
    spent = {(Path(file).stem, name): of[3] for (file, _, name), of in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    total = spent["inspect_log", "_inspect"]
    found = {part: sum(spent[each] for each in functions) / total for part, functions in PARTS.items()}
    rest = {"impressions and repeated rows": spent["total_order", "sort"] / total}
    rest["impressions and repeated rows"] -= sum(found[part] for part in ("read again, in parts", "counts and ties"))
    found |= rest
    return {part: round(share, 3) for part, share in found.items()} | {"others": round(1 - sum(found.values()), 3)}


def measured(path: Path, events: int, repeats: int) -> dict[str, Any]:
    """Return the medians of each reader, and its CPU time as a share of that of mc2sf."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    for _ in range(repeats):
        for name, runs in found.items():
            command = [sys.executable, "-m", "benchmarks.inspect_log", "--reader", name, "--file", str(path)]
            done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - this file
            runs.append(json.loads(done.stdout))
    rows = {name: {key: median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    return {
        name: {key: round(value, 2) for key, value in row.items()}
        | {
            "events_per_cpu_second": round(events / row["cpu_s"]),
            "cpu_of_mc2sf_over_it": round(rows["mc2sf"]["cpu_s"] / row["cpu_s"], 2),
        }
        for name, row in rows.items()
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", default="1000000,3000000,10000000")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--reader", choices=READERS, help="measure this one alone, on --file")
    parser.add_argument("--shares", action="store_true", help="of the parts of mc2sf, on --file")
    parser.add_argument("--file", type=Path)
    asked = parser.parse_args()
    if asked.shares:
        print(json.dumps(shares(asked.file)))
        return
    if asked.reader:
        print(json.dumps(one(asked.reader, asked.file)))
        return
    sizes: dict[str, Any] = {}
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="mc2sf-") as folder:
        generate(Path(folder) / "small.csv", 1000, "numbers.csv")
        for events in map(int, asked.events.split(",")):
            path = Path(folder) / f"{events}.csv"
            generate(path, events, "numbers.csv")
            sizes[str(events)] = {"mb": path.stat().st_size >> 20, **measured(path, events, asked.repeats)}
            parts = shares(path) if len(sizes) == 2 else parts
            print(json.dumps({events: sizes[str(events)]}), flush=True)
            path.unlink()
    result = {
        "repeats": asked.repeats,
        "events": sizes,
        "shares": parts,
        "machine": described(("pyarrow", "polars", "duckdb")),
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
