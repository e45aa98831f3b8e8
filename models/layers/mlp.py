"""What the nets share: histories as padded vectors, the three-layer MLP, and the head that every net ends in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function


class PaddedVectors(NamedTuple):
    """Left-padded vectors [B, L, d] and their mask [B, L], true on items."""

    x: Tensor
    mask: Tensor


def apply_function(function: type[Function], *inputs: Tensor) -> Tensor:
    """Apply a function whose gradient is written out. Under autocast it computes with full precision all the same."""
    apply = function.apply
    if torch.compiler.is_compiling():  # it loops over data: nothing to trace
        apply = torch.compiler.disable(apply)  # type: ignore[no-untyped-call]  # so in torch
    with torch.autocast(inputs[0].device.type, enabled=False):
        whole = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in inputs)
        result: Tensor = apply(*whole)  # type: ignore[no-untyped-call]  # so in torch
    return result


def symlog(x: Tensor) -> Tensor:
    """Large values made small, small ones left as they are, signs kept: [...] -> [...].

    Hafner et al., "Mastering Diverse Domains through World Models", 2023, eq. 9.
    """
    return x.sign() * x.abs().log1p()


class Mlp(nn.Module):
    """Linear, ReLU, linear, ReLU, linear to one number: [..., inputs] -> [...]."""

    def __init__(self, inputs: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [...]."""
        return self.rest(self.first(x))

    def rest(self, before: Tensor) -> Tensor:
        """What follows the first linear map: [..., hidden[0]] -> [...]."""
        hidden = torch.relu(self.second(torch.relu(before)))
        logit: Tensor = self.last(hidden).squeeze(-1)
        return logit


class Head(Mlp):
    """An MLP over a candidate e and what is known of the user; `product` adds the inner product of e and `like`.

    The paper has the MLP alone, which learns products badly (Rendle et al., "Neural Collaborative Filtering vs. Matrix
    Factorization Revisited", 2020). The product has no weights.
    """

    def __init__(self, vectors: int, dim: int, hidden: tuple[int, int], *, product: bool) -> None:
        super().__init__(vectors * dim, hidden)
        self._product = product

    def score(self, known: tuple[Tensor, ...], e: Tensor, like: Tensor) -> Tensor:
        """Logit of e [..., d] beside `known`, [..., d] each, of which `like` is to be near to e: [...]."""
        logit = self(torch.cat([*known, e], -1))
        return logit + (like * e).sum(-1) if self._product else logit  # type: ignore[no-any-return]
