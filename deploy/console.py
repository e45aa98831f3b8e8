"""The terminal of every command. Text from outside (paths, ids, names, messages) is printed as it is."""

from __future__ import annotations

from rich.console import Console


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that interprets no markup: square brackets and `:names:` in a text are characters."""
    return Console(stderr=stderr, markup=False, emoji=False)
