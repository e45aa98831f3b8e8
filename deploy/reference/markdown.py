"""A page of Markdown under construction, and the entries in it that lack a description."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_GENERATED = "Generated from the code by `make docs`. Do not edit.\n"


@dataclass
class Page:
    """Text of a page, and the names of what has no description."""

    text: str
    missing: list[str] = field(default_factory=list)

    @classmethod
    def titled(cls, title: str, introduction: str) -> Page:
        """Begin a page."""
        return cls(f"# {title}\n{_GENERATED}\n{introduction}\n")

    def section(self, title: str, text: str = "") -> None:
        """Begin a section."""
        self.text += f"\n## {title}\n" + (f"{text}\n\n" if text else "\n")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table. The last cell of a row describes its first one; a row without description is missing."""
        self.text += f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n"
        for row in rows:
            if not row[-1]:
                self.missing.append(row[0])
            self.text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n"


def code(text: object) -> str:
    """Return `text` as inline code, or nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def sentence(text: str) -> str:
    """Return a description on one line, capitalised unless it begins with a name or code."""
    line = " ".join(text.split())
    return line[:1].upper() + line[1:] if re.match(r"[a-z]+([-'][a-z]+)*([ ,:;]|$)", line) else line


def prose(documented: object) -> str:
    """Return a docstring without its first paragraph, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[2].split())
