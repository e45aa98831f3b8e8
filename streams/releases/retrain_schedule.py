"""The schedule of training: a function of settings and epoch alone, so that all processes agree on it.

In lockstep a release candidate that was trained on the rows up to the end of an epoch is decided on a fixed number of
epochs later. Until then the stream goes on with the releases that it has, and the decisions say which applied where.
"""

from __future__ import annotations

from streams.settings import Settings


def retrain_due(settings: Settings, epoch: int) -> bool:
    """Return True if a retrain on the rows up to and including `epoch` is due at the end of that epoch."""
    return not settings.frozen and epoch >= 0 and (epoch + 1) % settings.retrain_every == 0


def next_retrain(settings: Settings, after: int) -> int:
    """Return the first epoch later than `after` at which a retrain is due; `after` may be -1."""
    return (after + 1) // settings.retrain_every * settings.retrain_every + settings.retrain_every - 1


def retrain_delay(settings: Settings) -> int:
    """Return the epochs from a retrain's rows to its decision: before the next retrain is due, so that none overlap."""
    return min(settings.retrain_delay, settings.retrain_every - 1) if settings.lockstep else 0


def learner_delay(settings: Settings) -> int:
    """Return the epochs from the learner's examples to its decision."""
    return settings.learner_delay if settings.lockstep else 0


def left_over_retrain(settings: Settings, last: int) -> int | None:
    """Return the epoch of a retrain whose decision is due only after `last`, the last epoch; None if there is none."""
    ended = range(last + 1 - retrain_delay(settings), last + 1)
    return next((epoch for epoch in ended if retrain_due(settings, epoch)), None)
