"""Retraining: all four nets jointly, from a release's weights (warm start), on new clicks and a sample of old ones.

The item table is trained alone first for some passes of `cooccurrence_loss`, which is cheap; otherwise the nets rank
by popularity only for a thousand steps or more.

`retrain` is the whole computation of the batch job. In: a log. Out: candidate nets, and the held-out losses of the
candidate and the active nets. It is deterministic for a seed at one number of threads and processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.catalogue import ROW_UNKNOWN, Catalogue
from models.data.interaction_log import InteractionLog, click_states
from models.data.views import ViewSpec
from models.mc2sf.nets import Logits, Nets
from models.training.cooccurrence_loss import cooccurrence_loss
from models.training.distributed import SINGLE_PROCESS, ProcessGroup
from models.training.losses import Loss, sampled_softmax
from models.training.minibatches import Batch, ClickSource
from models.training.row_adam import RowAdam
from models.training.stacking import stack

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters. The paper has rate 5e-4, batch 256, l2 1e-4 and BCE, for many epochs over a fixed log."""

    learning_rate: float = 5e-3  # at the beginning of a retrain that uses all clicks
    pace: float = 1.5  # learning rate x (share of clicks used) ** pace
    batch: int = 64
    l2: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    passes: int = 2  # over the selected clicks
    max_clicks: int = 100_000  # of training in one retrain, new clicks first: bounds its cost
    table_passes: int = 8  # of the item table alone, before
    table_max_clicks: int = 200_000  # of these passes
    cooccurrence: float = 1.0  # weight of the co-occurrence loss relative to the four nets' losses
    negatives: int = 4
    unknown: float = 0.03  # share of a batch's items replaced by the unknown row
    older: float = 3.0  # clicks sampled per new click from those trained on before
    held_out: float = 0.1  # share of the new clicks, the newest, that are used for evaluation only
    held_out_max: int = 4096
    loss: Loss = sampled_softmax


class TrainResult(NamedTuple):
    """A candidate for release. Losses are means over the four nets on the held-out clicks."""

    nets: Nets
    catalogue: Catalogue
    active: float  # held-out loss of the nets before training
    candidate: float  # held-out loss of the trained nets
    n: int  # held-out clicks
    finite: bool  # True if all weights and both losses are finite
    trained_until: int  # time of the newest click trained on, ms; pass it as the next `since`
    steps: int
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
    progress: Callable[[int, int, float], None] = lambda _step, _steps, _loss: None,
) -> TrainResult:
    """Train a copy of `nets` on the clicks of `log`; `nets` themselves are not changed.

    Clicks after `since` (ms; None: all) are new: the newest share of them is held out, the others are trained on
    together with a sample of older ones. The learning rate falls with the share of these clicks that is used: at the
    full rate the nets would forget what is not shown again. New items get rows appended. `progress` is called with
    (step, steps, loss). All of `processes` must call this with the same arguments; the passes of the item table alone,
    the cheap part, are computed in full by each of them.
    """
    generator = np.random.default_rng(seed)
    extended = catalogue.extended(np.unique(log.keys))
    candidate = nets.grown(extended.size, seed)
    states = click_states(log, spec)
    source = ClickSource.of(states, extended)
    order = states.order()
    new = order[states.time[order] > since] if since is not None else order
    out = min(int(len(new) * config.held_out), config.held_out_max)
    fresh, held = new[: len(new) - out], new[len(new) - out :]
    older = order[: len(order) - len(new)]
    room = min(int(config.older * len(fresh)), max(0, config.max_clicks - len(fresh)))
    again = generator.choice(older, min(len(older), room), replace=False)
    selected = np.concatenate([fresh, again])
    share = len(selected) / max(1, len(fresh) + len(older))
    paced = replace(config, learning_rate=config.learning_rate * share**config.pace)
    steps = 0
    if len(selected) and len(extended) >= 2:
        of_table = _batches(source, selected, config, generator, config.table_passes, config.table_max_clicks)
        align(candidate, of_table, paced)
        steps = _steps(len(selected), config.passes, config.max_clicks, config.batch)
        batches = _batches(source, selected, config, generator, config.passes, config.max_clicks)
        for step, loss in enumerate(train(candidate, batches, paced, steps, processes), 1):
            progress(step, steps, loss)
    if candidate.config.stacked and len(extended):
        stack(candidate, source, held, config.loss, seed)
    losses = [float(held_out_loss(each, source, held, config, seed)) for each in (nets, candidate)]
    finite = all(math.isfinite(x) for x in losses) or not len(held)
    return TrainResult(
        nets=candidate,
        catalogue=extended,
        active=losses[0],
        candidate=losses[1],
        n=len(held),
        finite=finite and all(bool(torch.isfinite(weight).all()) for weight in candidate.parameters()),
        trained_until=int(states.time[fresh].max(initial=since or 0)),
        steps=steps,
        trained=len(selected),
    )


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
    groups = [{"params": dense, "weight_decay": config.l2}, {"params": [statistics], "weight_decay": 0.0}]
    adam = torch.optim.Adam(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    rows = RowAdam(E, learning_rate=config.learning_rate, l2=config.l2, betas=config.betas)
    nets.train()
    data_parallel = processes.data_parallel(nets)
    for step, batch in enumerate(batches):
        rows.rate = config.learning_rate * (1 - step / steps)
        for group in adam.param_groups:
            group["lr"] = rows.rate
        table = E.detach()[batch.rows].requires_grad_()
        part, share = batch.share(processes.rank, processes.world)
        loss = joint_loss(data_parallel(part.inputs(nets, table)), config.loss) * (share * processes.world)
        adam.zero_grad(set_to_none=True)
        (loss + config.cooccurrence * cooccurrence_loss(table, batch)).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        adam.step()
        assert table.grad is not None
        rows.step(batch.rows, processes.average(table.grad))
        yield processes.average(loss.detach()).item()
    E.requires_grad_()
    nets.eval()


def joint_loss(logits: Logits, loss: Loss) -> Tensor:
    """Return the sum of the four nets' losses; gradients between nets are cut as in the equations."""
    return torch.stack([loss(each) for each in logits]).sum()


@torch.no_grad()
def held_out_loss(nets: Nets, source: ClickSource, some: Ints, config: TrainConfig, seed: int) -> float:
    """Return the mean loss over the four nets on clicks `some`, with negatives drawn from `seed`; NaN without clicks.

    Rows beyond those of `nets` are replaced by the unknown row.
    """
    generator = np.random.default_rng([seed, 1])
    total = 0.0
    for start in range(0, len(some), config.batch):
        chosen = some[start : start + config.batch]
        batch = source.batch(chosen, generator, n=config.negatives)
        rows = torch.where(batch.rows < len(nets.encoder.E), batch.rows, ROW_UNKNOWN)
        logits = nets.stacked(nets(batch.inputs(nets, nets.encoder.E[rows])), rows[batch.clicks], rows[batch.items])
        total += float(joint_loss(logits, config.loss)) / 4 * len(chosen)
    return total / len(some) if len(some) else math.nan
