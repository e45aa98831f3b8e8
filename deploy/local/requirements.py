"""Estimates of the memory and the disk that a run needs, from its plan.

The constants are upper estimates from finished runs (`peak_memory_mb` in their summary.json, and the size of their
folders): synthetic users, MovieLens and Steam with 3,000 to 1,000,000 events.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console

from replay.prepare.plan import Plan
from streams.settings import Settings

_KB, _MB, _GB = 10**3, 10**6, 10**9
_PROCESSES, _TWO_WORKERS = 1_100 * _MB, 250 * _MB  # memory before the first event; two more workers
_EVENT, _USER, _RANKED = 900, 8 * _KB, 45 * _KB  # memory
_EVENT_ON_DISK, _RANKED_ON_DISK, _WRITE_AHEAD = 250, 20 * _KB, 64 * _MB  # disk


class Requirements(NamedTuple):
    """Bytes of memory and of disk."""

    memory: int
    disk: int


def requirements(plan: Plan, settings: Settings, workers: int) -> Requirements:
    """Return what a run with the embedded broker and SQLite needs."""
    ranked = int(plan.contents.clicks * plan.loops * settings.evaluate)
    users = _USER * plan.contents.users
    memory = _PROCESSES + (workers - 1) * _TWO_WORKERS + _EVENT * plan.events + users + _RANKED * ranked
    return Requirements(memory, _WRITE_AHEAD + _EVENT_ON_DISK * plan.events + _RANKED_ON_DISK * ranked)


def print_requirements(needed: Requirements, folder: Path, console: Console) -> None:
    """Print what a run needs beside what the machine has; warn if it has less."""
    has = Requirements(psutil.virtual_memory().available, shutil.disk_usage(folder).free)
    console.print(
        f"needs about {needed.memory / _GB:.1f} GB of memory ({has.memory / _GB:.1f} GB are available) and "
        f"{needed.disk / _GB:.1f} GB of disk ({has.disk / _GB:.1f} GB are free)"
    )
    for name, of, there in zip(("memory", "disk"), needed, has, strict=True):
        if of > there:
            console.print(
                f"warning: there may be too little {name}: replay a part (--limit, --users), or have Kafka and "
                "PostgreSQL on other machines (--brokers, --database)",
                style="yellow",
            )
