"""A user of a run: histories, windows, uploads and the last rankings, from the tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from deploy.runs import FoundRun
from deploy.user_error import UserError
from models.data.event_kinds import CLICK_KINDS, EXPOSURE
from streams.database import run_state, schema

_LAST = 10


class User(NamedTuple):
    """A user; every list is newest first."""

    name: str
    events: int
    clicks: list[Any]  # name, time
    exposures: list[Any]
    windows: list[Any]  # window, size, time, encoder
    uploads: list[Any]  # epoch, clicks, time
    rankings: list[Any]  # of `outcomes`, with target, candidates


def look_up(found: FoundRun, name: str) -> User:
    """Return the recorded data of a user. Raises UserError if there are none."""
    run, i = found.settings.run, schema.interactions.c
    m, u, o, t = (table.c for table in (schema.negative_memories, schema.click_uploads, schema.outcomes, schema.items))
    with found.engine.connect() as connection:

        def last(query: sa.Select[Any], *order: sa.ColumnElement[Any], n: int = _LAST) -> list[Any]:
            return list(connection.execute(query.order_by(*(each.desc() for each in order)).limit(n)))

        own = run_state.events_of(run, name)
        events = connection.execute(sa.select(sa.func.count()).where(own)).scalar_one()
        if not events:
            raise UserError(f"no events of user {name!r} in run {run}")
        named = sa.func.coalesce(t.name, sa.cast(i.item, sa.String)).label("name")
        items = schema.interactions.outerjoin(schema.items, (t.run == run) & (t.item == i.item))
        of_user = sa.select(named, i.time).select_from(items).where(own)
        target = schema.outcomes.outerjoin(schema.items, (t.run == o.run) & (t.item == o.target))
        rankings = last(
            sa.select(schema.outcomes, sa.func.coalesce(t.name, sa.cast(o.target, sa.String)).label("name"))
            .select_from(target)
            .where(o.run == run, o.user == name),
            o.seq,
        )
        return User(
            name,
            int(events),
            last(of_user.where(i.kind.in_(CLICK_KINDS)), i.seq, n=found.settings.history_short),
            last(of_user.where(i.kind == EXPOSURE), i.seq, n=2 * found.settings.threshold),
            last(
                sa.select(m.window, m.size, m.time, m.encoder).where(m.run == run, m.user == name), m.window, m.encoder
            ),
            [
                (row.epoch, len(np.frombuffer(row.items, "<i8")), row.time)
                for row in last(sa.select(u.epoch, u["items"], u.time).where(u.run == run, u.user == name), u.epoch)
            ],
            rankings,
        )
