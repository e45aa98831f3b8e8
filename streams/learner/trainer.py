"""The trainer of the fast part: one training round per epoch on one release, and its undoing. No Kafka, no SQL."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from models.mc2sf.checkpoint import pack_part
from models.training.online import FastLearner
from streams.learner.examples import in_rows
from streams.model_config import learner_config
from streams.records import FastExample
from streams.releases.gate import number_or_none
from streams.releases.release import Release
from streams.settings import Settings

ENOUGH = 50  # examples: fewer are kept for the next epoch
HELD_OUT = 10  # the newest one in ten measures the round, and is trained on in the next one
CARRIED_MOST = 512


@dataclass(frozen=True)
class TrainingRound:
    """The result of an epoch's examples. `fast` and `state` are None if there were too few to train on."""

    carried: list[FastExample]  # for the next round
    quality: dict[str, float | None]
    trained_until: int  # event time, ms
    fast: bytes | None = None
    state: bytes | None = None


class Trainer:
    """Fast part and optimizer of `release`; `state` is that of the round which became this release."""

    def __init__(self, settings: Settings, release: Release, state: bytes | None = None) -> None:
        self.version = release.manifest.version
        self._versions = release.manifest.versions
        self._until = release.manifest.trained_until
        self._catalogue = release.catalogue
        self._learner = FastLearner(release.nets, learner_config(settings), settings.seed)
        if state is not None:
            self._learner.load(state)
        self._accepted = self._learner.state()

    def fits(self, example: FastExample) -> bool:
        """Return True if the example was made with the encoder and the slow part of this release."""
        made = example.versions
        return len(self._catalogue) > 1 and (made.encoder, made.slow) == (self._versions.encoder, self._versions.slow)

    def train(self, pool: list[FastExample]) -> TrainingRound:
        """Train on all but the newest of `pool`, which is in total order and fits."""
        if len(pool) < ENOUGH:
            return TrainingRound(pool, {"active": None, "candidate": None, "n": 0, "finite": True}, self._until)
        held_out = max(1, len(pool) // HELD_OUT)
        rows = [in_rows(example, self._catalogue) for example in pool]
        active = self._learner.loss(rows[-held_out:])
        self._learner.learn(rows[:-held_out])
        candidate = self._learner.loss(rows[-held_out:])
        finite = math.isfinite(candidate) and all(
            bool(torch.isfinite(weight).all()) for weight in self._learner.nets.fast.parameters()
        )
        losses = {"active": number_or_none(active), "candidate": number_or_none(candidate)}
        return TrainingRound(
            carried=pool[-held_out:][-CARRIED_MOST:],
            quality={**losses, "n": held_out, "finite": finite, "learnt": len(pool) - held_out},
            trained_until=max(example.time for example in pool[:-held_out]),
            fast=pack_part(self._learner.nets, "fast"),
            state=self._learner.state(),
        )

    def accept(self, version: int, trained: TrainingRound) -> None:
        """Continue from the training round, which became release `version`."""
        assert trained.state is not None
        self.version, self._accepted, self._until = version, trained.state, trained.trained_until

    def revert(self) -> None:
        """Undo the training round."""
        self._learner.load(self._accepted)
