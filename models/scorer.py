"""Serving: every call of a net on tiles of one shape, so that a row's result depends on that row alone, bit for bit.

A matrix product over another number of rows may take another kernel and differ in the last bit. Here all calls have
64 rows (zero-padded), whatever is asked for; so the stream, at any batch size, and scoring again offline agree
exactly. Scores are logits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.activation import STRIDE
from models.catalogue import ROW_PADDING
from models.layers import Sequence
from models.nets import Nets

TILE = 64

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


class SlowAnswer(NamedTuple):
    """r_t and r_n (f2 [n, d]) and the slow nets' scores (f4 [n])."""

    r_t: Halves
    r_n: Halves
    din: Floats
    f2s: Floats


class FastAnswer(NamedTuple):
    """Scores of fast alone and of S2F, f4 [n]."""

    fast: Floats
    mc2sf: Floats


class Scorer:
    """The nets of one release, numpy in, numpy out. The weights must not change while it is in use.

    Raises ValueError where `dim` is not a multiple of 4, for which rows are not independent to the last bit.
    """

    def __init__(self, nets: Nets) -> None:
        if nets.config.dim % 4:
            raise ValueError(f"dim {nets.config.dim} is no multiple of 4: a row's result would depend on its place")
        self.config = nets.config
        self._nets = nets.eval()
        self._E = nets.encoder.E.detach()

    @torch.inference_mode()
    def step(self, states: Floats, rows: Rows) -> Floats:
        """One step of GRU_n a row: states [B, d], rows [B] -> states [B, d]."""
        padded = -(-len(rows) // TILE) * TILE
        x, h = self._vectors(rows, padded), _padded(states, padded)
        gru_n = self._nets.encoder.gru_n
        for tile in range(0, padded, TILE):
            some = slice(tile, tile + TILE)
            h[some] = gru_n.step(x[some], h[some])
        stepped: Floats = h.numpy()[: len(rows)]
        return stepped

    @torch.inference_mode()
    def fold(self, states: Floats, rows: Rows, lengths: Rows) -> Floats:
        """`step` over the first lengths[b] of rows [B, T], bit for bit: states [B, d] -> [B, d]."""
        out = np.array(states, np.float32)
        for t in range(int(lengths.max(initial=0))):
            active = np.flatnonzero(lengths > t)
            out[active] = self.step(out[active], rows[active, t])
        return out

    @torch.inference_mode()
    def slow(self, history: Rows, r2: Floats, candidates: Rows) -> SlowAnswer:
        """The cloud's answer to one request: history rows [<= L_S] oldest first, r2 [d], candidates rows [n]."""
        n, d = len(candidates), self.config.dim
        answer = SlowAnswer(
            np.empty((n, d), np.float16), np.empty((n, d), np.float16), np.empty(n, np.float32), np.empty(n, np.float32)
        )
        sequence = self._sequence(history, self.config.history_long)
        state = torch.from_numpy(np.array(r2, np.float32)).view(1, d)
        for start in range(0, n, TILE):
            some = slice(start, min(start + TILE, n))
            e = self._vectors(candidates[some], TILE).unsqueeze(0)
            r_t, r_n = self._nets.priors(sequence, state, e)
            real = some.stop - start
            answer.r_t[some], answer.r_n[some] = r_t[0, :real].half().numpy(), r_n[0, :real].half().numpy()
            answer.din[some] = self._nets.slow.score_din(r_t, e)[0, :real].numpy()
            answer.f2s[some] = self._nets.slow.score_f2s(r_n, r_t, e)[0, :real].numpy()
        return answer

    @torch.inference_mode()
    def fast(self, clicks: Rows, exposures: Rows, candidates: Rows, r_t: Halves, r_n: Halves) -> FastAnswer:
        """The device's scores: clicks and exposures rows [<= L_F] oldest first, candidates rows [n], priors [n, d]."""
        n = len(candidates)
        answer = FastAnswer(np.empty(n, np.float32), np.empty(n, np.float32))
        short = self.config.history_short
        fast, gru_n = self._nets.fast, self._nets.encoder.gru_n
        histories = self._sequence(clicks, short), self._sequence(exposures, short)
        memories = fast.from_zero(gru_n, *histories)
        for start in range(0, n, TILE):
            some = slice(start, min(start + TILE, n))
            e = self._vectors(candidates[some], TILE).unsqueeze(0)
            priors = _padded(r_t[some], TILE).unsqueeze(0), _padded(r_n[some], TILE).unsqueeze(0)
            answer.fast[some] = fast.score_fast(memories, e)[0, : some.stop - start].numpy()
            answer.mc2sf[some] = fast.score_s2f(gru_n, *histories, e, *priors)[0, : some.stop - start].numpy()
        return answer

    def _vectors(self, rows: Rows, length: int) -> Tensor:
        """Rows [<= length] of E, padded at the end: [length, d]."""
        padded = np.full(length, ROW_PADDING, np.int64)
        padded[: len(rows)] = rows
        return self._E[torch.from_numpy(padded)]

    def _sequence(self, rows: Rows, most: int) -> Sequence:
        """The last `most` rows as left-padded vectors [1, L, d] and their mask; L is a multiple of STRIDE."""
        last = rows[max(0, len(rows) - most) :]
        length = -(-most // STRIDE) * STRIDE
        padded = np.full(length, ROW_PADDING, np.int64)
        padded[length - len(last) :] = last
        return Sequence(
            self._E[torch.from_numpy(padded)].unsqueeze(0), torch.arange(length)[None] >= length - len(last)
        )


def _padded(values: NDArray[np.floating], length: int) -> Tensor:
    """[<= length, d] as f4 [length, d], padded with zeros."""
    padded = np.zeros((length, values.shape[1]), np.float32)
    padded[: len(values)] = values
    return torch.from_numpy(padded)
