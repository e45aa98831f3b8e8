"""Retraining: all four nets jointly, from a release's weights (warm start), on new clicks and a sample of old ones.

The item table is first trained alone by `cooccurrence_loss`, which is cheap; otherwise the nets rank by popularity only
for a thousand steps or more. `retrain` is the whole computation of the batch job: from a log to candidate nets and the
held-out losses of candidate and active nets. It is deterministic for a seed and a number of threads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.data.catalogue import Catalogue
from models.data.interaction_log import InteractionLog, click_states
from models.data.views import ViewSpec
from models.mc2sf.nets import DEVIATION, Nets
from models.optimisers.adam import Adam
from models.optimisers.row_adam import RowAdam
from models.training.cooccurrence_loss import cooccurrence_loss
from models.training.distributed import SINGLE_PROCESS, ProcessGroup
from models.training.held_out import NEGATIVES, HeldOut
from models.training.losses import Loss, joint_loss, sampled_softmax
from models.training.minibatches import Batch, ClickSource
from models.training.popularity_floor import fit_floor, fit_repeats
from models.training.selection import Selection
from models.training.stacking import neighbours_without, stack

Ints = NDArray[np.int64]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters. The paper has rate 5e-4, batch 256, l2 1e-4 and BCE, for many epochs over a fixed log."""

    learning_rate: float = 5e-3  # at the beginning of a retrain that uses all clicks
    pace: float = 1.5  # learning rate x (share of clicks used) ** pace, after a warm start
    batch: int = 64  # on few clicks
    batch_max: int = 256  # on many clicks: the cost per click is then half
    min_steps: int = 150  # a batch is not enlarged to leave fewer steps; twice as many from scratch
    l2: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    passes: int = 2  # over the selected clicks
    max_clicks: int = 100_000  # click presentations per retrain, which bounds its cost
    table_passes: int = 8  # of the item table alone, before the nets; from scratch
    table_passes_warm: int = 2  # the same after a warm start
    table_max_clicks: int = 200_000  # click presentations in these passes
    cooccurrence: float = 1.0  # weight of the co-occurrence loss relative to the four nets' losses
    negatives: int = 4
    unknown: float = 0.03  # share of a batch's items replaced by the unknown row
    older: float = 3.0  # clicks sampled per new click from those trained on before
    held_out: float = 0.1  # share of the new clicks, the newest, that are used for evaluation only
    held_out_min: int = 200  # held-out clicks, but at most half of the new ones
    held_out_max: int = 2048
    snapshots: int = 8  # of the weights during training
    floor_clicks: int = 2000  # to which the popularity floor is fitted
    distinct: float = 20.0  # a new item with fewer clicks starts proportionally nearer to the unknown row
    loss: Loss = sampled_softmax


class TrainResult(NamedTuple):
    """A candidate for release. Losses are means over the four nets on the evaluation half of the held-out clicks."""

    nets: Nets
    catalogue: Catalogue
    active: float  # held-out loss of the nets before training
    candidate: float  # held-out loss of the trained nets
    n: int  # clicks of the evaluation half
    finite: bool  # True if all weights and both losses are finite
    trained_until: int  # time of the newest click trained on, ms; pass it as the next `since`
    steps: int
    kept: int  # step of the selected snapshot; 0: no snapshot was better than no training
    trained: int  # clicks selected for training


def retrain(
    nets: Nets,
    catalogue: Catalogue,
    log: InteractionLog,
    *,
    config: TrainConfig,
    spec: ViewSpec,
    seed: int,
    since: int | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    device: torch.device = CPU,
    progress: Callable[[int, int, float], None] = lambda _step, _steps, _loss: None,
) -> TrainResult:
    """Train a copy of `nets` on the clicks of `log`; `nets` themselves are not changed.

    Clicks after `since` (ms; None or 0: all clicks) are new. The newest share of them is held out; the nets are trained
    on the others and on a sample of older clicks. The learning rate decreases with the share of clicks that is used: at
    the full rate the nets forget what they are not trained on again. New items get rows appended.

    Alternate held-out clicks form two halves. The selection half selects a snapshot of the weights: one replaces the
    best so far, at first the untrained nets, if its loss is lower by more than a standard error. The evaluation half
    compares the selected nets with `nets`; if their loss is higher, the result is `nets` with the new items. All have
    the same new popularity floor and item neighbours, which are fitted without the held-out clicks: these are few, of
    few users and late in their sessions, and would reject any popularity. Nets are trained and compared without
    repeats, whose weights are fitted last, as is the stack, to all held-out clicks; each is accepted by a test of its
    own: see `popularity_floor` and `stacking`.
    `progress` is called with (step, steps, loss). All of `processes` must call this with the same arguments; each of
    them computes all passes of the item table alone. The steps are computed on `device`, all else on the CPU.
    """
    generator = np.random.default_rng(seed)
    extended = catalogue.extended(np.unique(log.keys))
    states = click_states(log, spec)
    source = ClickSource.from_states(states, extended)
    order = states.order()
    new = order[states.time[order] > since] if since else order
    held_out_size = max(int(len(new) * config.held_out), min(config.held_out_min, len(new) // 2))
    held_out_size = min(held_out_size, config.held_out_max) if len(extended) >= 2 else 0  # one item has no negatives
    fresh, held_out = np.split(new, [len(new) - held_out_size])
    older = order[: len(order) - len(new)]
    selected, config = select(fresh, older, config, generator, warm=bool(since))
    paced = at_pace(config, len(selected), len(fresh) + len(older)) if since else config
    unchanged = _unchanged(nets, source, selected, held_out, config, generator, seed)
    neighbours = unchanged.fast.neighbours if unchanged.config.stacked else None
    selecting, evaluating = (HeldOut.draw(source, held_out[half::2], seed, neighbours) for half in (0, 1))
    active_losses = evaluating.losses(unchanged)
    selection = Selection(unchanged, selecting)
    steps = 0
    if len(selected) and len(extended) >= 2:
        candidate = _to_train(nets, unchanged, source, config, seed)
        batches = _batches(source, selected, config, generator, config.table_passes, config.table_max_clicks)
        train_item_table(candidate, batches, paced)
        steps = _steps(len(selected), config.passes, config.max_clicks, config.batch)
        snapshots = np.ceil(steps * np.arange(1, config.snapshots + 1) / config.snapshots)
        batches = _batches(source, selected, config, generator, config.passes, config.max_clicks)
        on_device = (batch.to(device) for batch in batches)
        for step, loss in enumerate(train(candidate.to(device), on_device, paced, steps, processes), 1):
            progress(step, steps, loss)
            if step in snapshots:
                selection.consider(candidate, step)
    best, losses = selection.best, evaluating.losses(selection.best)
    learnt = best is not unchanged and bool(losses.mean() <= active_losses.mean())
    if not learnt:
        best, losses = unchanged, active_losses
    if steps and best.config.floor:
        fit_repeats(best, (selecting, evaluating), nets.encoder.repeats)
    if steps and best.config.stacked and held_out_size >= config.held_out_min:  # five weights overfit fewer clicks
        stack(best, source, held_out, config.loss, seed)
    means = [float(each.mean()) if len(each) else math.nan for each in (active_losses, losses)]
    return TrainResult(
        nets=best,
        catalogue=extended,
        active=means[0],
        candidate=means[1],
        n=len(losses),
        finite=all(bool(torch.isfinite(weight).all()) for weight in best.state_dict().values())
        and (not len(losses) or all(map(math.isfinite, means))),
        trained_until=int(states.time[fresh].max(initial=since or 0)) if learnt else since or 0,
        steps=steps,
        kept=selection.kept if learnt else 0,
        trained=len(selected),
    )


def _unchanged(
    nets: Nets,
    source: ClickSource,
    selected: Ints,
    held_out: Ints,
    config: TrainConfig,
    generator: np.random.Generator,
    seed: int,
) -> Nets:
    """Return a copy of `nets` with rows for new items, new item neighbours and a new floor, without repeats."""
    unchanged = nets.grown(source.catalogue.size, seed, 0.0)
    if unchanged.config.stacked:  # the learner's neighbours include the held-out clicks
        unchanged.fast.neighbours.replace(neighbours_without(source, held_out))
    if unchanged.config.floor:
        unchanged.encoder.repeats.fill_(0)
        if len(selected) and len(source.catalogue) >= 2:
            sample = generator.permutation(selected)[: config.floor_clicks]
            users = len(np.unique(source.states.user[sample]))
            fit_floor(unchanged, source.batch(sample, generator, n=NEGATIVES), users)
    return unchanged


def _to_train(nets: Nets, unchanged: Nets, source: ClickSource, config: TrainConfig, seed: int) -> Nets:
    """Return a copy of `nets` to train: with rows for new items, floor and item neighbours of `unchanged`."""
    counts = np.bincount(source.targets, minlength=source.catalogue.size)[len(nets.encoder.E) :]
    deviation = DEVIATION * torch.from_numpy(np.minimum(counts / config.distinct, 1)).float()
    candidate = nets.grown(source.catalogue.size, seed, deviation)
    if candidate.config.stacked:
        candidate.fast.neighbours = copy.deepcopy(unchanged.fast.neighbours)
    if candidate.config.floor:
        candidate.encoder.popularity.copy_(unchanged.encoder.popularity)
        candidate.encoder.repeats.fill_(0)
        candidate.encoder.gains.fill_(1)
    return candidate


def select(
    fresh: Ints, older: Ints, config: TrainConfig, generator: np.random.Generator, *, warm: bool
) -> tuple[Ints, TrainConfig]:
    """Return the clicks to train on, new ones and a sample of older ones, and `config` for that number of clicks.

    After a warm start at most half of `max_clicks` are new clicks if there are enough old ones.
    """
    if warm:
        config = replace(config, table_passes=config.table_passes_warm)
        most = max(config.max_clicks // 2, config.max_clicks - len(older))
        fresh = generator.choice(fresh, most, replace=False) if len(fresh) > most else fresh
    room = min(int(config.older * len(fresh)), max(0, config.max_clicks - len(fresh)), len(older))
    selected = np.concatenate([fresh, generator.choice(older, room, replace=False)])
    return selected, with_larger_batches(config, len(selected), warm=warm)


def at_pace(config: TrainConfig, used: int, clicks: int) -> TrainConfig:
    """Return `config` with the learning rate of a retrain that uses `used` of `clicks`."""
    return replace(config, learning_rate=config.learning_rate * (used / max(1, clicks)) ** config.pace)


def with_larger_batches(config: TrainConfig, clicks: int, *, warm: bool) -> TrainConfig:
    """Return `config` with the batch doubled up to `batch_max` as long as enough steps on `clicks` remain.

    The learning rate grows with the root of the batch size (Malladi et al., arXiv 2205.10287, for Adam). Fewer steps
    make nets from scratch worse, but hardly nets that start `warm`: see benchmarks/training/retrain_cost.py.
    """
    batch, least = config.batch, config.min_steps * (1 if warm else 2)
    while 2 * batch <= config.batch_max and _steps(clicks, config.passes, config.max_clicks, 2 * batch) >= least:
        batch *= 2
    return replace(config, batch=batch, learning_rate=config.learning_rate * math.sqrt(batch / config.batch))


def _steps(clicks: int, passes: int, max_clicks: int, batch: int) -> int:
    """Return the number of batches in `passes` over `clicks`, of at most `max_clicks` clicks in total."""
    return min(passes * math.ceil(clicks / batch), math.ceil(max_clicks / batch))


def _batches(
    source: ClickSource, clicks: Ints, config: TrainConfig, generator: np.random.Generator, passes: int, max_clicks: int
) -> Iterator[Batch]:
    """Yield batches of `clicks`, shuffled again for each pass."""
    remaining = _steps(len(clicks), passes, max_clicks, config.batch)
    while remaining:
        shuffled = generator.permutation(clicks)
        for start in range(0, len(clicks), config.batch)[:remaining]:
            chosen = shuffled[start : start + config.batch]
            yield source.batch(chosen, generator, n=config.negatives, unknown=config.unknown)
            remaining -= 1


def train_item_table(nets: Nets, batches: Iterable[Batch], config: TrainConfig) -> None:
    """Take one step of the item table alone per batch, in place; skip batches without any earlier click."""
    E = nets.encoder.E
    rows = RowAdam(E, learning_rate=config.learning_rate, l2=config.l2, betas=config.betas)
    for batch in batches:
        if not (batch.history.any() or batch.clicks.any()):
            continue
        table = E.detach()[batch.rows].requires_grad_()
        cooccurrence_loss(table, batch).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        assert table.grad is not None
        rows.step(batch.rows, table.grad)


def train(
    nets: Nets, batches: Iterable[Batch], config: TrainConfig, steps: int, processes: ProcessGroup = SINGLE_PROCESS
) -> Iterator[float]:
    """Take one optimiser step per batch, in place; yield each batch's loss, the sum over the four nets.

    The learning rate falls linearly to zero over `steps`. Of several `processes` each computes its share of a batch.
    """
    E = nets.encoder.E.requires_grad_(False)  # gradients are taken of the gathered rows
    statistics = nets.encoder.standing
    dense = [weight for weight in nets.parameters() if weight is not E and weight is not statistics]
    # most buckets occur in few batches: decay in all other batches, at Adam's step size, would erase them
    adams = [
        Adam(weights, learning_rate=config.learning_rate, l2=l2, betas=config.betas)
        for weights, l2 in ((dense, config.l2), ([statistics], 0.0))
    ]
    rows = RowAdam(E, learning_rate=config.learning_rate, l2=config.l2, betas=config.betas)
    nets.train()
    data_parallel = processes.data_parallel(nets)
    for step, batch in enumerate(batches):
        rows.rate = config.learning_rate * (1 - step / steps)
        table = E.detach()[batch.rows].requires_grad_()
        part, share = batch.share(processes.rank, processes.world_size)
        loss = joint_loss(data_parallel(part.inputs(nets, table)), config.loss) * (share * processes.world_size)
        (loss + config.cooccurrence * cooccurrence_loss(table, batch)).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        for adam in adams:
            adam.rate = rows.rate
            adam.step()
        assert table.grad is not None
        rows.step(batch.rows, processes.average(table.grad))
        yield processes.average(loss.detach()).item()
    E.requires_grad_()
    nets.eval()
