"""The outages of `outages.py`: actions on a run in progress, its broker, its database and its disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil

from benchmarks.faults.disks import empty, fill
from benchmarks.faults.whole_run import Run
from benchmarks.servers.kafka import Cluster
from benchmarks.servers.postgres import Postgres
from deploy.local.broker import free_port
from deploy.local.child_process import die_with_parent
from deploy.runs import find
from replay.send.clock_file import ClockFile, ReplayChange

_NAP_S = 7.0  # longer than the session (6 s) and the poll interval below, but shorter than the supervisor's patience
_SHORT_POLL = {"MC2SF_POLL_INTERVAL_S": "3"}


@dataclass
class Scene:
    """A run in progress with its broker and database; `seconds` is the duration of the outage."""

    run: Run
    cluster: Cluster
    database: Postgres | None
    disk: Path | None
    seconds: float
    stack: ExitStack


@dataclass(frozen=True)
class Outage:
    """An action that returns when the outage is over, and the servers that the run needs for it."""

    act: Callable[[Scene], None]
    postgres: bool = True
    disk: str = ""  # the folder that is on a small disk
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
    """Fill the disk; start servers that exited over it again when it has space, as systemd does."""
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
    """Pause a process three times for a short time, and once so long that the supervisor replaces it."""

    def act(scene: Scene) -> None:
        for nap in (_NAP_S, _NAP_S, _NAP_S, scene.seconds):
            began, at = time.monotonic(), scene.run.epoch()
            sleeper = scene.run.processes(role)[0]
            sleeper.suspend()
            while time.monotonic() - began < nap and sleeper.is_running():
                time.sleep(0.1)
            with suppress(psutil.NoSuchProcess):
                sleeper.resume()
            if nap == _NAP_S:
                scene.run.until(at + 1)

    return act


def _scaled(scene: Scene) -> None:
    """Start two more workers of each kind; then kill one of each, which is not started again.

    The replay is paused until they have joined: on a busy machine it would be over before.
    """
    clock = ClockFile(scene.run.out / "state" / "replay")
    clock.change(ReplayChange(paused=True))
    more = {(role, number): _another(scene, role, number) for role in ("device", "cloud") for number in (2, 3)}
    while not all(_ready(port) for _, port in more.values()):
        if scene.run.process.poll() is not None:
            raise RuntimeError("the run ended before the workers had joined it")
        time.sleep(0.1)
    clock.change(ReplayChange(paused=False))
    scene.run.until(scene.run.epoch() + 1)
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
    """Start one more worker of a run, as by hand. Return it and the port of its metrics."""
    port, found = free_port(), find(str(scene.run.out))
    found.engine.dispose()
    own = {"metrics_port": port, "state_dir": scene.run.out.resolve() / "state" / f"{role}-by-hand-{number}"}
    environment = os.environ | found.settings.model_copy(update=own).environment()
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
