"""Review of an epoch's release candidates: at most one becomes a release, the others are rejected or superseded.

Order: a requested rollback, a retrain, the learner's candidate. A candidate whose encoder or slow part is no longer
active is superseded without a look at its weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from sqlalchemy import Connection

from models.data.catalogue import Catalogue
from models.mc2sf.nets import PARTS
from streams.model_config import net_config
from streams.release_records import Manifest
from streams.releases import candidates, gate
from streams.releases.candidates import ACCEPTED, EMPTY, REJECTED, SUPERSEDED, ReleaseCandidate
from streams.releases.registry import Draft
from streams.releases.release import ItemTable, read_items, read_manifest, read_parts
from streams.settings import Settings

Outcome = Literal["unchanged", "retrain", "learner", "rejected", "rollback"]


@dataclass(frozen=True)
class Active:
    """The active release, as bytes."""

    manifest: Manifest
    parts: dict[str, bytes]
    items: ItemTable

    @classmethod
    def read(cls, connection: Connection, run: str, version: int, before: Active | None = None) -> Active:
        """Read it from the tables; the item table of `before` is reused if it is the same."""
        manifest = read_manifest(connection, run, version)
        parts = read_parts(connection, run, manifest)
        if before is not None and before.items.digest == manifest.embeddings:
            items = before.items
        else:
            items = read_items(connection, run, manifest.versions.encoder, manifest.items)
        return cls(manifest, parts, items)


@dataclass
class Review:
    """The result: a draft if a candidate was accepted, and for each candidate its status and reason."""

    draft: Draft | None = None
    statuses: list[tuple[ReleaseCandidate, str, str]] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The outcome if no candidate was accepted."""
        return "rejected" if any(status == REJECTED for _, status, _ in self.statuses) else "unchanged"

    @property
    def reason(self) -> str:
        """The reasons of all candidates."""
        reasons = [f"{candidate.kind}: {reason}" for candidate, _, reason in self.statuses if reason]
        return "; ".join(reasons) or "no release candidate"

    def explained(self) -> Draft:
        """Return the draft with the reasons of all candidates in its gate."""
        assert self.draft is not None
        return replace(self.draft, gate=self.draft.gate | {"reason": self.reason})


class RefusedError(ValueError):
    """A candidate does not pass the gate; the message says why."""


def review(
    connection: Connection, settings: Settings, active: Active, epoch: int, waiting: list[ReleaseCandidate]
) -> Review:
    """Review the release candidates that wait at the end of `epoch`."""
    result = Review()
    offsets = next((c.offsets for c in waiting if c.kind == "learner"), active.manifest.offsets)
    for candidate in sorted(waiting, key=lambda c: (_ORDER.index(c.kind), -c.epoch)):
        if candidate.status == EMPTY:
            continue
        if result.draft is not None:
            result.statuses.append((candidate, SUPERSEDED, f"superseded by a {result.draft.kind}"))
            continue
        try:
            if _is_outdated(connection, settings.run, active, candidate):
                status = candidate, SUPERSEDED, f"trained on release {candidate.parent}, which was replaced"
            else:
                result.draft = _EXAMINE[candidate.kind](connection, settings, active, epoch, candidate, offsets)
                status = candidate, ACCEPTED, str(result.draft.gate["reason"])
        except (KeyError, ValueError) as error:  # RefusedError, and errors of damaged candidates, are of these
            status = candidate, REJECTED, str(error)
        result.statuses.append(status)
    return result


def _is_outdated(connection: Connection, run: str, active: Active, candidate: ReleaseCandidate) -> bool:
    """Return True if the encoder or slow part that the candidate was trained on is no longer active."""
    if candidate.kind == "rollback" or candidate.parent == active.manifest.version:
        return False
    trained, now = read_manifest(connection, run, candidate.parent).versions, active.manifest.versions
    return (trained.encoder, trained.slow) != (now.encoder, now.slow)


def _passed(settings: Settings, candidate: ReleaseCandidate) -> dict[str, float | str | None]:
    """Return the gate's numbers. Raises RefusedError."""
    if refused := gate.refuse_quality(candidate.quality, settings.gate_margin):
        raise RefusedError(refused)
    return candidate.quality | {"reason": gate.accepted_because(candidate.quality)}


def _rollback(
    connection: Connection,
    settings: Settings,
    active: Active,
    epoch: int,
    candidate: ReleaseCandidate,
    offsets: dict[str, int],
) -> Draft:
    older = Active.read(connection, settings.run, int(candidate.quality["to"] or 0))
    return Draft(
        kind="rollback",
        parent=active.manifest,
        epoch=epoch,
        parts=older.parts,
        items=older.items,
        trained_until=older.manifest.trained_until,
        offsets=offsets,
        gate={"to": older.manifest.version, "reason": f"release {older.manifest.version} was requested"},
    )


def _retrain(
    _: Connection, settings: Settings, active: Active, epoch: int, candidate: ReleaseCandidate, offsets: dict[str, int]
) -> Draft:
    numbers = _passed(settings, candidate)
    entries = candidates.unpack(candidate.data)
    parts = {part: entries[part] for part in PARTS}
    catalogue = Catalogue(np.frombuffer(entries["keys"], dtype="<i8"))
    items = ItemTable.of(catalogue, np.frombuffer(entries["E"], dtype="<f4").reshape(-1, settings.dim))
    if refused := gate.refuse_weights(net_config(settings), parts, items.E):
        raise RefusedError(refused)
    known = len(active.items.keys)
    if not np.array_equal(items.keys[:known], active.items.keys):
        raise RefusedError("items of the active release have other rows or are missing")
    return Draft("retrain", active.manifest, epoch, parts, items, candidate.trained_until, offsets, numbers)


def _learner(
    _: Connection, settings: Settings, active: Active, epoch: int, candidate: ReleaseCandidate, offsets: dict[str, int]
) -> Draft:
    numbers = _passed(settings, candidate)
    fast = {"fast": candidates.unpack(candidate.data)["fast"]}
    if refused := gate.refuse_weights(net_config(settings), active.parts | fast, active.items.E):
        raise RefusedError(refused)
    return Draft("learner", active.manifest, epoch, fast, None, candidate.trained_until, offsets, numbers)


_ORDER = ("rollback", "retrain", "learner")
_EXAMINE = {"rollback": _rollback, "retrain": _retrain, "learner": _learner}
