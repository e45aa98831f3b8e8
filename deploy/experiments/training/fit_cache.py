"""What a kept fit has beside its weights: what it cost, and a stand-in for fitting that is not to be done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy.experiments.training.minibatches import Draw
from models.atomic_file import write_atomically


class FitMissing(LookupError):  # noqa: N818 - nothing went wrong: an experiment has to come first
    """A fit is not kept, or not over."""


def refusing(name: str) -> Draw:
    """Epochs of a fit that is not to be done."""

    def epoch(number: int, _: np.random.Generator) -> Iterator[Any]:
        raise FitMissing(f"{name} is fitted for {number} epochs so far" if number else f"{name} is not fitted")

    return epoch


class Clock:
    """The seconds of each epoch of a fit, kept beside it: a fit that was cut still knows what it cost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: list[float] = json.loads(path.read_text()) if path.exists() else []
        self._begun = time.perf_counter()

    def tick(self, epoch: int) -> None:
        """Say that `epoch` is over."""
        now = time.perf_counter()
        self.seconds[epoch:] = [now - self._begun]
        self._begun = now
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(self.seconds).encode())
