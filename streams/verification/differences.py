"""A difference between what is recorded and what the log folds to, by user, event and field."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What is recorded otherwise than the log folds to."""

    user: str
    event: str
    field: str
    recorded: object
    folded: object

    def __str__(self) -> str:
        """In a sentence."""
        where = f"user {self.user!r}, {self.event}, {self.field}"
        return f"{where}: {_short(self.recorded)} is recorded, {_short(self.folded)} is right"


class DifferenceFound(Exception):  # noqa: N818 - a finding, not an error
    """The first difference, as its only argument."""


def same(user: str, event: str, name: str, recorded: object, folded: object) -> None:
    """Raise DifferenceFound where the two are not equal."""
    if recorded != folded:
        raise DifferenceFound(Difference(user, event, name, recorded, folded))


def _short(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
