"""Preparation of a replay: read a source, sort it into a log on disk, and plan its epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from replay.duckdb_session import database
from replay.errors import RowErrors, SourceError
from replay.prepare import impression_groups, total_order
from replay.prepare.late_arrivals import Fleet, late_arrivals
from replay.prepare.plan import LOG, PLAN, Contents, LogFile, LogIdentity, Options, Plan, find_plan, write_plan
from replay.prepare.simulated_exposures import simulated
from replay.sources.source import Source
from streams.settings import Exposures

Progress = Callable[[str, int], None]


def prepare(source: Source, options: Options, folder: Path, *, progress: Progress = lambda _task, _rows: None) -> Plan:
    """Sort `source` into `folder` and plan its epochs; a log that was sorted from the same source before is reused.

    `progress` is called with the current task and the number of rows read so far. Raises SourceError.
    """
    policy = options.exposures or source.policies[0]
    if options.loops < 1 or min(v for v in (options.limit, options.users, 1) if v is not None) < 1:
        raise SourceError("limit, users and loops must be at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    identity = _identity(source, options, policy)
    earlier = find_plan(folder)
    if earlier is not None and earlier.identity == identity:
        contents, refused, refused_first = earlier.contents, earlier.refused, earlier.refused_first
        fault_counts = earlier.fault_counts
    else:
        (folder / PLAN).unlink(missing_ok=True)
        errors, fault_counts = RowErrors(options.on_error), Counter[str]()
        contents = _Sorting(source, options, policy, folder / LOG, errors, fault_counts, progress).run()
        refused, refused_first = dict(errors.counts), tuple(errors.first)
    plan = Plan(
        folder=str(folder),
        identity=identity,
        contents=contents,
        ends=impression_groups.epoch_ends(folder / LOG, contents.rows, options.epoch or source.epoch),
        loops=options.loops,
        speed=options.speed,
        refused=refused,
        refused_first=refused_first,
        faults=options.faults,
        seed=options.seed,
        fault_counts=dict(fault_counts),
    )
    if plan != earlier:
        write_plan(plan)
    return plan


def _identity(source: Source, options: Options, policy: Exposures) -> LogIdentity:
    return LogIdentity(
        source=source.text,
        files=tuple(LogFile(*stamp) for stamp in source.file_stamps()),
        start=options.start,
        end=options.end,
        limit=options.limit,
        users=options.users,
        policy=policy,
        on_error=options.on_error,
        seed=options.seed if policy == "simulated" or options.faults.change_arrivals else None,
        faults=str(options.faults),
    )


@dataclass(frozen=True)
class _Sorting:
    """One sort of a source into the log at `path`; refused rows go to `errors`, counts of faults to `fault_counts`."""

    source: Source
    options: Options
    policy: Exposures
    path: Path
    errors: RowErrors
    fault_counts: Counter[str]
    progress: Progress

    def run(self) -> Contents:
        staged, ordered = self.path.with_name("staged.parquet"), self.path.with_name("ordered.parquet")
        try:
            contents = self._sort(staged, ordered)
            ordered.replace(self.path)
        finally:
            staged.unlink(missing_ok=True)
            ordered.unlink(missing_ok=True)
        return contents

    def _sort(self, staged: Path, ordered: Path) -> Contents:
        options, text = self.options, self.source.text
        read = total_order.stage(self.source.read(self.policy, self.errors), staged, self._counting("reading"))
        if not read:
            raise SourceError(f"{text}: no row could be read" + self._first_error())
        self.progress("sorting", read)
        with database(self.path.parent) as connection:
            selection = total_order.Selection(options.start, options.end, options.users)
            total_order.sort(connection, staged, ordered, selection)
            rows = impression_groups.rows_within(ordered, total_order.count(connection, ordered), options.limit)
            if not rows:
                raise SourceError(f"{text}: nothing is left of {read:,} rows by --from, --to, --limit or --users")
            if self.policy == "simulated":
                added = simulated(ordered, rows, options.seed, text)
                rows = total_order.stage(added, staged, self._counting("simulating exposures"))
                total_order.number(connection, staged, ordered)
            if options.faults.change_arrivals:
                fleet = Fleet(options.faults, options.seed, self.fault_counts)
                rows = total_order.stage(
                    late_arrivals(ordered, rows, fleet), staged, self._counting("delaying arrivals")
                )
                if not rows:
                    raise SourceError(f"{text}: all of it is lost by the faults {options.faults}")
                total_order.sort_by_arrival(connection, staged, ordered)
            counts = total_order.contents(connection, ordered, rows)
        logged = self.policy == "logged" and counts["exposures"] > 0
        return msgspec.convert(counts | {"rows": rows, "exposures_logged": logged}, Contents)

    def _counting(self, task: str) -> Callable[[int], None]:
        return lambda rows: self.progress(task, rows)

    def _first_error(self) -> str:
        errors = self.errors
        return f"; {errors.total:,} were refused, the first: {errors.first[0]}" if errors.total else ""
