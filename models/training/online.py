"""Online learning of the fast part, with encoder and slow part frozen (fast training, Algorithm 1)."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional

from models.data.catalogue import ROW_PADDING
from models.data.item_statistics import Buckets
from models.data.ranges import left_padded
from models.data.repeats import repeats
from models.layers.mlp import PaddedVectors
from models.mc2sf.checkpoint import CheckpointError
from models.mc2sf.nets import Nets
from models.optimisers.adam import Adam
from models.training.held_out import cross_entropy
from models.training.retrain import TrainConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BATCH = 64


class FastBatchExample(NamedTuple):
    """One online example, in rows of E. Item 0 is the click; r_t and r_n are as received, f2 [1 + N, d]."""

    clicks: Ints  # <= L_F, oldest first
    exposures: Ints  # <= L_F, oldest first
    items: Ints  # [1 + N]
    r_t: NDArray[np.float16]
    r_n: NDArray[np.float16]
    item_statistics: Buckets  # [1 + N, 3]
    f2s: NDArray[np.float32]  # [1 + N], the cloud's scores
    near: tuple[Ints, Ints]  # clicks and items as rows of the item neighbours


class FastLearner:
    """Adam on the fast part of a copy of `nets`. `state` and `load` save and restore weights, moments and count."""

    def __init__(self, nets: Nets, config: TrainConfig, seed: int) -> None:
        self.nets = copy.deepcopy(nets)
        for part in (self.nets.encoder, self.nets.slow):
            part.requires_grad_(requires_grad=False)
        self.learnt = 0  # number of examples so far
        self._config, self._seed = config, seed
        self._weights = dict(self.nets.fast.named_parameters())
        weights = self._weights.values()
        self._adam = Adam(weights, learning_rate=config.learning_rate, l2=config.l2, betas=config.betas)

    def learn(self, examples: list[FastBatchExample]) -> None:
        """Train on `examples` once, in batches shuffled by the seed. All must have the same number of items."""
        order = np.random.default_rng([self._seed, self.learnt]).permutation(len(examples))
        for start in range(0, len(order), self._config.batch):
            chosen = order[start : start + self._config.batch]
            fast, s2f = _logits(self.nets, [examples[i] for i in chosen])
            (self._config.loss(fast) + self._config.loss(s2f)).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            self._adam.step()
        self.learnt += len(examples)

    def restart(self, nets: Nets) -> None:
        """Reset the weights to the fast part of `nets`, and the optimiser."""
        with torch.no_grad():
            for name, weight in nets.fast.named_parameters():
                self._weights[name].copy_(weight)
        self._adam.restart()

    def state(self) -> bytes:
        """Return weights, optimiser state and number of examples for `load`, as safetensors."""
        tensors = self._tensors() | {"learnt": torch.tensor(self.learnt)}
        return save({name: tensor.numpy() for name, tensor in tensors.items()})

    def load(self, data: bytes) -> None:
        """Restore the `state` of a learner on the same nets. Raises CheckpointError and then changes nothing."""
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise CheckpointError(f"no state of a learner: {error}") from error
        learnt = tensors.pop("learnt", None)
        current = self._tensors()
        # before the first step earlier versions wrote no moments
        tensors = {key: torch.zeros_like(current[key]) for key in current if not key.startswith("weight.")} | tensors
        if learnt is None or {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in current.items()}:
            raise CheckpointError("no state of a learner of these nets: other weights")
        self.learnt = int(learnt)
        with torch.no_grad():
            for key, value in current.items():
                value.copy_(tensors[key])

    def _tensors(self) -> dict[str, Tensor]:
        """Return weights and Adam's moments by the names of `state`."""
        tensors: dict[str, Tensor] = {}
        for (name, weight), moments in zip(self._weights.items(), self._adam.moments, strict=True):
            tensors |= {f"weight.{name}": weight.detach()}
            tensors |= {f"{key}.{name}": value for key, value in moments._asdict().items()}
        return tensors


@torch.no_grad()
def losses(nets: Nets, examples: list[FastBatchExample]) -> Floats:
    """Return the cross-entropy of each click by mc2sf as served: [n]."""
    cross_entropies, short = [torch.empty(0)], nets.config.history_short
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        fast, mc2sf = _logits(nets, batch)
        if nets.config.stacked:
            pairs = ((each.near[0][-short:], each.near[1]) for each in batch)
            affinities = np.stack([nets.fast.neighbours.affinity(*pair) for pair in pairs])
            f2s = torch.from_numpy(np.stack([each.f2s for each in batch]))
            mc2sf = nets.stack(mc2sf, fast, f2s, torch.from_numpy(affinities).unbind(1))
        cross_entropies.append(cross_entropy(mc2sf))
    return torch.cat(cross_entropies).double().numpy()


def _logits(nets: Nets, examples: list[FastBatchExample]) -> tuple[Tensor, Tensor]:
    """Return the logits of fast alone and of S2F: [B, 1 + N] each."""
    encoder, short = nets.encoder, nets.config.history_short
    clicks = torch.from_numpy(left_padded([example.clicks for example in examples], short))
    exposures = torch.from_numpy(left_padded([example.exposures for example in examples], short))
    items = torch.from_numpy(np.stack([example.items for example in examples]))
    histories = (
        encoder.gru_n,
        PaddedVectors(functional.embedding(clicks, encoder.E), clicks != ROW_PADDING),
        PaddedVectors(functional.embedding(exposures, encoder.E), exposures != ROW_PADDING),
    )
    buckets = torch.from_numpy(np.stack([example.item_statistics for example in examples]).astype(np.int64))
    again = torch.from_numpy(repeats(clicks.numpy(), items.numpy()))
    e = encoder.with_statistics(functional.embedding(items, encoder.E), buckets)
    floor = encoder.floor(buckets)
    r_t, r_n = _stacked([each.r_t for each in examples]), _stacked([each.r_n for each in examples])
    fast, s2f = nets.fast.score_both(*histories, e, r_t, r_n)
    return encoder.add_floor(floor, again, "fast", fast), encoder.add_floor(floor, again, "mc2sf", s2f)


def _stacked(priors: list[NDArray[np.float16]]) -> Tensor:
    """Return priors [1 + N, d] of B examples as one tensor [B, 1 + N, d]."""
    return torch.from_numpy(np.stack(priors).astype(np.float32))
