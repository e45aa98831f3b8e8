"""Batches for fitting: lists of a click and its negatives, or whole sequences; drawn anew each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.experiments.data.dataset import Dataset
from deploy.experiments.data.known_history import Known
from deploy.experiments.data.protocol import Phase, Protocol, served, trained
from deploy.experiments.training.hyperparameters import Recipe
from models.baselines.sequential import Sequential
from models.data.catalogue import ROW_PADDING
from models.data.interaction_log import Ints, group_starts
from models.training.losses import sampled_softmax
from models.training.negative_sampling import NegativeSampler, SeenItems
from models.training.objectives import ListBatch, SequenceBatch

Epoch = Callable[[int, np.random.Generator], Iterator[ListBatch | SequenceBatch]]
Draw = Callable[[int, np.random.Generator], Iterator[Any]]


class Drawing:
    """Draws negatives: never what the user is known to have had before the validation phase."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        log = dataset.log
        late = np.flatnonzero(dataset.phase >= Phase.VALIDATION)
        users, first = np.unique(log.users[late], return_index=True)
        end = log.offsets[1:].copy()
        end[users] = group_starts(log)[late[first]]
        early = dataset.interacted & (np.arange(len(log.keys)) < end[log.users])
        self.seen = SeenItems(log.users[early], log.keys[early], dataset.rows)
        self.proposal = NegativeSampler.from_clicks(log.keys[dataset.of(Phase.SLOW)], dataset.rows, recipe.power)

    def log_q(self, items: Ints, recipe: Recipe) -> torch.Tensor:
        """Log of how often each item is drawn in expectation; zero where the recipe does not correct for it."""
        if not recipe.corrected or recipe.loss is not sampled_softmax:  # other losses estimate no softmax
            return torch.zeros(items.shape)
        return torch.from_numpy(self.proposal.log_q[items] + np.float32(np.log(recipe.negatives)))


def of_net(
    net: nn.Module, dataset: Dataset, protocol: Protocol, recipe: Recipe, some: tuple[Phase, ...], *, fresh: bool = True
) -> Epoch:
    """Epochs of what `net` learns from: the batches that `objectives.objective` takes for it."""
    if isinstance(net, Sequential):
        return of_sequences(dataset, recipe, some, net.length)
    return of_lists(dataset, protocol, recipe, some, fresh=fresh)


def of_lists(
    dataset: Dataset, protocol: Protocol, recipe: Recipe, some: tuple[Phase, ...], *, fresh: bool = True
) -> Epoch:
    """Epochs over the clicks of some phases. Delayed histories are cut in blocks where the slow phase takes part.

    Clicks of one block stand together and share their negatives, so that a slow net attends once for all of them.
    """
    drawing = Drawing(dataset, recipe)
    targets = dataset.of(*some)
    as_served = Known.of(served(dataset.log, dataset.phase, protocol), protocol, fresh=fresh)

    def epoch(_: int, generator: np.random.Generator) -> Iterator[ListBatch]:
        known = as_served
        if Phase.SLOW in some:
            known = Known.of(trained(dataset.log, dataset.phase, recipe.block, generator), protocol, fresh=fresh)
        blocks = known.blocks(targets)
        order = np.argsort(generator.permutation(int(blocks.max()) + 1)[blocks], kind="stable")
        for start in range(0, len(order), recipe.batch):
            chosen = order[start : start + recipe.batch]
            clicks = targets[chosen]
            of = np.unique(blocks[chosen], return_inverse=True)[1]
            drawn = drawing.proposal.draw(generator, (int(of.max()) + 1, recipe.negatives))[of]
            items = np.concatenate([dataset.log.keys[clicks][:, None], drawn], 1)
            hidden = drawing.seen(dataset.log.users[clicks][:, None], items)
            hidden[:, 0] = False
            log_q = torch.zeros(items.shape)
            log_q[:, 1:] = drawing.log_q(drawn, recipe)
            yield ListBatch(known(clicks), torch.from_numpy(items), log_q, torch.from_numpy(hidden))

    return epoch


def of_sequences(dataset: Dataset, recipe: Recipe, some: tuple[Phase, ...], length: int) -> Epoch:
    """Epochs over each user's clicks up to the last of some phases, in stretches of `length`.

    A place's target is the click 1 to `block` places later, the same for all places of a stretch.
    """
    drawing = Drawing(dataset, recipe)
    log = dataset.log
    clicks = dataset.of(*range(max(some) + 1))
    users = log.users[clicks]
    wanted = np.isin(dataset.phase[clicks], some)
    bounds = np.searchsorted(users, np.arange(len(dataset.users) + 1))

    def epoch(_: int, generator: np.random.Generator) -> Iterator[SequenceBatch]:
        ends: list[int] = []  # of each stretch: one behind its last target
        for start, end in pairwise(bounds.tolist()):
            ends.extend(range(end - int(generator.integers(min(length, end - start))), start + 1, -length))
            ends.append(end)
        last = np.unique(np.array(ends))
        first = np.maximum(last - length - 1, bounds[users[last - 1]])
        ahead = generator.integers(1, recipe.block + 1, len(last))
        size = np.minimum(last - first, length + 1)
        # of similar size together, in random order
        order = np.argsort(size + generator.random(len(size)) * 8, kind="stable")
        groups = [order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch)]
        for group in (groups[i] for i in generator.permutation(len(groups))):
            width = int(size[group].max()) - 1
            if width < 1:
                continue
            places = last[group, None] + np.arange(-width - 1, 0)
            inside = places >= first[group, None]
            rows = np.where(inside, log.keys[clicks[np.maximum(places, 0)]], ROW_PADDING)
            learnt = inside & wanted[np.maximum(places, 0)]
            later = np.arange(width) + ahead[group, None]  # places of targets, in the stretch
            fits = later <= width
            later = np.minimum(later, width)
            real = fits & np.take_along_axis(learnt, later, 1) & (rows[:, :-1] != ROW_PADDING)
            targets = np.where(real, np.take_along_axis(rows, later, 1), ROW_PADDING)
            if not targets.any():
                continue
            negatives = drawing.proposal.draw(generator, (recipe.negatives,))
            yield SequenceBatch(
                torch.from_numpy(rows[:, :-1]),
                torch.from_numpy(targets),
                torch.from_numpy(negatives),
                drawing.log_q(negatives, recipe),
                torch.from_numpy(drawing.seen(users[last[group] - 1][:, None], negatives[None])),
            )

    return epoch


def of_devices(draw: Epoch, devices: int) -> Draw:
    """Rounds of so many devices, one batch each: with batches of one stretch, a device's own clicks."""

    def epoch(number: int, generator: np.random.Generator) -> Iterator[list[ListBatch | SequenceBatch]]:
        each = draw(number, generator)
        while some := list(islice(each, devices)):
            yield some

    return epoch
