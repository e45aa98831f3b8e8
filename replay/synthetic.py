"""Synthetic users of known predictability: what the next click depends on is visible in the log, and stated here.

Items belong to groups. A user has a few favourite groups for good. Before each click a screen shows two items that are
not clicked; a service picks their groups from the user's past clicks and keeps pushing each for a while. The click is

- with probability FLOW from the group that follows the group of the last click (a fixed cycle): the last click says it;
- with probability TASTE from a favourite group: the long history says which those are;
- else any item, by popularity;

except that a group which made up TIRED or more of the last RING exposures is not clicked for its own sake: a flow into
it turns into taste, and taste avoids it. So long history, last clicks and exposures each say something that the others
do not. With `noise` a click is, with that probability, any item at all: at 1 there is nothing to be learnt.
`optimum.py` computes the best that any ranker can reach. Exposures bear no impression, so that candidates are sampled
and chance and popularity have their plain meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from replay.refusals import SourceError
from replay.rows import ROWS
from streams.records import Kind

FLOW, TASTE = 0.4, 0.45
RING, TIRED = 10, 3  # exposures looked at; how many of them in one group tire a user of it
SHOWN = 2  # exposures before each click
KEPT = 0.9  # probability that a pushed group is pushed on the next screen again
BLOCK = 1000  # users made at a time

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Synthetic:
    """The parameters of `synthetic:users=...,items=...`."""

    users: int = 1000
    items: int = 500
    clicks: int = 30  # a user's mean; the number lies between half and one and a half of it
    groups: int = 20
    favourites: int = 4
    days: int = 14
    noise: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises SourceError for parameters that make no log."""
        if not (self.users >= 1 and self.clicks >= 2 and self.days >= 1 and self.seed >= 0 and 0 <= self.noise <= 1):
            raise SourceError("synthetic: users, days >= 1, clicks >= 2, seed >= 0 and noise within 0..1 are needed")
        if not 1 <= self.favourites < self.groups <= self.items:
            raise SourceError("synthetic: 1 <= favourites < groups <= items is needed")

    @cached_property
    def follows(self) -> Ints:
        """The group that follows each group, [groups]: one cycle through all of them."""
        cycle = np.random.default_rng([self.seed, 1]).permutation(self.groups)
        follows = np.empty(self.groups, np.int64)
        follows[cycle] = np.roll(cycle, -1)
        return follows

    @cached_property
    def group(self) -> Ints:
        """The group of each item, [items]."""
        return np.arange(self.items) % self.groups

    @cached_property
    def within(self) -> Floats:
        """The probability of each item given its group, [items]: mildly skewed."""
        weight = 1.0 / np.sqrt(3.0 + np.arange(self.items) // self.groups)
        share: Floats = weight / np.bincount(self.group, weight)[self.group]
        return share

    @cached_property
    def popular(self) -> Floats:
        """The probability of each item where a click is by popularity, [items]."""
        weight = 1.0 / np.sqrt(3.0 + np.arange(self.items) // self.groups)
        share: Floats = weight / weight.sum()
        return share

    def batches(self) -> Iterator[Any]:
        """The log as batches of `rows.ROWS`, user by user."""
        for first in range(0, self.users, BLOCK):
            yield self._log(first, Traces(self, first, min(BLOCK, self.users - first)))

    def _log(self, first: int, traces: Traces) -> Any:
        users, steps = traces.item.shape
        items = np.concatenate([traces.shown, traces.item[:, :, None]], axis=2)  # [users, steps, SHOWN + 1]
        lag = np.append(-1000 * np.arange(SHOWN, 0, -1), 0)
        times = traces.time[:, :, None] + lag
        kinds = np.broadcast_to(np.append(np.full(SHOWN, Kind.EXPOSURE), Kind.CLICK), items.shape)
        there = np.broadcast_to((np.arange(steps) < traces.length[:, None])[:, :, None], items.shape)
        names = np.broadcast_to((first + 1 + np.arange(users))[:, None, None], items.shape)[there]
        return pa.record_batch(
            [
                pa.array(np.char.add("u", names.astype(str)), pa.string()),
                pa.array((items[there] + 1).astype(str), pa.string()),
                pa.array(times[there]),
                pa.array(kinds[there].astype(np.int8)),
                pa.array(np.zeros(there.sum(), np.int64)),
            ],
            schema=ROWS,
        )


class Traces:
    """What a block of users was shown and clicked, with the latent groups that `optimum.py` needs to be checked."""

    def __init__(self, world: Synthetic, first: int, users: int) -> None:
        """Draw users `first` .. `first + users - 1`; the same world and block always give the same traces."""
        chance = np.random.default_rng([world.seed, 2, first])
        steps = world.clicks + world.clicks // 2
        self.length: Ints = chance.integers(world.clicks - world.clicks // 2, steps + 1, users)
        order = chance.random((users, world.groups)).argsort(axis=1)
        self.favourite = np.zeros((users, world.groups), bool)
        np.put_along_axis(self.favourite, order[:, : world.favourites], values=True, axis=1)
        self.item = np.empty((users, steps), np.int64)
        self.shown = np.empty((users, steps, SHOWN), np.int64)
        self.tired = np.empty((users, steps, world.groups), bool)  # of each group, when step's click is made
        self.time = _times(chance, world.days, users, steps)
        clicked = np.zeros((users, world.groups))
        pushed = chance.integers(0, world.groups, (users, SHOWN))
        ring = np.full((users, RING), -1)
        last = chance.integers(0, world.groups, users)
        self.before = last.copy()  # the group that the first click flows from: nobody can know it
        for step in range(steps):
            pushed = _push(chance, pushed, clicked)
            self.shown[:, step] = _item_of(world, pushed, chance.random(pushed.shape))
            ring = np.concatenate([ring[:, SHOWN:], pushed], axis=1)
            tired = (ring[:, :, None] == np.arange(world.groups)).sum(axis=1) >= TIRED
            item = _click(world, chance, last, tired, self.favourite)
            self.tired[:, step], self.item[:, step] = tired, item
            last = world.group[item]
            clicked[np.arange(users), last] += 1


def _push(chance: np.random.Generator, pushed: Ints, clicked: Floats) -> Ints:
    """The groups pushed on the next screen, [users, SHOWN]: kept, or that of a past click; blind to favourites."""
    again = (chance.random(pushed.shape) < KEPT) | (clicked.sum(axis=1) == 0)[:, None]
    total = np.cumsum(clicked, axis=1)
    at = chance.random(pushed.shape) * np.maximum(total[:, -1:], 1)
    drawn = (at[:, :, None] >= total[:, None, :]).sum(axis=2).clip(max=clicked.shape[1] - 1)
    return np.where(again, pushed, drawn)


def _click(world: Synthetic, chance: np.random.Generator, last: Ints, tired: Any, favourite: Any) -> Ints:
    """One click a user, [users]."""
    users = np.arange(len(last))
    reason = chance.random(len(last))
    follows = world.follows[last]
    wanted = favourite & ~tired
    wanted = np.where(wanted.any(axis=1)[:, None], wanted, favourite)
    taste = (chance.random(wanted.shape) * wanted).argmax(axis=1)
    flows = (reason < FLOW) & ~tired[users, follows]
    item = _item_of(world, np.where(flows, follows, taste), chance.random(len(last)))
    item = np.where(reason < FLOW + TASTE, item, _draw(world.popular, chance.random(len(last))))
    anything = chance.integers(0, world.items, len(last))
    return np.where(chance.random(len(last)) < world.noise, anything, item)


def _item_of(world: Synthetic, groups: Ints, at: Floats) -> Ints:
    """An item of each group, by the probabilities within it."""
    size = -(-world.items // world.groups)
    padded = np.zeros(size * world.groups)
    padded[: world.items] = world.within
    total = np.cumsum(padded.reshape(size, world.groups), axis=0).T  # [groups, size]
    place = (at[..., None] >= total[groups]).sum(axis=-1)
    place = np.minimum(place, (np.bincount(world.group) - 1)[groups])
    drawn: Ints = place * world.groups + groups
    return drawn


def _draw(probability: Floats, at: Floats) -> Ints:
    return np.minimum(np.searchsorted(np.cumsum(probability), at, side="right"), len(probability) - 1)


def _times(chance: np.random.Generator, days: int, users: int, steps: int) -> Ints:
    """Click times in ms, [users, steps]: sittings of about six clicks a minute apart, spread over the days."""
    minute = np.maximum(chance.exponential(60_000, (users, steps)), 5_000)
    away = chance.exponential(1.0, (users, steps)) * (chance.random((users, steps)) < 1 / 6)
    away *= days * 86_400_000 / np.maximum(away.sum(axis=1, keepdims=True), 1.0) * 0.9
    start = 1_700_000_000_000 + chance.random((users, 1)) * days * 8_640_000
    return np.asarray(start + np.cumsum(minute + away, axis=1), np.int64)
