"""Runs under kill -9, on a real Apache Kafka: nothing lost, nothing doubled, the digest of a run that nobody disturbed.

`make chaos SCHEDULES=100 SEED=1`: a schedule draws which processes are killed, how often and when, from the seed and
its own number; others give other schedules. Three in ten run on three brokers of which one may be killed as well, the
others on one that may be killed and started again. A row is written for each schedule when it is over, and a schedule
that has its row is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from deploy.stack import die_with_parent
from tests.kafka_world import Cluster

SOURCE = "synthetic:users=60,items=150"
ARGUMENTS = ("--limit", "3000", "--epoch", "300", "--retrain-every", "900", "--evaluate", "0.5")
ROLES = {
    "device": "worker device",
    "cloud": "worker cloud",
    "recorder": "recorder",
    "learner": "learner",
    "coordinator": "coordinator",
    "retrain": "retrain --every",
    "replay": "replay",
}
RESULT = Path(__file__).with_name("chaos.json")
_PATIENCE_S = 400.0  # for one run: it then counts as stuck
_DOWN_S = (1.0, 6.0)  # how long a killed broker stays away


@dataclass(frozen=True)
class Kill:
    """Who is killed, and when: a share of the time that an undisturbed run takes."""

    role: str
    at: float


@dataclass(frozen=True)
class Schedule:
    """What happens to one run."""

    number: int
    seed: int
    brokers: int
    workers: int
    kills: tuple[Kill, ...]

    @classmethod
    def draw(cls, number: int, seed: int) -> Schedule:
        """The schedule of this number."""
        chance = random.Random(f"{seed}/{number}")  # noqa: S311 - it has to be repeatable
        brokers = 3 if number % 10 in (3, 6, 9) else 1
        roles = [*ROLES, "broker"]
        kills = sorted(
            (Kill(chance.choice(roles), chance.random()) for _ in range(chance.randint(1, 4))), key=attrgetter("at")
        )
        return cls(number, seed, brokers, chance.randint(1, 2), tuple(kills))


class Run:
    """One `mc2sf run` as a process, its children found by what they were started as."""

    def __init__(self, out: Path, cluster: Cluster, workers: int) -> None:
        self.out, self._cluster = out, cluster
        where = ("--brokers", cluster.addresses, "--workers", str(workers), "--out", str(out))
        command = [sys.executable, "-m", "deploy.cli", "run", SOURCE, *ARGUMENTS, *where]
        copies = {"MC2SF_REPLICATION": str(len(cluster.nodes))}
        out.mkdir(parents=True)
        with (out / "said").open("wb") as said:
            self.process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdout=said,
                stderr=said,
                env=os.environ | copies,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of libc, no Python lock is taken
            )

    def kill(self, role: str, chance: random.Random) -> bool:
        """Kill one process of a role; whether there was one."""
        if role == "broker":
            node = chance.choice(self._cluster.nodes)
            self._cluster.kill(node)
            time.sleep(chance.uniform(*_DOWN_S))
            self._cluster.start(node)
            return True
        with suppress(psutil.Error):
            running = [c for c in psutil.Process(self.process.pid).children() if ROLES[role] in " ".join(c.cmdline())]
            if running:
                chance.choice(sorted(running, key=lambda child: child.pid)).send_signal(signal.SIGKILL)
                return True
        return False

    def wait(self, seconds: float) -> str:
        """Wait for the end; what went wrong, empty where nothing did."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            self.process.kill()
            self.process.wait()
            return f"not over after {_PATIENCE_S:.0f} s"
        return "" if code == 0 else f"exit code {code}: {(self.out / 'said').read_text()[-600:]}"


def outcomes(out: Path) -> set[tuple[Any, ...]]:
    """The (user, seq) that were ranked, and the events of each user that were applied."""
    with closing(sqlite3.connect(out / "mc2sf.db")) as database:
        ranked = database.execute('SELECT "user", seq, ranks FROM outcomes').fetchall()
        applied = database.execute('SELECT "user", count(*), max(seq) FROM interactions GROUP BY "user"').fetchall()
    return {("outcome", *row) for row in ranked} | {("events", *row) for row in applied}


def disturbed(schedule: Schedule, cluster: Cluster, calm: Path, calm_s: float, out: Path) -> dict[str, Any]:
    """One run under its schedule; its row."""
    chance = random.Random(f"{schedule.seed}/{schedule.number}/which")  # noqa: S311 - it has to be repeatable
    began = time.monotonic()
    run = Run(out, cluster, schedule.workers)
    hit = []
    for kill in schedule.kills:
        time.sleep(max(0.0, began + kill.at * calm_s - time.monotonic()))
        if run.process.poll() is None and run.kill(kill.role, chance):
            hit.append(asdict(kill) | {"at": round(kill.at, 3)})
    error = run.wait(_PATIENCE_S - (time.monotonic() - began))
    cluster.wait()
    expected = json.loads((calm / "summary.json").read_text())
    row: dict[str, Any] = {
        "schedule": schedule.number,
        "seed": schedule.seed,
        "brokers": schedule.brokers,
        "workers": schedule.workers,
        "kills": hit,
        "lost": None,
        "doubled": None,
        "digest": None,
        "expected": expected["digest"],
        "seconds": round(time.monotonic() - began, 1),
    }
    if (out / "mc2sf.db").is_file():
        came, wanted = outcomes(out), outcomes(calm)
        row |= {"lost": len(wanted - came), "doubled": len(came - wanted)}
    if (out / "summary.json").is_file():
        row["digest"] = json.loads((out / "summary.json").read_text())["digest"]
    return row | ({"error": error} if error else {})


def good(row: dict[str, Any]) -> bool:
    """Whether a run came out as if nobody had disturbed it."""
    return not row["lost"] and not row["doubled"] and row["digest"] == row["expected"]


def chaos(home: Path, schedules: list[Schedule], folder: Path) -> Iterator[dict[str, Any]]:
    """Run the schedules, those of one number of brokers together; yields their rows. Folders of bad runs are kept."""
    for brokers in sorted({schedule.brokers for schedule in schedules}):
        with Cluster(home, folder / f"kafka-{brokers}", brokers) as cluster:
            calm, began = folder / f"calm-{brokers}", time.monotonic()
            if error := Run(calm, cluster, 1).wait(_PATIENCE_S):
                raise RuntimeError(f"the run that nobody disturbs fails: {error}")
            calm_s = time.monotonic() - began
            for schedule in schedules:
                if schedule.brokers != brokers:
                    continue
                out = folder / f"{schedule.seed}-{schedule.number}"
                row = disturbed(schedule, cluster, calm, calm_s, out)
                if good(row):
                    shutil.rmtree(out)
                yield row


def main() -> None:
    """Run what has no row yet; exit code 1 where any row is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="keeps the runs that went wrong [default: a temporary one]")
    options = parser.parse_args()
    home = os.environ.get("KAFKA_HOME")
    if home is None:
        parser.error("KAFKA_HOME is not set: chaos needs a real Apache Kafka")
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    done = {(row["schedule"], row["seed"]) for row in rows}
    wanted = [Schedule.draw(number, options.seed) for number in range(1, options.schedules + 1)]
    wanted = [schedule for schedule in wanted if (schedule.number, schedule.seed) not in done]
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.folder))
    with Progress() as progress:
        task = progress.add_task("schedules", total=len(wanted))
        for row in chaos(Path(home), wanted, folder):
            rows = sorted([*rows, row], key=lambda each: (each["seed"], each["schedule"]))
            options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
            progress.advance(task)
            if not good(row):
                progress.console.print(f"[red]schedule {row['schedule']}[/red]: {row}", highlight=False)
    bad = [row for row in rows if not good(row)]
    print(f"{len(rows)} schedules, {sum(len(row['kills']) for row in rows)} kills, {len(bad)} bad")
    if not bad:
        shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
