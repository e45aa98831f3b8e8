"""Release candidates: what learner and retrain have trained, handed to the coordinator through the table `proposals`.

The bytes of a candidate are one safetensors file of byte arrays (`pack`): the parts that it would replace, and what the
process that trained it needs to continue from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import sqlalchemy as sa
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import Connection

from streams.database.engine import upsert
from streams.database.run_state import active_release, last_decision
from streams.database.schema import proposals, releases, runs
from streams.process.clock_and_signals import wall_ms
from streams.releases.retention import without_weights

WAITING, ACCEPTED, REJECTED, SUPERSEDED, EMPTY = "waiting", "accepted", "rejected", "superseded", "empty"


class CandidateError(ValueError):
    """A candidate whose bytes cannot be read, or a request that cannot be fulfilled."""


@dataclass(frozen=True)
class ReleaseCandidate:
    """One row of the table `proposals`, which explains the fields."""

    epoch: int
    kind: str
    status: str
    parent: int
    data: bytes | None
    offsets: dict[str, int]
    quality: dict[str, float | None]
    trained_until: int


_FIELDS = tuple(ReleaseCandidate.__dataclass_fields__)


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Return named bytes as one safetensors file."""
    return save({name: np.frombuffer(data, dtype=np.uint8) for name, data in entries.items()})


def unpack(data: bytes | None) -> dict[str, bytes]:
    """Return what `pack` was given. Raises CandidateError if `data` is no such file."""
    try:
        return {name: array.tobytes() for name, array in load(data or b"").items()}
    except SafetensorError as error:
        raise CandidateError(f"the release candidate can't be read: {error}") from error


def write(connection: Connection, run: str, candidate: ReleaseCandidate) -> None:
    """Write a candidate; it replaces one of the same epoch and kind."""
    upsert(connection, proposals, [asdict(candidate) | {"run": run, "created_wall": wall_ms()}])


def read(
    connection: Connection, run: str, where: sa.ColumnElement[bool], *, data: bool = True
) -> list[ReleaseCandidate]:
    """Return the candidates of `run` that satisfy `where`, oldest epoch first; `data` False: without their bytes."""
    t = proposals.c
    columns = [t[name] if data or name != "data" else sa.null().label(name) for name in _FIELDS]
    query = sa.select(*columns).where((t.run == run) & where).order_by(t.epoch, t.kind)
    return [ReleaseCandidate(**row) for row in connection.execute(query).mappings()]


def complete(connection: Connection, run: str, candidate: ReleaseCandidate) -> ReleaseCandidate:
    """Return a candidate that was read without its bytes with them; an empty one has none to review."""
    if candidate.status == EMPTY:
        return candidate
    query = sa.select(proposals.c.data).where(_row_of(run, candidate))
    return replace(candidate, data=connection.execute(query).scalar_one())


def mark(connection: Connection, run: str, candidate: ReleaseCandidate, status: str, reason: str) -> None:
    """Set the status of a candidate, and the reason for it."""
    values = {"status": status, "quality": candidate.quality | {"verdict": reason}}
    connection.execute(sa.update(proposals).where(_row_of(run, candidate)).values(values))


def _row_of(run: str, candidate: ReleaseCandidate) -> sa.ColumnElement[bool]:
    t = proposals.c
    return (t.run == run) & (t.epoch == candidate.epoch) & (t.kind == candidate.kind)


def forget(connection: Connection, run: str, where: sa.ColumnElement[bool]) -> None:
    """Drop the bytes of candidates that are no longer needed; the rows stay."""
    t = proposals.c
    connection.execute(sa.update(proposals).where((t.run == run) & t.data.is_not(None) & where).values(data=None))


def request_rollback(connection: Connection, run: str, version: int) -> None:
    """Ask the coordinator to publish release `version` again under a new one. Raises CandidateError."""
    known = connection.execute(
        sa.select(releases.c.version).where((releases.c.run == run) & (releases.c.version == version))
    ).scalar_one_or_none()
    active = active_release(connection, run)
    if known is None or active is None:
        raise CandidateError(f"there is no release {version} in run {run}")
    status = connection.execute(sa.select(runs.c.status).where(runs.c.run == run)).scalar_one_or_none()
    if status in ("finished", "failed"):
        raise CandidateError(f"run {run} has ended: no decision follows")
    if version in without_weights(connection, run):
        raise CandidateError(f"the weights of release {version} were deleted by `mc2sf runs trim`")
    if version == active:
        raise CandidateError(f"release {version} is in force already")
    last = last_decision(connection, run)
    epoch = last.epoch + 1 if last else 0
    write(connection, run, ReleaseCandidate(epoch, "rollback", WAITING, active, None, {}, {"to": version}, 0))
