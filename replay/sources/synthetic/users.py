"""Generator of synthetic users of known predictability: the next click depends on what is visible in the log.

Items belong to groups. A user has a few favourite groups that never change, and the log begins with PAST clicks on each
(past clicks enter histories and are never ranked). Before each later click a screen shows SHOWN items that are not
clicked; their groups are drawn from the clicks of the user, and each group is shown for a while. The click is then

- with probability FLOW from the group that follows the group of the last click in a fixed cycle;
- with probability TASTE from a favourite group, which the long history shows;
- else any item, by popularity;

except that taste skips the groups of the last RECENT clicks, for variety, and neither taste nor flow chooses groups
with TIRED or more of the last RING exposures. So long history, last clicks and exposures each carry information that
the others lack. With `noise` a click is, with that probability, any item: at 1 nothing can be learnt. The optimum is
computed in optimum.py. Exposures have no impression, so candidates are sampled, and chance and popularity
keep their usual meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from replay.errors import SourceError
from replay.sources.schema import ROWS
from streams.records import Kind

FLOW, TASTE = 0.35, 0.55
PAST = 1  # past clicks on each favourite group
RECENT = 3
RING, TIRED = 10, 2
SHOWN = 1
KEPT = 0.9  # probability that a group is on the next screen as well
BLOCK = 1000  # users generated at a time
MAXIMA = {"users": 10**9, "items": 10**6, "clicks": 10**4, "groups": 10**3, "days": 36_500}  # a block is held in memory
START = 1_700_000_000_000  # ms; past clicks lie in the day before

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Synthetic:
    """The parameters of `synthetic:users=...,items=...`, and the distributions that follow from them."""

    users: int = 1000
    items: int = 200
    clicks: int = 45  # mean per user; the number is between 0.5 and 1.5 times the mean
    groups: int = 20
    favourites: int = 5
    days: int = 14
    noise: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Raise SourceError for parameters that make no log."""
        if not (self.users >= 1 and self.clicks >= 2 and self.days >= 1 and self.seed >= 0 and 0 <= self.noise <= 1):
            raise SourceError("synthetic: users, days >= 1, clicks >= 2, seed >= 0 and noise within 0..1 are needed")
        for name, largest in MAXIMA.items():
            if getattr(self, name) > largest:
                raise SourceError(f"synthetic: {name}={getattr(self, name)} is too many: at most {largest:,}")
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
    def popular(self) -> Floats:
        """The probability of each item if a click is by popularity, [items]: mildly skewed."""
        weight = 1.0 / (2.0 + np.arange(self.items) // self.groups)
        share: Floats = weight / weight.sum()
        return share

    @cached_property
    def within(self) -> Floats:
        """The probability of each item given its group, [items]."""
        share: Floats = self.popular / np.bincount(self.group, self.popular)[self.group]
        return share

    def reasons(self, favourite: Bools, last: Ints, recent: Bools, tired: Bools) -> Floats:
        """Return the probability of a click into each group by flow or taste, [users, groups].

        All arguments but `last`, the group of the last click [users], are [users, groups].
        """
        users = np.arange(len(last))
        flow = np.zeros(favourite.shape)
        flow[users, self.follows[last]] = FLOW
        flow *= ~tired
        liked = favourite & ~tired & ~recent
        for wider in (favourite & ~recent, favourite):  # if no group is left
            liked = np.where(liked.any(axis=1, keepdims=True), liked, wider)
        taste = (FLOW + TASTE - flow.sum(axis=1, keepdims=True)) / liked.sum(axis=1, keepdims=True)
        probability: Floats = flow + taste * liked
        return probability

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the log as batches of `schema.ROWS`, a block of users at a time: past clicks, then later events."""
        for first in range(0, self.users, BLOCK):
            yield from Traces(self, first, min(BLOCK, self.users - first)).batches()


class Traces:
    """The exposures and clicks of a block of users."""

    def __init__(self, world: Synthetic, first: int, users: int) -> None:
        """Draw users `first` .. `first + users - 1`; the same parameters and block always give the same traces."""
        chance = np.random.default_rng([world.seed, 2, first])
        self._first = first
        steps = world.clicks + world.clicks // 2
        self.length: Ints = chance.integers(world.clicks - world.clicks // 2, steps + 1, users)
        chosen = chance.random((users, world.groups)).argsort(axis=1)[:, : world.favourites]
        favourite = np.zeros((users, world.groups), bool)
        np.put_along_axis(favourite, chosen, values=True, axis=1)
        groups = chance.permuted(np.tile(chosen, PAST), axis=1)
        self.past = _item_of(world, groups, chance.random(groups.shape))  # [users, PAST * favourites]
        self.past_time = START - np.sort(chance.integers(1, 86_400_000, groups.shape), axis=1)[:, ::-1]
        self.item = np.empty((users, steps), np.int64)
        self.shown = np.empty((users, steps, SHOWN), np.int64)
        self.time = _times(chance, world.days, users, steps)
        clicked = (groups[:, :, None] == np.arange(world.groups)).sum(axis=1)
        clicks = groups[:, -RECENT:]
        pushed = _group_of_a_click(chance, clicked, SHOWN)
        ring = np.full((users, RING), -1)
        for step in range(steps):
            kept = chance.random(pushed.shape) < KEPT
            pushed = np.where(kept, pushed, _group_of_a_click(chance, clicked, SHOWN))
            self.shown[:, step] = _item_of(world, pushed, chance.random(pushed.shape))
            ring = np.concatenate([ring[:, SHOWN:], pushed], axis=1)
            tired = (ring[:, :, None] == np.arange(world.groups)).sum(axis=1) >= TIRED
            recent = (clicks[:, :, None] == np.arange(world.groups)).any(axis=1)
            item = _click(world, chance, world.reasons(favourite, clicks[:, -1], recent, tired))
            self.item[:, step] = item
            clicks = np.concatenate([clicks[:, 1:], world.group[item][:, None]], axis=1)
            clicked[np.arange(users), world.group[item]] += 1

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the traces as batches of `schema.ROWS`."""
        yield self._batch(
            self.past, self.past_time, np.full(self.past.shape, Kind.PAST_CLICK), np.full(self.past.shape, True)
        )
        items = np.concatenate([self.shown, self.item[:, :, None]], axis=2)  # [users, steps, SHOWN + 1]
        times = self.time[:, :, None] + np.append(-1000 * np.arange(SHOWN, 0, -1), 0)
        kinds = np.broadcast_to(np.append(np.full(SHOWN, Kind.EXPOSURE), Kind.CLICK), items.shape)
        exists = np.arange(items.shape[1]) < self.length[:, None]
        yield self._batch(items, times, kinds, np.broadcast_to(exists[:, :, None], items.shape))

    def _batch(self, items: Ints, times: Ints, kinds: NDArray[np.integer], exists: Bools) -> pa.RecordBatch:
        users = self._first + 1 + np.arange(len(items))
        names = np.broadcast_to(users.reshape(-1, *[1] * (items.ndim - 1)), items.shape)[exists]
        return pa.record_batch(
            [
                pa.array(np.char.add("u", names.astype(str)), pa.string()),
                pa.array((items[exists] + 1).astype(str), pa.string()),
                pa.array(times[exists]),
                pa.array(kinds[exists].astype(np.int8)),
                pa.array(np.zeros(int(exists.sum()), np.int64)),
            ],
            schema=ROWS,
        )


def _click(world: Synthetic, chance: np.random.Generator, reasons: Floats) -> Ints:
    """Draw one click per user, [users]."""
    users = len(reasons)
    total = np.cumsum(reasons, axis=1)  # up to FLOW + TASTE
    draw = chance.random(users)
    group = np.minimum((draw[:, None] >= total).sum(axis=1), world.groups - 1)
    item = _item_of(world, group, chance.random(users))
    popular = np.searchsorted(np.cumsum(world.popular), chance.random(users), side="right").clip(max=world.items - 1)
    anything = chance.integers(0, world.items, users)
    item = np.where(draw < total[:, -1], item, popular)
    return np.where(chance.random(users) < world.noise, anything, item)


def _group_of_a_click(chance: np.random.Generator, clicked: Ints, n: int) -> Ints:
    """Draw `n` clicks of each user, and return their groups, [users, n]; `clicked` counts them, [users, groups]."""
    total = np.cumsum(clicked, axis=1)
    draws = chance.random((len(clicked), n)) * total[:, -1:]
    groups: Ints = (draws[:, :, None] >= total[:, None, :]).sum(axis=2).clip(max=clicked.shape[1] - 1)
    return groups


def _item_of(world: Synthetic, groups: Ints, draws: Floats) -> Ints:
    """Return an item of each group, by the probabilities within it and uniform `draws` [...]."""
    size = -(-world.items // world.groups)
    padded = np.zeros(size * world.groups)
    padded[: world.items] = world.within
    total = np.cumsum(padded.reshape(size, world.groups), axis=0).T  # [groups, size]
    index = (draws[..., None] >= total[groups]).sum(axis=-1)  # of the item within its group
    index = np.minimum(index, (np.bincount(world.group) - 1)[groups])
    items: Ints = index * world.groups + groups
    return items


def _times(chance: np.random.Generator, days: int, users: int, steps: int) -> Ints:
    """Draw click times in ms, [users, steps]: sessions of about six clicks, a minute apart, spread over the days."""
    minute = np.maximum(chance.exponential(60_000, (users, steps)), 5_000)
    pause = chance.exponential(1.0, (users, steps)) * (chance.random((users, steps)) < 1 / 6)
    pause *= days * 86_400_000 / np.maximum(pause.sum(axis=1, keepdims=True), 1.0) * 0.9
    start = START + 10_000 + chance.random((users, 1)) * days * 8_640_000
    return np.asarray(start + np.cumsum(minute + pause, axis=1), np.int64)
