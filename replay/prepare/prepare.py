"""Preparation of a replay: read a source, sort it into a log on disk, account for every row, and plan its epochs."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb
import msgspec
from msgspec.structs import replace

from replay.duckdb_session import database
from replay.errors import RowErrors, SourceError, shown
from replay.prepare import implausible, impression_groups, total_order
from replay.prepare.late_arrivals import Fleet, late_arrivals
from replay.prepare.log_account import Account, Finding, not_accepted
from replay.prepare.logged_impressions import LargeImpressionError, LoggedImpressions
from replay.prepare.plan import (
    LOG,
    PLAN,
    PREPARING,
    Contents,
    LogFile,
    LogIdentity,
    Options,
    Plan,
    find_plan,
    write_plan,
)
from replay.prepare.plugin_exposures import plugin_exposures
from replay.prepare.repeated_rows import RepeatedRows
from replay.prepare.simulated_exposures import simulated
from replay.prepare.staged_log import StagedLog
from replay.sources.source import Source
from replay.sources.text.lines import lines
from streams.settings import Exposures

Progress = Callable[[str, int], None]


def prepare(
    source: Source,
    options: Options,
    folder: Path,
    *,
    resume: bool = False,
    describe: bool = False,
    progress: Progress = lambda _task, _rows: None,
) -> Plan:
    """Sort `source` into `folder` and plan its epochs. A log that was sorted there from the same content is reused.

    With `resume` it is reused even if the files have changed: a run continues with the copy that it began with.
    With `describe` only the description of the log is made: the plan has no epochs, and nothing is kept in `folder`.
    `progress` is called with the current task and the number of rows read so far. Raises SourceError, also for a
    finding that stops a run and is not accepted by `options`.
    """
    policy = options.exposures or source.policies[0]
    if options.loops < 1 or min(v for v in (options.limit, options.users, 1) if v is not None) < 1:
        raise SourceError("limit, users and loops must be at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    stamps, earlier = source.file_stamps(), find_plan(folder)
    same = earlier is not None and replace(earlier.identity, files=()) == _identity(source, options, policy)
    reused = earlier if earlier and same and (resume or _same_content(source, earlier)) else None
    with _work_folder(folder) as work:
        if reused is None:
            sorting = _Sorting(
                source, options, policy, work / LOG, RowErrors(options.on_error), Counter[str](), progress, not describe
            )
            contents, account, impressions = sorting.run()
            changed = source.file_stamps() != stamps
            prepared = Plan(
                folder=str(folder),
                identity=_identity(source, options, policy, () if changed or describe else _files(source)),
                contents=contents,
                ends=(),
                loops=options.loops,
                speed=options.speed,
                rate=options.rate,
                refused_first=tuple(sorting.errors.first),
                faults=options.faults,
                seed=options.seed,
                fault_counts=dict(sorting.fault_counts),
                account=account,
                findings=(*impressions.findings, *(_changed(source) if changed else ())),
                longest_impression=impressions.longest,
                largest_impression=impressions.largest,
                without_impression=impressions.none,
            )
        else:
            prepared = reused
        if refusal := not_accepted(prepared.findings, options.accept):
            raise SourceError(f"{source.text}: {refusal}")
        if describe:
            return prepared
        ends = impression_groups.epoch_ends(
            (work if reused is None else folder) / LOG, prepared.contents.rows, options.epoch or source.epoch
        )
        paced = {"loops": options.loops, "speed": options.speed, "rate": options.rate}
        plan = replace(prepared, ends=ends, seed=options.seed, **paced)
        if reused is None:
            (folder / PLAN).unlink(missing_ok=True)  # that of the earlier log
            (work / LOG).replace(folder / LOG)
        if plan != earlier or reused is None:
            write_plan(plan)
        return plan


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Create a folder for unfinished files in `folder`, and delete it at the end; one left by a crash is replaced."""
    work = folder / PREPARING
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _identity(source: Source, options: Options, policy: Exposures, files: tuple[LogFile, ...] = ()) -> LogIdentity:
    return LogIdentity(
        source=source.text,
        log_map=source.log_map,
        files=files,
        start=options.start,
        end=options.end,
        limit=options.limit,
        users=options.users,
        policy=policy,
        on_error=options.on_error,
        seed=options.seed if policy in {"simulated", "plugin"} or options.faults.change_arrivals else None,
        faults=str(options.faults),
        impression_span=options.impression_span,
        plugin=options.plugin.setting if options.plugin else "",
    )


def _files(source: Source) -> tuple[LogFile, ...]:
    """Return size and hash of each file of a source. Raises SourceError."""
    log_files = []
    for name, size, _ in source.file_stamps():
        try:
            with Path(name).open("rb") as file:
                log_files.append(LogFile(name, size, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            raise SourceError(f"{name}: {error.strerror or error}") from error
    return tuple(log_files)


def _same_content(source: Source, plan: Plan) -> bool:
    sizes = [(file.path, file.size) for file in plan.identity.files]
    if source.once or [stamp[:2] for stamp in source.file_stamps()] != sizes:
        return False
    return not source.files or _files(source) == plan.identity.files


def _changed(source: Source) -> tuple[Finding, ...]:
    sentence = f"{source.text} changed while it was read: this run uses the rows that were read, others read it again"
    return (Finding(name="changed-file", count=1, sentence=sentence),)


@dataclass(frozen=True)
class _Sorting:
    """One sort of a source into the log at `path`; refused rows go to `errors`, counts of faults to `fault_counts`.

    Without `keep` the log is written only if something has to be read from it.
    """

    source: Source
    options: Options
    policy: Exposures
    path: Path
    errors: RowErrors
    fault_counts: Counter[str]
    progress: Progress
    keep: bool

    def run(self) -> tuple[Contents, Account, LoggedImpressions]:
        """Return the contents of the log, the account of its rows, and the findings."""
        ordered, added_to = self.path, self.path.with_name("positioned.parquet")
        options, text, errors = self.options, self.source.text, self.errors
        log = StagedLog(self.path.with_name("staged"))
        log.fill(self.source.read(self.policy, errors), self._counting("reading"))
        read = log.rows
        if not read:
            raise SourceError(f"{text}: no row could be read" + self._first_error())
        self.progress("sorting", read)
        selection = total_order.Selection(options.start, options.end, options.users)
        as_sorted = self.policy not in {"simulated", "plugin"} and not options.faults.change_arrivals
        keep = self.keep or options.limit is not None or not as_sorted or implausible.may_be_stray(log)
        try:
            sorted_ = total_order.sort(log, selection, options.impression_span, errors.location, keep=keep)
        except LargeImpressionError as error:
            raise SourceError(f"{error}{self._line(error)}") from error
        if keep:
            sorted_.write(ordered)
        chosen = rows = impression_groups.rows_within(ordered, sorted_.rows, options.limit)
        if not rows:
            raise SourceError(f"{text}: --from, --to, --limit or --users exclude all of {read:,} rows")
        with database(self.path.parent) as connection:
            self.progress("checking", read)
            findings = self._findings(connection, log, sorted_.repeated, rows)
            if self.policy in {"simulated", "plugin"}:
                if options.plugin is None:
                    added = simulated(ordered, rows, options.seed, text)
                else:
                    added = plugin_exposures(ordered, rows, options.seed, text, options.plugin)
                rows = total_order.write_positioned(added, added_to, self._counting("simulating exposures"))
                total_order.number(connection, added_to, ordered)
            before_faults = rows
            if options.faults.change_arrivals:
                fleet = Fleet(options.faults, options.seed, self.fault_counts)
                rows = total_order.write_positioned(
                    late_arrivals(ordered, rows, fleet), added_to, self._counting("delaying arrivals")
                )
                if not rows:
                    raise SourceError(f"{text}: the faults {options.faults} lose all events")
                total_order.number(connection, added_to, ordered, by_arrival=True)
            counts = (
                sorted_.contents
                if as_sorted and rows == sorted_.rows
                else total_order.contents(connection, ordered, rows)
            )
        impressions = sorted_.impressions
        clicked = {"exposure of an item that is clicked in the same impression": impressions.clicked_exposures}
        account = Account(
            read=read + errors.total + errors.left_out.total(),
            refused=dict(errors.counts),
            left_out=dict(errors.left_out) | (clicked if impressions.clicked_exposures else {}),
            outside=sorted_.outside + sorted_.rows - chosen,
            added=before_faults - chosen,
            lost=self.fault_counts["lost"],
            sent=counts["clicks"] + counts["exposures"] + counts["past_clicks"] + counts["candidates"],
        )
        account.check()
        findings += implausible.nothing_to_rank(counts, self.policy, self.source.policies)
        logged = self.policy == "logged" and counts["exposures"] > 0
        contents = msgspec.convert(counts | {"rows": rows, "exposures_logged": logged}, Contents)
        return contents, account, dataclasses.replace(impressions, findings=impressions.findings + findings)

    def _findings(
        self, connection: duckdb.DuckDBPyConnection, log: StagedLog, repeated: RepeatedRows, rows: int
    ) -> tuple[Finding, ...]:
        locate = self.errors.location
        return (
            *implausible.doubtful_names(connection, "user", log, locate),
            *implausible.doubtful_names(connection, "item", log, locate),
            *repeated.findings(log, locate),
            *implausible.doubts(self.errors.doubts),
            *implausible.early_times(log),
            *implausible.coarse_times(log),
            *implausible.future_times(log, locate, int(time.time() * 1000)),
            *implausible.stray_times(connection, self.path, rows, log, locate),
        )

    def _line(self, error: LargeImpressionError) -> str:
        """Return the line of a text file in brackets; "" for other files and sources that can be read only once."""
        path = Path() if error.file is None or self.source.once else self.errors.files[error.file]
        if path.suffix.lower() == ".parquet" or not path.is_file():
            return ""
        matching = (text for number, text in lines(path, RowErrors("skip")) if number == error.line)
        return "".join(f" ({shown(text)})" for text in islice(matching, 1))

    def _counting(self, task: str) -> Callable[[int], None]:
        return lambda rows: self.progress(task, rows)

    def _first_error(self) -> str:
        errors = self.errors
        return f"; {errors.total:,} were refused, the first: {errors.first[0]}" if errors.total else ""
