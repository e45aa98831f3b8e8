"""Errors of invalid input: the exceptions of all sources, and the counts of refused rows and of rows left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

OnError = Literal["stop", "skip"]
LISTED = 20  # refused rows that are listed one by one; the others are only counted


class SourceError(ValueError):
    """A log can't be read as requested. The message, which is shown to the user, names file, row and reason."""


class EmptyFileError(SourceError):
    """A file has no row; it is passed over if it is one of several parts of a log."""


class RowError(SourceError):
    """A row can't be read. `reason` is one of a few fixed phrases, `detail` shows the value that was found."""

    def __init__(self, path: Path, row: int, reason: str, detail: str = "", *, unit: str = "line") -> None:
        """`row` is 1-based: a line of a text file, or with `unit="row"` a row of a table."""
        self.path, self.row, self.reason, self.detail = path, row, reason, detail
        super().__init__(f"{path}, {unit} {row:,}: {reason}" + (f" ({detail})" if detail else ""))


class InvalidError(ValueError):
    """Values that are not a valid event. The reader of the file adds path and row and raises a RowError."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason} ({detail})")


def shown(value: object) -> str:
    """Return `value` for a message: quoted, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def shown_number(value: object) -> str:
    """Return an invalid number for a message, with a hint if it has a decimal comma."""
    comma = isinstance(value, str) and value.count(",") == 1 and value.replace(",", "").strip().isdecimal()
    return shown(value) + (": a decimal comma? a point is needed" if comma else "")


@dataclass
class RowErrors:
    """Invalid rows of a source: the first one is raised (`stop`), or all are counted by reason (`skip`)."""

    on_error: OnError = "stop"
    counts: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # valid rows that are not sent, by reason
    doubts: dict[str, tuple[int, list[str]]] = field(default_factory=dict)  # by finding: count and first locations
    files: list[Path] = field(default_factory=list)  # files read, in order
    line: int | None = None  # of the row that is being read, 1-based; None: unknown

    def add(self, error: RowError, rows: int = 1) -> None:
        """Count `rows` invalid rows, the first of which is `error`. Raises `error` if `on_error` is `stop`."""
        if self.on_error == "stop":
            raise error
        self.counts[error.reason] += rows
        if len(self.first) < LISTED:
            self.first.append(str(error))

    def doubt(self, finding: str, locations: Sequence[str], count: int | None = None) -> None:
        """Count what may be a mistake: `count` cases, the first of which are at `locations`; None: these are all."""
        earlier, first = self.doubts.get(finding, (0, []))
        total = earlier + (len(locations) if count is None else count)
        self.doubts[finding] = total, (first + list(locations[:LISTED]))[:LISTED]

    def opens(self, path: Path) -> None:
        """Note that the following rows are from `path`."""
        self.files.append(path)

    def location(self, file: int | None, line: int | None) -> str:
        """Return the location of a row as text, from its index in `files` and its line; "" if unknown."""
        if file is None or not 0 <= file < len(self.files):
            return ""
        path = self.files[file]
        return f"{path}, {'row' if path.suffix.lower() == '.parquet' else 'line'} {line:,}" if line else str(path)

    @property
    def total(self) -> int:
        """Number of invalid rows."""
        return self.counts.total()
