"""The training time stored with each fit, and the error for a fit that should be in the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Never

import numpy as np

from deploy.experiments.training.minibatches import Draw
from models.atomic_file import write_atomically


class FitMissing(LookupError):  # noqa: N818 - not an error: an experiment has to be run first
    """A fit is not in the cache or not finished."""


def missing_fit(name: str) -> Draw:
    """Return epochs that raise FitMissing, for a fit that must not be computed."""

    def epoch(number: int, _: np.random.Generator) -> Iterator[Never]:
        raise FitMissing(f"{name} is fitted for {number} epochs only" if number else f"{name} is not fitted")

    return epoch


class EpochTimer:
    """The seconds of each epoch of a fit, kept in a file so that an interrupted fit counts its whole cost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: list[float] = json.loads(path.read_text()) if path.exists() else []
        self._begun = time.perf_counter()

    def tick(self, epoch: int) -> None:
        """Record the end of `epoch`."""
        now = time.perf_counter()
        self.seconds[epoch:] = [now - self._begun]
        self._begun = now
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(self.seconds).encode())
