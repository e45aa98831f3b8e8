"""A whole `mc2sf run` as a process, on the small log of benchmarks/faults."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.faults.whole_run import ARGUMENTS, SOURCE

PATIENCE_S = 580.0  # a busy machine is slow


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", "run", SOURCE, *ARGUMENTS, "--out", str(out), *more]


def run(out: Path, *more: str) -> dict[str, Any]:
    """Run to the end; return the summary."""
    done = subprocess.run(command(out, *more), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return summary(out)


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def shared_run(folder: Path) -> Path:
    """Return the folder of a run on the embedded broker and SQLite, which the first process to call this makes."""
    out = folder / "undisturbed"
    with (folder / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "summary.json").exists():
            run(out)
    return out
