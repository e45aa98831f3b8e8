"""A GRU that encodes one history from many initial states at once, with a hand-written gradient.

Eq. (7) starts both GRUs of the fast part from a different state for each candidate. The inputs' part of the gates is
the same for all candidates and is projected once per history. The states of a batch are laid out as [d, C, B]
(contiguous blocks per gate, inputs broadcast over C). With the hand-written backward pass this takes half the time of
autograd over `torch.gru_cell`. Gate order, formula and parameter names are those of `torch.nn.GRU`. The new state
h' = (1 - z) n + z h is an interpolation from n to h, so that a padded step, with z = 1, keeps a state to the last bit.

r, z: reset and update gate; n: proposed new state; `projected`: the inputs' part of the gates, W x + b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.custom_gradient import GradientContext, apply_function
from models.layers.tiles import linear, tiles

aten = torch.ops.aten
_KEEP = 1e30  # logit of z on padding: its sigmoid is exactly 1


class RecurrentCell(Protocol):
    """A recurrent cell: `Gru` or `min_gru.MinGruCell`."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """See `Gru.step`."""
        ...

    def encode(self, x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
        """See `Gru.encode`."""
        ...


class Gru(nn.Module):
    """A GRU of inputs [d] and state [d]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_ih = nn.Parameter(torch.empty(3 * dim, dim))
        self.w_hh = nn.Parameter(torch.empty(3 * dim, dim))
        self.b_ih = nn.Parameter(torch.empty(3 * dim))
        self.b_hh = nn.Parameter(torch.empty(3 * dim))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """Apply one step: input [..., d], state [..., d] -> state [..., d]."""
        flat = x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])
        return torch.gru_cell(*flat, self.w_ih, self.w_hh, self.b_ih, self.b_hh).view_as(h)

    def encode(self, x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
        """Return the state after each of B histories, from each of C initial states `h` [B, C, d]: [B, C, d].

        `x` [B, L, d] is left-padded, `mask` [B, L] is true on items.
        """
        padding = x.shape[1] - int(mask.sum(1).max())  # columns before the longest history change no state
        steps, d = x[:, padding:].transpose(0, 1), x.shape[2]  # [L, B, d]
        bias = self.b_ih + functional.pad(self.b_hh[: 2 * d], (0, d))  # b_hh of n is added later: r multiplies it
        projected = torch.addmm(bias[:, None], self.w_ih, steps.reshape(-1, d).t()).view(3 * d, *steps.shape[:2])
        first = h.permute(2, 1, 0).contiguous()
        last: Tensor = apply_function(_Encode, projected, mask[:, padding:].t(), first, self.w_hh, self.b_hh[2 * d :])
        return last.permute(2, 1, 0)

    def step_tiles(self, x: Tensor, h: Tensor, state_index: Tensor) -> Tensor:
        """Apply one step to tiles of inputs [T, TILE, d], each row from the state h[state_index], h [U, d]."""
        d = x.shape[-1]
        of_state = linear(tiles(h), self.w_hh, self.b_hh).flatten(0, 1)[state_index].view(len(x), -1, 3 * d)
        projected = linear(x, self.w_ih, self.b_ih)
        r, z = (projected[..., : 2 * d] + of_state[..., : 2 * d]).sigmoid_().chunk(2, -1)
        n = torch.addcmul(projected[..., 2 * d :], r, of_state[..., 2 * d :]).tanh_()
        return torch.lerp(n, h[state_index].view_as(x), z)

    def encode_tiles(self, x: Tensor, mask: Tensor, h: Tensor, history_index: Tensor) -> Tensor:
        """Return the states after L steps from initial states in tiles, for inference; `h` [T, TILE, d] is overwritten.

        `x` [L, U, d] are U left-padded histories, `mask` [L, U] is true on items, `history_index` [T * TILE] is the
        history of each row. tanh(a) is computed as 2 sigmoid(2 a) - 1, which takes a third of the time.
        """
        d, steps, rows = x.shape[-1], x.shape[:2], len(history_index)
        projected = linear(tiles(x.flatten(0, 1)), self.w_ih, self.b_ih).flatten(0, 1)[: mask.numel()]
        of_gates = projected[:, : 2 * d] + self.b_hh[: 2 * d]
        of_gates[:, d:].masked_fill_(~mask.view(-1, 1), _KEEP)
        of_n, w_hh = 2 * projected[:, 2 * d :], self.w_hh.t().expand(len(h), -1, -1)
        w_gates, w_n, b_n = w_hh[..., : 2 * d], 2 * w_hh[..., 2 * d :], 2 * self.b_hh[2 * d :]
        gates, n, of_state = h.new_empty(rows, 2 * d), h.new_empty(rows, d), torch.empty_like(h)
        flat = h.view(-1, d)
        for t in range(steps[0]):
            torch.index_select(of_gates.view(*steps, -1)[t], 0, history_index, out=gates)
            gates.view(len(h), -1, 2 * d).baddbmm_(h, w_gates).sigmoid_()
            torch.baddbmm(b_n, h, w_n, out=of_state)
            torch.index_select(of_n.view(*steps, -1)[t], 0, history_index, out=n)
            n.addcmul_(gates[:, :d], of_state.view(-1, d)).sigmoid_().mul_(2).sub_(1)
            torch.lerp(n, flat, gates[:, d:], out=flat)
        return h


class _Encode(torch.autograd.Function):
    """States [d, C, B] after L steps. The values saved for the backward pass are 5 L d C B floats."""

    @staticmethod
    def forward(ctx: GradientContext, projected: Tensor, mask: Tensor, h: Tensor, w_hh: Tensor, b_n: Tensor) -> Tensor:
        """Return the states after all steps, from the inputs' part of the gates [3 d, L, B] and the mask [L, B]."""
        d, steps = len(h), len(mask)
        biases, of_n = projected.clone(), 2 * projected[2 * d :]
        biases[d : 2 * d].masked_fill_(~mask, _KEEP)
        biases[2 * d :] = b_n[:, None, None]
        states, new = h.new_empty(steps + 1, *h.shape), h.new_empty(steps, *h.shape)
        a = h.new_empty(steps, 3 * d, *h.shape[1:])  # r, z, and the state's part of n
        states[0] = h
        # views of all steps are made at once: one by one they cost as much as the arithmetic of a small batch
        a_t, products, gates = a.unbind(), a.flatten(2).unbind(), a[:, : 2 * d].unbind()
        (r, z, of_state), n, h_t, flat = _parts(a), new.unbind(), states.unbind(), states.flatten(2).unbind()
        biases_t, of_n_t, minus_one = biases.unsqueeze(1).unbind(2), of_n.unsqueeze(1).unbind(2), -h.new_ones(())
        for t in range(steps):
            a_t[t].copy_(biases_t[t])
            products[t].addmm_(w_hh, flat[t])
            gates[t].sigmoid_()
            torch.addcmul(of_n_t[t], r[t], of_state[t], value=2, out=n[t])
            torch.add(minus_one, n[t].sigmoid_(), alpha=2, out=n[t])  # tanh(a) = 2 sigmoid(2 a) - 1
            torch.lerp(n[t], h_t[t], z[t], out=h_t[t + 1])
        ctx.save_for_backward(w_hh, states, new, a)
        return states[-1].clone()

    @staticmethod
    def backward(ctx: GradientContext, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
        """Return the gradients of the inputs of `forward`, from the last step to the first."""
        w_hh, states, new, a = ctx.saved_tensors
        d_h = gradients[0].contiguous().clone()
        d, steps = len(d_h), len(new)
        d_projected = d_h.new_empty(3 * d, steps, d_h.shape[2])
        d_w, d_b, d_previous = torch.zeros_like(w_hh), d_h.new_zeros(d), torch.empty_like(d_h)
        d_a = d_h.new_empty(3 * d, *d_h.shape[1:])
        d_r, d_z, d_n = d_a.chunk(3)  # gradients before the nonlinearities
        flat, w_back = d_a.flatten(1), w_hh.t()
        (r, z, of_state), n, h_t, d_projected_t = _parts(a), new.unbind(), states.unbind(), d_projected.unbind(1)
        previous = states.flatten(2).transpose(1, 2).unbind()
        for t in range(steps - 1, -1, -1):
            torch.mul(d_h, z[t], out=d_previous)
            d_h.sub_(d_previous)  # the gradient of n
            torch.sub(h_t[t + 1], n[t], out=d_z).mul_(d_h)  # h' - n = z (h - n), times the gradient times 1 - z
            aten.tanh_backward.grad_input(d_h, n[t], grad_input=d_n)
            aten.sigmoid_backward.grad_input(torch.mul(d_n, of_state[t], out=d_r), r[t], grad_input=d_r)
            torch.sum(d_a, 1, out=d_projected_t[t])
            d_b += d_n.mul_(r[t]).sum((1, 2))  # d_n is now the gradient of of_state
            d_w.addmm_(flat, previous[t])
            d_previous.flatten(1).addmm_(w_back, flat)
            d_h, d_previous = d_previous, d_h
        return d_projected, None, d_h, d_w, d_b


def _parts(a: Tensor) -> tuple[Sequence[Tensor], ...]:
    """Return r, z and of_state per step, from all of them [L, 3 d, C, B]."""
    return tuple(part.unbind() for part in a.chunk(3, 1))
