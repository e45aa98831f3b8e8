"""The dataset of an experiment: a source's log in total order with items as rows of E, filtered by the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.experiments.data.protocol import Phase, Protocol, phases_of
from deploy.experiments.results.result import Counts
from models.data.catalogue import FIRST_ROW, Catalogue
from models.data.event_kinds import CLICK, EXPOSURE, PAST_CLICK
from models.data.interaction_log import InteractionLog, Ints
from replay.errors import SourceError
from replay.prepare.plan import Options, exposure_policy
from replay.prepare.prepare import prepare
from replay.sources.source import Source
from streams.records import item_key


@dataclass(frozen=True)
class Dataset:
    """The events of all users that are kept. `log.keys` are rows of E; users are numbered in the order of their ids."""

    source: str
    policy: str  # or module:Name of a plugin
    positives: str  # as in the protocol, or "logged" if the source logs clicks
    log: InteractionLog
    phase: Ints  # [N] phase of each click, -1 for other events
    interacted: np.ndarray  # bool [N]: events whose item cannot be a negative of the user
    users: list[str]
    items: list[str]  # the item of row FIRST_ROW + i

    @property
    def rows(self) -> int:
        """Rows of E, the reserved ones included."""
        return FIRST_ROW + len(self.items)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items by their keys, as streams and plugins know them; rows are those of E."""
        return Catalogue([item_key(name) for name in self.items])

    def clicks(self, *phases: Phase) -> Ints:
        """Return the indices in the log of the clicks of `phases`."""
        return np.flatnonzero(np.isin(self.phase, phases))

    @property
    def digest(self) -> str:
        """A hash of these events and users, which is part of the names of stored fits and cells."""
        found = hashlib.blake2b(digest_size=8)
        for column in (self.log.offsets, self.log.keys, self.log.kinds, self.log.impressions, self.phase):
            found.update(np.ascontiguousarray(column, "<i8").tobytes())
        found.update("\0".join(self.users + self.items).encode())
        return found.hexdigest()

    def counts(self) -> Counts:
        """Return the numbers of users, items, exposures and clicks per phase."""
        by_phase = {phase.name.lower(): len(self.clicks(phase)) for phase in Phase}
        exposures = int((self.log.kinds == EXPOSURE).sum())
        return Counts(len(self.users), len(self.items), exposures, **by_phase)


def load(
    source: Source,
    protocol: Protocol,
    folder: Path,
    users: int | None = None,
    progress: Callable[[str, int], None] = lambda _what, _rows: None,
) -> Dataset:
    """Read `source` by the protocol; its sorted log is stored in `folder`. `users`: size of a sample of users by hash.

    Raises SourceError if no user is left.
    """
    policy = _policy(source, protocol)
    exposures, plugin = exposure_policy(policy)
    options = Options(exposures=exposures, plugin=plugin, users=users, seed=protocol.seed, accept=None)
    plan = prepare(source, options, folder / (exposures or ""), progress=progress)
    table = pq.read_table(plan.path, partitioning=None)  # no folder on the path is a column
    names, items = (pc.unique(table[column]).sort() for column in ("user", "item"))
    user = pc.index_in(table["user"], names).to_numpy().astype(np.int64)
    order = np.argsort(user, kind="stable")  # stable: each user's events stay in total order
    user = user[order]
    item = pc.index_in(table["item"], items).to_numpy().astype(np.int64)[order]
    kind, time, impression = (
        table[column].to_numpy().astype(np.int64)[order] for column in ("kind", "time", "impression")
    )
    kind = np.where(kind == PAST_CLICK, CLICK, kind)  # offline they are clicks of the slow phase like all others
    interacted = (kind == CLICK) | (policy == "rated")
    kept = _kept(user, item, kind, interacted, protocol)
    if not kept.any():
        items_too = f", on items that have {protocol.minimum} as well" if protocol.min_count == "both" else ""
        raise SourceError(
            f"{source.text}: no user has {protocol.minimum} interactions and {protocol.min_clicks} clicks{items_too}"
        )
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
        phase=phases_of(log, protocol),
        interacted=interacted,
        users=[str(name) for name in np.array(names.to_pylist(), object)[some_users]],
        items=[str(name) for name in np.array(items.to_pylist(), object)[some_items]],
    )


def _policy(source: Source, protocol: Protocol) -> str:
    """Return the policy of exposures. Raises SourceError if it contradicts the positives."""
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
    """Return a mask of the events to keep: `both` drops items and users in turn until all have enough."""
    kept = np.ones(len(user), np.bool_)
    while True:
        before = int(kept.sum())
        counted = kept & interacted
        if protocol.min_count == "both":
            kept &= (np.bincount(item[counted], minlength=item.max(initial=0) + 1) >= protocol.minimum)[item]
            counted = kept & interacted
        enough = np.bincount(user[counted], minlength=user.max(initial=0) + 1) >= protocol.minimum
        clicks = np.bincount(user[kept & (kind == CLICK)], minlength=len(enough)) >= protocol.min_clicks
        kept &= (enough & clicks)[user]
        if int(kept.sum()) == before:
            return kept
