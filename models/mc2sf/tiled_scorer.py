"""Serving: the nets are called on tiles of one shape, so that a row's result depends on that row only, bit for bit.

A row is one candidate of one request. The rows of many requests fill tiles of 64 one after the other (see
`layers.tiles`), so that the stream with any batch size and offline rescoring agree exactly; what candidates of a
request have in common is computed once. Callers pass ragged histories (rows of E, oldest first); padding happens here.
Scores are logits.
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
from models.mc2sf.packing import Part, distribute, parts

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
    """A request to the cloud's nets: history rows of any length, r2 [d], candidates rows [n].

    `item_statistics` are those of the candidates, [n, 3]; default: those of items never seen.
    """

    history: Rows
    r2: Floats
    candidates: Rows
    item_statistics: Buckets | None = None


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
        x, h = (
            tiles(self._nets.encoder.E.detach()[torch.tensor(rows)]),
            tiles(torch.tensor(states, dtype=torch.float32)),
        )
        for tile, state in zip(x, h, strict=True):
            state.copy_(self._nets.encoder.gru_n.step(tile, state))
        stepped: Floats = h.flatten(0, 1).numpy()[: len(rows)]
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

    def slow(self, history: Rows, r2: Floats, candidates: Rows, item_statistics: Buckets | None = None) -> SlowAnswer:
        """Return the cloud's answer to one request, see `SlowQuery`."""
        return self.slow_many([SlowQuery(history, r2, candidates, item_statistics)])[0]

    @torch.inference_mode()
    def slow_many(self, queries: Sequence[SlowQuery]) -> list[SlowAnswer]:
        """Return the cloud's answer to each request. Alone or with any others, a request gets the same answer."""
        d = self.config.dim
        answers = [
            SlowAnswer(*np.empty((2, n, d), np.float16), *np.empty((2, n), np.float32))
            for n in (len(query.candidates) for query in queries)
        ]
        nets, din = self._nets, self._din
        for part in parts(queries, range(len(queries))):
            e, floor = _candidates(nets, part)
            asked = [queries[piece.query] for piece in part.pieces]
            r_t = _attended(nets, part, asked, e)
            r2 = torch.from_numpy(np.stack([query.r2 for query in asked]).astype(np.float32))
            r_n = nets.slow.gated(nets.encoder.gru_n.step_tiles(e, r2, part.of), e)
            f2s = nets.encoder.above(floor, "f2s", nets.slow.score_f2s(r_n, r_t, e))
            of_din = r_t
            if din is not nets:
                e, floor = _candidates(din, part)
                of_din = _attended(din, part, asked, e)
            scores = din.encoder.above(floor, "din", din.slow.score_din(of_din, e))
            priors = r_t.half().flatten(0, 1), r_n.half().flatten(0, 1)
            distribute(part, answers, (*priors, scores.flatten(), f2s.flatten()))
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
        """Return the device's scores of one request, see `FastQuery`."""
        return self.fast_many([FastQuery(clicks, exposures, candidates, r_t, r_n, item_statistics, f2s, near)])[0]

    @torch.inference_mode()
    def fast_many(self, queries: Sequence[FastQuery]) -> list[FastAnswer]:
        """Return the device's scores of each request. Alone or with any others, a request gets the same scores."""
        answers = [FastAnswer(*np.empty((2, len(query.candidates)), np.float32)) for query in queries]
        # histories of similar length together: a call has as many steps of the GRUs as its longest histories
        order = sorted(range(len(queries)), key=lambda i: (len(queries[i].clicks), len(queries[i].exposures)))
        for part in parts(queries, order):
            fast, mc2sf = self._fast_of_part(part, [queries[piece.query] for piece in part.pieces])
            distribute(part, answers, (fast.flatten(), mc2sf.flatten()))
        return answers

    def _fast_of_part(self, part: Part, asked: list[FastQuery]) -> tuple[Tensor, Tensor]:
        """Return the scores of fast alone and mc2sf: [T, TILE] each."""
        alone, s2f, users = self._alone, self._s2f, len(asked)
        n = part.pieces[-1].place.stop
        e, floor = _candidates(s2f, part)
        r_t, r_n = (s2f.fast.received(_priors(part, [getattr(query, r) for query in asked], e)) for r in ("r_t", "r_n"))
        z_p, z_n = s2f.fast.initial_states(r_n, r_t)
        for z in (z_p, z_n):
            z.flatten(0, 1)[n : n + users] = 0
        states = self._states(s2f, asked, z_p, z_n, part.of)
        of_s2f = s2f.encoder.above(floor, "mc2sf", s2f.fast.score_from(states, e, r_t))
        if alone is s2f:
            zero = [each.flatten(0, 1)[n : n + users] for each in states]
        else:
            z_p, z_n = (tiles(torch.zeros(users, self.config.dim)) for _ in states)
            each_once = torch.arange(len(z_p) * TILE).clamp(max=users - 1)
            zero = [each.flatten(0, 1) for each in self._states(alone, asked, z_p, z_n, each_once)]
            e, floor = _candidates(alone, part)
        from_zero = GruStates(*(each[part.of].view_as(e) for each in zero))
        fast = alone.encoder.above(floor, "fast", alone.fast.score_fast(from_zero, e))
        if s2f.config.stacked:
            of_s2f = _stacked(s2f, part, asked, of_s2f, fast)
        return fast, of_s2f

    def _states(self, nets: Nets, asked: list[FastQuery], z_p: Tensor, z_n: Tensor, of: Tensor) -> GruStates:
        """Return the states of both GRUs after the short histories, from initial states in tiles."""

        def encoded(cell: Gru | MinGruCell, histories: Sequence[Rows], z: Tensor) -> Tensor:
            last = [rows[max(0, len(rows) - self.config.history_short) :] for rows in histories]
            length = max(map(len, last))
            x = nets.encoder.E.detach()[torch.from_numpy(left_padded(last, length).T.copy())]
            mask = torch.arange(length)[:, None] >= length - torch.tensor([len(rows) for rows in last])
            return cell.encode_tiles(x, mask, z, of)

        return GruStates(
            encoded(nets.fast.gru_p, [query.clicks for query in asked], z_p),
            encoded(nets.encoder.gru_n, [query.exposures for query in asked], z_n),
        )

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


def _candidates(nets: Nets, part: Part) -> tuple[Tensor, Tensor]:
    """Return the vectors of the candidates, [T, TILE, d], and their floor."""
    buckets = part.buckets.view(-1, TILE, len(FEATURES))
    e = nets.encoder.with_statistics(nets.encoder.E.detach()[part.rows.view(-1, TILE)], buckets)
    return e, nets.encoder.floor(buckets)


def _priors(part: Part, priors: Sequence[Halves], e: Tensor) -> Tensor:
    """Return a prior of each row, [T, TILE, d] like e."""
    rows = np.zeros((len(part.rows), e.shape[2]), np.float32)
    for (_, some, place), prior in zip(part.pieces, priors, strict=True):
        rows[place] = prior[some]
    return torch.from_numpy(rows).view_as(e)


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


def _attended(nets: Nets, part: Part, asked: Sequence[SlowQuery], e: Tensor) -> Tensor:
    """Return r_t of each row, [T, TILE, d], from the long histories."""
    din, most, E = nets.slow.din, nets.config.history_long, nets.encoder.E.detach()
    last = [query.history[max(0, len(query.history) - most) :] for query in asked]
    lengths = [len(rows) for rows in last]
    padded = [-(-length // LENGTHS) * LENGTHS for length in lengths]
    if len(din.context):
        whole = (din.in_context(*_sequence(nets, rows, most))[0] for rows in last)
        histories = [x[len(x) - length :] for x, length in zip(whole, padded, strict=True)]
    else:
        flat, end = np.full(sum(padded), ROW_PADDING, np.int64), 0
        for rows, length in zip(last, padded, strict=True):
            end += length
            flat[end - len(rows) : end] = rows
        histories = list(torch.split(E[torch.from_numpy(flat)], padded))
    return attended(din.unit, histories, lengths, e, [piece.place for piece in part.pieces])


def _stacked(nets: Nets, part: Part, asked: Sequence[FastQuery], s2f: Tensor, fast: Tensor) -> Tensor:
    """Return mc2sf of stacked nets, [T, TILE], from the scores of S2F and fast alone."""
    added = np.zeros((len(part.rows), 1 + WEIGHTS), np.float32)  # F2S's score and the affinities to the clicks
    for (_, some, place), query in zip(part.pieces, asked, strict=True):
        added[place, 0] = 0 if query.f2s is None else query.f2s[some]
        before, listed = query.near or (query.clicks, query.candidates)
        added[place, 1:] = nets.fast.neighbours.affinity(before[-nets.config.history_short :], listed[some]).T
    of_cloud, *affinities = torch.from_numpy(added).view(*fast.shape, -1).unbind(-1)
    return nets.stack(s2f, fast, of_cloud, affinities)
