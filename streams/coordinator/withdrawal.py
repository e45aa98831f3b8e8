"""Withdrawing parts from the bus that no kept release names. The tables keep all of them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from models.mc2sf.nets import APART, PARTS
from streams.database.schema import release_parts, releases

KEPT = 3  # releases
KEPT_EPOCHS = 2  # and those made so many epochs ago or later

Part = tuple[str, int, int]  # part, version, bytes


class PartRetention:
    """Remembers which parts are on the bus; after a restart it takes all of them to be there, and withdraws again."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._on_bus: dict[tuple[str, int], int] = {}
        self._seen = -1

    def due(self, connection: Connection, epoch: int) -> list[Part]:
        """Return the parts that are to be withdrawn once `epoch` is decided; they count as withdrawn from now on."""
        p, t = release_parts.c, releases.c
        new = (p.run == self._run) & (p.version > self._seen)
        for part, version, size in connection.execute(sa.select(p.part, p.version, sa.func.length(p.data)).where(new)):
            self._on_bus[part, version] = size
            self._seen = max(self._seen, version)
        young = (t.epoch >= epoch - KEPT_EPOCHS) | (t.version > self._seen - KEPT)
        named = sa.select(t.version, *(t[part] for part in PARTS)).where((t.run == self._run) & young)
        rows = connection.execute(named).all()
        kept = {(part, getattr(row, part)) for row in rows for part in PARTS}
        kept |= {(form, row.encoder) for row in rows for form in APART}
        gone = [key for key in self._on_bus if key not in kept]
        return [(*key, self._on_bus.pop(key)) for key in gone]
