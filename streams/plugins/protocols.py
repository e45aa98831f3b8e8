"""The protocol of each kind of plugin. A plugin is a class without arguments, or a function if it has only one method.

Item keys are 64-bit integers: `streams.records.item_key` gives that of an item's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Keys = NDArray[np.int64]
Event = tuple[str, str, int | float | str, Literal["click", "exposure"], str | int | None]
"""User, item, time (as in a log), event, and the impression or None."""


class LogSource(Protocol):
    """A log, named as `module:Class` or `module:Class:PARAMETERS`. Its class is called with PARAMETERS, a string.

    Laws: reading twice gives the same events; each event is valid as in a log of `log:FILE`.
    """

    files: Sequence[Path]  # what is read: if one changes, a log that was sorted before is read again

    def events(self) -> Iterable[Event]:
        """Yield the events in any order; those of equal time keep this one."""
        ...


class ExposurePolicy(Protocol):
    """A class that puts exposures before the clicks of a log without any; a new object for each reading of the log.

    It learns of an impression group only when `shown` has been called for all of its clicks: it never sees the future,
    nor the click that the exposures are shown with. Laws: the same log and seed give the same exposures; at most 100
    per click. Repeats and the clicked item are left out of what it returns.
    """

    def shown(self, user: str, time: int, random: Random) -> Sequence[str]:
        """Return the items shown to `user` before a click at event time `time`, ms. `random` is seeded per click."""
        ...

    def learn(self, user: str, item: str, time: int) -> None:
        """Take in an event of the log, in total order."""
        ...


@dataclass(frozen=True)
class Draw:
    """The facts about a click from which a candidate rule draws its negatives."""

    user: str
    target: int  # key of the clicked item
    catalogue: Keys  # keys of all items of the release in force
    clicks: Keys  # the user's last clicks before the impression group, oldest first
    count: int  # of negatives
    random: np.random.Generator  # seeded per click


class CandidateRule(Protocol):
    """Draws the negatives of a click; the list is shuffled afterwards. A logged slate is ranked as it is logged.

    Laws: at most `count` different keys of the catalogue, without the target; a function of the draw alone.
    """

    def __call__(self, draw: Draw) -> ArrayLike:
        """Return the keys of the negatives."""
        ...


class Metric(Protocol):
    """A ranking metric of a list with one relevant item.

    Laws: between 0 and 1, a function of its arguments alone, and not higher for a worse rank.
    """

    def __call__(self, rank: int, n: int) -> float:
        """Return the value of a list of `n` candidates with the clicked item at `rank`, from 1."""
        ...


@dataclass(frozen=True)
class Seen:
    """The knowledge of a device at a click, before its impression group. Arrays are not writable."""

    clicks: Keys  # the last L_F clicks, oldest first
    exposures: Keys  # the last L_F exposures, oldest first
    candidates: Keys  # [n]
    item_statistics: NDArray[
        np.uint8
    ]  # [n, 3]: buckets of share of clicks, of recent clicks, and of age; 0: never seen
    vectors: Callable[[Keys], NDArray[np.float32]]  # keys [k] -> item vectors of the release in force [k, d]


class Variant(Protocol):
    """A ranker on the device.

    Laws: one finite score per candidate, which depends on the candidate and on what is seen only: not on the other
    candidates, their order or earlier clicks, to the last bit.
    """

    def __call__(self, seen: Seen) -> ArrayLike:
        """Return the scores of the candidates, [n]; the highest ranks first."""
        ...
