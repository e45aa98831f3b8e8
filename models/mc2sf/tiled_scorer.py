"""Serving: every call of a net uses tiles of one shape, so that a row's result depends on that row only, bit for bit.

A matrix product over another number of rows may use another kernel and differ in the last bit. Here every call has
64 rows, zero-padded (the fast nets 4 x 64, of any requests), so that the stream with any batch size and offline
rescoring agree exactly. Callers pass ragged histories (rows of E, oldest first); padding happens here. Scores are
logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from models.data.catalogue import ROW_PADDING
from models.data.item_neighbours import WEIGHTS
from models.data.item_statistics import FEATURES, Buckets
from models.data.ranges import left_padded
from models.layers.local_attention import STRIDE
from models.layers.mlp import PaddedVectors
from models.mc2sf.nets import STANDALONE, Nets

TILE = 64
GROUP = (
    4  # tiles per call of the fast nets: with more a lone request costs more, with fewer the calls outweigh the work
)

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


class SlowAnswer(NamedTuple):
    """r_t and r_n (f2 [n, d]) and the scores of the slow part (f4 [n])."""

    r_t: Halves
    r_n: Halves
    din: Floats
    f2s: Floats


class FastAnswer(NamedTuple):
    """Scores of fast alone and of S2F (f4 [n])."""

    fast: Floats
    mc2sf: Floats


class S2FWeights(NamedTuple):
    """Weights inside S2F per candidate (f4 [n]): w1 and w2 (eq. 3), and alpha (eq. 7), the mean of its dimensions."""

    w1: Floats
    w2: Floats
    alpha: Floats


class FastQuery(NamedTuple):
    """A request to the device's nets: clicks and exposures rows of any length, candidates rows [n], priors [n, d].

    `item_statistics` are those of the candidates, [n, 3]; default: those of items never seen. `f2s` [n] are the cloud's
    scores, which stacked nets use; default: zeros. `near` are the rows of clicks and candidates among the item
    neighbours, which may know items that E lacks; default: the same rows.
    """

    clicks: Rows
    exposures: Rows
    candidates: Rows
    r_t: Halves
    r_n: Halves
    item_statistics: Buckets | None = None
    f2s: Floats | None = None
    near: tuple[Rows, Rows] | None = None


class _Tile(NamedTuple):
    """Some candidates of the request with this number."""

    query: int
    rows: slice


class Scorer:
    """Scores by the nets of one release, numpy in, numpy out. The weights must not change while it is in use."""

    def __init__(self, nets: Nets, standalone: Mapping[str, Nets] = MappingProxyType({})) -> None:
        """Take the nets and, by `nets.STANDALONE`, those with the same rows that make single scores instead.

        r2 and the priors are always those of `nets`. Raises ValueError if `dim` is not a multiple of 4: rows would not
        be independent to the last bit.
        """
        if nets.config.dim % 4:
            raise ValueError(f"dim {nets.config.dim} is no multiple of 4: a row's result would depend on its position")
        self.config = nets.config
        self._nets = nets.eval()
        self._din, self._alone, self._s2f = (standalone.get(name, nets).eval() for name in STANDALONE)

    @torch.inference_mode()
    def step(self, states: Floats, rows: Rows) -> Floats:
        """Apply one step of GRU_n per row: states [B, d], rows [B] -> states [B, d]."""
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
    def slow(self, history: Rows, r2: Floats, candidates: Rows, item_statistics: Buckets | None = None) -> SlowAnswer:
        """Return the cloud's answer to one request: history rows of any length, r2 [d], candidates rows [n].

        `item_statistics` are those of the candidates, [n, 3]; default: those of items never seen.
        """
        n, d = len(candidates), self.config.dim
        buckets = _buckets(item_statistics, n)
        answer = SlowAnswer(
            np.empty((n, d), np.float16), np.empty((n, d), np.float16), np.empty(n, np.float32), np.empty(n, np.float32)
        )
        nets, din, long = self._nets, self._din, self.config.history_long
        sequence = _sequence(nets, history, long)
        of_din = sequence if din is nets else _sequence(din, history, long)
        state = torch.from_numpy(np.array(r2, np.float32)).view(1, d)
        for start in range(0, n, TILE):
            some = slice(start, min(start + TILE, n))
            e, floor = _candidates(nets, candidates[some], buckets[some])
            r_t, r_n = nets.priors(sequence, state, e)
            real = some.stop - start
            answer.r_t[some], answer.r_n[some] = r_t[0, :real].half().numpy(), r_n[0, :real].half().numpy()
            answer.f2s[some] = nets.encoder.above(floor, "f2s", nets.slow.score_f2s(r_n, r_t, e))[0, :real].numpy()
            if din is not nets:
                e, floor = _candidates(din, candidates[some], buckets[some])
                r_t = din.slow.din(of_din.x, of_din.mask, e)
            answer.din[some] = din.encoder.above(floor, "din", din.slow.score_din(r_t, e))[0, :real].numpy()
        return answer

    def fast(
        self,
        clicks: Rows,
        exposures: Rows,
        candidates: Rows,
        r_t: Halves,
        r_n: Halves,
        item_statistics: Buckets | None = None,
        f2s: Floats | None = None,
        near: tuple[Rows, Rows] | None = None,
    ) -> FastAnswer:
        """Return the device's scores of one request, see `FastQuery`."""
        return self.fast_of([FastQuery(clicks, exposures, candidates, r_t, r_n, item_statistics, f2s, near)])[0]

    @torch.inference_mode()
    def fast_of(self, queries: Sequence[FastQuery]) -> list[FastAnswer]:
        """Return the device's scores of each request. Alone or with any others, a request gets the same scores."""
        answers = [FastAnswer(*np.empty((2, len(query.candidates)), np.float32)) for query in queries]
        if self._s2f.config.stacked:
            received = [_received(self._s2f, query, self.config.history_short) for query in queries]
        tiles = [
            _Tile(i, slice(start, min(start + TILE, len(query.candidates))))
            for i, query in enumerate(queries)
            for start in range(0, len(query.candidates), TILE)
        ]
        # histories of similar length together: a step of the GRUs in which all are padded is skipped
        tiles.sort(key=lambda tile: (len(queries[tile.query].clicks), len(queries[tile.query].exposures)))
        for first in range(0, len(tiles), GROUP):
            some = tiles[first : first + GROUP]
            scores = self._fast_of_group([(queries[tile.query], tile.rows) for tile in some])
            if self._s2f.config.stacked:
                added = _group([received[tile.query][tile.rows] for tile in some], 1 + WEIGHTS, np.float32)
                of_cloud, *affinities = added.unbind(-1)
                scores = scores[0], self._s2f.stack(scores[1], scores[0], of_cloud, affinities)
            for place, (i, rows) in enumerate(some):
                for answer, of_net in zip(answers[i], scores, strict=True):
                    answer[rows] = of_net[place, : rows.stop - rows.start].numpy()
        return answers

    def _fast_of_group(self, tiles: Sequence[tuple[FastQuery, slice]]) -> tuple[Tensor, Tensor]:
        """Return the scores of fast alone and S2F of at most GROUP tiles: [GROUP, TILE] each."""
        short, d = self.config.history_short, self.config.dim
        rows = _group([query.candidates[some, None] for query, some in tiles], 1, np.int64)[..., 0]
        buckets = _group(
            [_buckets(query.item_statistics, len(query.candidates))[some] for query, some in tiles], 3, np.int64
        )
        r_t = _group([query.r_t[some] for query, some in tiles], d, np.float32)
        r_n = _group([query.r_n[some] for query, some in tiles], d, np.float32)

        def inputs(nets: Nets) -> tuple[PaddedVectors, PaddedVectors, Tensor]:
            clicks = _sequences(nets, [query.clicks for query, _ in tiles], short)
            exposures = _sequences(nets, [query.exposures for query, _ in tiles], short)
            return clicks, exposures, nets.encoder.with_statistics(nets.encoder.E.detach()[rows], buckets)

        alone, s2f = self._alone, self._s2f
        clicks, exposures, e = inputs(alone)
        fast = alone.fast.score_fast(alone.fast.from_zero(alone.encoder.gru_n, clicks, exposures), e)
        if s2f is not alone:
            clicks, exposures, e = inputs(s2f)
        mc2sf = s2f.fast.score_s2f(s2f.encoder.gru_n, clicks, exposures, e, r_t, r_n)
        floor = alone.encoder.floor(buckets), s2f.encoder.floor(buckets)
        return alone.encoder.above(floor[0], "fast", fast), s2f.encoder.above(floor[1], "mc2sf", mc2sf)

    @torch.inference_mode()
    def s2f_weights(
        self, clicks: Rows, exposures: Rows, candidates: Rows, r_t: Halves, r_n: Halves, item_statistics: Buckets
    ) -> S2FWeights:
        """Return the weights inside S2F for the arguments of `fast`: for explanations, in one call without tiles."""
        nets, short = self._s2f, self.config.history_short
        e = nets.encoder.E.detach()[torch.from_numpy(candidates)][None]
        e = nets.encoder.with_statistics(e, torch.from_numpy(_buckets(item_statistics, len(candidates)))[None])
        of_t, of_n = (nets.fast.received(torch.from_numpy(r.astype(np.float32))[None]) for r in (r_t, r_n))
        sequences = _sequence(nets, clicks, short), _sequence(nets, exposures, short)
        states = nets.fast.gru_states(nets.encoder.gru_n, *sequences, *nets.fast.initial_states(of_n, of_t))
        w1, w2 = nets.fast.weights(*states, e)[:, 0]
        return S2FWeights(w1.numpy(), w2.numpy(), nets.fast.alpha(of_n, of_t)[0].mean(-1).numpy())


def _vectors(nets: Nets, rows: Rows, length: int) -> Tensor:
    """Return the vectors of rows [<= length], zero-padded at the end: [length, d]."""
    padded = np.full(length, ROW_PADDING, np.int64)
    padded[: len(rows)] = rows
    return nets.encoder.E.detach()[torch.from_numpy(padded)]


def _candidates(nets: Nets, rows: Rows, buckets: Rows) -> tuple[Tensor, Tensor]:
    """Return the vectors [1, TILE, d] of candidates [<= TILE] with item statistics [<= TILE, 3], and their floor."""
    padded = np.zeros((TILE, buckets.shape[1]), np.int64)
    padded[: len(buckets)] = buckets
    listed = torch.from_numpy(padded)[None]
    return nets.encoder.with_statistics(_vectors(nets, rows, TILE)[None], listed), nets.encoder.floor(listed)


def _buckets(item_statistics: Buckets | None, n: int) -> Rows:
    """Return item statistics as indices [n, 3]."""
    if item_statistics is None:
        return np.zeros((n, len(FEATURES)), np.int64)
    return item_statistics.astype(np.int64)


def _sequence(nets: Nets, rows: Rows, most: int) -> PaddedVectors:
    """Return the last `most` rows as left-padded vectors [1, L, d] with their mask; L is a multiple of STRIDE."""
    last = rows[max(0, len(rows) - most) :]
    length = -(-most // STRIDE) * STRIDE
    x = nets.encoder.E.detach()[torch.from_numpy(left_padded([last], length))]
    return PaddedVectors(x, torch.arange(length)[None] >= length - len(last))


def _sequences(nets: Nets, histories: Sequence[Rows], most: int) -> PaddedVectors:
    """Return the last `most` rows of at most GROUP histories as left-padded vectors [GROUP, L, d] with their mask."""
    last = [rows[max(0, len(rows) - most) :] for rows in histories]
    last += [np.zeros(0, np.int64)] * (GROUP - len(last))
    length = -(-most // STRIDE) * STRIDE
    lengths = torch.tensor([len(rows) for rows in last])
    x = nets.encoder.E.detach()[torch.from_numpy(left_padded(last, length))]
    return PaddedVectors(x, torch.arange(length)[None] >= length - lengths[:, None])


def _group(tiles: Sequence[NDArray[np.generic]], width: int, dtype: DTypeLike) -> Tensor:
    """Return at most GROUP arrays [<= TILE, width] as one tensor [GROUP, TILE, width], zero-padded."""
    padded = np.zeros((GROUP, TILE, width), dtype)
    for place, tile in enumerate(tiles):
        padded[place, : len(tile)] = tile
    return torch.from_numpy(padded)


def _received(nets: Nets, query: FastQuery, short: int) -> Floats:
    """Return what stacked nets add per candidate, [n, 1 + WEIGHTS]: F2S's score and the affinities to the clicks."""
    received = np.zeros((len(query.candidates), 1 + WEIGHTS), np.float32)
    received[:, 0] = 0 if query.f2s is None else query.f2s
    before, listed = query.near or (query.clicks, query.candidates)
    received[:, 1:] = nets.fast.neighbours.affinity(before[-short:], listed).T
    return received


def _padded(values: NDArray[np.floating], length: int) -> Tensor:
    """Return values [<= length, d] as f4 [length, d], zero-padded at the end."""
    padded = np.zeros((length, values.shape[1]), np.float32)
    padded[: len(values)] = values
    return torch.from_numpy(padded)
