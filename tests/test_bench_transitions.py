"""The benchmark of fresh transitions: they are of earlier clicks only, and the weights are too."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.training.transitions import features, ranked
from models.data.event_kinds import CLICK
from models.data.interaction_log import InteractionLog

ITEMS, EPOCHS = 150, 40


def walks(users: int) -> InteractionLog:
    """Return a log of users who click item after item; the items of an epoch are new in it, and shown nowhere else."""
    epochs = np.tile(np.repeat(np.arange(EPOCHS), 4), users)
    keys = 1 + epochs // 8 * 30 + (np.repeat(np.arange(users), 4 * EPOCHS) + np.tile(np.arange(4 * EPOCHS), users)) % 30
    n, times = len(keys), np.tile(np.arange(4 * EPOCHS) * 1000, users) + np.repeat(np.arange(users), 4 * EPOCHS)
    zeros = np.zeros(n, np.int64)
    return InteractionLog(np.arange(0, n + 1, 4 * EPOCHS), keys, np.full(n, CLICK), times, zeros, epochs)


def test_new_items_have_fresh_transitions_only_and_no_click_knows_its_own_epoch() -> None:
    x, places = features(walks(8), EPOCHS, 20, 1)
    of_click, epochs = x[:, 0].numpy(), places[:, 1]
    assert set(epochs.tolist()) == set(range(4, 20))
    assert (of_click[epochs == 8][:, 3:] == 0).all(), "the items of epochs 8 to 15 are new"
    later = (epochs > 9) & (epochs < 12)
    assert (of_click[later][:, 4] > 0).mean() > 0.1, "counted after epoch 9"
    assert (of_click[later][:, 3] == 0).all(), "counted after epoch 7"


def test_weights_are_fitted_to_earlier_clicks() -> None:
    x = torch.zeros(400, 100, 2)
    x[:, 0, 1] = 1
    x[:, :, 0] = torch.linspace(1, 0, 100).roll(1)  # without the second feature the click is first but one
    values = ranked(x, np.repeat(np.arange(4), 100), 2)
    assert values[:200].max() < values[200:].min() == 1
