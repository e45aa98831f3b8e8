"""Offline fit of one net: Adam over epochs with early stopping by a validation score, resumable at every epoch.

The loop does not depend on the net: an objective turns a batch into a loss. All random draws of an epoch depend only on
(seed, epoch), so that an interrupted fit continues with the same result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.atomic_file import atomically
from models.mc2sf.nets import Encoder
from models.optimisers.adam import Adam, Moments


@dataclass(frozen=True)
class FitConfig:
    """Hyperparameters of a fit."""

    learning_rate: float = 1e-3
    l2: float = 0.0  # adds l2 times the weight to the gradient; in tables only to the rows of the batch
    epochs: int = 40  # maximum
    patience: int = 4  # stop after so many epochs without a better validation score
    bf16: bool = False  # losses under autocast; weights, Adam and validation keep full precision


@dataclass(frozen=True)
class Fitted:
    """The validation score after each epoch, and the index of the best epoch."""

    curve: tuple[float, ...]
    best: int


def fit(
    objective: nn.Module,
    batches: Callable[[int, np.random.Generator], Iterable[object]],
    validate: Callable[[], float],
    config: FitConfig,
    seed: int,
    *,
    state_file: Path | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Fitted:
    """Fit the parameters of `objective` that require a gradient, in place, and restore those of the best epoch.

    `batches(epoch, generator)` returns an epoch's batches; `validate` is called in evaluation mode; `state_file`
    holds the state after the last epoch, from which a fit resumes; `progress(epoch, loss, score)` is called after each
    epoch. Raises FloatingPointError if the loss is NaN.
    """
    weights = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    tables, device = _tables(objective), next(iter(weights.values())).device.type
    optimiser = Adam(weights.values(), learning_rate=config.learning_rate, l2=0.0, betas=(0.9, 0.999))
    objective.zero_grad()  # of what came before: a step clears its own
    best = {name: p.detach().clone() for name, p in weights.items()}
    curve: list[float] = []
    if state_file is not None and state_file.exists():
        curve = _load(state_file, weights, best, optimiser)
    while len(curve) < config.epochs and len(curve) - 1 - _best(curve) < config.patience:
        epoch = len(curve)
        torch.manual_seed(seed * 100_003 + epoch)  # dropout draws from torch's own generator
        objective.train()
        losses: list[float] = []
        for batch in batches(epoch, np.random.default_rng([seed, epoch])):
            with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
                loss = objective(batch)
            loss.backward()
            _decay(weights.values(), tables, config.l2)
            optimiser.step()
            losses.append(loss.item())
            if math.isnan(losses[-1]):
                raise FloatingPointError(f"the loss is NaN in epoch {epoch}")
        objective.eval()
        with torch.inference_mode():
            score = validate()
        curve.append(score)
        if _best(curve) == epoch:
            best = {name: p.detach().clone() for name, p in weights.items()}
        if progress is not None:
            progress(epoch, math.fsum(losses) / max(len(losses), 1), score)
        if state_file is not None:
            _save(state_file, weights, best, optimiser, curve)
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(best[name])
    objective.eval()
    return Fitted(tuple(curve), _best(curve))


def _best(curve: list[float]) -> int:
    """Return the index of the best score, -1 without scores."""
    return int(np.argmax(curve)) if curve else -1


def _tables(module: nn.Module) -> set[Tensor]:
    """Return the weights whose rows belong to items or users."""
    return {m.weight for m in module.modules() if isinstance(m, nn.Embedding)} | {
        m.E for m in module.modules() if isinstance(m, Encoder)
    }


def _decay(weights: Iterable[nn.Parameter], tables: set[Tensor], l2: float) -> None:
    """Add the gradient of l2 / 2 |w|^2, except to rows of tables that are not in the batch."""
    if not l2:
        return
    with torch.no_grad():
        for p in weights:
            if p.grad is None:
                continue
            if p in tables:
                touched = (p.grad != 0).any(1, keepdim=True)
                p.grad.addcmul_(p, touched, value=l2)
            else:
                p.grad.add_(p, alpha=l2)


def _save(
    path: Path,
    weights: dict[str, nn.Parameter],
    best: dict[str, Tensor],
    optimiser: Adam,
    curve: list[float],
) -> None:
    """Write weights, best weights, optimiser state and scores to `path`."""
    tensors = {f"now.{name}": p.detach() for name, p in weights.items()}
    tensors |= {f"best.{name}": p for name, p in best.items()}
    for name, moments in zip(weights, optimiser.moments, strict=True):
        tensors |= {f"adam.{name}.{key}": value for key, value in moments._asdict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as part:
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"curve": json.dumps(curve)})


def _load(path: Path, weights: dict[str, nn.Parameter], best: dict[str, Tensor], optimiser: Adam) -> list[float]:
    """Restore weights, best weights and optimiser state from `path`; return the scores."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        curve: list[float] = json.loads(file.metadata()["curve"])
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(tensors[f"now.{name}"])
            best[name] = tensors[f"best.{name}"]
    for i, name in enumerate(weights):
        if f"adam.{name}.step" in tensors:  # version 0.1.0 has none of a weight that had no gradient yet
            optimiser.moments[i] = Moments(*(tensors[f"adam.{name}.{key}"] for key in Moments._fields))
    return curve
