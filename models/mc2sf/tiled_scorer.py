"""The scorer of serving: it calls the nets on tiles of one shape, so that a row's result depends on that row only.

A row is one candidate of one query. The rows of many queries fill tiles of 64 one after the other (see `layers.tiles`),
so that the stream with any batch size and offline rescoring agree to the last bit. Results that the candidates of a
query share are computed once. Callers pass ragged histories (rows of E, oldest first). Scores are logits.
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
from models.data.item_neighbours import WEIGHTS
from models.data.item_statistics import FEATURES, Buckets
from models.data.ranges import left_padded
from models.layers.gru import Gru
from models.layers.local_attention import LENGTHS, STRIDE, attended
from models.layers.min_gru import MinGruCell
from models.layers.mlp import PaddedVectors
from models.layers.tiles import TILE, tiles
from models.mc2sf.fast import GruStates
from models.mc2sf.nets import STANDALONE, Nets
from models.mc2sf.packing import PackedCall, pack, packed_repeats, unpack

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


class SlowQuery(NamedTuple):
    """A query of the cloud's nets: history rows of any length, r2 [d], candidates rows [n].

    `item_statistics` are those of the candidates, [n, 3]; default: those of items never seen.
    """

    history: Rows
    r2: Floats
    candidates: Rows
    item_statistics: Buckets | None = None


class FastQuery(NamedTuple):
    """A query of the device's nets: clicks and exposures rows of any length, candidates rows [n], priors [n, d].

    `item_statistics` are those of the candidates, [n, 3]; default: those of items never seen. `f2s` [n] are the cloud's
    scores, which stacked nets use; default: zeros. `near` are clicks and candidates as rows of the item neighbours,
    which may have items that E lacks; default: the same rows.
    """

    clicks: Rows
    exposures: Rows
    candidates: Rows
    r_t: Halves
    r_n: Halves
    item_statistics: Buckets | None = None
    f2s: Floats | None = None
    near: tuple[Rows, Rows] | None = None


class Scorer:
    """Scores by the nets of one release, from arrays to arrays. The weights must not change while it is in use."""

    def __init__(self, nets: Nets, standalone: Mapping[str, Nets] = MappingProxyType({})) -> None:
        """Take the nets and, by names of `nets.STANDALONE`, nets with the same rows that replace them for one score.

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
        x = tiles(self._nets.encoder.E.detach()[torch.tensor(rows)])
        h = tiles(torch.tensor(states, dtype=torch.float32))
        for tile, state in zip(x, h, strict=True):
            state.copy_(self._nets.encoder.gru_n.step(tile, state))
        stepped: Floats = h.flatten(0, 1).numpy()[: len(rows)]
        return stepped

    @torch.inference_mode()
    def encode_exposures(self, states: Floats, exposures: Sequence[Rows]) -> Floats:
        """Return GRU_n's states after B users' exposures (rows, oldest first): states [B, d] -> [B, d].

        Equal to `step` over one exposure after the other, bit for bit.
        """
        states = np.array(states, np.float32)
        lengths = np.array([len(each) for each in exposures], np.int64)
        longest = int(lengths.max(initial=0))
        padded = left_padded(exposures, longest)
        for t in range(longest):
            active = np.flatnonzero(lengths >= longest - t)
            states[active] = self.step(states[active], padded[active, t])
        return states

    def slow(self, history: Rows, r2: Floats, candidates: Rows, item_statistics: Buckets | None = None) -> SlowAnswer:
        """Return the cloud's answer to one query, see `SlowQuery`."""
        return self.slow_many([SlowQuery(history, r2, candidates, item_statistics)])[0]

    @torch.inference_mode()
    def slow_many(self, queries: Sequence[SlowQuery]) -> list[SlowAnswer]:
        """Return the cloud's answer to each query. It does not depend on the other queries."""
        d = self.config.dim
        answers = [
            SlowAnswer(*np.empty((2, n, d), np.float16), *np.empty((2, n), np.float32))
            for n in (len(query.candidates) for query in queries)
        ]
        nets, din = self._nets, self._din
        for call in pack(queries, range(len(queries))):
            packed = [queries[segment.query] for segment in call.segments]
            again = packed_repeats(call, packed, [query.history[-self.config.history_long :] for query in packed])
            e, floor = _candidates(nets, call)
            r_t = _r_t(nets, call, packed, e)
            r2 = torch.from_numpy(np.stack([query.r2 for query in packed]).astype(np.float32))
            r_n = nets.slow.gated(nets.encoder.gru_n.step_tiles(e, r2, call.segment_index), e)
            f2s = nets.encoder.add_floor(floor, again, "f2s", nets.slow.score_f2s(r_n, r_t, e))
            r_t_of_din = r_t
            if din is not nets:
                e, floor = _candidates(din, call)
                r_t_of_din = _r_t(din, call, packed, e)
            scores = din.encoder.add_floor(floor, again, "din", din.slow.score_din(r_t_of_din, e))
            priors = r_t.half().flatten(0, 1), r_n.half().flatten(0, 1)
            unpack(call, answers, (*priors, scores.flatten(), f2s.flatten()))
        return answers

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
        """Return the device's scores of one query, see `FastQuery`."""
        return self.fast_many([FastQuery(clicks, exposures, candidates, r_t, r_n, item_statistics, f2s, near)])[0]

    @torch.inference_mode()
    def fast_many(self, queries: Sequence[FastQuery]) -> list[FastAnswer]:
        """Return the device's scores of each query. They do not depend on the other queries."""
        answers = [FastAnswer(*np.empty((2, len(query.candidates)), np.float32)) for query in queries]
        # sorted by length: the number of GRU steps of a call is the length of its longest history
        order = sorted(range(len(queries)), key=lambda i: (len(queries[i].clicks), len(queries[i].exposures)))
        for call in pack(queries, order):
            fast, mc2sf = self._fast_call(call, [queries[segment.query] for segment in call.segments])
            unpack(call, answers, (fast.flatten(), mc2sf.flatten()))
        return answers

    def _fast_call(self, call: PackedCall, queries: list[FastQuery]) -> tuple[Tensor, Tensor]:
        """Return the scores of fast alone and mc2sf for the query of each segment: [T, TILE] each."""
        alone, s2f = self._alone, self._s2f
        n = call.segments[-1].positions.stop  # the rows after the candidates: one from a zero state per segment
        zero_rows = slice(n, n + len(queries))
        again = packed_repeats(call, queries, [query.clicks[-self.config.history_short :] for query in queries])
        e, floor = _candidates(s2f, call)
        r_t = s2f.fast.transform_prior(_priors(call, [query.r_t for query in queries], e))
        r_n = s2f.fast.transform_prior(_priors(call, [query.r_n for query in queries], e))
        z_p, z_n = s2f.fast.initial_states(r_n, r_t)
        for z in (z_p, z_n):
            z.flatten(0, 1)[zero_rows] = 0
        states = self._states(s2f, queries, z_p, z_n, call.segment_index)
        mc2sf = s2f.encoder.add_floor(floor, again, "mc2sf", s2f.fast.score_from(states, e, r_t))
        if alone is s2f:
            from_zero = [each.flatten(0, 1)[zero_rows] for each in states]
        else:
            z_p, z_n = (tiles(torch.zeros(len(queries), self.config.dim)) for _ in states)
            query_index = torch.arange(len(z_p) * TILE).clamp(max=len(queries) - 1)
            from_zero = [each.flatten(0, 1) for each in self._states(alone, queries, z_p, z_n, query_index)]
            e, floor = _candidates(alone, call)
        per_row = GruStates(*(each[call.segment_index].view_as(e) for each in from_zero))
        fast = alone.encoder.add_floor(floor, again, "fast", alone.fast.score_fast(per_row, e))
        if s2f.config.stacked:
            mc2sf = _stacked(s2f, call, queries, mc2sf, fast)
        return fast, mc2sf

    def _states(self, nets: Nets, queries: list[FastQuery], z_p: Tensor, z_n: Tensor, query_index: Tensor) -> GruStates:
        """Return the states of both GRUs after the short histories, from initial states in tiles, one query per row."""

        def encoded(cell: Gru | MinGruCell, histories: Sequence[Rows], z: Tensor) -> Tensor:
            last = [rows[max(0, len(rows) - self.config.history_short) :] for rows in histories]
            length = max(map(len, last))
            x = nets.encoder.E.detach()[torch.from_numpy(left_padded(last, length).T.copy())]
            mask = torch.arange(length)[:, None] >= length - torch.tensor([len(rows) for rows in last])
            return cell.encode_tiles(x, mask, z, query_index)

        return GruStates(
            encoded(nets.fast.gru_p, [query.clicks for query in queries], z_p),
            encoded(nets.encoder.gru_n, [query.exposures for query in queries], z_n),
        )

    @torch.inference_mode()
    def s2f_weights(
        self, clicks: Rows, exposures: Rows, candidates: Rows, r_t: Halves, r_n: Halves, item_statistics: Buckets
    ) -> S2FWeights:
        """Return the weights inside S2F for the arguments of `fast`, for explanations; computed without tiles."""
        nets, short = self._s2f, self.config.history_short
        e = nets.encoder.E.detach()[torch.from_numpy(candidates)][None]
        e = nets.encoder.with_statistics(e, torch.from_numpy(_buckets(item_statistics, len(candidates)))[None])
        prior_t, prior_n = (nets.fast.transform_prior(torch.from_numpy(r.astype(np.float32))[None]) for r in (r_t, r_n))
        sequences = _sequence(nets, clicks, short), _sequence(nets, exposures, short)
        states = nets.fast.gru_states(nets.encoder.gru_n, *sequences, *nets.fast.initial_states(prior_n, prior_t))
        w1, w2 = nets.fast.weights(*states, e)[:, 0]
        return S2FWeights(w1.numpy(), w2.numpy(), nets.fast.alpha(prior_n, prior_t)[0].mean(-1).numpy())


def _candidates(nets: Nets, call: PackedCall) -> tuple[Tensor, Tensor]:
    """Return the vectors of the candidates, [T, TILE, d], and their floor."""
    buckets = call.buckets.view(-1, TILE, len(FEATURES))
    e = nets.encoder.with_statistics(nets.encoder.E.detach()[call.rows.view(-1, TILE)], buckets)
    return e, nets.encoder.floor(buckets)


def _priors(call: PackedCall, priors: Sequence[Halves], e: Tensor) -> Tensor:
    """Return the prior of each row, [T, TILE, d] like e, from those of each segment's query."""
    rows = np.zeros((len(call.rows), e.shape[2]), np.float32)
    for (_, candidates, positions), prior in zip(call.segments, priors, strict=True):
        rows[positions] = prior[candidates]
    return torch.from_numpy(rows).view_as(e)


def _buckets(item_statistics: Buckets | None, n: int) -> Rows:
    """Return item statistics as indices [n, 3]."""
    if item_statistics is None:
        return np.zeros((n, len(FEATURES)), np.int64)
    return item_statistics.astype(np.int64)


def _sequence(nets: Nets, rows: Rows, maximum: int) -> PaddedVectors:
    """Return the last `maximum` rows as left-padded vectors [1, L, d] with their mask; L is a multiple of STRIDE."""
    last = rows[max(0, len(rows) - maximum) :]
    length = -(-maximum // STRIDE) * STRIDE
    x = nets.encoder.E.detach()[torch.from_numpy(left_padded([last], length))]
    return PaddedVectors(x, torch.arange(length)[None] >= length - len(last))


def _r_t(nets: Nets, call: PackedCall, queries: Sequence[SlowQuery], e: Tensor) -> Tensor:
    """Return r_t of each row, [T, TILE, d], from the long histories."""
    din, maximum, E = nets.slow.din, nets.config.history_long, nets.encoder.E.detach()
    last = [query.history[max(0, len(query.history) - maximum) :] for query in queries]
    lengths = [len(rows) for rows in last]
    padded = [-(-length // LENGTHS) * LENGTHS for length in lengths]
    if len(din.context):
        encoded = (din.in_context(*_sequence(nets, rows, maximum))[0] for rows in last)
        histories = [x[len(x) - length :] for x, length in zip(encoded, padded, strict=True)]
    else:
        flat, end = np.full(sum(padded), ROW_PADDING, np.int64), 0
        for rows, length in zip(last, padded, strict=True):
            end += length
            flat[end - len(rows) : end] = rows
        histories = list(torch.split(E[torch.from_numpy(flat)], padded))
    return attended(din.unit, histories, lengths, e, [segment.positions for segment in call.segments])


def _stacked(nets: Nets, call: PackedCall, queries: Sequence[FastQuery], s2f: Tensor, fast: Tensor) -> Tensor:
    """Return mc2sf of stacked nets, [T, TILE], from the scores of S2F and fast alone."""
    features = np.zeros((len(call.rows), 1 + WEIGHTS), np.float32)  # F2S's score and the affinities to the clicks
    for (_, segment, positions), query in zip(call.segments, queries, strict=True):
        features[positions, 0] = 0 if query.f2s is None else query.f2s[segment]
        clicks, candidates = query.near or (query.clicks, query.candidates)
        recent = clicks[-nets.config.history_short :]
        features[positions, 1:] = nets.fast.neighbours.affinity(recent, candidates[segment]).T
    f2s, *affinities = torch.from_numpy(features).view(*fast.shape, -1).unbind(-1)
    return nets.stack(s2f, fast, f2s, affinities)
