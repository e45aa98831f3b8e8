"""A cell: the ranks of one model with one seed on one dataset, computed once and stored in a file."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct, structs

from deploy.experiments.results.result import ResultRow, Settings, UploadCosts
from models.atomic_file import write_atomically
from models.data.interaction_log import Ints
from models.evaluation.metrics import metrics


class Measured(UploadCosts, frozen=True, kw_only=True, omit_defaults=True):
    """The validation curves of a cell, and upload costs if they are measured."""

    validation: dict[str, list[float]]  # name of a fit -> NDCG@10 after each epoch


@dataclass(frozen=True)
class Cell:
    """The ranks of all test clicks [V], user by user, and the cost of training."""

    model: str
    seed: int
    ranks: Ints
    seconds: float
    epochs: int
    measured: Measured

    @property
    def metrics(self) -> dict[str, float]:
        """HR, NDCG and MRR over all test clicks."""
        return metrics(self.ranks)

    def row(self, varied: Settings) -> ResultRow:
        """Return the cell as a row of a result."""
        return ResultRow(
            model=self.model,
            seed=self.seed,
            metrics=self.metrics,
            seconds=round(self.seconds, 1),
            epochs=self.epochs,
            varied=varied,
            **structs.asdict(self.measured),
        )


class _File(Struct, frozen=True, kw_only=True):
    model: str
    seed: int
    seconds: float
    epochs: int
    note: Measured
    width: str = "<u2"  # old cells do not name it
    ranks: bytes  # little-endian, zlib; base64 in the file


def load_or_compute(path: Path, compute: Callable[[], Cell]) -> Cell:
    """Return the cell that is kept at `path`, or the result of `compute`, which is then kept there."""
    if path.exists():
        return _unpack(msgspec.json.decode(path.read_bytes(), type=_File))
    cell = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.encode(_pack(cell)) + b"\n")
    return cell


def _pack(cell: Cell) -> _File:
    width = "<u2" if cell.ranks.max(initial=0) < 1 << 16 else "<u4"
    ranks = zlib.compress(cell.ranks.astype(width).tobytes(), 9)
    return _File(
        model=cell.model,
        seed=cell.seed,
        seconds=cell.seconds,
        epochs=cell.epochs,
        note=cell.measured,
        width=width,
        ranks=ranks,
    )


def _unpack(file: _File) -> Cell:
    ranks = np.frombuffer(zlib.decompress(file.ranks), file.width).astype(np.int64)
    return Cell(file.model, file.seed, ranks, file.seconds, file.epochs, file.note)
