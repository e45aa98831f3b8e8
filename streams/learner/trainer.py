"""The trainer of the fast part: it goes on learning beside the released weights until the evidence decides. Pure.

Each example is ranked by the released weights and by those that learn, before these learn from it. The differences of
their losses add up over epochs. If the learning weights are significantly better, by more than a trifle, they become a
release candidate as they were when they ranked. If they are significantly worse, they start again from the released.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from models.evaluation.sequential_test import PairedEvidence
from models.mc2sf.checkpoint import pack_part, unpack_part
from models.training.online import FastBatchExample, FastLearner, losses
from streams.learner.examples import in_rows
from streams.model_config import learner_config
from streams.records import FastExample
from streams.releases.gate import number_or_none
from streams.releases.release import Release
from streams.settings import Settings

LEAST_GAIN = 1e-3  # nats: a smaller one is not worth a release, however certain it is
ENOUGH = 50  # examples: fewer are kept, to be learnt with those of the next epoch


class _State(msgspec.Struct, array_like=True):
    """What a trainer continues from after a crash."""

    learner: bytes
    evidence: PairedEvidence
    released_loss: float
    until: int


@dataclass(frozen=True)
class TrainingRound:
    """The result of an epoch's examples. `fast` is None without a release candidate."""

    carried: list[FastExample]  # not learnt from yet
    quality: dict[str, float | None]
    trained_until: int  # event time, ms
    state: bytes
    fast: bytes | None = None


class Trainer:
    """Released and learning fast part on the encoder and slow part of `release`."""

    def __init__(self, settings: Settings, release: Release) -> None:
        self.version = release.manifest.version
        self._versions = release.manifest.versions
        self._catalogue = release.catalogue
        self._learner = FastLearner(release.nets, learner_config(settings), settings.seed)
        self._released = release.nets.grown(len(release.nets.encoder.E), settings.seed)
        self._until = release.manifest.trained_until
        self._evidence, self._released_loss = PairedEvidence(), 0.0

    def fits(self, example: FastExample) -> bool:
        """Return True if the example was made with the encoder and the slow part of this release."""
        made = example.versions
        return len(self._catalogue) > 1 and (made.encoder, made.slow) == (self._versions.encoder, self._versions.slow)

    def train(self, carried: list[FastExample], new: list[FastExample]) -> TrainingRound:
        """Rank the `new` examples, then learn from them and those `carried` over; all fit, in total order."""
        verdict, judged = self._rank([in_rows(example, self._catalogue) for example in new])
        quality = self._quality()
        fast = pack_part(self._learner.nets, "fast") if verdict == "lower" else None
        until = self._until
        if verdict == "higher":
            self.discard()
        pool, learnt = carried + new, 0
        if len(pool) >= ENOUGH:
            self._learner.learn([in_rows(example, self._catalogue) for example in pool])
            self._until, pool, learnt = max(example.time for example in pool), [], len(pool)
        return TrainingRound(
            carried=pool,
            quality=quality | {"new": judged, "learnt": learnt, "discarded": float(verdict == "higher")},
            trained_until=until,
            state=self.state(),
            fast=fast,
        )

    def _rank(self, rows: list[FastBatchExample]) -> tuple[str | None, int]:
        """Add what the examples show to the evidence; return its verdict, and how many examples were ranked."""
        released, learning = losses(self._released, rows), losses(self._learner.nets, rows)
        if not np.isfinite(learning).all():
            return "higher", len(rows)
        if (released != learning).any():  # else nothing was learnt yet
            self._evidence = self._evidence.plus(learning - released)
            self._released_loss += float(released.sum())
        verdict, n = self._evidence.verdict(), self._evidence.n
        trifle = verdict == "lower" and self._evidence.total > -LEAST_GAIN * n
        return None if trifle else verdict, len(rows)

    def _quality(self) -> dict[str, float | None]:
        n = self._evidence.n
        active = self._released_loss / n if n else None
        candidate = None if active is None else active + self._evidence.total / n
        radius = number_or_none(self._evidence.radius())
        return {"active": active, "candidate": candidate, "n": n, "radius": radius, "finite": True}

    def state(self) -> bytes:
        """Return the weights that learn, their optimiser and the evidence, for `load`."""
        state = _State(self._learner.state(), self._evidence, self._released_loss, self._until)
        return msgspec.msgpack.encode(state)

    def load(self, data: bytes) -> None:
        """Restore the `state` of a trainer on the same release. Raises CheckpointError or msgspec.DecodeError."""
        state = msgspec.msgpack.decode(data, type=_State)
        self._learner.load(state.learner)
        self._evidence, self._released_loss, self._until = state.evidence, state.released_loss, state.until

    def accept(self, version: int, fast: bytes) -> None:
        """Note that the release candidate `fast` became release `version`; the evidence begins anew."""
        self.version = version
        unpack_part(self._released, "fast", fast)
        self._forget()

    def discard(self) -> None:
        """Begin again from the released weights."""
        self._learner.restart(self._released)
        self._forget()

    def _forget(self) -> None:
        self._evidence, self._released_loss = PairedEvidence(), 0.0
