"""Consoles and tables of all commands. No text from outside (paths, ids, names, messages) is taken for markup."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import msgspec
from rich import table
from rich.console import Console, RenderableType
from rich.style import StyleType

PIPED_WIDTH = 200  # columns of output that is no terminal, unless COLUMNS is set


class Table(table.Table):
    """A table that never cuts a value: what is too long for its column goes on in the next line."""

    def add_row(self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False) -> None:
        """Add a row."""
        super().add_row(*cells, style=style, end_section=end_section)
        for column in self.columns:
            column.overflow = "fold"


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that interprets no markup: square brackets and `:names:` in a text are characters."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, width=width)


def print_json(value: object) -> None:
    """Write a value as JSON on standard output, and nothing else."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def never_fail(*streams: TextIO) -> None:
    """Write characters that a stream's encoding lacks as escapes: a terminal that is not UTF-8, names that are not."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
