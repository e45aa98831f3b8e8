"""A synthetic log of clicks that repeat, as songs are played and games are started again.

A user comes in sessions of a few clicks. A click goes with probability REPEAT to an item that the user clicked before,
the newer the likelier, else to an item drawn by popularity among those of the user's favourite groups. Nothing is
shown without being clicked.
"""

from __future__ import annotations

import numpy as np

from models.data.event_kinds import CLICK
from models.data.interaction_log import InteractionLog

REPEAT = 0.5
RECENCY = 0.97  # weight of an earlier click relative to the one after it
GROUPS = 20
FAVOURITES = 3
SESSION = 4  # mean clicks of a session
MS_PER_CLICK = 60_000


def repeating_log(users: int, items: int, clicks: int, epochs: int, seed: int) -> InteractionLog:
    """Return a log of `clicks`, in epochs of equal size. Item keys count from 1."""
    chance = np.random.default_rng(seed)
    share = chance.permutation(1 / (5 + np.arange(items)))
    favourites = np.argsort(chance.random((users, GROUPS)), axis=1)[:, :FAVOURITES]
    by_group = [np.arange(group, items, GROUPS) for group in range(GROUPS)]
    edges = [np.cumsum(share[members]) for members in by_group]
    user = np.repeat(chance.integers(0, users, clicks), chance.geometric(1 / SESSION, clicks))[:clicks]
    clicked: list[list[int]] = [[] for _ in range(users)]
    for each in user.tolist():
        past = clicked[each]
        if past and chance.random() < REPEAT:
            back = int(np.log(chance.random()) / np.log(RECENCY))  # geometric: 0 is the newest click
            past.append(past[-1 - back % len(past)])
        else:
            group = int(chance.choice(favourites[each]))
            place = np.searchsorted(edges[group], chance.random() * edges[group][-1], side="right")
            past.append(int(by_group[group][place]))
    moment = np.argsort(user, kind="stable")  # the log holds one user after the other
    return InteractionLog(
        offsets=np.searchsorted(user[moment], np.arange(users + 1)),
        keys=np.concatenate([np.array(past, np.int64) for past in clicked]) + 1,
        kinds=np.full(clicks, CLICK, np.int64),
        times=(moment + 1) * MS_PER_CLICK,
        impressions=np.zeros(clicks, np.int64),
        epochs=moment * epochs // clicks,
    )
