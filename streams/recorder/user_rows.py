"""Rows of users that are already in the tables: read at the start, skipped if repeated, deleted on request."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database import run_state, schema
from streams.recorder import state_snapshots
from streams.recorder.rows import ROLE, Recorded
from streams.records import Outcome
from streams.state.numbering import KEPT_KEYS, Applied
from streams.topics import DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES

_OF_USERS = {  # tables by the topic that their rows come from; the changelogs have one
    DEVICE_EVENTS.name: (schema.interactions, schema.idempotency_keys),
    DEVICE_UPLINK.name: (schema.negative_memories, schema.click_uploads),
    OUTCOMES.name: (schema.outcomes, schema.drifts),
}


def read_recorded(connection: Connection, run: str) -> Recorded:
    """Return the next sequence number and last keys of each user, and the names of items, from the tables."""
    i, names, k = schema.interactions.c, schema.items.c, schema.idempotency_keys.c
    last = sa.select(i.user, sa.func.max(i.seq)).where(i.run == run).group_by(i.user)
    expected = {user: seq + 1 for user, seq in connection.execute(last)}
    keys: dict[str, list[Applied]] = {}
    for user, key in connection.execute(sa.select(k.user, k.key).where(k.run == run).order_by(k.user, k.seq)):
        keys[user] = [*keys.get(user, []), key][-KEPT_KEYS:]
    return Recorded(expected, set(connection.execute(sa.select(names.name).where(names.run == run)).scalars()), keys)


def unrecorded(
    connection: Connection, run: str, outcomes: Mapping[tuple[str, int], Outcome]
) -> dict[tuple[str, int], Outcome]:
    """Return the outcomes, by user and seq, that are not in the tables yet."""
    o, held = schema.outcomes.c, list(outcomes)
    repeats: set[tuple[str, int]] = set()
    for start in range(0, len(held), 500):
        some = sa.tuple_(o.user, o.seq).in_(held[start : start + 500])
        repeats |= {(u, s) for u, s in connection.execute(sa.select(o.user, o.seq).where(o.run == run, some))}
    return {key: outcome for key, outcome in outcomes.items() if key not in repeats}


def forget(connection: Connection, run: str, topic: str, user: str, epoch: int) -> None:
    """Delete a user's rows that came from `topic`; record `epoch` as that of the last deletion, and count it."""
    for table in _OF_USERS.get(topic, (schema.user_snapshots,)):
        this: sa.ColumnElement[bool] = (table.c.run == run) & (table.c.user == user)
        if table is schema.interactions:
            this = run_state.events_of(run, user)
        elif table is schema.user_snapshots:
            this &= table.c.side == state_snapshots.SIDES[topic]
        connection.execute(sa.delete(table).where(this))
    if topic == DEVICE_EVENTS.name:
        d, p = schema.dead_letters.c, schema.progress.c
        connection.execute(sa.delete(schema.dead_letters).where(d.run == run, d.key == user.encode()))
        more = {"forgotten": epoch, "forgotten_users": sa.func.coalesce(p.forgotten_users, 0) + 1}
        connection.execute(sa.update(schema.progress).where(p.run == run, p.role == ROLE).values(**more))
