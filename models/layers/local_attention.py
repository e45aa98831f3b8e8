"""DIN's activation unit (local attention), computed for a few clicks at a time, with a hand-written gradient.

For 256 clicks, 5 candidates and 50 history items the unit is applied 64,000 times: its hidden layers do not fit a
cache, and autograd would keep them all. Here they are computed for a few clicks, used while they are in the cache, and
computed again in the backward pass, which takes half the time. Padding before the longest history of these clicks is
skipped; clicks sorted by the length of their history are therefore cheapest.

The first layer is factored: W [h; e; h*e] + b = (W_h + W_x diag(e)) h + (W_e e + b), so that each history item is
multiplied by one matrix per candidate, and no [B, C, L, 3 d] tensor is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.layers.custom_gradient import GradientContext, apply_function
from models.layers.mlp import Mlp
from models.layers.tiles import linear

aten = torch.ops.aten
_PAIRS = 4096  # pairs of (history item, candidate) computed at a time: their hidden layers fit a core's cache
STRIDE = 16  # lengths are multiples of it: for odd lengths some matrix products depend on the number of threads
LENGTHS = 4  # at inference, lengths are multiples of it for the same reason
_CANDIDATES = 64  # at inference, candidates computed at a time, for the same reason as _PAIRS


def attention_weights(unit: Mlp, history: Tensor, mask: Tensor, e: Tensor) -> Tensor:
    """Return the weight of each history item for each candidate, 0 on padding: [B, L, C].

    `unit` is an MLP with 3 d inputs, `history` [B, L, d], `mask` [B, L] (true on items), `e` [B, C, d].
    """
    w_h, w_e, w_x = unit.first.weight.chunk(3, dim=1)
    of_candidate = functional.linear(e, w_e, unit.first.bias)
    second, last = unit.second, unit.last
    layers = second.weight, second.bias, last.weight, last.bias
    weights: Tensor = apply_function(_Activation, mask, history, e, of_candidate, w_h, w_x, *layers)
    return weights


def attended(
    unit: Mlp, histories: Sequence[Tensor], lengths: Sequence[int], e: Tensor, positions: Sequence[slice]
) -> Tensor:
    """Return the weighted sum of its history for each candidate in tiles e [T, TILE, d], for inference: [T, TILE, d].

    `histories` [L, d] of any `lengths` are left-padded to a multiple of LENGTHS, `positions` are the rows of their
    candidates. Every candidate is a separate matrix, so a result depends on the history and the candidate only.
    """
    w_h, w_e, w_x = unit.first.weight.chunk(3, dim=1)
    w2, b2, w3, b3 = unit.second.weight, unit.second.bias[:, None], unit.last.weight, unit.last.bias
    of_candidate, flat = linear(e, w_e, unit.first.bias).view(-1, len(w2[0]), 1), e.view(-1, 1, e.shape[2])
    sums = torch.zeros_like(flat[:, 0])
    for history, length, position in zip(histories, lengths, positions, strict=True):
        columns = history.t()
        for start in range(position.start, position.stop if length else position.start, _CANDIDATES):
            chunk = slice(start, min(start + _CANDIDATES, position.stop))
            n = chunk.stop - start
            first = torch.bmm(torch.addcmul(w_h, w_x, flat[chunk]), columns.expand(n, -1, -1))  # [n, H, L]
            first.add_(of_candidate[chunk]).relu_()
            second = torch.baddbmm(b2, w2.expand(n, -1, -1), first).relu_()
            weights = torch.zeros(_CANDIDATES, len(history))
            weights[:n] = torch.bmm(w3.expand(n, 1, -1), second)[:, 0].add_(b3)
            weights[:, : len(history) - length] = 0
            sums[chunk] = (weights @ history)[:n]
    return sums.view_as(e)


class _Activation(torch.autograd.Function):
    """Inputs: mask, history, e, of_candidate [B, C, H], w_h, w_x [H, d], then the unit's other two layers."""

    @staticmethod
    def forward(ctx: GradientContext, mask: Tensor, *inputs: Tensor) -> Tensor:
        """Return the weights [B, L, C]."""
        ctx.save_for_backward(mask, *inputs)
        history, e, of_candidate, w_h, w_x, w2, b2, w3, b3 = inputs
        weights = history.new_zeros(*history.shape[:2], e.shape[1])
        for clicks, columns in _chunks(mask, e):
            _, second, _ = _hidden(history[clicks, columns], e[clicks], of_candidate[clicks], w_h, w_x, w2, b2)
            chunk = weights[clicks, columns]
            torch.mul(torch.addmv(b3, second, w3[0]).view_as(chunk), mask[clicks, columns, None], out=chunk)
        return weights

    @staticmethod
    def backward(ctx: GradientContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs of `forward`; hidden layers are computed again."""
        mask, history, e, of_candidate, w_h, w_x, w2, b2, w3, b3 = ctx.saved_tensors
        d_history, d_e, d_of_candidate = (torch.zeros_like(x) for x in (history, e, of_candidate))
        d_parameters = [torch.zeros_like(x) for x in (w_h, w_x, w2, b2, w3, b3)]
        for clicks, columns in _chunks(mask, e):
            x, c = history[clicks, columns], e[clicks]
            first, second, maps = _hidden(x, c, of_candidate[clicks], w_h, w_x, w2, b2)
            d_out = (gradients[0][clicks, columns] * mask[clicks, columns, None]).reshape(-1, 1)
            d_w3 = d_out.t() @ second
            d_second = d_out * w3
            aten.threshold_backward.grad_input(d_second, second, 0, grad_input=d_second)  # of the ReLU
            d_w2 = d_second.t() @ first
            d_first = d_second @ w2
            aten.threshold_backward.grad_input(d_first, first, 0, grad_input=d_first)
            d_first = d_first.view(len(x), x.shape[1], -1)  # [b, L, C H]
            d_maps = torch.bmm(d_first.transpose(1, 2), x).view(*c.shape[:2], *w_h.shape)  # [b, C, H, d]
            d_history[clicks, columns] = torch.bmm(d_first, maps)
            d_e[clicks] = (d_maps * w_x).sum(2)
            d_of_candidate[clicks] = d_first.sum(1).view(*c.shape[:2], -1)
            d_w_x = (d_maps * c.unsqueeze(2)).sum((0, 1))
            terms = (d_maps.sum((0, 1)), d_w_x, d_w2, d_second.sum(0), d_w3, d_out.sum(0))
            for total, term in zip(d_parameters, terms, strict=True):
                total.add_(term)
        return None, d_history, d_e, d_of_candidate, *d_parameters


def _hidden(
    history: Tensor, e: Tensor, of_candidate: Tensor, w_h: Tensor, w_x: Tensor, w2: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both hidden layers, [b L C, hidden] each, and the matrices of the candidates [b, C H, d]."""
    maps = torch.addcmul(w_h, w_x, e.unsqueeze(2)).view(len(e), -1, w_h.shape[1])
    first = torch.baddbmm(of_candidate.view(len(e), 1, -1), history, maps.transpose(1, 2)).relu_()
    first = first.view(-1, len(w_h))
    return first, torch.addmm(b2, first, w2.t()).relu_(), maps


def _chunks(mask: Tensor, e: Tensor) -> list[tuple[slice, slice]]:
    """Return slices of clicks with about _PAIRS pairs each, and of the columns in which any of them has an item."""
    clicks, length = mask.shape
    size = max(1, _PAIRS // (length * e.shape[1]))
    lengths = mask.sum(1).tolist()
    longest = (-(-max(lengths[start : start + size]) // STRIDE) * STRIDE for start in range(0, clicks, size))
    chunks = zip(range(0, clicks, size), longest, strict=True)
    return [(slice(start, start + size), slice(max(0, length - used), length)) for start, used in chunks if used]
