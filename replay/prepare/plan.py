"""The plan of a replay: a log in total order on disk, its contents, and the ends of its epochs.

`prepare.prepare` makes one in a folder (LOG and PLAN); `read_plan` reads it in another process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from replay.errors import OnError, SourceError
from replay.faults import NO_FAULTS, Faults
from replay.json_file import write_json
from replay.prepare.log_account import Acceptable, Account, Finding
from replay.sources.log_map import LogMap
from streams.plugins.plugin import Plugin, named
from streams.settings import Exposures

PLAN, LOG = "plan.json", "log.parquet"
PREPARING = ".mc2sf-preparing"  # folder of unfinished files beside them
POLICIES: tuple[Exposures, ...] = ("logged", "rated", "simulated")  # that are no plugin
TICK_S = 0.05  # wall time whose events are sent together, by default
MAX_IMPRESSION_MS = 30 * 60_000  # as sessions are usually cut


@dataclass(frozen=True)
class Options:
    """The selected part of a source and the way it is replayed."""

    log_map: LogMap | None = None  # how the log is written; None: the source's own map
    exposures: Exposures | None = None  # exposure policy; None: the source's first
    on_error: OnError = "stop"
    start: int | None = None  # impression groups from this event time on, ms; None: all
    end: int | None = None  # impression groups before this event time, ms; None: all
    limit: int | None = None  # maximum number of events; a group that would exceed it is left out; None: all
    users: int | None = None  # number of users: those with the smallest MD5 of their name; None: all
    seed: int = 1  # of simulated exposures, and of faults
    epoch: str | None = None  # 6h, or a number of events; None: the source's own, or 200 epochs of equal size
    loops: int = 1  # number of times the log is replayed, each time later by its span
    speed: float | None = None  # event time over wall time; None: as fast as possible
    rate: float | None = None  # events per second of wall time, instead of a speed
    faults: Faults = NO_FAULTS  # of the devices
    impression_span: int = MAX_IMPRESSION_MS  # longer impressions are split, ms
    accept: frozenset[Acceptable] | None = frozenset()  # findings that do not stop the preparation; None: all
    plugin: Plugin | None = None  # the exposure policy, if it is `plugin`


class LogFile(msgspec.Struct, frozen=True):
    """A file of a source with its hash: if its content changes, the sorted log is stale."""

    path: str
    size: int
    sha256: str


class LogIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on which the sorted log depends; an equal one is reused."""

    source: str
    log_map: LogMap | None  # how the log is written
    files: tuple[LogFile, ...]
    start: int | None
    end: int | None
    limit: int | None
    users: int | None
    policy: Exposures
    on_error: OnError
    seed: int | None  # None: no row depends on it
    faults: str
    impression_span: int
    plugin: str = ""  # the exposure policy, with the hash of its code


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of what a log contains."""

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
    ties: int  # events with the same ms as another impression group of their user
    exposures_logged: bool


class LogDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared log: its contents, the account of its rows, and findings."""

    source: str
    policy: Exposures
    contents: Contents
    longest_impression_ms: int  # before it was split
    largest_impression: int  # events
    without_impression: int  # events of the source
    account: Account
    refused_first: tuple[str, ...]
    findings: tuple[Finding, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A sorted log that is ready to be sent from `folder`."""

    folder: str
    identity: LogIdentity
    contents: Contents
    ends: tuple[int, ...]  # for each epoch of one loop, the row after its last one
    loops: int
    speed: float | None  # event time over wall time; None: as fast as possible
    rate: float | None = None  # events per second of wall time, instead of a speed
    tick_s: float = TICK_S
    refused_first: tuple[str, ...]
    faults: Faults
    seed: int  # of the faults
    fault_counts: dict[str, int]  # events by the fault that changed their arrival
    account: Account
    findings: tuple[Finding, ...]
    longest_impression: int  # in the log, before it is split, ms
    largest_impression: int  # events
    without_impression: int  # events of the source

    @property
    def source(self) -> str:
        """The SOURCE, as the user wrote it."""
        return self.identity.source

    @property
    def description(self) -> LogDescription:
        """The description of the log for users."""
        return LogDescription(
            source=self.source,
            policy=self.policy,
            contents=self.contents,
            longest_impression_ms=self.longest_impression,
            largest_impression=self.largest_impression,
            without_impression=self.without_impression,
            account=self.account,
            refused_first=self.refused_first,
            findings=self.findings,
        )

    @property
    def refused(self) -> dict[str, int]:
        """Refused rows by reason."""
        return self.account.refused

    @property
    def policy(self) -> Exposures:
        """The exposure policy with which the log was read."""
        return self.identity.policy

    @property
    def path(self) -> Path:
        """The sorted log."""
        return Path(self.folder) / LOG

    @property
    def events(self) -> int:
        """Number of events in all loops."""
        return self.contents.rows * self.loops

    @property
    def seconds(self) -> float:
        """Wall time of the replay at the speed or rate; 0 without one."""
        if self.rate is not None:
            return self.events / self.rate
        return self.shift * self.loops / 1000 / self.speed if self.speed is not None else 0.0

    @property
    def epochs(self) -> int:
        """Number of epochs in all loops."""
        return len(self.ends) * self.loops

    @property
    def shift(self) -> int:
        """Difference in event time between a loop and the one before it, ms."""
        return self.contents.last - self.contents.first + 1


def exposure_policy(text: str | None) -> tuple[Exposures | None, Plugin | None]:
    """Return the policy of a name in POLICIES, or `plugin` and the plugin of a `module:Name`. Raises PluginError."""
    for policy in POLICIES:
        if text == policy:
            return policy, None
    return (None, None) if text is None else ("plugin", named("exposures", text))


def write_plan(plan: Plan) -> None:
    """Write the plan into the folder of its log."""
    write_json(Path(plan.folder) / PLAN, plan)


def read_plan(folder: Path) -> Plan:
    """Return the plan that was prepared in `folder`. Raises SourceError if there is none."""
    if (plan := find_plan(folder)) is None:
        raise SourceError(f"{folder} holds no prepared plan ({PLAN} and {LOG})")
    return plan


def find_plan(folder: Path) -> Plan | None:
    """Return the plan in `folder`; None if there is none, or one of another version."""
    try:
        plan = msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError):
        return None
    return msgspec.structs.replace(plan, folder=str(folder)) if (folder / LOG).exists() else None
