"""Serving: every call of a net on tiles of one shape, so that a row's result depends on that row alone, bit for bit.

A matrix product over another number of rows may take another kernel and differ in the last bit. Here all calls have
64 rows (zero-padded), whatever is asked for; so the stream, at any batch size, and scoring again offline agree
exactly. Scores are logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.catalogue import ROW_PADDING
from models.data.item_statistics import FEATURES, Buckets
from models.data.ranges import left_padded
from models.layers.local_attention import STRIDE
from models.layers.mlp import PaddedVectors
from models.mc2sf.nets import STANDALONE, Nets

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

    `apart` holds nets of their own, with the same rows, for forms that were not fitted together with the others: see
    `nets.APART`. r2 and the priors are always those of `nets`.
    Raises ValueError where `dim` is not a multiple of 4, for which rows are not independent to the last bit.
    """

    def __init__(self, nets: Nets, apart: Mapping[str, Nets] = MappingProxyType({})) -> None:
        if nets.config.dim % 4:
            raise ValueError(f"dim {nets.config.dim} is no multiple of 4: a row's result would depend on its place")
        self.config = nets.config
        self._nets = nets.eval()
        self._din, self._alone, self._s2f = (apart.get(form, nets).eval() for form in STANDALONE)

    @torch.inference_mode()
    def step(self, states: Floats, rows: Rows) -> Floats:
        """One step of GRU_n a row: states [B, d], rows [B] -> states [B, d]."""
        padded = -(-len(rows) // TILE) * TILE
        x, h = _vectors(self._nets, rows, padded), _padded(states, padded)
        gru_n = self._nets.encoder.gru_n
        for tile in range(0, padded, TILE):
            some = slice(tile, tile + TILE)
            h[some] = gru_n.step(x[some], h[some])
        stepped: Floats = h.numpy()[: len(rows)]
        return stepped

    @torch.inference_mode()
    def encode_exposures(self, states: Floats, exposures: Sequence[Rows]) -> Floats:
        """Return GRU_n's states after B users' exposures (rows, oldest first): states [B, d] -> [B, d].

        Equal to `step` over one exposure after the other, bit for bit.
        """
        out = np.array(states, np.float32)
        lengths = np.array([len(each) for each in exposures], np.int64)
        longest = int(lengths.max(initial=0))
        padded = left_padded(exposures, longest)
        for t in range(longest):
            active = np.flatnonzero(lengths >= longest - t)
            out[active] = self.step(out[active], padded[active, t])
        return out

    @torch.inference_mode()
    def slow(self, history: Rows, r2: Floats, candidates: Rows, standing: Buckets | None = None) -> SlowAnswer:
        """The cloud's answer to one request: history rows [<= L_S] oldest first, r2 [d], candidates rows [n].

        `standing` is that of the candidates, [n, 3]; none: that of items never seen.
        """
        n, d = len(candidates), self.config.dim
        stands = _stands(standing, n)
        answer = SlowAnswer(
            np.empty((n, d), np.float16), np.empty((n, d), np.float16), np.empty(n, np.float32), np.empty(n, np.float32)
        )
        nets, din, long = self._nets, self._din, self.config.history_long
        sequence = _sequence(nets, history, long)
        of_din = sequence if din is nets else _sequence(din, history, long)
        state = torch.from_numpy(np.array(r2, np.float32)).view(1, d)
        for start in range(0, n, TILE):
            some = slice(start, min(start + TILE, n))
            e = _candidates(nets, candidates[some], stands[some])
            r_t, r_n = nets.priors(sequence, state, e)
            real = some.stop - start
            answer.r_t[some], answer.r_n[some] = r_t[0, :real].half().numpy(), r_n[0, :real].half().numpy()
            answer.f2s[some] = nets.slow.score_f2s(r_n, r_t, e)[0, :real].numpy()
            if din is not nets:
                e = _candidates(din, candidates[some], stands[some])
                r_t = din.slow.din(of_din.x, of_din.mask, e)
            answer.din[some] = din.slow.score_din(r_t, e)[0, :real].numpy()
        return answer

    @torch.inference_mode()
    def fast(
        self,
        clicks: Rows,
        exposures: Rows,
        candidates: Rows,
        r_t: Halves,
        r_n: Halves,
        standing: Buckets | None = None,
    ) -> FastAnswer:
        """The device's scores: clicks and exposures rows [<= L_F] oldest first, candidates rows [n], priors [n, d].

        `standing` is that of the candidates, [n, 3]; none: that of items never seen.
        """
        n = len(candidates)
        stands = _stands(standing, n)
        answer = FastAnswer(np.empty(n, np.float32), np.empty(n, np.float32))
        alone, s2f, short = self._alone, self._s2f, self.config.history_short
        of_alone = _sequence(alone, clicks, short), _sequence(alone, exposures, short)
        of_s2f = of_alone if s2f is alone else (_sequence(s2f, clicks, short), _sequence(s2f, exposures, short))
        memories = alone.fast.from_zero(alone.encoder.gru_n, *of_alone)
        for start in range(0, n, TILE):
            some = slice(start, min(start + TILE, n))
            real = some.stop - start
            e = _candidates(alone, candidates[some], stands[some])
            answer.fast[some] = alone.fast.score_fast(memories, e)[0, :real].numpy()
            if s2f is not alone:
                e = _candidates(s2f, candidates[some], stands[some])
            priors = _padded(r_t[some], TILE).unsqueeze(0), _padded(r_n[some], TILE).unsqueeze(0)
            answer.mc2sf[some] = s2f.fast.score_s2f(s2f.encoder.gru_n, *of_s2f, e, *priors)[0, :real].numpy()
        return answer


def _vectors(nets: Nets, rows: Rows, length: int) -> Tensor:
    """Rows [<= length] of E, padded at the end: [length, d]."""
    padded = np.full(length, ROW_PADDING, np.int64)
    padded[: len(rows)] = rows
    return nets.encoder.E.detach()[torch.from_numpy(padded)]


def _candidates(nets: Nets, rows: Rows, stands: Rows) -> Tensor:
    """Candidates [<= TILE] with their standing [<= TILE, 3], padded at the end: [1, TILE, d]."""
    padded = np.zeros((TILE, stands.shape[1]), np.int64)
    padded[: len(stands)] = stands
    return nets.encoder.with_statistics(_vectors(nets, rows, TILE), torch.from_numpy(padded)).unsqueeze(0)


def _stands(standing: Buckets | None, n: int) -> Rows:
    return np.zeros((n, len(FEATURES)), np.int64) if standing is None else standing.astype(np.int64)


def _sequence(nets: Nets, rows: Rows, most: int) -> PaddedVectors:
    """The last `most` rows as left-padded vectors [1, L, d] and their mask; L is a multiple of STRIDE."""
    last = rows[max(0, len(rows) - most) :]
    length = -(-most // STRIDE) * STRIDE
    x = nets.encoder.E.detach()[torch.from_numpy(left_padded([last], length))]
    return PaddedVectors(x, torch.arange(length)[None] >= length - len(last))


def _padded(values: NDArray[np.floating], length: int) -> Tensor:
    """[<= length, d] as f4 [length, d], padded with zeros."""
    padded = np.zeros((length, values.shape[1]), np.float32)
    padded[: len(values)] = values
    return torch.from_numpy(padded)
