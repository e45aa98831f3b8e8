"""Files are replaced and never overwritten: a process that has the old file open reads it to its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.experiments.training.fit_cache import EpochTimer
from deploy.local.broker import free_port
from deploy.local.child_process import Child
from deploy.local.supervisor import TARGETS, Supervisor
from deploy.runs import RUN_FILE, write_run_file
from models.atomic_file import atomically, write_atomically
from replay.json_file import write_json
from streams.settings import Settings


def test_an_interrupted_write_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_atomically(path, b"old")

    def cut() -> None:
        with atomically(path) as part:
            part.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def a_clock(folder: Path) -> tuple[Path, Callable[[int], object]]:
    return folder / "seconds.json", EpochTimer(folder / "seconds.json").tick


def a_run_file(folder: Path) -> tuple[Path, Callable[[int], object]]:
    return folder / RUN_FILE, lambda n: write_run_file(folder, Settings(run=f"run-{n}"), "synthetic")


def targets(folder: Path) -> tuple[Path, Callable[[int], object]]:
    stack = Supervisor(folder)

    def write(n: int) -> None:
        child = stack._add(Child(f"c{n}", ["true"], os.environ, folder / "log", free_port()))
        assert child.process is not None
        child.process.wait(20)

    return folder / TARGETS, write


def a_document(folder: Path) -> tuple[Path, Callable[[int], object]]:
    return folder / "summary.json", lambda n: write_json(folder / "summary.json", {"n": n})


@pytest.mark.parametrize("writer", [a_clock, a_run_file, pytest.param(targets, marks=pytest.mark.process), a_document])
def test_a_file_is_replaced_and_not_written_over(
    tmp_path: Path, writer: Callable[[Path], tuple[Path, Callable[[int], object]]]
) -> None:
    path, write = writer(tmp_path)
    write(0)
    before = path.read_bytes()
    os.link(path, tmp_path / "as it was")
    write(1)
    assert (tmp_path / "as it was").read_bytes() == before
    assert path.read_bytes() != before
