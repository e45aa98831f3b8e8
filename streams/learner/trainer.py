"""The trainer of the fast part: it goes on learning beside the released weights until the evidence decides. Pure.

Each example is ranked by the released weights and by those that learn, before these learn from it. The differences of
their losses add up over epochs. If the learning weights are significantly better, by more than a trifle, they become a
release candidate as they were when they ranked. If they are significantly worse, they start again from the released.

Transitions between items are counted anew every few epochs, from all users' clicks. They are statistics and no weights:
the next candidate has them without a test, unless they have become significantly worse than older ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from models.data.catalogue import ROW_UNKNOWN, Catalogue
from models.data.interaction_log import InteractionLog, is_click
from models.data.item_neighbours import with_transitions
from models.evaluation.sequential_test import PairedEvidence
from models.mc2sf.checkpoint import pack_part, unpack_part
from models.mc2sf.nets import Nets
from models.mc2sf.stacking import Neighbours
from models.training.online import FastBatchExample, FastLearner, losses
from streams.learner.examples import in_rows
from streams.model_config import learner_config
from streams.records import FastExample
from streams.releases.gate import number_or_none
from streams.releases.release import Release
from streams.settings import Settings

MIN_GAIN = 1e-3  # nats: a smaller one is not worth a release, however certain it is
ENOUGH = 50  # examples: fewer are kept, to be learnt with those of the next epoch


class _State(msgspec.Struct, array_like=True):
    """The state that a trainer continues from after a crash."""

    learner: bytes
    evidence: PairedEvidence
    freshness: PairedEvidence
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
    """Released and learning fast part on the encoder and slow part of `release`, and the evidence on them.

    `freshness` is the evidence on transitions counted anew against older ones, which outlives retrains.
    """

    def __init__(
        self,
        settings: Settings,
        release: Release,
        freshness: PairedEvidence = PairedEvidence(),  # noqa: B008 - frozen
    ) -> None:
        self.version = release.manifest.version
        self._versions = release.manifest.versions
        self._catalogue = release.catalogue
        self._learner = FastLearner(release.nets, learner_config(settings), settings.seed)
        self._released = copy.deepcopy(release.nets)
        self._until = release.manifest.trained_until
        self._evidence, self.freshness = PairedEvidence(), freshness

    def fits(self, example: FastExample) -> bool:
        """Return True if the example was made with the encoder and the slow part of this release."""
        made = example.versions
        return len(self._catalogue) > 1 and (made.encoder, made.slow) == (self._versions.encoder, self._versions.slow)

    def train(
        self, carried: list[FastExample], new: list[FastExample], log: InteractionLog | None = None
    ) -> TrainingRound:
        """Rank the `new` examples, then learn from them and those `carried` over; all fit, in total order.

        With `log`, the events before this epoch, transitions are counted anew.
        """
        rows = self._in_rows(new, self._released)
        released, learning = losses(self._released, rows), losses(self._learner.nets, rows)
        finite = bool(np.isfinite(learning).all())
        if finite and (released != learning).any():  # else nothing is different yet
            self._evidence = self._evidence.plus(released, learning)
        verdict = self._verdict() if finite else "higher"
        fresh = None if log is None or len(self._catalogue) < 2 else self._fresh(log, new, released)
        better = verdict == "lower"
        fast = self._packed(fresh, learning=better) if better or fresh is not None else None
        quality = _numbers(self._evidence if better or fast is None else self.freshness)
        until = self._until
        if verdict == "higher":
            self.discard()
        pool, learnt = carried + new, 0
        if len(pool) >= ENOUGH:
            self._learner.learn(self._in_rows(pool, self._released))
            self._until, pool, learnt = max(example.time for example in pool), [], len(pool)
        quality |= {"new": len(new), "learnt": learnt, "discarded": float(verdict == "higher")}
        quality |= {"transitions": float(fresh is not None)}
        state = msgspec.msgpack.encode(_State(self._learner.state(), self._evidence, self.freshness, self._until))
        return TrainingRound(pool, quality, until, state, fast)

    def _in_rows(self, some: list[FastExample], nets: Nets) -> list[FastBatchExample]:
        near = self._catalogue
        if nets.config.stacked:
            near = near.extended(nets.fast.neighbours.keys.numpy())
        return [in_rows(example, self._catalogue, near) for example in some]

    def _fresh(self, log: InteractionLog, new: list[FastExample], released: np.ndarray) -> Neighbours | None:
        """Return the neighbours with transitions counted in `log`; None if the evidence is against them, or none."""
        known = is_click(log.kinds)
        keys = log.keys[known]
        lacking = np.unique(keys[self._catalogue.rows(keys) == ROW_UNKNOWN])
        rows = Catalogue(np.concatenate([self._catalogue.keys, lacking])).rows(keys)
        size = self._catalogue.size + len(lacking)
        before = self._released.fast.neighbours.resized(self._catalogue.size, size)
        fresh = copy.deepcopy(self._released.fast.neighbours)
        fresh.replace(with_transitions(before, rows, log.users[known], log.times[known]), lacking)
        with _neighbours(self._released, fresh):
            self.freshness = self.freshness.plus(released, losses(self._released, self._in_rows(new, self._released)))
        return fresh if self.freshness.n and self.freshness.verdict() != "higher" else None

    def _packed(self, fresh: Neighbours | None, *, learning: bool) -> bytes:
        """Return the fast part with released or `learning` weights, and with `fresh` transitions if there are any."""
        nets = self._learner.nets if learning else self._released
        if fresh is None:
            return pack_part(nets, "fast")
        with _neighbours(nets, fresh):
            return pack_part(nets, "fast")

    def _verdict(self) -> Literal["lower", "higher"] | None:
        verdict = self._evidence.verdict()
        trifle = self._evidence.difference > -MIN_GAIN * self._evidence.n
        return None if verdict == "lower" and trifle else verdict

    def load(self, data: bytes) -> None:
        """Restore the state of a round on the same release. Raises CheckpointError or msgspec.DecodeError."""
        state = msgspec.msgpack.decode(data, type=_State)
        self._learner.load(state.learner)
        self._evidence, self.freshness, self._until = state.evidence, state.freshness, state.until

    def accept(self, version: int, fast: bytes) -> None:
        """Note that the release candidate `fast` became release `version`; evidence on its weights begins anew."""
        self.version = version
        unpack_part(self._released, "fast", fast)
        if self._released.config.stacked:
            self._learner.nets.fast.neighbours = copy.deepcopy(self._released.fast.neighbours)
        if self._verdict() == "lower":
            self._evidence = PairedEvidence()

    def discard(self) -> None:
        """Begin again from the released weights."""
        self._learner.restart(self._released)
        self._evidence = PairedEvidence()


@contextmanager
def _neighbours(nets: Nets, others: Neighbours) -> Iterator[None]:
    """Put other neighbours into nets for as long as the context is open: to copy nets costs more than a round."""
    own, nets.fast.neighbours = nets.fast.neighbours, others
    try:
        yield
    finally:
        nets.fast.neighbours = own


def _numbers(evidence: PairedEvidence) -> dict[str, float | None]:
    active, candidate = map(number_or_none, evidence.means())
    radius = number_or_none(evidence.radius())
    return {"active": active, "candidate": candidate, "n": evidence.n, "radius": radius, "finite": True}
