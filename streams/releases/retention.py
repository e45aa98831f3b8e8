"""Retention of releases' weights: in Kafka those of the last releases, in the tables those that may still be asked for.

The rows of `releases` and `decisions` stay: they say what was in force when. Only weights and rows of E are deleted.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from models.mc2sf.nets import PARTS, STANDALONE
from streams.database import run_state
from streams.database.schema import item_embeddings, outcomes, release_parts, releases
from streams.settings import Settings

KEPT = 3  # releases, in Kafka
KEPT_EPOCHS = 2  # releases of this many last epochs are kept too

Part = tuple[str, int, int]  # part, version, bytes


class PartRetention:
    """Lists the parts in Kafka. After a restart it assumes that all of them are there, and withdraws again."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._published: dict[tuple[str, int], int] = {}  # (part, version) -> bytes
        self._newest = -1

    def expired(self, connection: Connection, epoch: int) -> list[Part]:
        """Return the parts to withdraw once `epoch` is decided; from now on they count as withdrawn."""
        p, t = release_parts.c, releases.c
        new = (p.run == self._run) & (p.version > self._newest)
        for part, version, size in connection.execute(sa.select(p.part, p.version, sa.func.length(p.data)).where(new)):
            self._published[part, version] = size
            self._newest = max(self._newest, version)
        young = (t.epoch >= epoch - KEPT_EPOCHS) | (t.version > self._newest - KEPT)
        kept = _named(connection, self._run, young)
        expired = [key for key in self._published if key not in kept]
        return [(*key, self._published.pop(key)) for key in expired]


def delete_weights(connection: Connection, settings: Settings, newest: int, now_wall: int) -> dict[str, int]:
    """Delete the weights that nothing asks for any more. Return the number of deleted rows by table.

    Kept are the `newest` releases, and before them those by which a recorded click was ranked, from which a retrain may
    start, or by which a ranking on the topics is explained; then the last one that the learner did not make.
    """
    run, t, o = settings.run, releases.c, outcomes.c
    recorded = run_state.recorded(connection, run)
    if recorded is None:
        return {}

    def last(*where: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.max(t.version)).where(t.run == run, t.published, *where)
        return connection.execute(query).scalar() or 0

    ranked = connection.execute(sa.select(sa.func.min(o.release)).where(o.run == run)).scalar()
    oldest = min(
        last() + 1 - newest,
        last(t.epoch < recorded[0] - settings.retrain_every - KEPT_EPOCHS),
        last(t.created_wall < now_wall - settings.topics_kept_ms),
        last() if ranked is None else ranked,
    )
    oldest = last(t.version <= oldest, t.kind != "learner")
    kept = _named(connection, run, t.version >= oldest)
    p = release_parts.c
    stored = connection.execute(sa.select(p.part, p.version).where(p.run == run)).all()
    deleted = sum(
        connection.execute(sa.delete(release_parts).where(p.run == run, p.part == part, p.version == version)).rowcount
        for part, version in stored
        if (part, version) not in kept
    )
    return {release_parts.name: deleted, item_embeddings.name: _delete_replaced_rows(connection, run, oldest)}


def _delete_replaced_rows(connection: Connection, run: str, oldest: int) -> int:
    """Delete the rows of E that release `oldest` and all later ones have in a newer version."""
    encoder = sa.select(releases.c.encoder).where(releases.c.run == run, releases.c.version == oldest)
    e, newer = item_embeddings.c, item_embeddings.alias().c
    replaced = sa.exists().where(
        newer.run == run, newer.item == e.item, newer.encoder > e.encoder, newer.encoder <= encoder.scalar_subquery()
    )
    return connection.execute(sa.delete(item_embeddings).where(e.run == run, replaced)).rowcount


def without_weights(connection: Connection, run: str) -> set[int]:
    """Return the releases whose weights `delete_weights` deleted: every release changes its fast part."""
    t, p = releases.c, release_parts.c
    oldest = sa.select(sa.func.min(p.version)).where(p.run == run, p.part == "fast").scalar_subquery()
    return set(connection.execute(sa.select(t.version).where(t.run == run, t.fast < oldest)).scalars())


def _named(connection: Connection, run: str, where: sa.ColumnElement[bool]) -> set[tuple[str, int]]:
    """Return the (part, version) that the releases name."""
    t = releases.c
    rows = connection.execute(sa.select(*(t[part] for part in PARTS)).where(t.run == run, where)).all()
    named = {(part, getattr(row, part)) for row in rows for part in PARTS}
    return named | {(net, row.encoder) for row in rows for net in STANDALONE}
