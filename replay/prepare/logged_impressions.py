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
FEW = 16  # up to this many events, those of an impression are compared pair by pair


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
    """The G impressions of N rows: arrays [G], but for `of_row` [N]."""

    of_row: Ints  # [N] index of the row's impression; -1: it has none
    user: Ints
    impression: Ints  # number in the log
    time: Ints  # of the first event, ms
    ns: Ints  # of the first event, within the ms
    row: Ints  # source row of the first event
    last: Ints  # time of the last event, ms
    events: Ints  # number of events
    adjacent: bool  # the rows of each impression are adjacent, ignoring rows without an impression


def find_groups(rows: Columns) -> Groups:
    """Return the impressions of `rows`, which are in the order of the source."""
    has_one = rows.impression != 0
    shown = rows if has_one.all() else rows.take(has_one)  # rows with an impression
    if not len(shown):
        none = np.zeros(0, np.int64)
        return Groups(np.full(len(rows), -1, np.int32), none, none, none, none, none, none, none, adjacent=True)
    starts = changes(shown.user, shown.impression)  # of runs: adjacent rows of one impression
    events = np.diff(np.append(starts, len(shown)))
    run = np.repeat(np.arange(len(starts), dtype=np.int32), events)  # of each row
    time = np.minimum.reduceat(shown.time, starts)
    row, ns = shown.row[starts], shown.ns[starts]
    if (shown.time[starts] != time).any() or shown.ns.any():  # the first row of a run is not its first event
        is_first = shown.time == time[run]
        ns = np.minimum.reduceat(np.where(is_first, shown.ns, np.iinfo(np.int32).max), starts)
        is_first &= shown.ns == ns[run]
        row = np.minimum.reduceat(np.where(is_first, shown.row, np.iinfo(np.int64).max), starts)
    user, impression = shown.user[starts], shown.impression[starts]
    last = np.maximum.reduceat(shown.time, starts)
    if not (impression[1:] > impression[:-1]).all():  # an impression may have several runs: merge them
        order = np.lexsort((row, ns, time, impression, user))
        begins = changes(user[order], impression[order])
        group = np.empty(len(order), np.int32)  # of each run
        group[order] = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(order))))
        last, events = np.maximum.reduceat(last[order], begins), np.add.reduceat(events[order], begins)
        user, impression, time, ns, row = (c[order[begins]] for c in (user, impression, time, ns, row))
        run = group[run]
    of_row = run
    if shown is not rows:
        of_row = np.full(len(rows), -1, np.int32)
        of_row[has_one] = run
    return Groups(of_row, user, impression, time, ns, row, last, events, len(events) == len(starts))


def duplicate_items(rows: Columns, groups: Groups) -> Bools:
    """Return True for each row whose item occurs more than once in its impression."""
    indices = np.flatnonzero(groups.of_row >= 0)
    whole = len(indices) == len(rows)
    group, item = (groups.of_row, rows.item) if whole else (groups.of_row[indices], rows.item[indices])
    largest = int(groups.events.max(initial=0))
    repeated = np.zeros(len(indices), np.bool_)
    if groups.adjacent and largest <= FEW:
        for distance in range(1, largest):
            equal = (group[distance:] == group[:-distance]) & (item[distance:] == item[:-distance])
            repeated[distance:] |= equal
            repeated[:-distance] |= equal
    elif len(indices):
        repeated = repeats(group * np.int64(item.max() + 1) + item)
    if whole:
        return repeated
    duplicates = np.zeros(len(rows), np.bool_)
    duplicates[indices] = repeated
    return duplicates


class ImpressionRules:
    """Applies the rules for impressions to the parts of a log, and collects counts and first cases."""

    def __init__(self, log: StagedLog, span: int, locate: Locate) -> None:
        """Apply rules to the rows of `log`. `span` is the maximum span of an impression, ms."""
        self._log, self._span, self._locate = log, span, locate
        self._longest = self._largest = self._none = self._clicked = self._long = 0
        self._numbers: set[int] = set()  # of impressions, and users: the smallest and largest of each part suffice
        self._users: set[int] = set()
        self._first_long: list[tuple[int, int, int, int]] = []  # (-length, row, user, events)
        self._first_clicked: list[int] = []  # rows
        self._large: list[tuple[int, int]] = []  # (row, events)

    def apply(self, rows: Columns, groups: Groups, duplicates: Bools) -> tuple[Columns, Groups]:
        """Return the events of a part with impressions that are split by the span, and these impressions.

        `groups` and `duplicates` are the results of `find_groups` and `duplicate_items` for its rows.
        Exposures of items that are clicked in the same impression are left out: trackers log an exposure of every shown
        item, but a clicked item was not rejected.
        """
        length = groups.last - groups.time
        self._longest = max(self._longest, int(length.max(initial=0)))
        self._largest = max(self._largest, int(groups.events.max(initial=0)))
        self._none += int((groups.of_row < 0).sum())
        if len(groups.user):
            self._numbers |= {int(groups.impression.min()), int(groups.impression.max())}
            self._users |= {int(groups.user.min()), int(groups.user.max())}
        long = length > self._span
        if long.any():
            self._long += int(long.sum())
            cases = np.flatnonzero(long)
            cases = cases[np.lexsort((groups.row[cases], -length[cases]))[:LISTED]]
            columns = (-length, groups.row, groups.user, groups.events)
            self._first_long += zip(*(column[cases].tolist() for column in columns), strict=True)
            rows = dataclasses.replace(rows, impression=_split(rows, groups, long, self._span))
            groups = find_groups(rows)
        clicked = _clicked(rows, groups, duplicates)
        if clicked.any():
            self._clicked += int(clicked.sum())
            self._first_clicked += rows.row[clicked][:LISTED].tolist()
            rows = rows.take(~clicked)
            groups = find_groups(rows)
        large = groups.events > GROUP_EVENTS
        self._large += zip(groups.row[large].tolist(), groups.events[large].tolist(), strict=True)
        return rows, groups

    def result(self) -> LoggedImpressions:
        """Return the counts and findings of all parts. Raises LargeImpressionError if an impression is too large."""
        self._refuse_large()
        findings = [
            *([self._long_finding()] if self._long else []),
            *([self._clicked_finding()] if self._clicked else []),
        ]
        return LoggedImpressions(self._longest, self._largest, self._none, self._clicked, tuple(findings))

    def _long_finding(self) -> Finding:
        first = sorted(self._first_long)[:LISTED]
        is_constant = len(self._numbers) == 1 < len(self._users)
        cause = "the column holds one value" if is_constant else "numbers that repeat, or session ids?"
        return Finding(
            name="long-impressions",
            count=self._long,
            sentence=f"{self._long:,} impressions last longer than {timedelta(milliseconds=self._span)} and were "
            f"split; the longest lasts {timedelta(milliseconds=-first[0][0])} ({cause}): --impression-span sets the "
            "limit",
            first=tuple(
                f"{self._locate(*self._log.origin(row))}: {events:,} events of user {self._log.users[user].as_py()} in "
                f"{timedelta(milliseconds=-negative_length)}"
                for negative_length, row, user, events in first
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
        name = f"{location}: the impression of this line" if location else f"impression {number}"
        raise LargeImpressionError(
            f"{name} of user {self._log.names_of(row)[0]} has {events:,} events: at most {GROUP_EVENTS:,}; if the "
            "column holds a constant or a session id, leave it out or set a shorter --impression-span",
            file,
            line,
        )


def _split(rows: Columns, groups: Groups, long: Bools, span: int) -> Ints:
    """Return the impression number of each row: a new one for each later piece of a long impression."""
    indices = np.flatnonzero((groups.of_row >= 0) & np.append(long, False)[groups.of_row])
    indices = indices[np.lexsort((rows.row[indices], rows.time[indices], groups.of_row[indices]))]
    time, group = rows.time[indices], groups.of_row[indices]
    begins = np.append(True, group[1:] != group[:-1])
    after_gap = ~begins & np.append(False, np.diff(time) > span)
    gaps = np.cumsum(after_gap)
    stretch = gaps - gaps[begins][np.cumsum(begins) - 1]  # number of gaps before, within the impression
    first = time[begins | after_gap][np.cumsum(begins | after_gap) - 1]  # time at which the stretch begins
    piece = (time - first) // (span + 1)  # number of the piece within the stretch
    later = (stretch > 0) | (piece > 0)
    numbers, index = np.unique(rows.impression[indices][later], return_inverse=True)
    hashes = np.array([number * _SPREAD % (IMPRESSIONS - 1) for number in numbers.tolist()], np.int64)[index]
    split = rows.impression.copy()
    split[indices[later]] = (hashes + stretch[later] * 1_000_003 + piece[later]) % (IMPRESSIONS - 1) + 1
    return split


def _clicked(rows: Columns, groups: Groups, duplicates: Bools) -> Bools:
    """Return True for exposures of items clicked in the same impression; `duplicates` is from `duplicate_items`."""
    indices = np.flatnonzero(duplicates)
    kind, item = rows.kind[indices], rows.item[indices]
    key = groups.of_row[indices] * np.int64(rows.item.max(initial=0) + 1) + item  # pair of impression and item
    clicked = np.zeros(len(rows), np.bool_)
    clicked[indices] = (kind == Kind.EXPOSURE) & np.isin(key, key[kind == Kind.CLICK])
    return clicked
