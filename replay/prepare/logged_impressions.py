"""The impressions of a log: too long ones are split, and one that is too large for a record is refused.

If the impression column has numbers that repeat every day, session ids or a constant, one impression contains events
that were not shown together, and all its clicks would be ranked with the knowledge before its first event. So an
impression ends before a gap of more than the maximum span, and is cut into pieces of at most that span; the first piece
keeps the number. Rows come in parts, each with all events of its users.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from replay.errors import SourceError
from replay.prepare.log_account import Finding
from replay.prepare.staged_log import Bools, Columns, Ints, StagedLog, changes, repeats
from replay.sources.schema import IMPRESSIONS
from streams.records import Kind

GROUP_EVENTS = 2000  # maximum number of events of one impression: they must fit into one record
LISTED = 5  # maximum number of cases that a finding shows

Locate = Callable[[int | None, int | None], str]  # `RowErrors.location`

_SPREAD = 6364136223846793005  # multiplier that hashes the numbers of pieces
FEW = 16  # events of an impression that are compared one by one


class LargeImpressionError(SourceError):
    """An impression does not fit into a record; `file` and `line` locate its first event."""

    def __init__(self, message: str, file: int | None, line: int | None) -> None:
        self.file, self.line = file, line
        super().__init__(message)


@dataclass(frozen=True)
class LoggedImpressions:
    """The longest span (ms) and the largest number of events of an impression in the log, and what was changed."""

    longest: int
    largest: int
    none: int  # events without an impression
    clicked_exposures: int  # left out
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Groups:
    """The impressions of some rows: user, number, first event (time, ns, row), time of the last one, and events."""

    of: Ints  # for each row the index of its impression; -1: it has none
    user: Ints
    impression: Ints
    time: Ints
    ns: Ints
    row: Ints
    last: Ints
    events: Ints
    adjacent: bool  # the rows of each impression are adjacent, apart from rows without an impression


def groups(rows: Columns) -> Groups:
    """Return the impressions of `rows`, which are in the order of the source."""
    inside = np.flatnonzero(rows.impression)
    here = rows if len(inside) == len(rows) else rows.take(inside)
    of = np.full(len(rows), -1)
    if not len(inside):
        none = np.zeros(0, np.int64)
        return Groups(of, none, none, none, none, none, none, none, adjacent=True)
    starts = changes(here.user, here.impression)  # of runs of rows in one impression
    events = np.diff(np.append(starts, len(here)))
    run_of = np.repeat(np.arange(len(starts)), events)
    time = np.minimum.reduceat(here.time, starts)
    row, ns = here.row[starts], here.ns[starts]
    if (here.time[starts] != time).any() or here.ns.any():
        first = here.time == time[run_of]
        ns = np.minimum.reduceat(np.where(first, here.ns, np.iinfo(np.int32).max), starts)
        row = np.minimum.reduceat(np.where(first & (here.ns == ns[run_of]), here.row, np.iinfo(np.int64).max), starts)
    user, impression = here.user[starts], here.impression[starts]
    last = np.maximum.reduceat(here.time, starts)
    if not (impression[1:] > impression[:-1]).all():
        order = np.lexsort((row, ns, time, impression, user))
        begins = changes(user[order], impression[order])
        number = np.empty(len(order), np.int64)
        number[order] = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(order))))
        last, events = np.maximum.reduceat(last[order], begins), np.add.reduceat(events[order], begins)
        user, impression, time, ns, row = (c[order[begins]] for c in (user, impression, time, ns, row))
        run_of = number[run_of]
    of[inside] = run_of
    return Groups(of, user, impression, time, ns, row, last, events, len(events) == len(starts))


def duplicate_items(rows: Columns, found: Groups) -> Bools:
    """Return True for each row whose item occurs more than once in its impression."""
    inside = np.flatnonzero(found.of >= 0)
    of, item = found.of[inside], rows.item[inside]
    largest = int(found.events.max(initial=0))
    several = np.zeros(len(inside), np.bool_)
    if found.adjacent and largest <= FEW:
        for distance in range(1, largest):
            pair = (of[distance:] == of[:-distance]) & (item[distance:] == item[:-distance])
            several[distance:] |= pair
            several[:-distance] |= pair
    elif len(inside):
        several = repeats(of * (int(item.max()) + 1) + item)
    everywhere = np.zeros(len(rows), np.bool_)
    everywhere[inside] = several
    return everywhere


class ImpressionRules:
    """Applies the rules for impressions to the parts of a log, and keeps what was found in them."""

    def __init__(self, log: StagedLog, span: int, locate: Locate) -> None:
        """Apply rules to the rows of `log`. `span` is the maximum span of an impression, ms."""
        self._log, self._span, self._locate = log, span, locate
        self._longest = self._largest = self._none = self._clicked = self._long = 0
        self._numbers: set[int] = set()  # of impressions, and users: two of each are enough
        self._users: set[int] = set()
        self._first_long: list[tuple[int, int, int, int]] = []  # (-length, row, user, events)
        self._first_clicked: list[int] = []  # rows
        self._large: list[tuple[int, int]] = []  # (row, events)

    def apply(self, rows: Columns, found: Groups, duplicates: Bools) -> tuple[Columns, Groups]:
        """Return the events of a part with impressions that are split by the span, and these impressions.

        `found` and `duplicates` are the `groups` and `duplicate_items` of its rows.
        Exposures of items that are clicked in the same impression are left out: trackers log an exposure of every shown
        item, but a clicked item was not rejected.
        """
        length = found.last - found.time
        self._longest = max(self._longest, int(length.max(initial=0)))
        self._largest = max(self._largest, int(found.events.max(initial=0)))
        self._none += int((found.of < 0).sum())
        if len(found.user):
            self._numbers |= {int(found.impression.min()), int(found.impression.max())}
            self._users |= {int(found.user.min()), int(found.user.max())}
        long = length > self._span
        if long.any():
            self._long += int(long.sum())
            at = np.flatnonzero(long)
            at = at[np.lexsort((found.row[at], -length[at]))[:LISTED]]
            self._first_long += zip(
                *(c.tolist() for c in (-length[at], found.row[at], found.user[at], found.events[at])), strict=True
            )
            rows = dataclasses.replace(rows, impression=_split(rows, found, long, self._span))
            found = groups(rows)
        clicked = _clicked(rows, found, duplicates)
        if clicked.any():
            self._clicked += int(clicked.sum())
            self._first_clicked += rows.row[clicked][:LISTED].tolist()
            rows = rows.take(~clicked)
            found = groups(rows)
        large = found.events > GROUP_EVENTS
        self._large += zip(found.row[large].tolist(), found.events[large].tolist(), strict=True)
        return rows, found

    def result(self) -> LoggedImpressions:
        """Return what was found in all parts. Raises LargeImpressionError if an impression is too large."""
        self._refuse_large()
        findings = [
            *([self._long_finding()] if self._long else []),
            *([self._clicked_finding()] if self._clicked else []),
        ]
        return LoggedImpressions(self._longest, self._largest, self._none, self._clicked, tuple(findings))

    def _long_finding(self) -> Finding:
        first = sorted(self._first_long)[:LISTED]
        several = len(self._numbers) == 1 < len(self._users)
        cause = "the column holds one value" if several else "numbers that repeat, or session ids?"
        return Finding(
            name="long-impressions",
            count=self._long,
            sentence=f"{self._long:,} impressions last longer than {timedelta(milliseconds=self._span)} and were "
            f"split; the longest lasts {timedelta(milliseconds=-first[0][0])} ({cause}): --impression-span sets the "
            "limit",
            first=tuple(
                f"{self._locate(*self._log.origin(row))}: {events:,} events of user {self._log.users[user].as_py()} in "
                f"{timedelta(milliseconds=-less)}"
                for less, row, user, events in first
            ),
        )

    def _clicked_finding(self) -> Finding:
        first = []
        for row in sorted(self._first_clicked)[:LISTED]:
            user, item = self._log.names_of(row)
            first.append(f"{self._locate(*self._log.origin(row))}: user {user}, item {item}")
        sentence = (
            f"{self._clicked:,} exposures are of an item that is clicked in the same impression: they are left out"
        )
        return Finding(name="clicked-exposures", count=self._clicked, sentence=sentence, first=tuple(first))

    def _refuse_large(self) -> None:
        if not self._large:
            return
        row, events = min(self._large)
        file, line = self._log.origin(row)
        location = self._locate(file, line)  # the impression number may be a hash of a text, which the line shows
        number = int(self._log.column("impression", row, 1)[0])
        which = f"{location}: the impression of this line" if location else f"impression {number}"
        raise LargeImpressionError(
            f"{which} of user {self._log.names_of(row)[0]} has {events:,} events: at most {GROUP_EVENTS:,}; if the "
            "column holds a constant or a session id, leave it out or set a shorter --impression-span",
            file,
            line,
        )


def _split(rows: Columns, found: Groups, long: Bools, span: int) -> Ints:
    """Return the impression number of each row: a new one for each later piece of a long impression."""
    at = np.flatnonzero((found.of >= 0) & np.append(long, False)[found.of])
    at = at[np.lexsort((rows.row[at], rows.time[at], found.of[at]))]
    time, group = rows.time[at], found.of[at]
    begins = np.append(True, group[1:] != group[:-1])
    gap = ~begins & np.append(False, np.diff(time) > span)
    gaps = np.cumsum(gap)
    stretch = gaps - gaps[begins][np.cumsum(begins) - 1]
    first = time[begins | gap][np.cumsum(begins | gap) - 1]
    piece = (time - first) // (span + 1)
    later = (stretch > 0) | (piece > 0)
    known, index = np.unique(rows.impression[at][later], return_inverse=True)
    spread = np.array([number * _SPREAD % (IMPRESSIONS - 1) for number in known.tolist()], np.int64)[index]
    split = rows.impression.copy()
    split[at[later]] = (spread + stretch[later] * 1_000_003 + piece[later]) % (IMPRESSIONS - 1) + 1
    return split


def _clicked(rows: Columns, found: Groups, duplicates: Bools) -> Bools:
    """Return True for exposures of items clicked in the same impression; `duplicates` is from `duplicate_items`."""
    at = np.flatnonzero(duplicates)
    kind, key = rows.kind[at], found.of[at] * (int(rows.item.max(initial=0)) + 1) + rows.item[at]
    clicked = np.zeros(len(rows), np.bool_)
    clicked[at] = (kind == Kind.EXPOSURE) & np.isin(key, key[kind == Kind.CLICK])
    return clicked
