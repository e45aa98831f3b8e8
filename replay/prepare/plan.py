"""From a source to a plan: the log in total order on disk, what is in it, and where its epochs end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from models.atomic_file import write_atomically
from replay.errors import OnError, Refusals, SourceError
from replay.faults import SOUND, Faults
from replay.prepare import total_order, units
from replay.prepare.late_arrivals import Fleet, arrivals
from replay.prepare.simulated_exposures import simulated
from replay.sources.source import Source
from streams.settings import Exposures

PLAN, LOG = "plan.json", "log.parquet"


@dataclass(frozen=True)
class Options:
    """What of a source is replayed, and how. None: the default that stands beside it."""

    exposures: Exposures | None = None  # the source's first policy
    on_error: OnError = "stop"
    start: int | None = None  # event time in ms: units from here on
    end: int | None = None  # and before this
    limit: int | None = None  # events of the log, in total order; the unit that would exceed it is left out
    users: int | None = None  # that many users: those with the smallest MD5 of their name
    seed: int = 1  # of simulated exposures, and of faults
    epoch: str | None = None  # 6h, or a number of events; the source's own, or 200 epochs of equal size
    loops: int = 1  # how often the log is replayed, each time later by its span
    speed: float | None = None  # event time over wall time; as fast as possible
    faults: Faults = SOUND  # of the devices


@dataclass(frozen=True)
class Contents:
    """What is in a log."""

    rows: int
    users: int
    items: int
    clicks: int
    exposures: int
    past_clicks: int
    candidates: int
    impressions: int
    first: int  # event time of the first and the last event, ms
    last: int
    ties: int  # events at the same time as another unit of the same user: their order is that of the source
    exposures_logged: bool


@dataclass(frozen=True)
class Plan:
    """A log ready to be sent: `path` holds it in total order, `ends` the row after each epoch's last."""

    source: str
    policy: Exposures
    path: Path
    contents: Contents
    ends: tuple[int, ...]
    loops: int = 1
    refused: dict[str, int] = field(default_factory=dict)  # rows by reason
    refused_first: tuple[str, ...] = ()
    faults: Faults = SOUND
    seed: int = 1  # of the faults
    told: dict[str, int] = field(default_factory=dict)  # events by what befell them on the way here

    @property
    def events(self) -> int:
        """How many events are sent in all."""
        return self.contents.rows * self.loops

    @property
    def epochs(self) -> int:
        """How many epochs there are in all."""
        return len(self.ends) * self.loops

    @property
    def users(self) -> int:
        """How many users there are."""
        return self.contents.users

    @property
    def items(self) -> int:
        """How many items there are."""
        return self.contents.items

    @property
    def shift(self) -> int:
        """How much later each loop is than the one before, ms."""
        return self.contents.last - self.contents.first + 1


def prepare(
    source: Source, options: Options, folder: Path, *, progress: Callable[[str, int], None] = lambda _what, _rows: None
) -> Plan:
    """Sort `source` into `folder` and plan its epochs; what is there already from the same source is used again.

    `progress` is told what is being done and how many rows were read so far. Raises SourceError.
    """
    policy = options.exposures or source.policies[0]
    if options.loops < 1 or min(v for v in (options.limit, options.users, 1) if v is not None) < 1:
        raise SourceError("limit, users and loops must be at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _identity(source, options, policy)
    kept = folder / PLAN
    path = folder / LOG
    if kept.exists() and path.exists():
        stored = msgspec.json.decode(kept.read_bytes())
        if stored.get("identity") == wanted:
            contents = Contents(**stored["contents"])
            return _planned(source, options, policy, path, contents, stored)
    kept.unlink(missing_ok=True)
    refusals, fleet = Refusals(options.on_error), Fleet(options.faults, options.seed)
    contents = _sorted(source, options, policy, path, refusals, fleet, progress)
    found = {"refused": dict(refusals.counts), "refused_first": refusals.first, "told": dict(fleet.told)}
    write_json(kept, {"identity": wanted, "contents": asdict(contents)} | found)
    return _planned(source, options, policy, path, contents, found)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON in one step: after a crash the old or the new one is there, whole."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def _identity(source: Source, options: Options, policy: Exposures) -> dict[str, Any]:
    choice = {"start": options.start, "end": options.end, "limit": options.limit, "users": options.users}
    seed = options.seed if policy == "simulated" or options.faults.on_the_way else None
    how = {"policy": policy, "on_error": options.on_error, "seed": seed, "faults": str(options.faults)}
    return source.identity() | choice | how


def _planned(
    source: Source,
    options: Options,
    policy: Exposures,
    path: Path,
    contents: Contents,
    found: dict[str, Any],
) -> Plan:
    ends = units.epoch_ends(path, contents.rows, options.epoch or source.epoch)
    return Plan(
        source.text,
        policy,
        path,
        contents,
        tuple(ends),
        options.loops,
        found["refused"],
        tuple(found["refused_first"]),
        options.faults,
        options.seed,
        found["told"],
    )


def _sorted(
    source: Source,
    options: Options,
    policy: Exposures,
    path: Path,
    refusals: Refusals,
    fleet: Fleet,
    progress: Callable[[str, int], None],
) -> Contents:
    staged, ordered = path.with_name("staged.parquet"), path.with_name("ordered.parquet")
    try:
        read = total_order.stage(source.read(policy, refusals), staged, lambda rows: progress("reading", rows))
        if not read:
            raise SourceError(f"{source.text}: no row could be read" + _why(refusals))
        progress("sorting", read)
        selection = total_order.Selection(options.start, options.end, options.users)
        with total_order.database(path.parent) as connection:
            total_order.sort(connection, staged, ordered, selection)
            rows = units.whole(ordered, total_order.count(connection, ordered), options.limit)
            if not rows:
                raise SourceError(
                    f"{source.text}: nothing is left of {read:,} rows by --from, --to, --limit or --users"
                )
            if policy == "simulated":
                added = simulated(ordered, rows, options.seed, source.text)
                rows = total_order.stage(added, staged, lambda done: progress("simulating exposures", done))
                total_order.number(connection, staged, ordered)
            if options.faults.on_the_way:
                rows = total_order.stage(
                    arrivals(ordered, rows, fleet), staged, lambda done: progress("sending late", done)
                )
                if not rows:
                    raise SourceError(f"{source.text}: all of it is lost by the faults {options.faults}")
                total_order.arrived(connection, staged, ordered)
            found = total_order.contents(connection, ordered, rows)
            contents = Contents(rows=rows, **found, exposures_logged=policy == "logged" and found["exposures"] > 0)
        ordered.replace(path)
    finally:
        staged.unlink(missing_ok=True)
        ordered.unlink(missing_ok=True)
    return contents


def _why(refusals: Refusals) -> str:
    return f"; {refusals.total:,} were refused, the first: {refusals.first[0]}" if refusals.total else ""
