"""Packing of the candidates of many queries into the rows of a few calls of the nets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.catalogue import ROW_PADDING
from models.data.item_statistics import FEATURES, Buckets
from models.data.repeats import repeats
from models.layers.tiles import TILE

_ROWS = 960  # approximate number of rows per call: their states fit a core's cache


class Query(Protocol):
    """Candidates as rows of E [n], and their item statistics [n, 3]; None: those of items never seen."""

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Return the candidates."""

    @property
    def item_statistics(self) -> Buckets | None:
        """Return their item statistics."""


class Segment(NamedTuple):
    """Candidates of query number `query`, and their positions among the rows of the call."""

    query: int
    candidates: slice
    positions: slice


class PackedCall(NamedTuple):
    """The rows of one call, zero-padded to whole tiles.

    After the candidates there is one extra row per segment, which the fast nets start from a zero state.
    """

    segments: list[Segment]
    rows: Tensor  # [T * TILE] rows of E
    buckets: Tensor  # [T * TILE, 3] item statistics
    segment_index: Tensor  # [T * TILE]


def pack(queries: Sequence[Query], order: Sequence[int]) -> Iterator[PackedCall]:
    """Yield calls of about _ROWS rows with the candidates of all queries, in this order; only long lists are split."""
    segments: list[Segment] = []
    filled = 0
    for i in order:
        n = len(queries[i].candidates)
        for start in range(0, n, _ROWS):
            end = min(start + _ROWS, n)
            if segments and filled + end - start > _ROWS:
                yield _call(queries, segments)
                segments, filled = [], 0
            segments.append(Segment(i, slice(start, end), slice(filled, filled + end - start)))
            filled += end - start
    if segments:
        yield _call(queries, segments)


def _call(queries: Sequence[Query], segments: list[Segment]) -> PackedCall:
    n = segments[-1].positions.stop
    rows = np.full(-(-(n + len(segments)) // TILE) * TILE, ROW_PADDING, np.int64)
    buckets, segment_index = np.zeros((len(rows), len(FEATURES)), np.int64), np.zeros(len(rows), np.int64)
    segment_index[n : n + len(segments)] = np.arange(len(segments))
    for number, (i, candidates, positions) in enumerate(segments):
        rows[positions], segment_index[positions] = queries[i].candidates[candidates], number
        if (statistics := queries[i].item_statistics) is not None:
            buckets[positions] = statistics[candidates]
    return PackedCall(segments, *map(torch.from_numpy, (rows, buckets, segment_index)))


def packed_repeats(call: PackedCall, queries: Sequence[Query], clicks: Sequence[NDArray[np.int64]]) -> Tensor:
    """Return the repeats of each row in the clicks of its segment's query, [T, TILE]."""
    found = np.zeros(len(call.rows), np.float32)
    for (_, candidates, positions), query, history in zip(call.segments, queries, clicks, strict=True):
        found[positions] = repeats(history, query.candidates[candidates])
    return torch.from_numpy(found).view(-1, TILE)


def unpack(call: PackedCall, answers: Sequence[tuple[NDArray[np.floating], ...]], results: Sequence[Tensor]) -> None:
    """Write results per row, [T * TILE, ...] each, into the fields of the answers to all queries."""
    for i, candidates, positions in call.segments:
        for answer, values in zip(answers[i], results, strict=True):
            answer[candidates] = values[positions].numpy()
