"""The releases in force in a run: as decided for each epoch or, free-running, as recorded with each user's clicks."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from streams.database import schema
from streams.releases.release import Assembler, Release, read_release
from streams.settings import Settings
from streams.verification.reference_fold import Event, ReleaseInForce


class ReleaseSchedule:
    """Reads the releases of a run from its tables."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection, self._run, self._lockstep = connection, settings.run, settings.lockstep
        d = schema.decisions.c
        query = sa.select(d.epoch, d.release).where(d.run == self._run)
        self._decided = {row.epoch: row.release for row in connection.execute(query)}
        self._assembler = Assembler()
        self._catalogues: dict[str, tuple[list[int], frozenset[int]]] = {}  # by the checksum of the embeddings
        self.release = functools.cache(self._read)
        self.in_force = functools.cache(self._in_force)

    def _read(self, version: int) -> Release:
        return read_release(self._connection, self._run, version, self._assembler)

    def _in_force(self, version: int) -> ReleaseInForce:
        release = self.release(version)
        if (catalogue := self._catalogues.get(release.manifest.embeddings)) is None:
            keys = release.catalogue.keys.tolist()
            catalogue = self._catalogues[release.manifest.embeddings] = keys, frozenset(keys)
        return ReleaseInForce(release.manifest.versions, *catalogue)

    def of_epoch(self, epoch: int) -> ReleaseInForce:
        """Return the release in force in an epoch, in lockstep."""
        return self.in_force(self._decided[epoch - 1] if epoch else 0)

    def of_user(self, outcomes: Mapping[int, RowMapping]) -> Callable[[Event], ReleaseInForce]:
        """Return the release in force at each of a user's events, given the user's recorded outcomes by seq.

        Free-running it is that of the next ranked click, which is exact for clicks; nothing else depends on it.
        """
        if self._lockstep:
            return lambda event: self.of_epoch(event.epoch)
        seqs = sorted(outcomes)
        versions = [outcomes[seq]["release"] for seq in seqs] or [0]

        def at(event: Event) -> ReleaseInForce:
            return self.in_force(versions[min(bisect_left(seqs, event.seq), len(versions) - 1)])

        return at

    def surely_has_items(self, seq: int, outcomes: Mapping[int, RowMapping]) -> bool:
        """Return True if the device knew items at a click without outcome, given the user's recorded outcomes by seq.

        Free-running, a user's releases only become newer, so the release of the outcome before is a lower bound.
        """
        release = max((row["release"] for other, row in outcomes.items() if other < seq), default=0)
        return self._lockstep or bool(self.in_force(release).catalogue)


def first_windows(uploads: Mapping[tuple[int, int], object]) -> dict[int, int]:
    """Return the first window that was uploaded under each encoder, given uploads of r2 by window and encoder."""
    first: dict[int, int] = {}
    for window, encoder in sorted(uploads):
        first.setdefault(encoder, window)
    return first
