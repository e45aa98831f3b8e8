"""The pupil: the fast part under training on one release, the lesson of an epoch, and its undoing. No Kafka, no SQL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
HELD_OUT = 10  # one in so many, the newest, judges the lesson and is learnt in the next one
CARRIED_MOST = 512


@dataclass(frozen=True)
class TrainingRound:
    """What came of an epoch's examples. `fast` and `state` are None where there were too few to learn from."""

    carried: list[FastExample]
    quality: dict[str, Any]
    trained_until: int
    fast: bytes | None = None
    state: bytes | None = None


class Trainer:
    """Fast part and optimiser, from `release`, or from a `state` that was accepted as that release."""

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
        """Whether the example was made under the encoder and the slow part that this one learns on."""
        made = example.versions
        return len(self._catalogue) > 1 and (made.encoder, made.slow) == (self._versions.encoder, self._versions.slow)

    def study(self, pool: list[FastExample]) -> TrainingRound:
        """Learn from all but the newest of `pool`, which is in total order and fits."""
        if len(pool) < ENOUGH:
            return TrainingRound(pool, {"active": None, "candidate": None, "n": 0, "finite": True}, self._until)
        held = max(1, len(pool) // HELD_OUT)
        in_batches = [in_rows(example, self._catalogue) for example in pool]
        active = self._learner.loss(in_batches[-held:])
        self._learner.learn(in_batches[:-held])
        candidate = self._learner.loss(in_batches[-held:])
        finite = math.isfinite(candidate) and all(
            bool(torch.isfinite(weight).all()) for weight in self._learner.nets.fast.parameters()
        )
        losses = {"active": number_or_none(active), "candidate": number_or_none(candidate)}
        return TrainingRound(
            carried=pool[-held:][-CARRIED_MOST:],
            quality={**losses, "n": held, "finite": finite, "learnt": len(pool) - held},
            trained_until=max(example.time for example in pool[:-held]),
            fast=pack_part(self._learner.nets, "fast"),
            state=self._learner.state(),
        )

    def accept(self, version: int, lesson: TrainingRound) -> None:
        """Go on from the lesson: it became release `version`."""
        assert lesson.state is not None
        self.version, self._accepted, self._until = version, lesson.state, lesson.trained_until

    def revert(self) -> None:
        """Forget the lesson."""
        self._learner.load(self._accepted)
