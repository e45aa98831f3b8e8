"""What each recorded click was asked with, rebuilt from `interactions` alone: to be scored again.

Nothing that the devices or the cloud said of a click is used but the list of candidates, the release in force and
which window's r2 was at hand; what they saw is found again by the one function that builds views.
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

from models.data.catalogue import Catalogue
from models.data.event_kinds import EXPOSURE
from models.data.interaction_log import ClickStates, click_states, group_starts
from models.data.item_statistics import Buckets
from models.data.windows import WindowCursor
from streams.database.interaction_log import Interactions
from streams.database.schema import decisions, outcomes, releases
from streams.model_config import view_spec
from streams.settings import Settings

Keys = NDArray[np.int64]


class Question(NamedTuple):
    """A click to be ranked. Arrays are item keys, oldest first."""

    user: str
    seq: int
    target_index: int
    priors: bool  # whether the cloud's answer came in time
    candidates: Keys
    history: Keys
    memory: Keys  # the exposures whose fold is r2; none: r2 is zero
    clicks: Keys
    exposures: Keys
    standing: Buckets  # of the candidates, as the epoch of the click began


class Recorded(NamedTuple):
    """An outcome as it was recorded, less what its rank is to be found from again."""

    user: str
    seq: int
    time: int
    release: int
    cold: bool
    history: int
    window: int
    ranks: dict[str, int]
    n: int  # candidates


class RankingQueries:
    """The questions of a run, by release. `until`: only clicks up to that event time."""

    def __init__(self, connection: Connection, settings: Settings, until: int | None = None) -> None:
        self._connection, self._settings = connection, settings
        o = outcomes.c
        self._some = (o.run == settings.run) if until is None else (o.run == settings.run) & (o.time <= until)
        log = Interactions(settings.run)
        log.load(connection)
        self._numbers = {user: number for number, user in enumerate(log.users())}
        self._log = log.log()
        self._folded = click_states(self._log, view_spec(settings))
        self._items = Catalogue(log.keys)
        self._standings = self._log.item_statistics(self._items)
        self._begins: Keys | None = None
        if settings.carry:
            self._begins = _carried_from(self._folded, _encoders(connection, settings.run, self._log.epochs))

    def count(self) -> int:
        """How many there are."""
        query = sa.select(sa.func.count()).select_from(outcomes).where(self._some)
        return int(self._connection.execute(query).scalar_one())

    def by_release(self, size: int) -> Generator[tuple[int, list[tuple[Recorded, Question]]]]:
        """Up to `size` questions at a time, all of one release; releases in order."""
        o = outcomes.c
        names = (o.user, o.seq, o.time, o.release, o.cold, o.history, o.window, o.ranks)
        query = sa.select(*names, o.target_index, o.expired, o.candidates).where(self._some).order_by(o.release)
        with self._connection.execution_options(yield_per=size).execute(query) as rows:
            for release, group in groupby(rows, attrgetter("release")):
                some = []
                for row in group:
                    some.append((Recorded(*row[:8], len(row.candidates) // 8), self._question(row)))
                    if len(some) == size:
                        yield release, some
                        some = []
                if some:
                    yield release, some

    def _question(self, row: sa.Row) -> Question:  # type: ignore[type-arg]  # of the columns above
        user = self._numbers[row.user]
        event = int(self._log.offsets[user]) + row.seq
        i = int(np.searchsorted(self._folded.event, event))
        if i == len(self._folded) or self._folded.event[i] != event:
            raise LookupError(f"the outcome of user {row.user!r}, seq {row.seq} is of no recorded click")
        view = self._folded.view(i)
        memory = view.window_items
        if self._begins is not None:
            begin = self._begins[self._folded.group[i]]
            memory = self._folded.exposure_keys[begin : self._folded.closed.end[i]]
        candidates = np.frombuffer(row.candidates, "<i8")
        return Question(
            user=row.user,
            seq=row.seq,
            target_index=row.target_index,
            priors=not row.expired,
            candidates=candidates,
            history=view.history,
            memory=memory if row.window else memory[:0],
            clicks=view.clicks,
            exposures=view.exposures,
            standing=self._standings.of(
                self._items.rows(candidates), np.full(len(candidates), self._log.epochs[event])
            ),
        )


def _carried_from(folded: ClickStates, encoders: Keys) -> Keys:
    """Where the fold behind r2 begins if windows carry their state on: by event, a place in exposure_keys, [N].

    At a user's first event under another encoder the device folds its last closed window anew from zero; from there on
    the state is carried. So r2 is the fold of all exposures from the beginning of that window on.
    """
    log, spec = folded.log, folded.spec
    begins = np.zeros(len(log.keys), np.int64)
    kinds, times, units, shown = log.kinds.tolist(), log.times.tolist(), group_starts(log).tolist(), 0
    for first, after in itertools.pairwise(log.offsets.tolist()):
        windows = WindowCursor.at(spec, shown)
        begin = shown  # of the carried state
        for i in range(first, after):
            if i > first and encoders[i] != encoders[i - 1]:
                begin = windows.start
            if units[i] == i:
                windows.begin_group(times[i])
            begins[i] = begin
            if kinds[i] == EXPOSURE:
                windows.expose(times[i])
        shown = windows.shown
    return begins


def _encoders(connection: Connection, run: str, epochs: Keys) -> Keys:
    """The encoder in force at each event, by its epoch: in lockstep only."""
    r, d = releases.c, decisions.c
    encoder = {
        row.version: row.encoder for row in connection.execute(sa.select(r.version, r.encoder).where(r.run == run))
    }
    decided = {row.epoch: row.release for row in connection.execute(sa.select(d.epoch, d.release).where(d.run == run))}
    known = [encoder.get(decided.get(epoch - 1, 0), 0) for epoch in range(int(epochs.max(initial=0)) + 1)]
    return np.array(known, np.int64)[epochs]
