"""The registry of releases in the tables: numbers them, writes their rows, and notes that they are published.

Each function runs inside a transaction of the caller, which holds the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from models.mc2sf.nets import PARTS
from streams.codec import encode
from streams.database import run_state
from streams.database.engine import copy_new, insert_new
from streams.database.schema import decisions, item_embeddings, proposals, release_parts, releases
from streams.process.clock_and_signals import wall_ms
from streams.records import Versions
from streams.release_records import EpochDecision, Manifest
from streams.releases.release import ItemTable, checksum
from streams.releases.retrain_schedule import left_over_retrain
from streams.settings import Settings

EmbeddingValues = tuple[str, int, int, int, bytes]  # run, item, encoder, row, vector: a row of item_embeddings


@dataclass(frozen=True)
class Draft:
    """A release that has no version yet. `items` is None if the item table does not change."""

    kind: Literal["initial", "retrain", "learner", "rollback"]
    parent: Manifest | None
    epoch: int
    parts: Mapping[str, bytes]  # parts that change; standalone nets are not taken over from the parent
    items: ItemTable | None
    trained_until: int
    offsets: dict[str, int]
    gate: dict[str, float | str | None]


def write_release(connection: Connection, run: str, draft: Draft) -> Manifest:
    """Write the draft under the next version, unpublished. A part's version is the release that changed it last."""
    t = releases.c
    newest = connection.execute(sa.select(sa.func.max(t.version)).where(t.run == run)).scalar()
    version = 0 if newest is None else newest + 1
    parent = draft.parent
    if parent is None:
        assert draft.items is not None
        sums, versions, items, digest = {}, Versions(), 0, ""
    else:
        sums = {part: parent.parts[part] for part in PARTS}
        versions, items, digest = parent.versions, parent.items, parent.embeddings
    if draft.items is not None:
        items, digest = len(draft.items.keys), draft.items.digest
    new = {part: version if part in draft.parts else getattr(versions, part) for part in PARTS}
    manifest = Manifest(
        version=version,
        parent=parent.version if parent else 0,
        kind=draft.kind,
        versions=Versions(version, **new),
        epoch=draft.epoch,
        trained_until=draft.trained_until,
        items=items,
        embeddings=digest,
        parts={**sums, **{part: checksum(data) for part, data in draft.parts.items()}},
        offsets=draft.offsets,
        gate={name: float(value) for name, value in draft.gate.items() if isinstance(value, int | float)},
    )
    if draft.items is not None:
        rows = _changed_rows(connection, run, version, draft.items)
        copy_new(connection, item_embeddings, rows)
    parts = [{"run": run, "part": p, "version": version, "data": data} for p, data in draft.parts.items()]
    insert_new(connection, release_parts, parts)
    row = {
        "run": run,
        "version": version,
        "parent": manifest.parent,
        "kind": draft.kind,
        **new,
        "epoch": draft.epoch,
        "trained_until": draft.trained_until,
        "gate": draft.gate,
        "manifest": encode(manifest),
        "published": False,
        "created_wall": wall_ms(),
    }
    insert_new(connection, releases, [row])
    return manifest


def _changed_rows(connection: Connection, run: str, version: int, items: ItemTable) -> list[EmbeddingValues]:
    """Return the rows of E whose bytes differ from those recorded last."""
    t = item_embeddings.c
    newest = sa.select(t.item, sa.func.max(t.encoder).label("encoder")).where(t.run == run).group_by(t.item).subquery()
    both = (t.item == newest.c.item) & (t.encoder == newest.c.encoder)
    query = sa.select(t.item, t.row, t.vector).join(newest, both).where(t.run == run)
    published = {item: (row, bytes(vector)) for item, row, vector in connection.execute(query).all()}
    E = np.ascontiguousarray(items.E, dtype="<f4")
    rows = []
    for row, item in enumerate(items.keys.tolist()):
        vector = E[row].tobytes()
        known = published.get(item)
        if known is not None and known[0] != row:
            raise ValueError(f"item {item} has row {known[0]}, not {row}: rows never change")
        if known is None or known[1] != vector:
            rows.append((run, item, version, row, vector))
    return rows


def finish_release(connection: Connection, run: str, version: int) -> None:
    """Note that the broker acknowledged all records of a release."""
    this = (releases.c.run == run) & (releases.c.version == version)
    connection.execute(sa.update(releases).where(this).values(published=True))


def write_decision(connection: Connection, run: str, decision: EpochDecision) -> None:
    """Write the decision of an epoch, unless there is one."""
    row = {name: getattr(decision, name) for name in ("epoch", "release", "outcome", "reason")}
    insert_new(connection, decisions, [row | {"run": run}])


def all_decided(connection: Connection, settings: Settings) -> bool:
    """Return True if the log has ended, its last epoch is decided, no retrain is left to review and none to publish."""
    recorded = run_state.recorded(connection, settings.run)
    if recorded is None or not recorded[1]:
        return False
    decided = run_state.last_decision(connection, settings.run)
    if decided is None or decided.epoch < recorded[0]:
        return False
    t, left = proposals.c, left_over_retrain(settings, decided.epoch)
    mine = (t.run == settings.run) & (t.kind == "retrain") & (t.epoch == left)
    status = connection.execute(sa.select(t.status).where(mine)).scalar()
    return (left is None or status not in (None, "waiting")) and unpublished(connection, settings.run) is None


def unpublished(connection: Connection, run: str) -> int | None:
    """Return the oldest release that is not published completely, or None."""
    t = releases.c
    query = sa.select(sa.func.min(t.version)).where((t.run == run) & ~t.published)
    return connection.execute(query).scalar()
