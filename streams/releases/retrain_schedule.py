"""The schedule of retrains: a function of settings and epoch alone, so that all processes agree on it."""

from __future__ import annotations

from streams.settings import Settings


def retrain_due(settings: Settings, epoch: int) -> bool:
    """Return True if a retrain on the rows up to and including `epoch` is due at the end of that epoch."""
    return not settings.frozen and (epoch + 1) % settings.retrain_every == 0


def next_retrain(settings: Settings, after: int) -> int:
    """Return the first epoch later than `after` at which a retrain is due; `after` may be -1."""
    return (after + 1) // settings.retrain_every * settings.retrain_every + settings.retrain_every - 1
