"""Judging the proposals of an epoch: which of them becomes a release, and what becomes of the others.

Order: a rollback that somebody asked for, a retrain, the learner's. At most one is accepted; those that were trained
on an encoder that is not in force any more are superseded unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from sqlalchemy import Connection

from models.data.catalogue import FIRST_ROW, Catalogue
from models.mc2sf.checkpoint import CheckpointError
from models.mc2sf.nets import PARTS
from streams.model_config import net_config
from streams.records import Manifest
from streams.releases import candidates, gate
from streams.releases.candidates import ACCEPTED, EMPTY, REJECTED, SUPERSEDED, CandidateError, ReleaseCandidate
from streams.releases.registry import Draft
from streams.releases.release import ItemTable, ReleaseError, read_items, read_manifest, read_parts
from streams.settings import Settings

Outcome = Literal["unchanged", "retrain", "learner", "rejected", "rollback"]


@dataclass(frozen=True)
class Active:
    """The release in force, as bytes."""

    manifest: Manifest
    parts: dict[str, bytes]
    items: ItemTable

    @classmethod
    def read(cls, connection: Connection, run: str, version: int, before: Active | None = None) -> Active:
        """Read it from the tables; the item table of the one `before` is taken over where it is the same."""
        manifest = read_manifest(connection, run, version)
        if before is not None and before.items.digest == manifest.embeddings:
            items = before.items
        else:
            items = read_items(connection, run, manifest.versions.encoder, manifest.items)
        return cls(manifest, read_parts(connection, run, manifest), items)


@dataclass
class Review:
    """What was decided: a draft where something was accepted, and the marks on the proposals: (status, reason)."""

    draft: Draft | None = None
    marks: list[tuple[ReleaseCandidate, str, str]] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The outcome where nothing was accepted."""
        return "rejected" if any(status == REJECTED for _, status, _ in self.marks) else "unchanged"

    @property
    def reason(self) -> str:
        """The reasons of all proposals."""
        said = [f"{proposal.kind}: {reason}" for proposal, _, reason in self.marks if reason]
        return "; ".join(said) or "nothing proposed"

    def explained(self) -> Draft:
        """The draft, with the reasons of all proposals in its gate."""
        assert self.draft is not None
        return replace(self.draft, gate=self.draft.gate | {"reason": self.reason})


class RefusedError(ValueError):
    """The gate does not let a proposal pass; the message says why."""


def judge(
    connection: Connection, settings: Settings, active: Active, epoch: int, found: list[ReleaseCandidate]
) -> Review:
    """Judge the proposals `found` that wait at the end of `epoch`."""
    judgement = Review()
    offsets = next((p.offsets for p in found if p.kind == "learner"), active.manifest.offsets)
    for proposal in sorted(found, key=lambda p: (_ORDER.index(p.kind), -p.epoch)):
        if proposal.status == EMPTY:
            continue
        if judgement.draft is not None:
            judgement.marks.append((proposal, SUPERSEDED, f"superseded by a {judgement.draft.kind}"))
            continue
        try:
            if _replaced(connection, settings.run, active, proposal):
                mark = proposal, SUPERSEDED, f"trained on release {proposal.parent}, which was replaced"
            else:
                judgement.draft = _EXAMINE[proposal.kind](connection, settings, active, epoch, proposal, offsets)
                mark = proposal, ACCEPTED, str(judgement.draft.gate["reason"])
        except (RefusedError, CandidateError, CheckpointError, ReleaseError, KeyError, ValueError) as error:
            mark = proposal, REJECTED, str(error)
        judgement.marks.append(mark)
    return judgement


def _replaced(connection: Connection, run: str, active: Active, proposal: ReleaseCandidate) -> bool:
    """Whether the encoder or slow part that it was trained on is not in force any more."""
    if proposal.kind == "rollback" or proposal.parent == active.manifest.version:
        return False
    trained, now = read_manifest(connection, run, proposal.parent).versions, active.manifest.versions
    return (trained.encoder, trained.slow) != (now.encoder, now.slow)


def _passed(settings: Settings, proposal: ReleaseCandidate) -> dict[str, float | str | None]:
    """The gate's numbers. Raises RefusedError."""
    if refused := gate.refuse_quality(proposal.quality, settings.gate_margin):
        raise RefusedError(refused)
    return proposal.quality | {"reason": gate.accepted_because(proposal.quality)}


def _rollback(
    connection: Connection,
    settings: Settings,
    active: Active,
    epoch: int,
    proposal: ReleaseCandidate,
    offsets: dict[str, int],
) -> Draft:
    older = Active.read(connection, settings.run, int(proposal.quality["to"] or 0))
    return Draft(
        kind="rollback",
        parent=active.manifest,
        epoch=epoch,
        parts=older.parts,
        items=older.items,
        trained_until=older.manifest.trained_until,
        offsets=offsets,
        gate={"to": older.manifest.version, "reason": f"release {older.manifest.version} was asked for"},
    )


def _retrain(
    _: Connection, settings: Settings, active: Active, epoch: int, proposal: ReleaseCandidate, offsets: dict[str, int]
) -> Draft:
    numbers = _passed(settings, proposal)
    entries = candidates.unpack(proposal.data)
    parts = {part: entries[part] for part in PARTS}
    catalogue = Catalogue(np.frombuffer(entries["keys"], dtype="<i8"))
    items = ItemTable.of(catalogue, np.frombuffer(entries["E"], dtype="<f4").reshape(-1, settings.dim))
    if refused := gate.refuse_weights(net_config(settings), parts, items.E):
        raise RefusedError(refused)
    known = len(active.items.keys)
    if not np.array_equal(items.keys[:known], active.items.keys):
        raise RefusedError("items of the active release have other rows, or none")
    return Draft("retrain", active.manifest, epoch, parts, items, proposal.trained_until, offsets, numbers)


def _learner(
    _: Connection, settings: Settings, active: Active, epoch: int, proposal: ReleaseCandidate, offsets: dict[str, int]
) -> Draft:
    numbers = _passed(settings, proposal)
    fast = {"fast": candidates.unpack(proposal.data)["fast"]}
    few = active.items.E[:FIRST_ROW]  # E stays as it is
    if refused := gate.refuse_weights(net_config(settings), active.parts | fast, few):
        raise RefusedError(refused)
    return Draft("learner", active.manifest, epoch, fast, None, proposal.trained_until, offsets, numbers)


_ORDER = ("rollback", "retrain", "learner")
_EXAMINE = {"rollback": _rollback, "retrain": _retrain, "learner": _learner}
