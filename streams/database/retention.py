"""Retention of a run's tables by time: rows that the run itself no longer reads are deleted.

The log (`interactions`), r2 and states stay: retrains, item statistics and popularity count all of them. Weights of
releases: streams/releases/retention.py.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database import schema
from streams.database.schema import click_uploads, dead_letters, drifts, idempotency_keys, metric_points, outcomes
from streams.settings import Settings
from streams.state.numbering import KEPT_KEYS

KEPT_EPOCHS = 2  # that are kept in any case: a worker that was killed may send their records again


def trim(connection: Connection, settings: Settings, keep_ms: int, now_wall: int) -> dict[str, int]:
    """Delete rows older than `keep_ms` before the event time reached, dead letters by wall clock.

    Return the number of deleted rows by table. A user's last idempotency keys stay, and what a recorder that is started
    again needs for its sliding metrics and for records that come twice.
    """
    run, p = settings.run, schema.progress.c
    of_recorder = (p.run == run) & (p.role == "recorder")
    reached = connection.execute(sa.select(p.time, p.epoch).where(of_recorder)).one_or_none()
    if reached is None:
        return {}
    before = reached.time - max(keep_ms, int(settings.quality_span_s * 1000))
    epoch = reached.epoch - KEPT_EPOCHS
    deleted = {}
    for table in (outcomes, click_uploads, drifts, metric_points):
        t = table.c
        past = (t.run == run) & (t.time < before) & (t.epoch <= epoch)
        deleted[schema.public_name(table)] = _delete(connection, table, past)
    old = (dead_letters.c.run == run) & (dead_letters.c.recorded_wall < now_wall - keep_ms)
    deleted[dead_letters.name] = _delete(connection, dead_letters, old)
    k = idempotency_keys.c
    newest_first = sa.func.row_number().over(partition_by=k.user, order_by=k.seq.desc()).label("n")
    ranked = sa.select(k.user, k.seq, newest_first).where(k.run == run).subquery()
    surplus = sa.select(ranked.c.user, ranked.c.seq).where(ranked.c.n > KEPT_KEYS)
    deleted[idempotency_keys.name] = _delete(
        connection, idempotency_keys, (k.run == run) & sa.tuple_(k.user, k.seq).in_(surplus)
    )
    if deleted[outcomes.name]:
        connection.execute(sa.update(schema.progress).where(of_recorder).values(trimmed=before))
    return deleted


def _delete(connection: Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    return connection.execute(sa.delete(table).where(where)).rowcount
