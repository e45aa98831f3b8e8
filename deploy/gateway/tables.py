"""Queries of a gateway on the tables of a run; results are at most an epoch old."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import sqlalchemy as sa

from deploy.gateway.api.bodies import CloudAnswer, DeviceAnswer, ItemAnswer, ReleaseAnswer, UserAnswer
from deploy.recommend import variant_to_serve
from deploy.runs import FoundRun
from models.data.event_kinds import CLICK, EXPOSURE
from models.data.item_statistics import ItemStatistics
from streams.database import run_state, schema
from streams.prequential.served import By
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.records import item_key
from streams.releases.item_statistics import statistics_after
from streams.releases.release import Release, read_release
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row

S = TypeVar("S", DeviceState, CloudState)

LISTED = 1000  # releases
_SERVED_S = 10.0  # for which the variant to be served is remembered


class Tables:
    """Reads the tables of one run; the last two releases and the statistics of the last epoch stay in memory."""

    def __init__(self, found: FoundRun) -> None:
        self._engine, self._run = found.engine, found.settings.run
        self._names: dict[int, str] = {}  # of items, by key
        self._served: By = "popularity"
        self._served_until = 0.0
        self.release = functools.lru_cache(maxsize=2)(self._read_release)
        self._statistics = functools.lru_cache(maxsize=1)(self._read_statistics)

    def _read_release(self, version: int) -> Release:
        with self._engine.connect() as connection:
            return read_release(connection, self._run, version)

    def _read_statistics(self, epoch: int) -> ItemStatistics:
        with self._engine.connect() as connection:
            return statistics_after(connection, self._run, epoch)

    def served(self) -> By:
        """Return the variant to be served: the best in the run so far, known some seconds ago, or before an outage."""
        now = time.monotonic()
        if now > self._served_until:
            with suppress(*DATABASE_UNAVAILABLE), self._engine.connect() as connection:
                self._served = variant_to_serve(connection, self._run)
            self._served_until = now + _SERVED_S
        return self._served

    def names(self, keys: Sequence[int]) -> list[str]:
        """Return the names of items, given by key; of an item without a name its key."""
        if missing := set(keys).difference(self._names):
            with self._engine.connect() as connection:
                self._names |= run_state.item_names(connection, self._run, sorted(missing))
        return [self._names.get(key, str(key)) for key in keys]

    def user(self, user: str) -> UserAnswer:
        """Return a user's state as recorded last."""
        i = schema.interactions.c
        query = sa.select(sa.func.max(i.seq)).where(run_state.events_of(self._run, user))
        with self._engine.connect() as connection:
            last = connection.execute(query).scalar_one()
            recorded = run_state.recorded(connection, self._run)
            device = _state(connection, self._run, user, DeviceState)
            cloud = _state(connection, self._run, user, CloudState)
        return UserAnswer(
            user=user,
            next_seq=0 if last is None else int(last) + 1,
            device=None if device is None else self._device(*device, ended=-1 if recorded is None else recorded[0]),
            cloud=None if cloud is None else self._cloud(*cloud),
        )

    def _device(self, epoch: int, state: DeviceState, *, ended: int) -> DeviceAnswer:
        return DeviceAnswer(
            epoch=epoch,
            clicks=self.names(state.clicks),
            exposures=self.names(state.exposures),
            not_uploaded=self.names(state.not_uploaded(ended)),
            window=state.window,
            open_exposures=state.open_count,
        )

    def _cloud(self, epoch: int, state: CloudState) -> CloudAnswer:
        return CloudAnswer(epoch, self.names(state.earlier_clicks + state.last_clicks), [r2.window for r2 in state.r2s])

    def last_events(self, user: str, before: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return the numbers of a user's last click and last exposure on each item, of the events before `before`."""
        i = schema.interactions.c
        query = sa.select(i.item, sa.func.max(i.seq)).where(run_state.events_of(self._run, user), i.seq < before)
        with self._engine.connect() as connection:
            found = [
                {row[0]: row[1] for row in connection.execute(query.where(i.kind == kind).group_by(i.item))}
                for kind in (CLICK, EXPOSURE)
            ]
        return found[0], found[1]

    def releases(self) -> list[ReleaseAnswer]:
        """Return the published releases, newest first."""
        r = schema.releases.c
        columns = r.version, r.parent, r.kind, r.epoch, r.trained_until, r.gate
        query = sa.select(*columns).where(r.run == self._run, r.published).order_by(r.version.desc()).limit(LISTED)
        with self._engine.connect() as connection:
            return [ReleaseAnswer(*row) for row in connection.execute(query)]

    def item(self, item: str) -> ItemAnswer:
        """Return an item as of the last recorded epoch."""
        e, key = schema.item_embeddings.c, item_key(item)
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
            query = sa.select(e.row).where(e.run == self._run, e.item == key).limit(1)
            in_catalogue = connection.execute(query).first() is not None
        epoch = recorded[0] if recorded else -1
        known = self._statistics(epoch)
        at = known.keys.searchsorted(key)
        if at == len(known.keys) or known.keys[at] != key:
            return ItemAnswer(item, epoch, 0, 0, None, in_catalogue)
        clicks, recent, first = (int(column[at]) for column in (known.clicks, known.recent, known.first))
        return ItemAnswer(item, epoch, clicks, recent, first, in_catalogue)


def _state(connection: sa.Connection, run: str, user: str, kind: type[S]) -> tuple[int, S] | None:
    u = schema.user_snapshots.c
    this = (u.run == run) & (u.user == user) & (u.side == ("device" if kind is DeviceState else "cloud"))
    row = connection.execute(sa.select(u.epoch, u.state).where(this).order_by(u.epoch.desc()).limit(1)).first()
    return None if row is None else (row.epoch, decode_row(bytes(row.state), kind))
