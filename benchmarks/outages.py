"""Whole runs in which something is away for a while: they recover without help, with the digest of a calm run.

`make outages SECONDS=60`: broker and database stopped or killed and started again, disks filled to the last byte,
consumers paused past session and poll interval, workers scaled from 1 to 3 to 2. Each run is on a Kafka and, where it
is not about SQLite, a PostgreSQL of its own. A row is written for each when it is over; what has its row is not run
again. Last come the takeovers of `takeover.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import sqlalchemy as sa
from rich.progress import Progress

from benchmarks.disks import empty, fill, small_disk
from benchmarks.takeover import takeovers
from benchmarks.whole_run import Run, compared, good
from deploy.broker import free_port
from deploy.runs import find
from deploy.stack import die_with_parent
from streams.patience import away
from streams.proposals import recorded
from tests.kafka_world import Cluster
from tests.postgres_world import Postgres

RESULT = Path(__file__).with_name("outages.json")
_PATIENCE_S = 600.0  # for one run: it then counts as stuck
_NAP_S = 7.0  # past the session (6 s) and the poll interval below, but before the stack kills what is silent
_SHORT_POLL = {"MC2SF_POLL_INTERVAL_S": "3"}
_DISK_MB = {"sqlite": 128, "postgresql": 400, "kafka": 128}


@dataclass
class Scene:
    """A run under way and what it stands on; `seconds` is how long the outage lasts."""

    run: Run
    cluster: Cluster
    database: Postgres | None
    disk: Path | None
    seconds: float
    stack: ExitStack

    def epoch(self) -> int:
        """The last epoch that is recorded, -1: none, or nobody can say."""
        if not (self.run.out / "run.json").is_file():
            return -1
        try:
            found = find(str(self.run.out))
            with found.engine.connect() as connection:
                row = recorded(connection, found.settings.run)
            found.engine.dispose()
        except (sa.exc.SQLAlchemyError, OSError) as error:
            if away(error):
                return -1
            raise
        return row[0] if row else -1

    def until(self, epoch: int) -> None:
        """Wait until an epoch is recorded. Raises RuntimeError where the run ends before."""
        while self.epoch() < epoch:
            if self.run.process.poll() is not None:
                raise RuntimeError(f"the run ended before epoch {epoch}: {(self.run.out / 'said').read_text()[-600:]}")
            time.sleep(0.1)


@dataclass(frozen=True)
class Outage:
    """What is done to a run (until the outage is over), and what the run stands on."""

    act: Callable[[Scene], None]
    postgres: bool = True
    disk: str = ""  # what stands on a small disk
    workers: int = 1
    environment: dict[str, str] = field(default_factory=dict)


def _broker_stopped(scene: Scene) -> None:
    (node,) = scene.cluster.nodes
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(scene.seconds)
    node.process.send_signal(signal.SIGCONT)


def _broker_killed(scene: Scene) -> None:
    (node,) = scene.cluster.nodes
    scene.cluster.kill(node)
    time.sleep(scene.seconds)
    scene.cluster.start(node)


def _database_stopped(scene: Scene) -> None:
    assert scene.database is not None
    scene.database.signal(signal.SIGSTOP)
    time.sleep(scene.seconds)
    scene.database.signal(signal.SIGCONT)


def _database_killed(scene: Scene) -> None:
    assert scene.database is not None
    scene.database.kill()
    time.sleep(scene.seconds)
    scene.database.start()


def _disk_full(scene: Scene) -> None:
    """Servers that end themselves on a full disk are started again when it is not full any more, as systemd does."""
    assert scene.disk is not None
    until = time.monotonic() + scene.seconds
    while time.monotonic() < until:
        fill(scene.disk)
        time.sleep(0.2)
    empty(scene.disk)
    for node in scene.cluster.nodes:
        if node.process is not None and node.process.poll() is not None:
            scene.cluster.start(node)
    database = scene.database
    if database is not None and database.process is not None and database.process.poll() is not None:
        database.start()


def _paused(role: str) -> Callable[[Scene], None]:
    """Three naps from which it wakes up, and one so long that the stack starts another in its place."""

    def act(scene: Scene) -> None:
        for nap in (_NAP_S, _NAP_S, _NAP_S, scene.seconds):
            began, at = time.monotonic(), scene.epoch()
            sleeper = scene.run.processes(role)[0]
            sleeper.suspend()
            while time.monotonic() - began < nap and sleeper.is_running():
                time.sleep(0.1)
            with suppress(psutil.NoSuchProcess):
                sleeper.resume()
            if nap == _NAP_S:
                scene.until(at + 1)

    return act


def _scaled(scene: Scene) -> None:
    """Two more workers of each kind join; then one of each is killed, and nobody starts it again."""
    more = {(role, number): _another(scene, role, number) for role in ("device", "cloud") for number in (2, 3)}
    while not all(_ready(port) for _, port in more.values()):
        if scene.run.process.poll() is not None:
            raise RuntimeError("the run ended before the workers had joined it")
        time.sleep(0.1)
    for role in ("device", "cloud"):
        process, _ = more[role, 2]
        process.kill()


def _ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except OSError:
        return False


def _another(scene: Scene, role: str, number: int) -> tuple[subprocess.Popen[bytes], int]:
    """One more worker of a run, as somebody starts it by hand, and the port of its metrics."""
    first, port = scene.run.processes(role)[0], free_port()
    state = str(scene.run.out.resolve() / "state" / f"{role}-by-hand-{number}")
    environment = first.environ() | {"MC2SF_METRICS_PORT": str(port), "MC2SF_STATE_DIR": state}
    with (scene.run.out / f"{role}-by-hand-{number}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-m", "deploy.cli", "worker", role],
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of libc, no Python lock is taken
        )
    scene.stack.callback(process.wait)
    scene.stack.callback(process.kill)
    return process, port


OUTAGES = {
    "broker stopped": Outage(_broker_stopped),
    "broker killed": Outage(_broker_killed),
    "postgresql stopped": Outage(_database_stopped),
    "postgresql killed": Outage(_database_killed),
    "disk of sqlite full": Outage(_disk_full, postgres=False, disk="sqlite"),
    "disk of postgresql full": Outage(_disk_full, disk="postgresql"),
    "disk of kafka full": Outage(_disk_full, disk="kafka"),
    "device paused": Outage(_paused("device"), workers=2, environment=_SHORT_POLL),
    "cloud paused": Outage(_paused("cloud"), workers=2, environment=_SHORT_POLL),
    "recorder paused": Outage(_paused("recorder"), environment=_SHORT_POLL),
    "learner paused": Outage(_paused("learner"), environment=_SHORT_POLL),
    "coordinator paused": Outage(_paused("coordinator"), environment=_SHORT_POLL),
    "workers 1, 3, 2": Outage(_scaled),
}


def suffered(home: Path, outage: Outage, seconds: float, calm: Path, folder: Path) -> dict[str, Any]:
    """One run with its outage; its row. `calm` is the folder of an undisturbed run."""
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
        scene.until(1)
        struck, at = time.monotonic(), scene.epoch()
        outage.act(scene)
        over = time.monotonic()
        row: dict[str, Any] = {"seconds": seconds, "at_epoch": at, "lasted_s": round(over - struck, 1)}
        reached = max(scene.epoch(), at)
        try:
            scene.until(reached + 1)
            row["recovered_s"] = round(time.monotonic() - over, 1)
        except RuntimeError as error:
            row["recovered_s"] = None
            row["error"] = str(error)
        if error_at_end := run.wait(_PATIENCE_S - (time.monotonic() - began)):
            row["error"] = error_at_end
        row |= compared(out, calm)
        if (out / "summary.json").is_file():
            row["restarts"] = json.loads((out / "summary.json").read_text())["restarts"]
        row["run_s"] = round(time.monotonic() - began, 1)
        if disk is not None and not good(row):  # it is gone with the disk
            shutil.copytree(out / "logs", folder / "logs")
    return row


def outages(home: Path, wanted: Mapping[str, Outage], seconds: float, folder: Path) -> Iterator[dict[str, Any]]:
    """Suffer the outages, after one calm run; yields their rows. Folders of bad runs are kept."""
    calm = folder / "calm"
    with Cluster(home, folder / "kafka-calm") as cluster:
        if error := Run(calm, cluster).wait(_PATIENCE_S):
            raise RuntimeError(f"the run that nobody disturbs fails: {error}")
    for name, outage in wanted.items():
        place = folder / name.replace(" ", "-").replace(",", "")
        row = {"outage": name, **suffered(home, outage, seconds, calm, place)}
        if good(row):
            shutil.rmtree(place)
        yield row


def main() -> None:
    """Run what has no row yet; exit code 1 where any row is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each outage lasts")
    parser.add_argument("--only", nargs="*", choices=OUTAGES, default=list(OUTAGES))
    parser.add_argument("--kills", type=int, default=8, help="takeovers that are timed; 0: none")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="keeps the runs that went wrong [default: a temporary one]")
    options = parser.parse_args()
    home = os.environ.get("KAFKA_HOME")
    if home is None:
        parser.error("KAFKA_HOME is not set: outages need a real Apache Kafka")
    result = json.loads(options.out.read_text()) if options.out.is_file() else {"rows": []}
    rows = result["rows"]
    done = {(row["outage"], row["seconds"]) for row in rows}
    wanted = {name: OUTAGES[name] for name in options.only if (name, options.seconds) not in done}
    folder = Path(tempfile.mkdtemp(prefix="outages-", dir=options.folder))
    with Progress() as progress:
        task = progress.add_task("outages", total=len(wanted))
        for row in outages(Path(home), wanted, options.seconds, folder) if wanted else ():
            rows.append(row)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
            progress.advance(task)
            if not good(row):
                progress.console.print(f"[red]{row['outage']}[/red]: {row}", highlight=False)
    bad = [row for row in rows if not good(row)]
    print(f"{len(rows)} outages, {len(bad)} bad")
    if options.kills and len(result.get("takeover", {}).get("kills", ())) < options.kills:
        result["takeover"] = takeovers(Path(home), options.kills, 1, folder / "takeover")
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"users are served again after {result['takeover']['p50_s']} s, at most {result['takeover']['max_s']} s")
    if not bad:
        shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
