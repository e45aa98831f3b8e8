"""Whole runs with an outage: they recover without help, with the digest of an undisturbed run.

`make outages SECONDS=60`: broker and database stopped or killed and started again, disks filled to the last byte,
consumers paused past session and poll interval, workers scaled from 1 to 3 to 2. Each run has its own Kafka and, unless
it is about SQLite, its own PostgreSQL. A row is written for each at its end; an outage with a row is not run again.
The takeovers of `takeover.py` come last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.faults.disks import small_disk
from benchmarks.faults.outage_acts import OUTAGES, Outage, Scene
from benchmarks.faults.takeover import takeovers
from benchmarks.faults.whole_run import Run, compared, good, kafka_home, watch
from benchmarks.servers.kafka import Cluster
from benchmarks.servers.postgres import Postgres

RESULT = Path(__file__).with_name("outages.json")
_PATIENCE_S = 600.0  # after which a run counts as stuck
_DISK_MB = {"sqlite": 128, "postgresql": 400, "kafka": 128}


def run_with_outage(home: Path, outage: Outage, seconds: float, reference: Path, folder: Path) -> dict[str, Any]:
    """Run with an outage. Return its row. `reference` is the folder of an undisturbed run."""
    out = folder / "out" / "run"
    with ExitStack() as stack:
        places = {what: folder / what for what in ("kafka", "postgresql")} | {"sqlite": out.parent}
        disk = None
        if outage.disk:
            disk = stack.enter_context(small_disk(places[outage.disk], _DISK_MB[outage.disk]))
        cluster = stack.enter_context(Cluster(home, places["kafka"]))
        database = None
        if outage.postgres:
            places["postgresql"].mkdir(parents=True, exist_ok=True)
            database = stack.enter_context(Postgres(places["postgresql"]))
        more = ("--database", database.url) if database else ()
        began = time.monotonic()
        run = Run(out, cluster, "--workers", str(outage.workers), *more, environment=outage.environment)
        stack.callback(run.stop)
        scene = Scene(run, cluster, database, disk, seconds, stack)
        run.until(1)
        struck, at = time.monotonic(), run.epoch()
        outage.act(scene)
        over = time.monotonic()
        row: dict[str, Any] = {"seconds": seconds, "at_epoch": at, "lasted_s": round(over - struck, 1)}
        reached = max(run.epoch(), at)
        try:
            run.until(reached + 1)
            row["recovered_s"] = round(time.monotonic() - over, 1)
        except RuntimeError as error:
            row["recovered_s"] = None
            row["error"] = str(error)
        if error_at_end := run.wait(_PATIENCE_S - (time.monotonic() - began)):
            row["error"] = error_at_end
        row |= compared(out, reference)
        if (out / "summary.json").is_file():
            row["restarts"] = json.loads((out / "summary.json").read_text())["restarts"]
        row["run_s"] = round(time.monotonic() - began, 1)
        if disk is not None and not good(row):  # the folder disappears with the disk
            shutil.copytree(out / "logs", folder / "logs")
    return row


def outages(
    home: Path, wanted: Mapping[str, Outage], seconds: float, folder: Path, undisturbed: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Run each outage and yield its row; failed runs are kept.

    Each run is compared with the finished run in the folder `undisturbed`. If that is None, it is compared with
    `folder`/reference, which is made if it is missing.
    """
    reference = undisturbed or folder / "reference"
    if not (reference / "summary.json").exists():
        with Cluster(home, folder / "kafka-reference") as cluster:
            if error := Run(reference, cluster).wait(_PATIENCE_S):
                raise RuntimeError(f"the undisturbed run fails: {error}")
    for name, outage in wanted.items():
        place = folder / name.replace(" ", "-").replace(",", "")
        row = {"outage": name, **run_with_outage(home, outage, seconds, reference, place)}
        if good(row):
            shutil.rmtree(place)
        yield row


def main() -> None:
    """Run the outages without a row; exit code 1 if any row is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each outage lasts")
    parser.add_argument("--only", nargs="*", choices=OUTAGES, default=list(OUTAGES))
    parser.add_argument("--kills", type=int, default=8, help="takeovers that are timed; 0: none")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="keeps the runs that went wrong [default: a temporary one]")
    options = parser.parse_args()
    home = kafka_home(parser)
    result = json.loads(options.out.read_text()) if options.out.is_file() else {"rows": []}
    rows = result["rows"]
    done = {(row["outage"], row["seconds"]) for row in rows}
    wanted = {name: OUTAGES[name] for name in options.only if (name, options.seconds) not in done}
    folder = Path(tempfile.mkdtemp(prefix="outages-", dir=options.folder))

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        options.out.write_text(json.dumps(result, indent=1) + "\n")

    watch("outage", len(wanted), outages(home, wanted, options.seconds, folder) if wanted else (), keep)
    bad = [row for row in rows if not good(row)]
    print(f"{len(rows)} outages, {len(bad)} bad")
    if options.kills and len(result.get("takeover", {}).get("kills", ())) < options.kills:
        result["takeover"] = takeovers(home, options.kills, 1, folder / "takeover")
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"users are served again after {result['takeover']['p50_s']} s, at most {result['takeover']['max_s']} s")
    if not bad:
        shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
