"""A synthetic log of many items and few clicks: most items are shown once or twice and never clicked.

Each impression is a slate of items drawn by popularity. A user clicks one of them: an item of a favourite group with
probability TASTE, else one of those with the highest appeal. So the groups that a user clicked say something, the
share of clicks of an item says something, and the vector of an item that was clicked once says nothing.
"""

from __future__ import annotations

import numpy as np

from models.data.event_kinds import CLICK, EXPOSURE
from models.data.interaction_log import InteractionLog

SLATE = 23
GROUPS = 40
FAVOURITES = 3
TASTE = 0.3
MS_PER_IMPRESSION = 1000


def sparse_log(users: int, items: int, clicks: int, epochs: int, seed: int) -> InteractionLog:
    """Return a log of `clicks` impressions with one click each, in epochs of equal size. Item keys count from 1."""
    chance = np.random.default_rng(seed)
    share = 1 / (50 + np.arange(items))
    edges = np.cumsum(chance.permutation(share))
    appeal = chance.normal(0, 1, items)
    favourites = np.argsort(chance.random((users, GROUPS)), axis=1)[:, :FAVOURITES]
    user = np.sort(chance.integers(0, users, clicks))  # the log holds one user after the other
    moment = chance.permutation(clicks)
    order = np.lexsort((moment, user))
    user, moment = user[order], moment[order]
    shown = np.searchsorted(edges, chance.random((clicks, SLATE)) * edges[-1], side="right").clip(max=items - 1)
    liked = (shown[:, :, None] % GROUPS == favourites[user][:, None, :]).any(axis=2)
    wanted = appeal[shown] + chance.gumbel(0, 1, shown.shape)
    wanted += np.where(liked & (chance.random((clicks, 1)) < TASTE), 10.0, 0.0)
    clicked = wanted.argmax(axis=1)
    kinds = np.full(shown.shape, EXPOSURE, np.int64)
    kinds[np.arange(clicks), clicked] = CLICK
    again = (shown == shown[np.arange(clicks), clicked][:, None]) & (kinds == EXPOSURE)
    shown = np.where(again, (shown + 1) % items, shown)  # the clicked item is not also shown without a click
    return InteractionLog(
        offsets=np.searchsorted(user, np.arange(users + 1)) * SLATE,
        keys=shown.ravel() + 1,
        kinds=kinds.ravel(),
        times=np.repeat((moment + 1) * MS_PER_IMPRESSION, SLATE),
        impressions=np.repeat(moment + 1, SLATE),
        epochs=np.repeat(moment * epochs // clicks, SLATE),
    )
