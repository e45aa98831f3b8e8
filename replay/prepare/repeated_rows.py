"""Rows that repeat another row of the log exactly, found part by part."""

from __future__ import annotations

import numpy as np

from replay.prepare.log_account import Finding
from replay.prepare.logged_impressions import LISTED, Locate
from replay.prepare.staged_log import Bools, Columns, StagedLog, changes, repeats

_FACTOR = 0x9E3779B97F4A7C15  # an odd multiplier, which hashes numbers to 64 bits


class RepeatedRows:
    """Counts rows that are identical to an earlier row, and keeps the first cases."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, int]] = []  # (first of the identical rows, their number)

    def add(self, rows: Columns, duplicates: Bools) -> None:
        """Count the repeated rows of a part with all rows of its users; `duplicates` is from `duplicate_items`."""
        columns = (rows.user, rows.item, rows.time, rows.kind, rows.impression)
        single = np.flatnonzero(rows.impression == 0)
        hashes = np.zeros(len(single), np.uint64)
        for column in columns[:-1]:
            hashes += column[single].astype(np.uint64)
            hashes *= np.uint64(_FACTOR)
            hashes ^= hashes >> np.uint64(31)
        candidates = np.append(single[repeats(hashes)], np.flatnonzero(duplicates))  # all repeated rows are among these
        if not len(candidates):
            return
        indices = candidates[np.lexsort((rows.row[candidates], *(column[candidates] for column in columns)))]
        starts = changes(*(column[indices] for column in columns))
        times = np.diff(np.append(starts, len(indices)))
        self.count += int((times - 1).sum())
        repeated = times > 1
        first = sorted(zip(rows.row[indices[starts[repeated]]].tolist(), times[repeated].tolist(), strict=True))
        self._first = sorted([*self._first, *first[:LISTED]])[:LISTED]

    def findings(self, log: StagedLog, locate: Locate) -> tuple[Finding, ...]:
        """Return a finding if there are such rows; all of them are sent."""
        if not self.count:
            return ()
        sentence = f"{self.count:,} rows repeat another row exactly (exported twice?): each of them is an event"
        first = tuple(f"{locate(*log.origin(row))}: {times:,} times" for row, times in self._first)
        return (Finding(name="repeated-rows", count=self.count, sentence=sentence, first=first),)
