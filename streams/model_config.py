"""From the settings of a run to the configurations of its models: sizes of the nets, views of a click, training."""

from __future__ import annotations

from dataclasses import replace

from models.data.views import ViewSpec
from models.mc2sf.nets import NetConfig
from models.training.retrain import TrainConfig
from streams.settings import Settings


def net_config(settings: Settings) -> NetConfig:
    """Return the sizes of the nets."""
    return NetConfig(
        dim=settings.dim,
        history_long=settings.history_long,
        history_short=settings.history_short,
        threshold=settings.threshold,
        symlog_priors=settings.symlog_priors,
    )


def view_spec(settings: Settings) -> ViewSpec:
    """Return what a click's nets may see."""
    age = settings.window_age_s
    return ViewSpec(
        history_long=settings.history_long,
        history_short=settings.history_short,
        threshold=settings.threshold,
        window_age_ms=None if age is None else int(age * 1000),
    )


def train_config(settings: Settings) -> TrainConfig:
    """Return how the nets are trained."""
    return TrainConfig(
        learning_rate=settings.learning_rate, batch=settings.batch, l2=settings.l2, passes=settings.retrain_passes
    )


def learner_config(settings: Settings) -> TrainConfig:
    """Return how the fast part learns online: smaller steps, for each example is seen once and no other is sampled."""
    return replace(train_config(settings), learning_rate=settings.online_rate)
