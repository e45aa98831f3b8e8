"""Ranking queries: the inputs of each recorded click's ranking, rebuilt from `interactions`.

A recorded outcome provides only the list of candidates, the release in force, the epoch of the item statistics and the
window whose r2 was used, which the log does not determine in a free-running run. Histories are derived from the log,
by the function that builds all views.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.data.event_kinds import EXPOSURE
from models.data.interaction_log import ClickStates, click_states, group_starts
from models.data.item_statistics import Buckets
from models.data.windows import WindowCursor
from streams.database.interaction_log import Interactions, item_statistics
from streams.database.schema import negative_memories, outcomes
from streams.model_config import view_spec
from streams.settings import Settings

Keys = NDArray[np.int64]


class RankingQuery(NamedTuple):
    """The inputs of one click's ranking. Arrays are item keys, oldest first."""

    user: str
    seq: int
    target_index: int
    answered: bool  # true if the cloud's answer came in time
    candidates: Keys
    history: Keys
    r2_items: Keys  # the exposures whose GRU state is r2; empty if r2 is zero
    clicks: Keys
    exposures: Keys
    item_statistics: Buckets  # of the candidates, at the begin of the recorded epoch


class RecordedOutcome(NamedTuple):
    """A recorded outcome without the inputs of its ranking."""

    user: str
    seq: int
    epoch: int
    time: int
    release: int
    cold: bool
    history: int
    window: int
    ranks: dict[str, int]
    n: int  # candidates


class _Row(NamedTuple):
    """The columns of `outcomes` that are read."""

    user: str
    seq: int
    epoch: int
    time: int
    release: int
    cold: bool
    history: int
    window: int
    ranks: dict[str, int]
    target_index: int
    expired: bool
    encoder: int
    statistics_epoch: int | None
    candidates: bytes

    def recorded(self) -> RecordedOutcome:
        return RecordedOutcome(*self[:9], len(self.candidates) // 8)


class RankingQueries:
    """The ranking queries of a run, by release. `until`: only clicks up to that event time."""

    def __init__(self, connection: Connection, settings: Settings, until: int | None = None) -> None:
        self._connection, self._settings = connection, settings
        o = outcomes.c
        self._selected = (o.run == settings.run) if until is None else (o.run == settings.run) & (o.time <= until)
        interactions = Interactions(settings.run, of=sa.select(o.user).where(self._selected))
        interactions.load(connection)
        self._numbers = {user: number for number, user in enumerate(interactions.users())}
        self._log = interactions.log()
        self._states = click_states(self._log, view_spec(settings))
        self._catalogue, self._item_statistics = item_statistics(connection, settings.run)
        self._window_starts = _window_starts(self._states) if settings.carry else None
        self._first_windows = _first_windows(connection, settings.run) if settings.carry else {}

    def count(self) -> int:
        """Return the number of queries."""
        query = sa.select(sa.func.count()).select_from(outcomes).where(self._selected)
        return int(self._connection.execute(query).scalar_one())

    def by_release(self, size: int) -> Generator[tuple[int, list[tuple[RecordedOutcome, RankingQuery]]]]:
        """Yield lists of up to `size` queries of one release, with their outcomes; releases in order."""
        o = outcomes.c
        query = sa.select(*(o[name] for name in _Row._fields)).where(self._selected).order_by(o.release)
        with self._connection.execute(query, execution_options={"yield_per": size}) as rows:
            for release, group in groupby((_Row(*row) for row in rows), attrgetter("release")):
                while chunk := [(row.recorded(), self._query(row)) for row in itertools.islice(group, size)]:
                    yield release, chunk

    def _query(self, row: _Row) -> RankingQuery:
        event = int(self._log.offsets[self._numbers[row.user]]) + row.seq
        i = int(np.searchsorted(self._states.event, event))
        if i == len(self._states) or self._states.event[i] != event:
            raise LookupError(f"the outcome of user {row.user!r}, seq {row.seq} has no recorded click")
        view = self._states.view(i)
        r2_items = view.window_items
        if self._window_starts is not None and row.window:
            first = self._first_windows.get((row.user, row.encoder), row.window)
            start = self._window_starts[self._numbers[row.user]][first - 1]
            r2_items = self._states.exposure_keys[start : self._states.closed.end[i]]
        candidates = np.frombuffer(row.candidates, "<i8")
        epoch = self._log.epochs[event] if row.statistics_epoch is None else row.statistics_epoch
        epochs = np.full(len(candidates), epoch)
        return RankingQuery(
            user=row.user,
            seq=row.seq,
            target_index=row.target_index,
            answered=not row.expired,
            candidates=candidates,
            history=view.history,
            r2_items=r2_items if row.window else r2_items[:0],
            clicks=view.clicks,
            exposures=view.exposures,
            item_statistics=self._item_statistics.buckets_of(self._catalogue.rows(candidates), epochs),
        )


def _window_starts(states: ClickStates) -> list[list[int]]:
    """Return for each user the index of the first exposure of each window, closed or open.

    If windows carry their state on, r2 is the GRU state over several windows: at a user's first event under another
    encoder the device encodes its last closed window again, from a zero state, and continues from that state.
    """
    log, starts = states.log, []
    kinds, times, groups, exposures = log.kinds.tolist(), log.times.tolist(), group_starts(log).tolist(), 0
    for first, after in itertools.pairwise(log.offsets.tolist()):
        cursor = WindowCursor.at(states.spec, exposures)
        starts.append([exposures])
        for i in range(first, after):
            if groups[i] == i:
                cursor.begin_group(times[i])
            if kinds[i] == EXPOSURE:
                cursor.expose(times[i])
            if cursor.number == len(starts[-1]):
                starts[-1].append(cursor.end)
        exposures = cursor.position
    return starts


def _first_windows(connection: Connection, run: str) -> dict[tuple[str, int], int]:
    """Return the first window that each user's device has uploaded under each encoder."""
    m = negative_memories.c
    query = sa.select(m.user, m.encoder, sa.func.min(m.window)).where(m.run == run).group_by(m.user, m.encoder)
    return {(user, encoder): window for user, encoder, window in connection.execute(query)}
