"""A cell: one model, one seed, one dataset, one setting. It is computed once and kept as a file of its own."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.atomic_file import write_atomically
from models.data.interaction_log import Ints
from models.evaluation.metrics import metrics


@dataclass(frozen=True)
class Cell:
    """What one model gave with one seed: a rank for each test click, user by user."""

    model: str
    seed: int
    ranks: Ints
    seconds: float
    epochs: int
    note: dict[str, Any] = field(default_factory=dict)  # validation curves, bytes, whatever else is recorded

    @property
    def metrics(self) -> dict[str, float]:
        """HR, NDCG and MRR over all test clicks."""
        return metrics(self.ranks)

    @property
    def row(self) -> dict[str, Any]:
        """The cell as a row of a result."""
        figures = {"metrics": self.metrics, "seconds": round(self.seconds, 1), "epochs": self.epochs}
        return {"model": self.model, "seed": self.seed, **figures, **self.note}


def kept(path: Path, compute: Callable[[], Cell]) -> Cell:
    """The cell that `path` keeps, or what `compute` gives, which is kept there."""
    if path.exists():
        return _unpacked(json.loads(path.read_text()))
    cell = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(_packed(cell)) + "\n").encode())
    return cell


def _packed(cell: Cell) -> dict[str, Any]:
    width = "<u2" if cell.ranks.max(initial=0) < 1 << 16 else "<u4"
    ranks = base64.b64encode(zlib.compress(cell.ranks.astype(width).tobytes(), 9)).decode()
    return {
        "model": cell.model,
        "seed": cell.seed,
        "seconds": cell.seconds,
        "epochs": cell.epochs,
        "note": cell.note,
        "width": width,
        "ranks": ranks,  # little-endian, zlib, base64
    }


def _unpacked(values: dict[str, Any]) -> Cell:
    width = values.get("width", "<u2")  # cells from before there was another don't name it
    ranks = np.frombuffer(zlib.decompress(base64.b64decode(values["ranks"])), width).astype(np.int64)
    return Cell(values["model"], values["seed"], ranks, values["seconds"], values["epochs"], values["note"])
