"""The configurations of a run's models, from its settings: sizes of the nets, views of a click, training."""

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
        floor=True,
        symlog_priors=settings.symlog_priors,
        stacked=settings.stacked,
    )


def view_spec(settings: Settings) -> ViewSpec:
    """Return the lengths of the histories and the window rule by which a click's view is built."""
    age = settings.window_age_s
    return ViewSpec(
        history_long=settings.history_long,
        history_short=settings.history_short,
        threshold=settings.threshold,
        window_age_ms=None if age is None else int(age * 1000),
    )


def train_config(settings: Settings) -> TrainConfig:
    """Return the training configuration of a retrain."""
    return TrainConfig(
        learning_rate=settings.learning_rate, batch=settings.batch, l2=settings.l2, passes=settings.retrain_passes
    )


def learner_config(settings: Settings) -> TrainConfig:
    """Return the training configuration of the learner: smaller steps, because each example is seen only once."""
    return replace(train_config(settings), learning_rate=settings.online_rate)
