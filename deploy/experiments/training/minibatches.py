"""Minibatches for training: lists of a click and its negatives, or whole sequences; drawn anew each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.experiments.data.dataset import Dataset
from deploy.experiments.data.known_history import KnownHistory
from deploy.experiments.data.protocol import Phase, Protocol, cut_as_served, cut_for_training
from deploy.experiments.training.hyperparameters import Hyperparameters
from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.interaction_log import Ints, group_starts
from models.training.losses import sampled_softmax
from models.training.negative_sampling import NegativeSampler, SeenItems
from models.training.objectives import ListBatch, SequenceBatch

Epoch = Callable[[int, np.random.Generator], Iterator[ListBatch | SequenceBatch]]
Draw = Callable[[int, np.random.Generator], Iterator[Any]]


class TrainingNegatives:
    """Draw negatives and hide those that the user interacted with before the validation phase."""

    def __init__(self, dataset: Dataset, params: Hyperparameters) -> None:
        log = dataset.log
        late = np.flatnonzero(dataset.phase >= Phase.VALIDATION)
        users, first = np.unique(log.users[late], return_index=True)
        end = log.offsets[1:].copy()
        end[users] = group_starts(log)[late[first]]
        early = dataset.interacted & (np.arange(len(log.keys)) < end[log.users])
        self.seen = SeenItems(log.users[early], log.keys[early], dataset.rows)
        self.sampler = NegativeSampler.from_clicks(log.keys[dataset.clicks(Phase.SLOW)], dataset.rows, params.power)

    def log_q(self, items: Ints, params: Hyperparameters) -> torch.Tensor:
        """Return the log of the expected number of draws per item; zero if the loss is not corrected for it."""
        if not params.corrected or params.loss is not sampled_softmax:  # only the softmax is corrected
            return torch.zeros(items.shape)
        return torch.from_numpy(self.sampler.log_q[items] + np.float32(np.log(params.negatives)))


def of_net(
    net: nn.Module,
    dataset: Dataset,
    protocol: Protocol,
    params: Hyperparameters,
    phases: tuple[Phase, ...],
    *,
    fresh: bool = True,
) -> Epoch:
    """Return the epochs of batches that `objectives.objective` takes for `net`."""
    if isinstance(net, Sequential):
        return of_sequences(dataset, params, phases, net.length)
    return of_lists(dataset, protocol, params, phases, fresh=fresh)


def of_lists(
    dataset: Dataset, protocol: Protocol, params: Hyperparameters, phases: tuple[Phase, ...], *, fresh: bool = True
) -> Epoch:
    """Return epochs over the clicks of `phases`. With the slow phase, delayed histories are cut in blocks.

    Clicks of one block are in one batch and share their negatives, so that a slow net attends once for all of them.
    """
    source = TrainingNegatives(dataset, params)
    targets = dataset.clicks(*phases)
    as_served = KnownHistory.of(cut_as_served(dataset.log, dataset.phase, protocol), protocol, fresh=fresh)

    def epoch(_: int, generator: np.random.Generator) -> Iterator[ListBatch]:
        known = as_served
        if Phase.SLOW in phases:
            known = KnownHistory.of(
                cut_for_training(dataset.log, dataset.phase, params.block, generator), protocol, fresh=fresh
            )
        blocks = known.blocks(targets)
        order = np.argsort(generator.permutation(int(blocks.max()) + 1)[blocks], kind="stable")
        for start in range(0, len(order), params.batch):
            chosen = order[start : start + params.batch]
            clicks = targets[chosen]
            of = np.unique(blocks[chosen], return_inverse=True)[1]
            drawn = source.sampler.draw(generator, (int(of.max()) + 1, params.negatives))[of]
            items = np.concatenate([dataset.log.keys[clicks][:, None], drawn], 1)
            hidden = source.seen(dataset.log.users[clicks][:, None], items)
            hidden[:, 0] = False
            log_q = torch.zeros(items.shape)
            log_q[:, 1:] = source.log_q(drawn, params)
            yield ListBatch(known.queries(clicks), torch.from_numpy(items), log_q, torch.from_numpy(hidden))

    return epoch


def of_sequences(dataset: Dataset, params: Hyperparameters, phases: tuple[Phase, ...], length: int) -> Epoch:
    """Return epochs over each user's clicks up to the last of `phases`, in sequences of `length`.

    The target of a position is the click 1 to `block` positions later, the same number for all positions of a sequence.
    """
    source = TrainingNegatives(dataset, params)
    log = dataset.log
    clicks = dataset.clicks(*range(max(phases) + 1))
    users = log.users[clicks]
    wanted = np.isin(dataset.phase[clicks], phases)
    bounds = np.searchsorted(users, np.arange(len(dataset.users) + 1))

    def epoch(_: int, generator: np.random.Generator) -> Iterator[SequenceBatch]:
        ends: list[int] = []  # of each sequence: the index after its last target
        for start, end in pairwise(bounds.tolist()):
            ends.extend(range(end - int(generator.integers(min(length, end - start))), start + 1, -length))
            ends.append(end)
        last = np.unique(np.array(ends))
        first = np.maximum(last - length - 1, bounds[users[last - 1]])
        ahead = generator.integers(1, params.block + 1, len(last))
        size = np.minimum(last - first, length + 1)
        # sequences of similar size in one batch, batches in random order
        order = np.argsort(size + generator.random(len(size)) * 8, kind="stable")
        groups = [order[i : i + params.batch] for i in range(0, len(order), params.batch)]
        for group in (groups[i] for i in generator.permutation(len(groups))):
            width = int(size[group].max()) - 1
            if width < 1:
                continue
            places = last[group, None] + np.arange(-width - 1, 0)
            inside = places >= first[group, None]
            rows = np.where(inside, log.keys[clicks[np.maximum(places, 0)]], ROW_PADDING)
            learnt = inside & wanted[np.maximum(places, 0)]
            later = np.arange(width) + ahead[group, None]  # positions of targets in the sequence
            fits = later <= width
            later = np.minimum(later, width)
            real = fits & np.take_along_axis(learnt, later, 1) & (rows[:, :-1] != ROW_PADDING)
            targets = np.where(real, np.take_along_axis(rows, later, 1), ROW_PADDING)
            if not targets.any():
                continue
            negatives = source.sampler.draw(generator, (params.negatives,))
            yield SequenceBatch(
                torch.from_numpy(rows[:, :-1]),
                torch.from_numpy(targets),
                torch.from_numpy(negatives),
                source.log_q(negatives, params),
                torch.from_numpy(source.seen(users[last[group] - 1][:, None], negatives[None])),
            )

    return epoch


def of_devices(draw: Epoch, devices: int) -> Draw:
    """Return rounds of `devices` batches: with batches of one sequence, each has one device's own clicks."""

    def epoch(number: int, generator: np.random.Generator) -> Iterator[list[ListBatch | SequenceBatch]]:
        each = draw(number, generator)
        while batches := list(islice(each, devices)):
            yield batches

    return epoch
