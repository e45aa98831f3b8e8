from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.servers.worker import wait_for
from deploy.local.child_process import Child
from deploy.local.forked_process import MODULES, Preloader

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process starts by itself"),
]
TELLS = """
import json, os, random, sys, threading
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "environment": dict(os.environ),
    "arguments": sys.argv[1:], "threads": len(os.listdir("/proc/self/task")), "drawn": random.random(),
    "files": sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if int(n) < 3),
    "sockets": [n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}") and int(n) > 2],
}), flush=True)
print("and an error", file=sys.stderr)
if "wait" in sys.argv:
    import time
    time.sleep(600)
sys.exit(3)
"""
PLACE = ["importlib.metadata"] * 10  # as long as the commands of the tests


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    (tmp_path / "tells.py").write_text(TELLS)
    return tmp_path


@pytest.fixture
def preloader(folder: Path) -> Iterator[Preloader]:
    del folder
    with Preloader(PLACE) as preloader:
        yield preloader


def forked(preloader: Preloader, folder: Path, name: str, *arguments: str) -> Child:
    command = [sys.executable, "-m", "tells", *arguments]
    environment = {"PATH": os.environ["PATH"], "NAME": name, "ODD": "\udcff"}
    return Child(name, command, environment, folder / f"{name}.log", preloader=preloader)


def told(child: Child) -> dict[str, Any]:
    wait_for(lambda: child.log.exists() and "and an error\n" in child.log.read_text(), child.name)
    found: dict[str, Any] = json.loads(child.log.read_text().splitlines()[0])
    return found


def test_a_forked_process_is_like_one_that_was_started(preloader: Preloader, folder: Path) -> None:
    child = forked(preloader, folder, "one", "--every", "wait")
    child.start()
    said = told(child)
    assert child.process is not None
    assert said["pid"] == said["session"] == child.process.pid
    assert said["parent"] == os.getpid()
    assert said["environment"] == dict(child.environment)
    assert said["arguments"] == ["--every", "wait"]
    assert said["files"] == sorted(["/dev/null", str(child.log), str(child.log)])
    assert said["threads"] == 1
    assert psutil.Process(child.process.pid).cmdline()[: len(child.command)] == child.command
    child.stop()
    assert child.process.returncode == -signal.SIGTERM


def test_forked_processes_draw_different_numbers_and_their_exit_codes_are_seen(
    preloader: Preloader, folder: Path
) -> None:
    children = [forked(preloader, folder, name) for name in ("one", "two")]
    for child in children:
        child.start()
    one, two = map(told, children)
    assert one["drawn"] != two["drawn"]
    assert one["pid"] != two["pid"]
    for child in children:
        assert child.process is not None
        assert child.process.wait(20) == 3


def test_a_process_starts_by_itself_once_the_preloader_is_dead(preloader: Preloader, folder: Path) -> None:
    before, after = (forked(preloader, folder, name, "wait") for name in ("before", "after"))
    before.start()
    os.kill(preloader.pid, signal.SIGKILL)
    told(before)
    after.environment = os.environ | {"NAME": "after"}
    after.start()
    assert told(after)["environment"]["NAME"] == "after"
    assert before.alive
    before.kill()
    after.kill()
    assert before.process is not None
    assert before.process.returncode == -signal.SIGKILL


def test_forked_processes_and_the_preloader_do_not_outlive_a_killed_run(folder: Path) -> None:
    (folder / "killed.py").write_text(
        "import os, sys, time; from pathlib import Path; from deploy.local.child_process import Child\n"
        "from deploy.local.forked_process import Preloader\n"
        f"preloader = Preloader({PLACE!r})\n"
        "c = Child('c', [sys.executable, '-m', 'tells', 'wait'], os.environ, Path('c.log'), preloader=preloader)\n"
        "c.start(); print(c.process.pid, preloader.pid, flush=True); time.sleep(600)"
    )
    run = Child("run", [sys.executable, "-m", "killed"], os.environ, folder / "run.log")
    run.start()
    wait_for(lambda: run.log.read_text().endswith("\n"), "the run")
    orphans = [psutil.Process(int(pid)) for pid in run.log.read_text().split()]
    run.kill()
    wait_for(lambda: not any(o.is_running() and o.status() != psutil.STATUS_ZOMBIE for o in orphans), "their end")


@pytest.mark.slow
def test_what_is_preloaded_makes_no_thread_and_reads_no_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC2SF_SEED", "no number")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Preloader(MODULES) as preloader:
        child = forked(preloader, folder, "one")
        child.start()
        assert told(child)["threads"] == 1
        assert psutil.Process(preloader.pid).num_threads() == 1
        assert child.process is not None
        assert child.process.wait(20) == 3
