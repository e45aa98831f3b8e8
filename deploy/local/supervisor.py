"""The supervisor of a local run: starts its processes, restarts the dead and the stuck ones, stops them.

A worker that can't guarantee correct state kills itself and relies on a restart, so a death is normal. A process that
dies repeatedly within a short time ends the run, with the end of its log. A process that runs but fails /healthz is
killed and restarted.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec
import psutil

from deploy.local import loopback
from deploy.local.broker import broker_command, free_port
from deploy.local.child_process import STOP_S, Child, ChildError
from deploy.local.forked_process import ENVIRONMENT, Preloader
from deploy.local.health_probes import UNHEALTHY_AFTER_S, HealthProbes
from replay.json_file import write_json
from streams.settings import Settings

RESTART_AFTER_S = 5.0  # delay before restarting a child that exited with 0 before the end of the run
TARGETS = "targets.json"  # in the folder of the logs: the processes of the run, for Prometheus

_READY_S = 1.0  # of one probe
_DEATHS_IN_A_ROW = 5
_HEALTHY_AFTER_S = 20.0
_MEASURE_S = 4.0  # between two measurements of memory, which walk over all processes of the machine, at least
_MEASURE_SHARE = 0.005  # of a core that they may take: the kernel walks over every page of a process


class Target(msgspec.Struct):
    """A process, an entry of TARGETS in the form of Prometheus' file-based service discovery."""

    targets: list[str]
    labels: dict[str, str]


class Supervisor:
    """The children of a run. A context whose end stops them."""

    def __init__(
        self,
        folder: Path,
        preloader: Preloader | None = None,
        *,
        restart_after_s: float = RESTART_AFTER_S,
        unhealthy_after_s: float = UNHEALTHY_AFTER_S,
    ) -> None:
        """`folder` is for logs; `restart_after_s` and `unhealthy_after_s` delay a restart and a kill."""
        self.folder, self._preloader, self._restart_after_s = folder, preloader, restart_after_s
        self.children: dict[str, Child] = {}
        self.peak_memory: dict[str, int] = {}
        self._measure_at = 0.0
        self._probes = HealthProbes(self._ports, unhealthy_after_s=unhealthy_after_s)
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._probes.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._probes.close()
        self.stop()
        for child in self.children.values():
            child.stop()

    def stop(self) -> None:
        """Stop all children but those that must live to the end of the run."""
        stopped = [child for child in self.children.values() if child.alive and not child.must_live]
        for child in stopped:
            child.terminate()  # all at once: each may need seconds, and none needs the others to stop
        deadline = time.monotonic() + STOP_S
        for child in stopped:
            child.wait(deadline - time.monotonic())

    def add_broker(self) -> str:
        """Start the embedded broker and return its address. Its death ends the run: its log is in memory."""
        port = free_port()
        self._add(Child("broker", broker_command(port), os.environ, self.folder / "broker.log", must_live=True))
        return f"127.0.0.1:{port}"

    def add(
        self, name: str, arguments: list[str], settings: Settings, *, restart: bool = True, niceness: int = 0
    ) -> Child:
        """Start `mc2sf ARGUMENTS` with `settings`, its own metrics port and its own state folder."""
        port = free_port()
        state = settings.state_dir / name
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MC2SF_")}
        environment |= settings.model_copy(update={"metrics_port": port, "state_dir": state}).environment()
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        log = self.folder / f"{name}.log"
        environment |= ENVIRONMENT
        return self._add(
            Child(name, command, environment, log, port, restart, niceness=niceness, preloader=self._preloader)
        )

    def _add(self, child: Child) -> Child:
        self.children = {**self.children, child.name: child}  # a new dict: the thread of the probes iterates over it
        self._start(child)
        write_json(self.folder / TARGETS, self.targets())  # a running Prometheus reads it
        return child

    def _start(self, child: Child) -> None:
        self._probes.began(child.metrics_port)
        child.start()

    def targets(self) -> list[Target]:
        """Return the addresses of /metrics of all children."""
        return [
            Target([f"127.0.0.1:{child.metrics_port}"], {"job": name.split("-")[0]})
            for name, child in self.children.items()
            if child.metrics_port
        ]

    def _ports(self) -> list[int]:
        return [child.metrics_port for child in self.children.values() if child.metrics_port]

    def ready(self) -> bool:
        """Return True if every process reports ready at /readyz."""
        try:
            for port in self._ports():
                loopback.get(port, "/readyz", _READY_S)
        except OSError:  # refused, too late, or 503
            return False
        return True

    def check(self) -> None:
        """Check every child once, and restart dead and stuck ones. Raises ChildError if one does not stay alive."""
        if time.monotonic() > self._measure_at:
            began = time.thread_time()
            self.measure()
            pause_s = max(_MEASURE_S, (time.thread_time() - began) / _MEASURE_SHARE)
            self._measure_at = time.monotonic() + pause_s
        if self._preloader is not None and not self._preloader.alive:
            self._preloader = None  # processes start by themselves from now on
        for child in self.children.values():
            if child.alive:
                self._kill_if_stuck(child)
            if not child.alive:
                self._restart(child)

    def measure(self) -> None:
        """Update the peak of the memory of each child with its own children, bytes; forked ones share most pages."""
        of_sessions: Counter[int] = Counter()  # each child leads a session of its own
        for member in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, ProcessLookupError):  # it has just ended
                linux = sys.platform == "linux"
                used = member.memory_full_info().pss if linux else member.memory_info().rss
                of_sessions[os.getsid(member.pid)] += used
        leaders = {name: child.process.pid for name, child in self.children.items() if child.process}
        if self._preloader is not None:
            leaders["preloader"] = self._preloader.pid
        for name, pid in leaders.items():
            self.peak_memory[name] = max(self.peak_memory.get(name, 0), of_sessions[pid])

    def _kill_if_stuck(self, child: Child) -> None:
        if time.monotonic() - child.started > _HEALTHY_AFTER_S:
            child.deaths_in_a_row = 0
        seconds = self._probes.unhealthy_for(child.metrics_port) if child.metrics_port else None
        if seconds is not None:
            child.note(f"killed: /healthz failed for {seconds:.0f} s")
            child.kill()

    def _restart(self, child: Child) -> None:
        """Restart a dead child, unless its work may be done. Raises ChildError if it must not be restarted."""
        code = (child.process and child.process.returncode) or 0
        if code == 0:
            child.ended = min(child.ended, time.monotonic())
            if not child.restart or time.monotonic() - child.ended < self._restart_after_s:
                return  # its work may be done: then the run ends in a moment
        child.deaths += 1
        child.deaths_in_a_row += code != 0
        lost = child.must_live or (code >= 0 and not child.restart)
        if lost or child.deaths_in_a_row >= _DEATHS_IN_A_ROW:
            raise ChildError(f"{child.name} ended with code {code}; the end of {child.log}:\n{child.tail()}")
        child.note(f"ended with code {code}, restarted")
        self._start(child)
