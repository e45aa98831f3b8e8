"""Retraining: all four nets jointly, from a release's weights (warm start), on new clicks and a sample of old ones.

The item table is trained alone first by `cooccurrence_loss`, which is cheap; otherwise the nets rank by popularity only
for a thousand steps or more. `retrain` is the whole computation of the batch job. In: a log. Out: candidate nets, and
the held-out losses of the candidate and the active nets. It is deterministic for a seed at one number of threads.
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
from torch import Tensor

from models.data.catalogue import Catalogue
from models.data.interaction_log import InteractionLog, click_states
from models.data.views import ViewSpec
from models.mc2sf.nets import DEVIATION, Nets
from models.optimisers.adam import Adam
from models.optimisers.row_adam import RowAdam
from models.training.cooccurrence_loss import cooccurrence_loss
from models.training.distributed import SINGLE_PROCESS, ProcessGroup
from models.training.held_out import NEGATIVES, HeldOut, is_better
from models.training.losses import Loss, joint_loss, sampled_softmax
from models.training.minibatches import Batch, ClickSource
from models.training.popularity_floor import fit_floor, fit_gains
from models.training.stacking import neighbours_without, stack

Ints = NDArray[np.int64]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters. The paper has rate 5e-4, batch 256, l2 1e-4 and BCE, for many epochs over a fixed log."""

    learning_rate: float = 5e-3  # at the beginning of a retrain that uses all clicks
    pace: float = 1.5  # learning rate x (share of clicks used) ** pace, after a warm start
    batch: int = 64  # on few clicks
    batch_max: int = 256  # on many: a click then costs half as much
    min_steps: int = 150  # that larger batches leave; twice as many from scratch
    l2: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    passes: int = 2  # over the selected clicks
    max_clicks: int = 100_000  # of training in one retrain, which bounds its cost; after a warm start half as many
    table_passes: int = 8  # of the item table alone, before; from scratch
    table_passes_warm: int = 2  # the same, of a table that has been trained
    table_max_clicks: int = 200_000  # of these passes
    cooccurrence: float = 1.0  # weight of the co-occurrence loss relative to the four nets' losses
    negatives: int = 4
    unknown: float = 0.03  # share of a batch's items replaced by the unknown row
    older: float = 3.0  # clicks sampled per new click from those trained on before
    held_out: float = 0.1  # share of the new clicks, the newest, that are used for evaluation only
    held_out_min: int = 200  # of a few new clicks, but no more than half
    held_out_max: int = 2048
    snapshots: int = 8  # of the weights during training
    floor_clicks: int = 2000  # to which the popularity floor is fitted
    distinct: float = 20.0  # clicks of a new item from which on its row does not start nearer to the unknown row
    loss: Loss = sampled_softmax


class TrainResult(NamedTuple):
    """A candidate for release. Losses are means over the four nets on the half of the held-out clicks that judges."""

    nets: Nets
    catalogue: Catalogue
    active: float  # held-out loss of the nets before training
    candidate: float  # held-out loss of the trained nets
    n: int  # clicks that judge
    finite: bool  # True if all weights and both losses are finite
    trained_until: int  # time of the newest click trained on, ms; pass it as the next `since`
    steps: int
    kept: int  # step after which the weights were copied; 0: the nets learnt nothing
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

    Clicks after `since` (ms; None or 0: all, nothing was learnt yet) are new: the newest share of them is held out, the
    others are trained on together with a sample of older ones. The learning rate falls with the share of these clicks
    that is used: at the full rate the nets would forget what is not shown again. New items get rows appended.

    Of the held-out clicks every other one selects: of the weights before training and after each of some steps, the
    first that is better than all before by a standard error. So training on too few clicks ends early and does no harm.
    The other clicks judge the selected nets, and those with a higher loss than `nets` are dropped for `nets` with the
    new items. All have the same new popularity floor and item neighbours, which know no held-out click: few clicks of
    few users are held out, late in their visits, and would refuse any popularity.
    The stack is fitted afterwards, to all held-out clicks, and has a test of its own: see `stacking`.
    `progress` is called with (step, steps, loss). All of `processes` must call this with the same arguments; the passes
    of the item table alone, the cheap part, are computed in full by each of them. The steps are computed on `device`,
    all else on the CPU.
    """
    generator = np.random.default_rng(seed)
    extended = catalogue.extended(np.unique(log.keys))
    states = click_states(log, spec)
    source = ClickSource.of(states, extended)
    order = states.order()
    new = order[states.time[order] > since] if since else order
    out = max(int(len(new) * config.held_out), min(config.held_out_min, len(new) // 2))
    out = min(out, config.held_out_max) if len(extended) >= 2 else 0  # one item has no negatives
    fresh, held = new[: len(new) - out], new[len(new) - out :]
    older = order[: len(order) - len(new)]
    selected, config = select(fresh, older, config, generator, warm=bool(since))
    paced = at_pace(config, len(selected), len(fresh) + len(older)) if since else config
    unchanged = nets.grown(extended.size, seed, 0.0)
    if unchanged.config.stacked:  # those of the learner know the held-out clicks
        unchanged.fast.neighbours.replace(neighbours_without(source, held))
    if unchanged.config.floor and len(selected) and len(extended) >= 2:
        some = generator.permutation(selected)[: config.floor_clicks]
        fit_floor(unchanged, source.batch(some, generator, n=NEGATIVES))
    neighbours = unchanged.fast.neighbours if unchanged.config.stacked else None
    selecting, judging = (HeldOut.draw(source, held[half::2], seed, neighbours) for half in (0, 1))
    active = judging.losses(unchanged)
    selection = Selection(unchanged, selecting)
    steps = 0
    if len(selected) and len(extended) >= 2:
        counts = np.bincount(source.targets, minlength=extended.size)[len(nets.encoder.E) :]
        deviation = DEVIATION * torch.from_numpy(np.minimum(counts / config.distinct, 1)).float()
        candidate = nets.grown(extended.size, seed, deviation)
        if candidate.config.stacked:
            candidate.fast.neighbours = copy.deepcopy(unchanged.fast.neighbours)
        if candidate.config.floor:
            candidate.encoder.popularity.copy_(unchanged.encoder.popularity)
            candidate.encoder.gains.fill_(1)
        shown = _batches(source, selected, config, generator, config.table_passes, config.table_max_clicks)
        align(candidate, shown, paced)
        steps = _steps(len(selected), config.passes, config.max_clicks, config.batch)
        snapshots = np.ceil(steps * np.arange(1, config.snapshots + 1) / config.snapshots)
        shown = _batches(source, selected, config, generator, config.passes, config.max_clicks)
        batches = (batch.to(device) for batch in shown)
        for step, loss in enumerate(train(candidate.to(device), batches, paced, steps, processes), 1):
            progress(step, steps, loss)
            if step in snapshots:
                selection.consider(candidate, step)
    best, losses = selection.best, judging.losses(selection.best)
    learnt = best is not unchanged and bool(losses.mean() <= active.mean())
    if not learnt:
        best, losses = unchanged, active
    if steps and best.config.stacked and out >= config.held_out_min:  # of fewer clicks five weights fit chance
        stack(best, source, held, config.loss, seed)
    values = [float(each.mean()) if len(each) else math.nan for each in (active, losses)]
    return TrainResult(
        nets=best,
        catalogue=extended,
        active=values[0],
        candidate=values[1],
        n=len(losses),
        finite=all(bool(torch.isfinite(weight).all()) for weight in best.state_dict().values())
        and (not len(losses) or all(map(math.isfinite, values))),
        trained_until=int(states.time[fresh].max(initial=since or 0)) if learnt else since or 0,
        steps=steps,
        kept=selection.kept if learnt else 0,
        trained=len(selected),
    )


def select(
    fresh: Ints, older: Ints, config: TrainConfig, generator: np.random.Generator, *, warm: bool
) -> tuple[Ints, TrainConfig]:
    """Return the clicks to train on, new ones and a sample of older ones, and `config` for so many clicks.

    After a warm start at most half of `max_clicks` are shown, not more than half of them new ones.
    """
    if warm:
        config = replace(config, max_clicks=config.max_clicks // 2, table_passes=config.table_passes_warm)
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

    The learning rate grows with the root of the batch (Malladi et al., arXiv 2205.10287, for Adam). Nets from scratch
    lose by fewer steps, nets that start `warm` hardly do: see benchmarks/training/retrain_cost.py.
    """
    batch, least = config.batch, config.min_steps * (1 if warm else 2)
    while 2 * batch <= config.batch_max and _steps(clicks, config.passes, config.max_clicks, 2 * batch) >= least:
        batch *= 2
    return replace(config, batch=batch, learning_rate=config.learning_rate * math.sqrt(batch / config.batch))


class Selection:
    """The best nets of a retrain so far, by their loss on held-out clicks. It begins with nets that learnt nothing."""

    def __init__(self, nets: Nets, held_out: HeldOut) -> None:
        self.best, self.kept = nets, 0  # the nets, and after how many steps they were copied
        self._held_out = held_out
        self._losses = held_out.losses(nets)

    def consider(self, nets: Nets, step: int) -> None:
        """Keep a copy of `nets`, with fitted gains, if it is better."""
        copied = copy.deepcopy(nets).cpu().eval()
        self._keep(copied, step, fit_gains(copied, self._held_out) if nets.config.floor else None)

    def _keep(self, nets: Nets, step: int, logits: Tensor | None = None) -> None:
        losses = self._held_out.losses(nets, logits)
        if is_better(losses, self._losses):
            self.best, self.kept, self._losses = nets, step, losses


def _steps(clicks: int, passes: int, max_clicks: int, batch: int) -> int:
    """Return the number of batches in `passes` over `clicks`, of at most `max_clicks` clicks in total."""
    return min(passes * math.ceil(clicks / batch), math.ceil(max_clicks / batch))


def _batches(
    source: ClickSource, some: Ints, config: TrainConfig, generator: np.random.Generator, passes: int, max_clicks: int
) -> Iterator[Batch]:
    """Yield batches of clicks `some`, shuffled anew in each pass."""
    left = _steps(len(some), passes, max_clicks, config.batch)
    while left:
        shuffled = generator.permutation(some)
        for start in range(0, len(some), config.batch)[:left]:
            chosen = shuffled[start : start + config.batch]
            yield source.batch(chosen, generator, n=config.negatives, unknown=config.unknown)
            left -= 1


def align(nets: Nets, batches: Iterable[Batch], config: TrainConfig) -> None:
    """Take one step of the item table alone per batch, in place; none if no user of the batch has clicked before."""
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
        part, share = batch.share(processes.rank, processes.world)
        loss = joint_loss(data_parallel(part.inputs(nets, table)), config.loss) * (share * processes.world)
        (loss + config.cooccurrence * cooccurrence_loss(table, batch)).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        for adam in adams:
            adam.rate = rows.rate
            adam.step()
        assert table.grad is not None
        rows.step(batch.rows, processes.average(table.grad))
        yield processes.average(loss.detach()).item()
    E.requires_grad_()
    nets.eval()
