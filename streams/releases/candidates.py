"""Proposals: how learner and retrain hand what they trained to the coordinator, through the tables.

The bytes of a proposal are one safetensors file of byte arrays (`pack`): the parts that it would replace, and what its
maker needs to go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import Connection

from streams.database.engine import upsert
from streams.database.schema import decisions, progress, proposals, releases
from streams.process.clock_and_signals import wall_ms
from streams.records import EpochDecision

WAITING, ACCEPTED, REJECTED, SUPERSEDED, EMPTY = "waiting", "accepted", "rejected", "superseded", "empty"


class CandidateError(ValueError):
    """A proposal whose bytes can't be read, or a request that can't be fulfilled."""


@dataclass(frozen=True)
class Proposal:
    """One row of `proposals`; see the table for what the fields mean."""

    epoch: int
    kind: str
    status: str
    parent: int
    data: bytes | None
    offsets: dict[str, int]
    quality: dict[str, Any]
    trained_until: int


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Return named bytes as one safetensors file."""
    return save({name: np.frombuffer(data, dtype=np.uint8) for name, data in entries.items()})


def unpack(data: bytes | None) -> dict[str, bytes]:
    """Return what `pack` was given. Raises CandidateError where `data` is no such file."""
    try:
        return {name: array.tobytes() for name, array in load(data or b"").items()}
    except SafetensorError as error:
        raise CandidateError(f"the proposal can't be read: {error}") from error


def write(connection: Connection, run: str, proposal: Proposal) -> None:
    """Write a proposal, over one of the same epoch and kind."""
    values = {name: getattr(proposal, name) for name in proposal.__dataclass_fields__}
    upsert(connection, proposals, [values | {"run": run, "created_wall": wall_ms()}])


def read(connection: Connection, run: str, where: sa.ColumnElement[bool]) -> list[Proposal]:
    """Return the proposals of `run` that satisfy `where`, oldest epoch first."""
    t = proposals.c
    names = list(Proposal.__dataclass_fields__)
    query = sa.select(*(t[name] for name in names)).where((t.run == run) & where).order_by(t.epoch, t.kind)
    return [Proposal(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - sqlalchemy's public name


def mark(connection: Connection, run: str, proposal: Proposal, status: str, reason: str) -> None:
    """Set the status of a proposal, and why."""
    t = proposals.c
    this = (t.run == run) & (t.epoch == proposal.epoch) & (t.kind == proposal.kind)
    values = {"status": status, "quality": proposal.quality | {"verdict": reason}}
    connection.execute(sa.update(proposals).where(this).values(values))


def forget(connection: Connection, run: str, where: sa.ColumnElement[bool]) -> None:
    """Drop the bytes of proposals that nobody needs any more; the rows stay."""
    t = proposals.c
    connection.execute(sa.update(proposals).where((t.run == run) & t.data.is_not(None) & where).values(data=None))


def recorded(connection: Connection, run: str) -> tuple[int, bool] | None:
    """Return the last epoch that the recorder wrote, and whether the log is over; None before the first."""
    t = progress.c
    query = sa.select(t.epoch, t.over).where((t.run == run) & (t.role == "recorder"))
    row = connection.execute(query).one_or_none()
    return (row.epoch, row.over) if row else None


def all_recorded(connection: Connection, run: str) -> bool:
    """Return whether the recorder wrote the log to its end."""
    found = recorded(connection, run)
    return found is not None and found[1]


def last_decision(connection: Connection, run: str) -> EpochDecision | None:
    """Return the decision of the last epoch that was decided."""
    t = decisions.c
    query = sa.select(t.epoch, t.release, t.outcome, t.reason).where(t.run == run).order_by(t.epoch.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return EpochDecision(row.epoch, row.release, row.outcome, row.reason) if row else None


def decision(connection: Connection, run: str, epoch: int) -> EpochDecision | None:
    """Return the decision of `epoch`, once there is one."""
    t = decisions.c
    query = sa.select(t.epoch, t.release, t.outcome, t.reason).where((t.run == run) & (t.epoch == epoch))
    row = connection.execute(query).one_or_none()
    return EpochDecision(row.epoch, row.release, row.outcome, row.reason) if row else None


def active_release(connection: Connection, run: str) -> int | None:
    """Return the version of the newest published release: the one in force. None before release 0."""
    t = releases.c
    query = sa.select(sa.func.max(t.version)).where((t.run == run) & t.published)
    return connection.execute(query).scalar()


def request_rollback(connection: Connection, run: str, version: int) -> None:
    """Ask the coordinator to publish release `version` again under a new one. Raises CandidateError."""
    known = connection.execute(
        sa.select(releases.c.version).where((releases.c.run == run) & (releases.c.version == version))
    ).scalar_one_or_none()
    active = active_release(connection, run)
    if known is None or active is None:
        raise CandidateError(f"there is no release {version} in run {run}")
    if version == active:
        raise CandidateError(f"release {version} is in force already")
    last = last_decision(connection, run)
    epoch = last.epoch + 1 if last else 0
    write(connection, run, Proposal(epoch, "rollback", WAITING, active, None, {}, {"to": version}, 0))
