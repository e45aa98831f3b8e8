"""Layers of all nets: padded vectors, the three-layer MLP, and the scoring head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers.tiles import Linear


class PaddedVectors(NamedTuple):
    """Left-padded vectors [B, L, d] and their mask [B, L], true on items."""

    x: Tensor
    mask: Tensor


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|), which compresses large values and keeps small ones: [...] -> [...].

    Hafner et al., "Mastering Diverse Domains through World Models", 2023, eq. 9.
    """
    return x.sign() * x.abs().log1p()


class Mlp(nn.Module):
    """Three linear layers with ReLU between them, to one number: [..., inputs] -> [...]."""

    def __init__(self, inputs: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.first = Linear(inputs, hidden[0])
        self.second = Linear(hidden[0], hidden[1])
        self.last = Linear(hidden[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one number per input: [..., inputs] -> [...]."""
        return self.rest(self.first(x))

    def rest(self, projected: Tensor) -> Tensor:
        """Apply the layers after the first linear map: [..., hidden[0]] -> [...]."""
        hidden = torch.relu(self.second(torch.relu(projected)))
        logit: Tensor = self.last(hidden).squeeze(-1)
        return logit


class Head(Mlp):
    """A scoring head: an MLP over user vectors and a candidate e, plus, with `product`, an inner product with e.

    The paper uses the MLP only, which learns products badly (Rendle et al., "Neural Collaborative Filtering vs. Matrix
    Factorization Revisited", 2020). The product has no weights.
    """

    def __init__(self, vectors: int, dim: int, hidden: tuple[int, int], *, product: bool) -> None:
        super().__init__(vectors * dim, hidden)
        self._product = product

    def score(self, user: tuple[Tensor, ...], e: Tensor, factor: Tensor) -> Tensor:
        """Return the logit of candidates e for `user` vectors; `factor` enters the product: [..., d] each -> [...]."""
        logit: Tensor = self(torch.cat([*user, e], -1))
        return logit + (factor * e).sum(-1) if self._product else logit
