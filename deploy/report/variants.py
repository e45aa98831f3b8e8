"""The order of the variants in tables and charts."""

from __future__ import annotations

from collections.abc import Iterable

# in the order of their colours; other variants follow
VARIANTS = ("mc2sf", "fast", "f2s", "din", "river", "popularity", "random", "served")


def ordered(names: Iterable[str]) -> list[str]:
    """Return variants in the order of their colours, unknown ones at the end."""
    return sorted(names, key=lambda name: (VARIANTS.index(name) if name in VARIANTS else len(VARIANTS), name))
