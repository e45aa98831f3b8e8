"""The stream's retrains in one process: every click is ranked by the release that was in force, without Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.training.increment import until
from models.data.catalogue import ROW_UNKNOWN, Catalogue
from models.data.event_kinds import PAST_CLICK
from models.data.interaction_log import ClickStates, InteractionLog, Ints, click_states
from models.data.views import ViewSpec
from models.mc2sf.nets import Logits, NetConfig, Nets
from models.training.minibatches import ClickSource
from models.training.retrain import TrainConfig, TrainResult, retrain

SPEC = ViewSpec()
BATCH = 128
CANDIDATES = 100  # without a logged slate

Gate = Callable[[TrainResult], bool]


@dataclass(frozen=True)
class Simulated:
    """The clicks [M] of a log in total order, each with its rank by every variant; 1-based, ties by place."""

    users: Ints
    epochs: Ints
    collaborative: Ints  # 1 if the user had a delayed history and a closed window
    ranks: dict[str, Ints]
    retrains: list[TrainResult]
    accepted: list[bool]


def simulate(
    log: InteractionLog, config: TrainConfig, gate: Gate, *, every: int, seed: int, most: int | None = None
) -> Simulated:
    """Rank the clicks of `log`, with a retrain every `every` epochs; `most`: only so many evenly spread clicks."""
    states = click_states(log, SPEC)
    order = states.order()
    if most is not None and most < len(order):
        order = order[np.linspace(0, len(order) - 1, most).astype(np.int64)]
    epochs = log.epochs[states.event]
    everything = Catalogue(np.unique(log.keys))
    source = ClickSource.from_states(states, everything)
    lists = [candidates(source, i, seed) for i in order.tolist()]
    ranks = {"popularity": by_popularity(states, everything, order, lists)}
    nets, catalogue = Nets.initial(NetConfig(floor=True, stacked=True), Catalogue([]).size, seed), Catalogue([])
    found: dict[str, list[Ints]] = {name: [] for name in Logits._fields}
    since, retrains, accepted = None, [], []
    last = int(log.epochs.max())
    for start in range(0, last + 1, every):
        if start:
            made = retrain(nets, catalogue, until(log, start), config=config, spec=SPEC, seed=seed, since=since)
            retrains.append(made)
            accepted.append(gate(made))
            if accepted[-1]:
                nets, catalogue, since = made.nets, made.catalogue, made.trained_until
        rows = everything.rows(catalogue.keys)  # a row of the release for each row of the whole catalogue
        own = np.full(everything.size, ROW_UNKNOWN)
        own[0], own[rows] = 0, np.arange(2, catalogue.size)
        some = np.flatnonzero((epochs[order] >= start) & (epochs[order] < start + every))
        for name, values in by_nets(nets, source, torch.from_numpy(own), order[some], [lists[i] for i in some]).items():
            found[name].append(values)
    ranks |= {name: np.concatenate(values) for name, values in found.items()}
    both = (states.history.end > states.history.start) & (states.window > 0)
    return Simulated(states.user[order], epochs[order], both[order].astype(np.int64), ranks, retrains, accepted)


def candidates(source: ClickSource, i: int, seed: int) -> Ints:
    """Return the candidates of click `i` as rows, shuffled: its slate, or CANDIDATES drawn uniformly."""
    generator = np.random.default_rng([seed, 7, i])
    target = source.targets[i]
    others = np.unique(source.not_clicked[source.slate.start[i] : source.slate.end[i]])
    others = others[others != target]
    if not len(others):
        others = generator.choice(source.rows - 2, min(CANDIDATES, source.rows - 2), replace=False) + 2
        others = others[others != target][: CANDIDATES - 1]
    return np.asarray(generator.permutation(np.append(others, target)))


def by_popularity(states: ClickStates, everything: Catalogue, order: Ints, lists: list[Ints]) -> Ints:
    """Return the rank of each click by the number of clicks before its impression group, ties by place."""
    past = states.log.keys[states.log.kinds == PAST_CLICK]
    counts: Counter[int] = Counter(everything.rows(past).tolist())
    chronological = states.order()
    targets = everything.rows(states.target)
    wanted = dict(zip(order.tolist(), lists, strict=True))
    ranks: dict[int, int] = {}
    pending: list[int] = []
    group = -1
    for i in chronological.tolist():
        if states.group[i] != group:
            counts.update(pending)
            pending, group = [], states.group[i]
        pending.append(targets[i])
        if i in wanted:
            scores = np.array([counts[row] for row in wanted[i].tolist()])
            place = int(np.flatnonzero(wanted[i] == targets[i])[0])
            ranks[i] = 1 + (scores > scores[place]).sum() + (scores[:place] == scores[place]).sum()
    return np.array([ranks[i] for i in order.tolist()], np.int64)


@torch.inference_mode()
def by_nets(nets: Nets, source: ClickSource, own: torch.Tensor, some: Ints, lists: list[Ints]) -> dict[str, Ints]:
    """Return the ranks of clicks `some` among `lists` by each net."""
    out = {name: np.zeros(len(some), np.int64) for name in Logits._fields}
    order = np.argsort([len(each) for each in lists], kind="stable")
    for start in range(0, len(some), BATCH):
        chosen = order[start : start + BATCH]
        width = max(len(lists[i]) for i in chosen)
        items = np.zeros((len(chosen), width), np.int64)
        for row, i in enumerate(chosen):
            items[row, : len(lists[i])] = lists[i]
        batch = source.batch_of(some[chosen], items)
        rows = own[batch.rows]
        inputs = batch.inputs(nets, nets.encoder.E[rows])
        logits = nets.stacked(nets(inputs), rows[batch.clicks], rows[batch.items])
        place = torch.tensor([int(np.flatnonzero(lists[i] == source.targets[some[i]])[0]) for i in chosen])
        real = torch.from_numpy(items != 0)
        before = torch.arange(width)[None] < place[:, None]
        for name, scores in zip(Logits._fields, logits, strict=True):
            target = scores.gather(1, place[:, None])
            better = ((scores > target) & real).sum(1) + ((scores == target) & before & real).sum(1)
            out[name][chosen] = 1 + better.numpy()
    return out
