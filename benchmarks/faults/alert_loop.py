"""A free-running loop as processes that nobody restarts, and what Prometheus knows of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from benchmarks.servers.worker import wait_for
from deploy.gateway.api.tokens import add
from deploy.local import loopback
from deploy.local.broker import free_port
from deploy.local.child_process import Child
from deploy.local.forked_process import Preloader
from deploy.local.supervisor import Supervisor, Target
from deploy.runs import register_run, write_run_file
from replay.json_file import write_json
from replay.send.clock_file import ClockFile, ReplayChange
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.settings import Settings

SOURCE = "synthetic:users=100,items=105,groups=6,favourites=1"  # few groups: so few clicks suffice to learn
SPEED = 20.0  # events per second, of which a loaded machine takes each within a second
PROCESSES = {
    "coordinator": ["coordinator"],
    "recorder": ["recorder"],
    "learner": ["learner"],
    "retrain": ["retrain", "--every"],
    "cloud-1": ["worker", "cloud"],
    "device-1": ["worker", "device"],
    "device-2": ["worker", "device"],
}
_REPLAY = ["replay", SOURCE, "--speed", f"{SPEED:.0f}/s", "--epoch", "100", "--loops", "1000"]
_METHOD = {
    "lockstep": False,
    "evaluate": 0.5,
    "retrain_every": 5,
    "retrain_events": 20_000,
    "request_timeout_s": 10.0,
    "quality_span_s": 2 * 86_400.0,
    "partitions": 2,
}


class Loop:
    """The processes of a run. A context: its topics and its row exist within it, and all processes end with it."""

    def __init__(self, folder: Path, brokers: str, database: str, run: str = "alerts") -> None:
        self.folder, self.targets = folder, folder / "targets.json"
        fields = _METHOD | {"run": run, "brokers": brokers, "database": database, "state_dir": folder / "state"}
        self.settings = Settings.model_validate(fields)
        self._preloader = Preloader()
        self._supervisor = Supervisor(folder / "logs", self._preloader)
        self._hidden: set[str] = set()
        self.gateway_port = free_port()
        self.token = ""

    def __enter__(self) -> Self:
        engine = connect(self.settings.database.get_secret_value())
        register_run(self.settings, engine, SOURCE)
        engine.dispose()
        topic_admin.create(self.settings)
        write_run_file(self.folder, self.settings, SOURCE)
        write_json(self.targets, [])
        return self

    def __exit__(self, *_: object) -> None:
        self._supervisor.__exit__()
        self._preloader.__exit__()

    def __getitem__(self, name: str) -> Child:
        return self._supervisor.children[name]

    def start(self, *names: str, **settings: object) -> None:
        """Start processes of `PROCESSES`, or ones that were added, and name them to Prometheus.

        `settings` differ from those of the run.
        """
        own = self.settings.model_copy(update=settings)
        for name in names:
            if name in self._supervisor.children:
                self[name].start()
            else:
                self._supervisor.add(name, PROCESSES[name], own)
            self._hidden.discard(name)
        self._discover()

    def add(self, name: str, arguments: list[str], **settings: object) -> Child:
        """Start another process, and name it to Prometheus."""
        child = self._supervisor.add(name, arguments, self.settings.model_copy(update=settings))
        self._discover()
        return child

    def start_replay(self) -> None:
        """Start the replay, and a gateway beside it."""
        self.add("replay", _REPLAY)
        tokens = self.folder / "tokens.json"
        self.token = add(tokens, "device", ("ingest", "rank"), None)
        self.add("gateway", ["gateway", "serve", "--tokens", str(tokens), "--port", str(self.gateway_port)])

    def hide(self, *names: str) -> None:
        """Let Prometheus forget processes, as discovery by DNS does with those that are gone."""
        self._hidden.update(names)
        self._discover()

    def _discover(self) -> None:
        children = self._supervisor.children.items()
        shown = [
            Target([f"127.0.0.1:{child.metrics_port}"], {"job": name.split("-")[0]})
            for name, child in children
            if name not in self._hidden
        ]
        write_json(self.targets, shown)

    def ready(self, *names: str) -> bool:
        """Return whether each process answers at /readyz that it is ready."""
        try:
            for name in names:
                loopback.get(self[name].metrics_port, "/readyz", 2.0)
        except OSError:
            return False
        return True

    def until_ready(self, *names: str) -> None:
        """Wait until they are."""
        wait_for(lambda: self.ready(*names), f"{', '.join(names)} to be ready")

    def replay_at(self, speed: float | None = None, *, paused: bool = False) -> None:
        """Set the events per second of the replay."""
        ClockFile(self.settings.state_dir / "replay").change(ReplayChange(speed=speed, paused=paused))

    def command(self, *arguments: str) -> str:
        """Return what an `mc2sf` command prints, as an operator runs it. Raises CalledProcessError if it fails."""
        environment = os.environ | self.settings.environment()
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - ours
        return done.stdout + done.stderr
