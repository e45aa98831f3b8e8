"""A source as an experiment sees it: the log in total order with items as rows of E, filtered as the protocol says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.experiments.data.protocol import Phase, Protocol, phases
from deploy.experiments.results.result import Counts
from models.data.catalogue import FIRST_ROW
from models.data.event_kinds import CLICK, EXPOSURE, PAST_CLICK
from models.data.interaction_log import InteractionLog, Ints
from replay.errors import SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import Source
from streams.settings import Exposures


@dataclass(frozen=True)
class Dataset:
    """Events of all users that are kept. `log.keys` are rows of E; users are numbered in the order of their names."""

    source: str
    policy: Exposures
    positives: str  # as the protocol says, or "logged" where clicks are clicks
    log: InteractionLog
    phase: Ints  # [N] of each click, -1 of other events
    interacted: np.ndarray  # bool [N]: events that bar an item from being a negative
    users: list[str]
    items: list[str]  # the item of row FIRST_ROW + i

    @property
    def rows(self) -> int:
        """Rows of E, the reserved ones included."""
        return FIRST_ROW + len(self.items)

    def of(self, *some: Phase) -> Ints:
        """The places of the clicks of some phases in the log."""
        return np.flatnonzero(np.isin(self.phase, some))

    @property
    def digest(self) -> str:
        """Names exactly these events of these users: what a kept result belongs to."""
        found = hashlib.blake2b(digest_size=8)
        for column in (self.log.offsets, self.log.keys, self.log.kinds, self.log.impressions, self.phase):
            found.update(np.ascontiguousarray(column, "<i8").tobytes())
        found.update("\0".join(self.users + self.items).encode())
        return found.hexdigest()

    def counts(self) -> Counts:
        """Return the numbers of users, items, exposures and clicks per phase."""
        by_phase = {phase.name.lower(): len(self.of(phase)) for phase in Phase}
        exposures = int((self.log.kinds == EXPOSURE).sum())
        return Counts(len(self.users), len(self.items), exposures, **by_phase)


def load(
    source: Source,
    protocol: Protocol,
    folder: Path,
    users: int | None = None,
    progress: Callable[[str, int], None] = lambda _what, _rows: None,
) -> Dataset:
    """Read `source` as the protocol says; its sorted log is kept in `folder`. `users`: that many, by hash.

    Raises SourceError where nothing is left.
    """
    policy = _policy(source, protocol)
    plan = prepare(
        source, Options(exposures=policy, users=users, seed=protocol.seed), folder / policy, progress=progress
    )
    table = pq.read_table(plan.path)
    names, items = (pc.unique(table[column]).sort() for column in ("user", "item"))
    user = pc.index_in(table["user"], names).to_numpy().astype(np.int64)
    order = np.argsort(user, kind="stable")  # the file is in total order: each user's events stay in theirs
    user = user[order]
    item = pc.index_in(table["item"], items).to_numpy().astype(np.int64)[order]
    kind, time, impression = (
        table[column].to_numpy().astype(np.int64)[order] for column in ("kind", "time", "impression")
    )
    kind = np.where(kind == PAST_CLICK, CLICK, kind)  # offline they are clicks of the slow phase as any other
    interacted = (kind == CLICK) | (policy == "rated")
    kept = _kept(user, item, kind, interacted, protocol)
    if not kept.any():
        of = f", on items that have {protocol.minimum} as well" if protocol.min_count == "both" else ""
        raise SourceError(f"{source.text}: no user has {protocol.minimum} interactions and {protocol.least} clicks{of}")
    user, item, kind, time, impression, interacted = (
        column[kept] for column in (user, item, kind, time, impression, interacted)
    )
    some_users, user = np.unique(user, return_inverse=True)
    some_items, item = np.unique(item, return_inverse=True)
    log = InteractionLog(
        offsets=np.searchsorted(user, np.arange(len(some_users) + 1)),
        keys=item + FIRST_ROW,
        kinds=kind,
        times=time,
        impressions=impression,
        epochs=np.zeros(len(user), np.int64),
    )
    return Dataset(
        source=source.text,
        policy=policy,
        positives=protocol.positives if "rated" in source.policies else "logged",
        log=log,
        phase=phases(log, protocol),
        interacted=interacted,
        users=[str(name) for name in np.array(names.to_pylist(), object)[some_users]],
        items=[str(name) for name in np.array(items.to_pylist(), object)[some_items]],
    )


def _policy(source: Source, protocol: Protocol) -> Exposures:
    """Where exposures come from. Raises SourceError where that and the positives contradict each other."""
    if "rated" not in source.policies:
        return protocol.exposures or source.policies[0]
    chosen = protocol.exposures or ("rated" if protocol.positives == "rated" else "simulated")
    if (chosen == "rated") is not (protocol.positives == "rated"):
        raise SourceError(
            f"{source.text}: positives {protocol.positives!r} and exposures {chosen!r} contradict each other: ratings "
            "below 4 are exposures ('rated' and 'rated'), or clicks as all others ('all' and 'simulated' or 'logged')"
        )
    return chosen


def _kept(user: Ints, item: Ints, kind: Ints, interacted: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Which events stay: `both` drops items and users in turn until all have enough."""
    kept = np.ones(len(user), np.bool_)
    while True:
        before = int(kept.sum())
        counted = kept & interacted
        if protocol.min_count == "both":
            kept &= (np.bincount(item[counted], minlength=item.max(initial=0) + 1) >= protocol.minimum)[item]
            counted = kept & interacted
        enough = np.bincount(user[counted], minlength=user.max(initial=0) + 1) >= protocol.minimum
        clicks = np.bincount(user[kept & (kind == CLICK)], minlength=len(enough)) >= protocol.least
        kept &= (enough & clicks)[user]
        if int(kept.sum()) == before:
            return kept
