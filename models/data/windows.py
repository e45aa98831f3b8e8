"""The window rule, which cuts a user's exposures into consecutive windows.

The open window closes with the exposure that fills it and, if an age is set, before an impression group that begins
later than that age after the window's first exposure. r2 is the GRU state over the last closed window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Exposures = TypeVar("Exposures", list[int], Ints)


@dataclass(frozen=True)
class WindowRule:
    """Largest number of exposures in a window, and the age in event time (ms) at which a window closes anyway."""

    threshold: int = 10
    window_age_ms: int | None = None

    def closes_by_count(self, open_count: int) -> bool:
        """Return True if an open window closes with its exposure number `open_count`."""
        return open_count >= self.threshold

    def closes_by_age(self, open_count: int, opened: int, now: int) -> bool:
        """Return True if a window opened at `opened` closes before an impression group that begins at `now` (ms)."""
        return open_count > 0 and self.window_age_ms is not None and now - opened > self.window_age_ms


@dataclass(slots=True)
class WindowCursor:
    """One user's windows during a walk over the events: positions in an array of exposures.

    The last closed window is [start, end), the open one [end, position). Before the first one closes start == end.
    """

    rule: WindowRule
    start: int
    end: int
    position: int
    number: int = 0  # of the last closed window, 0 = none
    opened: int = 0  # time of the open window's first exposure, ms

    @classmethod
    def at(cls, rule: WindowRule, position: int) -> WindowCursor:
        """Return the cursor of a user whose exposures begin at `position`."""
        return cls(rule, position, position, position)

    def begin_group(self, time: int) -> None:
        """Advance to the beginning of an impression group at `time` (ms)."""
        if self.rule.closes_by_age(self.position - self.end, self.opened, time):
            self._close()

    def expose(self, time: int) -> None:
        """Advance over one exposure at `time` (ms)."""
        if self.position == self.end:
            self.opened = time
        self.position += 1
        if self.rule.closes_by_count(self.position - self.end):
            self._close()

    def _close(self) -> None:
        """Close the open window."""
        self.start, self.end, self.number = self.end, self.position, self.number + 1


def split_windows(exposures: Exposures, open_count: int, closed_count: int) -> tuple[Exposures, Exposures]:
    """Return the exposures of the last closed window and those of the open one.

    `exposures` are oldest first and end with these `closed_count` and `open_count` ones. Raises ValueError if there
    are fewer.
    """
    end = len(exposures) - open_count
    if open_count < 0 or not 0 <= closed_count <= end:
        raise ValueError(
            f"{len(exposures)} exposures can't hold windows of {closed_count} closed and {open_count} open"
        )
    return exposures[end - closed_count : end], exposures[end:]


def closed_by_count(rule: WindowRule, exposures: Ints) -> tuple[Ints, Ints, Ints]:
    """Return start, end and number of the last closed window after a number of `exposures`, without an age: [M] each.

    Positions count from the user's first exposure. Start equals end if no window has closed.
    """
    number = exposures // rule.threshold
    end = number * rule.threshold
    return np.where(number > 0, end - rule.threshold, end), end, number
