"""A small log for the experiments: users walk through their part of the catalogue and are shown the other parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploy.experiments.data.dataset import Dataset, load
from deploy.experiments.data.protocol import Protocol
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from deploy.experiments.training.trainer import Trainer
from replay.sources.source import Source, parse

ITEMS, PARTS = 60, 3
START = 1_600_000_000  # s
SMALL = Protocol(negatives=20, history=20, recent=10, short=5, threshold=4)
QUICK = Hyperparameters(dim=8, learning_rate=0.01, batch=64, negatives=8, ahead=False, epochs=2)
QUICK_SET = HyperparameterSet(**dict.fromkeys(HyperparameterSet().settings(), QUICK))


def write_log(path: Path, users: int = 24, clicks: int = 30, seed: int = 1) -> Source:
    """Write a CSV log with `clicks` clicks per user, each after an exposure of another part; return its source."""
    generator = np.random.default_rng(seed)
    size = ITEMS // PARTS
    lines = ["user,item,timestamp,event"]
    for user in range(users):
        part, start = user % PARTS, int(generator.integers(size))
        for i in range(clicks):
            other = (part + int(generator.integers(1, PARTS))) % PARTS
            shown = other * size + int(generator.integers(size))
            lines.append(f"u{user},{shown},{START + 2 * i + 1},exposure")
            lines.append(f"u{user},{part * size + (start + i) % (size - 1)},{START + 2 * i + 2},click")
    path.write_text("\n".join(lines) + "\n")
    return parse(f"log:{path}")


def dataset(folder: Path, protocol: Protocol = SMALL, **sizes: int) -> Dataset:
    return load(write_log(folder / "log.csv", **sizes), protocol, folder / "sorted")


def trainer(folder: Path, protocol: Protocol = SMALL, *, kind: type[Trainer] = Trainer, **sizes: int) -> Trainer:
    """Return a trainer on the log of `written`; `kind` is the class of it, for tests that watch its calls."""
    return kind(dataset(folder, protocol, **sizes), protocol, folder / "fits")
