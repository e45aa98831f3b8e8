"""The ranked clicks of a run as arrays: for intervals, and to pair the clicks of two runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.data.interaction_log import Ints
from streams.database.schema import outcomes
from streams.prequential.metrics import SUBSETS, subsets

Bools = NDArray[np.bool_]
_CHUNK = 10_000


@dataclass(frozen=True)
class RankedClicks:
    """N ranked clicks in total order."""

    users: list[str]  # names, sorted
    user: Ints  # index into `users` [N]
    seq: Ints  # of the click, per user [N]
    time: Ints  # event time of the impression group, ms [N]
    target: Ints  # item key of the clicked item [N]
    candidates: Ints  # a hash of the candidate list, in order [N]
    ranks: Mapping[str, Ints]  # by variant: rank of the target, from 1; 0 if the variant did not rank it [N]
    subsets: Mapping[str, Bools]  # by name: true for the clicks in it [N]

    def __len__(self) -> int:
        return len(self.user)

    def select(self, which: Bools | Ints | slice) -> RankedClicks:
        """Return some of the clicks. `users` stays as it is."""
        return RankedClicks(
            users=self.users,
            user=self.user[which],
            seq=self.seq[which],
            time=self.time[which],
            target=self.target[which],
            candidates=self.candidates[which],
            ranks={variant: each[which] for variant, each in self.ranks.items()},
            subsets={name: each[which] for name, each in self.subsets.items()},
        )

    def with_ranks(self, by_click: Mapping[tuple[str, int], Mapping[str, int]]) -> RankedClicks:
        """Return the clicks that `by_click` has, by user and seq, with its ranks."""
        keys = [(self.users[user], seq) for user, seq in zip(self.user.tolist(), self.seq.tolist(), strict=True)]
        with_ranks = [(i, by_click[key]) for i, key in enumerate(keys) if key in by_click]
        clicks = self.select(_ints(i for i, _ in with_ranks))
        return replace(clicks, ranks=_by_variant([ranks for _, ranks in with_ranks]))


class _Row(NamedTuple):
    time: int
    user: str
    seq: int
    target: int
    candidates: int
    ranks: dict[str, int]
    subsets: tuple[str, ...]


def ranked_clicks(connection: Connection, run: str) -> RankedClicks:
    """Read the ranked clicks of `run`."""
    o = outcomes.c
    columns = (o.time, o.user, o.seq, o.target, o.candidates, o.ranks, o.cold, o.history, o.window)
    query = sa.select(*columns).where(o.run == run)
    stored = connection.execute(query, execution_options={"yield_per": _CHUNK})
    rows = [
        _Row(*row[:4], _hash(row.candidates), row.ranks, subsets(cold=row.cold, history=row.history, window=row.window))
        for row in stored
    ]
    rows.sort(key=itemgetter(0, 1, 2))
    names = sorted({row.user for row in rows})
    number = {name: i for i, name in enumerate(names)}
    return RankedClicks(
        users=names,
        user=_ints(number[row.user] for row in rows),
        seq=_ints(row.seq for row in rows),
        time=_ints(row.time for row in rows),
        target=_ints(row.target for row in rows),
        candidates=_ints(row.candidates for row in rows),
        ranks=_by_variant([row.ranks for row in rows]),
        subsets={name: np.array([name in row.subsets for row in rows], bool) for name in SUBSETS},
    )


def _by_variant(ranks: Sequence[Mapping[str, int]]) -> dict[str, Ints]:
    variants = sorted({variant for each in ranks for variant in each})
    return {variant: _ints(each.get(variant, 0) for each in ranks) for variant in variants}


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, np.int64)


def _hash(candidates: bytes) -> int:
    return int.from_bytes(blake2b(candidates, digest_size=8).digest(), "little", signed=True)
