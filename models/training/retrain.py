"""Retraining: all four nets jointly, from a release's weights (warm start), on what is new and a sample of the old.

The item table goes ahead alone for some passes by `affinity`, which costs next to nothing, and the nets then start on
items that already lie in groups; without it they stay at popularity for a thousand steps and more.
`retrain` is the batch job's whole arithmetic: log in, candidate nets and their held-out loss beside the active ones'
out. It is deterministic for a seed at one number of threads and processes.
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

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TrainConfig:
    """How a training runs. The paper has 5e-4, 256, 1e-4 and BCE, for many epochs over a log that does not grow."""

    learning_rate: float = 5e-3  # at the beginning of a retrain that looks at the whole log
    pace: float = 1.5  # otherwise the rate is times the share of the clicks that is looked at, to this power
    batch: int = 64
    l2: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    passes: int = 2  # over the selected clicks
    most: int = 100_000  # clicks shown to the nets in one retrain, at most, the new ones first: so its cost is bounded
    table_passes: int = 8  # of the item table alone, ahead
    table_most: int = 200_000  # clicks shown to it, at most
    cooccurrence: float = 1.0  # weight of the item table's own loss beside the four nets'
    negatives: int = 4
    unknown: float = 0.03  # share of a batch's items replaced by the unknown row
    older: float = 3.0  # clicks already trained on that are sampled again, per new one
    held_out: float = 0.1  # share of the new clicks, the newest, that are judged and not trained on
    held_out_most: int = 4096
    loss: Loss = sampled_softmax


class TrainResult(NamedTuple):
    """A candidate for release. Losses are the mean over the four nets on the held-out clicks."""

    nets: Nets
    catalogue: Catalogue
    active: float  # held-out loss of the nets that were given
    candidate: float  # of the trained ones
    n: int  # held-out clicks
    finite: bool  # all weights and both losses are
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
    """Train a copy of `nets` on the clicks of `log`; `nets` themselves are left as they are.

    Clicks after `since` (ms; None: all) are new: the newest share of them is held out, the others are trained on
    together with a sample of older ones. The smaller the share of all those clicks that is looked at, the smaller
    the learning rate: at the whole rate the nets would lose what is not shown again. New items get rows appended.
    `progress` is told (step, steps, loss). All of `processes` must call it with the same arguments;
    the passes of the item table alone, the cheap part, are made in full by each of them.
    """
    generator = np.random.default_rng(seed)
    known = catalogue.extended(np.unique(log.keys))
    candidate = nets.grown(known.size, seed)
    folded = click_states(log, spec)
    source = ClickSource.of(folded, known)
    order = folded.order()
    new = order[folded.time[order] > since] if since is not None else order
    out = min(int(len(new) * config.held_out), config.held_out_most)
    fresh, held = new[: len(new) - out], new[len(new) - out :]
    older = order[: len(order) - len(new)]
    room = min(int(config.older * len(fresh)), max(0, config.most - len(fresh)))
    again = generator.choice(older, min(len(older), room), replace=False)
    selected = np.concatenate([fresh, again])
    looked_at = len(selected) / max(1, len(fresh) + len(older))
    paced = replace(config, learning_rate=config.learning_rate * looked_at**config.pace)
    steps = 0
    if len(selected) and len(known) >= 2:
        align(candidate, _batches(source, selected, config, generator, config.table_passes, config.table_most), paced)
        steps = _steps(len(selected), config.passes, config.most, config.batch)
        batches = _batches(source, selected, config, generator, config.passes, config.most)
        for step, loss in enumerate(train(candidate, batches, paced, steps, processes), 1):
            progress(step, steps, loss)
    judged = [float(held_out_loss(each, source, held, config, seed)) for each in (nets, candidate)]
    finite = all(math.isfinite(x) for x in judged) or not len(held)
    return TrainResult(
        nets=candidate,
        catalogue=known,
        active=judged[0],
        candidate=judged[1],
        n=len(held),
        finite=finite and all(bool(torch.isfinite(weight).all()) for weight in candidate.parameters()),
        trained_until=int(folded.time[fresh].max(initial=since or 0)),
        steps=steps,
        trained=len(selected),
    )


def _steps(clicks: int, passes: int, most: int, batch: int) -> int:
    """Batches of `passes` over `clicks`, as far as `most` clicks go."""
    return min(passes * math.ceil(clicks / batch), math.ceil(most / batch))


def _batches(
    source: ClickSource, some: Ints, config: TrainConfig, generator: np.random.Generator, passes: int, most: int
) -> Iterator[Batch]:
    left = _steps(len(some), passes, most, config.batch)
    while left:
        shuffled = generator.permutation(some)
        for start in range(0, len(some), config.batch)[:left]:
            chosen = shuffled[start : start + config.batch]
            yield source.batch(chosen, generator, n=config.negatives, unknown=config.unknown)
            left -= 1


def align(nets: Nets, batches: Iterable[Batch], config: TrainConfig) -> None:
    """One step of the item table alone a batch, in place; none where no user of a batch has clicked before."""
    E = nets.encoder.E
    rows = RowAdam(E, learning_rate=config.learning_rate, l2=config.l2, betas=config.betas)
    for batch in batches:
        if not (batch.history.any() or batch.clicks.any()):
            continue
        table = E.detach()[batch.rows].requires_grad_()
        cooccurrence_loss(table, batch).backward()  # type: ignore[no-untyped-call]  # torch ships it so
        assert table.grad is not None
        rows.step(batch.rows, table.grad)


def train(
    nets: Nets, batches: Iterable[Batch], config: TrainConfig, steps: int, processes: ProcessGroup = SINGLE_PROCESS
) -> Iterator[float]:
    """One optimiser step a batch, in place; yields each batch's loss, the sum over the four nets.

    The learning rate falls on a line that would end at nothing after `steps`: the last batches settle what the first
    ones moved. Of several `processes` each computes its share of a batch.
    """
    E = nets.encoder.E.requires_grad_(False)  # the gradient is that of the rows gathered
    standing = nets.encoder.standing
    dense = [weight for weight in nets.parameters() if weight is not E and weight is not standing]
    # most buckets are in few batches: decay in all the others, at Adam's step, would wipe them out
    groups = [{"params": dense, "weight_decay": config.l2}, {"params": [standing], "weight_decay": 0.0}]
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
        (loss + config.cooccurrence * cooccurrence_loss(table, batch)).backward()  # type: ignore[no-untyped-call]  # torch ships it so
        adam.step()
        assert table.grad is not None
        rows.step(batch.rows, processes.average(table.grad))
        yield processes.average(loss.detach()).item()
    E.requires_grad_()
    nets.eval()


def joint_loss(logits: Logits, loss: Loss) -> Tensor:
    """The sum of the four nets' losses; gradients between them are cut where the equations cut them."""
    return torch.stack([loss(each) for each in logits]).sum()


@torch.no_grad()
def held_out_loss(nets: Nets, source: ClickSource, some: Ints, config: TrainConfig, seed: int) -> float:
    """The mean loss over the four nets on clicks `some`, with negatives drawn from `seed`; NaN where there are none.

    Rows that `nets` don't have yet are the unknown row to them.
    """
    generator = np.random.default_rng([seed, 1])
    total = 0.0
    for start in range(0, len(some), config.batch):
        chosen = some[start : start + config.batch]
        batch = source.batch(chosen, generator, n=config.negatives)
        held = torch.where(batch.rows < len(nets.encoder.E), batch.rows, ROW_UNKNOWN)
        total += float(joint_loss(nets(batch.inputs(nets, nets.encoder.E[held])), config.loss)) / 4 * len(chosen)
    return total / len(some) if len(some) else math.nan
