"""A difference between a recorded value and the recomputed one, by user, event and field."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """A recorded value that differs from the recomputed one."""

    user: str
    event: str
    field: str
    recorded: object
    recomputed: object

    def __str__(self) -> str:
        """Return a sentence about it."""
        where = f"user {self.user!r}, {self.event}, {self.field}"
        return f"{where}: {_short(self.recorded)} is recorded, {_short(self.recomputed)} is right"


class DifferenceFound(Exception):  # noqa: N818 - a finding, not an error
    """The first difference, as its only argument."""


def require_equal(user: str, event: str, field: str, recorded: object, recomputed: object) -> None:
    """Raise DifferenceFound if the two values are not equal."""
    if recorded != recomputed:
        raise DifferenceFound(Difference(user, event, field, recorded, recomputed))


def _short(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
