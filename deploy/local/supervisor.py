"""The local stack: the processes of a run as children of this one, watched, restarted when they die, stopped in order.

A worker that can't keep a promise ends itself hard and counts on being started again, so a death is normal; a process
that dies over and over without living for a while ends the run with the tail of its log. One that lives but gives no
good answer on /healthz any more is killed, and started again as well.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.broker import broker_command, free_port
from deploy.local.health_probes import SILENT_S, Probes
from replay.json_file import write_json
from streams.settings import Settings

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_DEATHS_IN_A_ROW = 5
_HEALTHY_AFTER_S = 20.0
_PATIENCE_S = 15.0  # with a child that was told to stop
RESTART_AFTER_S = 5.0  # delay before restarting a child that exited with 0 before the end of the run
_MEASURE_S = 1.0  # between two looks at memory, which cost a walk over all processes of the machine
TARGETS = "targets.json"  # in the stack's folder: what a Prometheus reads to find the processes of the run


class StackError(RuntimeError):
    """A process of the stack would not stay alive."""


def die_with_parent() -> None:
    """Have the kernel end this child when its parent is killed: no orphan holds a port or a database."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One process: what it runs, where it logs, and what was seen of it."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    metrics_port: int = 0
    restart: bool = True  # False: an end of its own is its end, whatever the code; a killed one is started again
    must_live: bool = False  # its death is the end of the run
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    deaths_in_a_row: int = 0
    peak_memory: int = 0
    samples: dict[str, float] = field(default_factory=dict)
    ended: float = math.inf  # when it was seen first that it had ended by itself, and well

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, appending to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop the children in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of libc, no Python lock is taken
            )
        self.started, self.ended = time.monotonic(), math.inf

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def note(self, sentence: str) -> None:
        """Add what was done to it to its log."""
        with suppress(OSError), self.log.open("a") as log:  # its disk may be full
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} the stack: {sentence}\n")

    def measure(self) -> None:
        """Note the resident memory of the process and its children, bytes."""
        try:
            process = psutil.Process(self.process.pid if self.process else 0)
            family = [process, *process.children(recursive=True)]
            self.peak_memory = max(self.peak_memory, sum(member.memory_info().rss for member in family))
        except psutil.Error:
            pass  # it ended between two looks

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def scrape(self) -> None:
        """Read its /metrics into `samples`; a process that does not answer keeps what was read before."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            return
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                self.samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value


class Stack:
    """The children of a run. A context: everything is stopped at its end, the last started first."""

    def __init__(self, folder: Path, *, restart_after_s: float = RESTART_AFTER_S, silent_s: float = SILENT_S) -> None:
        self.folder, self._restart_after_s = folder, restart_after_s
        self.children: dict[str, Child] = {}
        self._measured = 0.0
        self._probes = Probes(self._ports, silent_s=silent_s)
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._probes.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._probes.close()
        last_first = [child for child in reversed(self.children.values()) if child.alive]
        for child in last_first:
            if child.process is not None and not child.must_live:
                child.process.terminate()  # all at once: each may need seconds, and nobody is lost without the others
        until = time.monotonic() + _PATIENCE_S
        for child in last_first:
            if not child.must_live:
                self._await(child, until - time.monotonic())
        for child in last_first:
            self.stop(child)

    def add_broker(self) -> str:
        """Start the embedded broker; return its address. It must not die: its log is in memory."""
        port = free_port()
        self._add(Child("broker", broker_command(port), os.environ, self.folder / "broker.log", must_live=True))
        return f"127.0.0.1:{port}"

    def add(self, name: str, arguments: list[str], settings: Settings, *, restart: bool = True) -> Child:
        """Start `mc2sf ARGUMENTS` under `settings`, with a metrics port of its own."""
        port = free_port()
        state = settings.state_dir / name
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MC2SF_")}
        environment |= settings.model_copy(update={"metrics_port": port, "state_dir": state}).environment()
        # threads that wait must not spin: the processes share the cores, and a spinning one starves the others
        environment |= {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        return self._add(Child(name, command, environment, self.folder / f"{name}.log", port, restart))

    def _add(self, child: Child) -> Child:
        self.children = {**self.children, child.name: child}  # anew: the probes' thread walks over it
        self._start(child)
        write_json(self.folder / TARGETS, self.targets())  # a running Prometheus reads it
        return child

    def _start(self, child: Child) -> None:
        self._probes.began(child.metrics_port)
        child.start()

    def targets(self) -> list[dict[str, Any]]:
        """Return where the children serve /metrics, in the form of Prometheus' file-based discovery."""
        return [
            {"targets": [f"127.0.0.1:{child.metrics_port}"], "labels": {"job": name.split("-")[0]}}
            for name, child in self.children.items()
            if child.metrics_port
        ]

    def _ports(self) -> list[int]:
        return [child.metrics_port for child in self.children.values() if child.metrics_port]

    def watch(self) -> None:
        """Look after every child once: restart the dead. Raises StackError where one would not stay alive."""
        measure = time.monotonic() - self._measured > _MEASURE_S
        if measure:
            self._measured = time.monotonic()
        for child in self.children.values():
            if child.alive:
                if measure:
                    child.measure()
                if time.monotonic() - child.started > _HEALTHY_AFTER_S:
                    child.deaths_in_a_row = 0
                silent_s = self._probes.silent(child.metrics_port) if child.metrics_port else None
                if silent_s is None:
                    continue
                child.note(f"killed: no good answer on /healthz for {silent_s:.0f} s")
                child.kill()
            code = child.process.returncode if child.process else 0
            if code == 0:
                child.ended = min(child.ended, time.monotonic())
                if not child.restart or time.monotonic() - child.ended < self._restart_after_s:
                    continue  # its work is done, or may be: then the run is over in a moment
            child.deaths += 1
            child.deaths_in_a_row += 1
            lost = child.must_live or (code >= 0 and not child.restart)
            if lost or child.deaths_in_a_row >= _DEATHS_IN_A_ROW:
                raise StackError(f"{child.name} ended with code {code}; the end of {child.log}:\n{child.tail()}")
            child.note(f"ended with code {code}, started again")
            self._start(child)

    def stop(self, child: Child, patience_s: float = _PATIENCE_S) -> None:
        """Stop a child: SIGTERM, then SIGKILL."""
        if child.process is not None and child.alive:
            child.process.terminate()
            self._await(child, patience_s)

    def _await(self, child: Child, patience_s: float) -> None:
        assert child.process is not None
        try:
            child.process.wait(max(patience_s, 0.01))
        except subprocess.TimeoutExpired:
            child.kill()
