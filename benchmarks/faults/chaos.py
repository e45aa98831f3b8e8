"""Runs under kill -9, on a real Apache Kafka: nothing lost, nothing doubled, the digest of an undisturbed run.

With `--free` the runs are free-running at a fixed speed: no two are equal, so each is scored again and verified.

`make chaos SCHEDULES=100 SEED=1`: a schedule draws which processes are killed, how often and when, from the seed and
its number. Three of ten schedules run on three brokers, one of which is killed as well; the others on one broker that
may be killed. Killed brokers are started again. A row is written for each schedule at its end; a schedule with a row is
not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.whole_run import ROLES, Run, compared, good, kafka_home, scored_again, watch
from benchmarks.servers.kafka import Cluster

RESULT = Path(__file__).with_name("chaos.json")
FREE = ("--free", "--speed", "20/s")  # the log lasts 150 s
_PATIENCE_S = 900.0  # after which a run counts as stuck
_AGAIN_S = 0.05  # between two searches for a process to kill
_DOWN_S = (1.0, 6.0)  # until a killed broker is started again


@dataclass(frozen=True)
class Kill:
    """The role that is killed, and the time: a share of the duration of the fastest run so far, or the first chance."""

    role: str
    at: float


@dataclass(frozen=True)
class Schedule:
    """The kills of one run."""

    number: int
    seed: int
    brokers: int
    workers: int
    kills: tuple[Kill, ...]

    @classmethod
    def draw(cls, number: int, seed: int) -> Schedule:
        """Return the schedule of this number."""
        chance = random.Random(f"{seed}/{number}")  # noqa: S311 - it has to be repeatable
        brokers = 3 if number % 10 in (3, 6, 9) else 1
        roles = [*ROLES, "broker"]
        kills = [Kill(chance.choice(roles), chance.random()) for _ in range(chance.randint(1, 4))]
        workers = chance.randint(1, 2)
        if brokers == 3 and all(kill.role != "broker" for kill in kills):
            kills.append(Kill("broker", chance.random()))
        return cls(number, seed, brokers, workers, tuple(sorted(kills, key=attrgetter("at"))))


def kill(run: Run, cluster: Cluster, role: str, chance: random.Random) -> bool:
    """Kill one process of a role. Return True if there was one."""
    if role == "broker":
        node = chance.choice(cluster.nodes)
        cluster.kill(node)
        time.sleep(chance.uniform(*_DOWN_S))
        cluster.start(node)
        return True
    running = run.processes(role)
    with suppress(psutil.NoSuchProcess):
        if running:
            chance.choice(running).send_signal(signal.SIGKILL)
            return True
    return False


def disturbed(
    schedule: Schedule, cluster: Cluster, reference: Path, run_s: float, out: Path, mode: tuple[str, ...]
) -> dict[str, Any]:
    """Run under a schedule, with an expected duration of `run_s`. Return its row."""
    chance = random.Random(f"{schedule.seed}/{schedule.number}/which")  # noqa: S311 - it has to be repeatable
    began = time.monotonic()
    run = Run(out, cluster, "--workers", str(schedule.workers), *mode)
    hit = []
    for due in schedule.kills:
        with suppress(subprocess.TimeoutExpired):
            run.process.wait(max(0.0, began + due.at * run_s - time.monotonic()))
        while run.process.poll() is None:
            if kill(run, cluster, due.role, chance):
                hit.append(asdict(due) | {"at": round(due.at, 3)})
                break
            time.sleep(_AGAIN_S)
    error = run.wait(_PATIENCE_S - (time.monotonic() - began))
    cluster.wait()
    row = {
        "schedule": schedule.number,
        "seed": schedule.seed,
        "brokers": schedule.brokers,
        "workers": schedule.workers,
        "kills": hit,
        **(scored_again if mode else compared)(out, reference),
        "seconds": round(time.monotonic() - began, 1),
    }
    return row | ({"error": error} if error else {})


def chaos(
    home: Path, schedules: list[Schedule], folder: Path, undisturbed: Path | None = None, mode: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Run the schedules, grouped by number of brokers, and yield their rows. Folders of failed runs are kept.

    `undisturbed` is the folder of a finished run to compare with; None: one is made for each number of brokers.
    """
    for brokers in sorted({schedule.brokers for schedule in schedules}):
        with Cluster(home, folder / f"kafka-{brokers}", brokers) as cluster:
            reference = undisturbed or folder / f"reference-{brokers}"
            if undisturbed is None and (error := Run(reference, cluster, *mode).wait(_PATIENCE_S)):
                raise RuntimeError(f"the undisturbed run fails: {error}")
            run_s = (reference / "summary.json").stat().st_mtime - (reference / "run.json").stat().st_mtime
            for schedule in schedules:
                if schedule.brokers != brokers:
                    continue
                out = folder / f"{schedule.seed}-{schedule.number}"
                row = disturbed(schedule, cluster, reference, run_s, out, mode)
                run_s = min(run_s, row["seconds"])
                if good(row):
                    shutil.rmtree(out)
                yield row


def main() -> None:
    """Run the schedules without a row; exit code 1 if any row is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of schedules, instead of the first --schedules")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--free", action="store_true", help="free-running instead of lockstep")
    parser.add_argument("--out", type=Path, help="[default: chaos.json or chaos_free.json beside this file]")
    parser.add_argument("--folder", type=Path, help="keeps the runs that went wrong [default: a temporary one]")
    options = parser.parse_args()
    options.out = options.out or (RESULT.with_name("chaos_free.json") if options.free else RESULT)
    home = kafka_home(parser)
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    done = {(row["schedule"], row["seed"]) for row in rows}
    wanted = [Schedule.draw(number, options.seed) for number in options.only or range(1, options.schedules + 1)]
    wanted = [schedule for schedule in wanted if (schedule.number, schedule.seed) not in done]
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.folder))

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        rows.sort(key=lambda each: (each["seed"], each["schedule"]))
        options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")

    watch("schedule", len(wanted), chaos(home, wanted, folder, mode=FREE if options.free else ()), keep)
    bad = [row for row in rows if not good(row)]
    print(f"{len(rows)} schedules, {sum(len(row['kills']) for row in rows)} kills, {len(bad)} bad")
    if not bad:
        shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
