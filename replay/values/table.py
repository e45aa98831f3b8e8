"""Rows of a log on their way from a file to events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """Rows of a file under our names of columns, with the 1-based number of the line or row of each."""

    path: Path
    rows: pa.RecordBatch
    lines: npt.NDArray[np.int64]
    unit: Literal["line", "row"] = "line"

    def filter(self, kept: npt.NDArray[np.bool_]) -> Table:
        """Return the rows for which `kept` is true."""
        return replace(self, rows=self.rows.filter(pa.array(kept)), lines=self.lines[kept])
