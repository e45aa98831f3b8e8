"""Rows that repeat another row of the log exactly, found in the parts of a log one after another."""

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
        self._first: list[tuple[int, int]] = []  # (first of the identical rows, how many)

    def add(self, rows: Columns, duplicates: Bools) -> None:
        """Count the repeated rows of a part with all rows of its users; `duplicates` is from `duplicate_items`."""
        columns = (rows.user, rows.item, rows.time, rows.kind, rows.impression)
        alone = np.flatnonzero(rows.impression == 0)
        mixed = np.zeros(len(alone), np.uint64)
        for column in columns[:-1]:
            mixed += column[alone].astype(np.uint64)
            mixed *= np.uint64(_FACTOR)
            mixed ^= mixed >> np.uint64(31)
        at = np.append(alone[repeats(mixed)], np.flatnonzero(duplicates))
        if not len(at):
            return
        at = at[np.lexsort((rows.row[at], *(column[at] for column in columns)))]
        starts = changes(*(column[at] for column in columns))
        times = np.diff(np.append(starts, len(at)))
        self.count += int((times - 1).sum())
        repeated = times > 1
        first = sorted(zip(rows.row[at[starts[repeated]]].tolist(), times[repeated].tolist(), strict=True))
        self._first = sorted([*self._first, *first[:LISTED]])[:LISTED]

    def findings(self, log: StagedLog, locate: Locate) -> tuple[Finding, ...]:
        """Return a finding if there are such rows; all of them are sent."""
        if not self.count:
            return ()
        sentence = f"{self.count:,} rows repeat another row exactly (exported twice?): each of them is an event"
        first = tuple(f"{locate(*log.origin(row))}: {times:,} times" for row, times in self._first)
        return (Finding(name="repeated-rows", count=self.count, sentence=sentence, first=first),)
