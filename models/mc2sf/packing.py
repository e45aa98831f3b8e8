"""Packing of the candidates of many requests into the rows of a few calls of the nets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.catalogue import ROW_PADDING
from models.data.item_statistics import FEATURES, Buckets
from models.layers.tiles import TILE

_ROWS = 960  # approximate number of rows per call: their states fit a core's cache


class Query(Protocol):
    """A request: candidates as rows of E [n], and their item statistics [n, 3]; None: those of items never seen."""

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Return the candidates."""

    @property
    def item_statistics(self) -> Buckets | None:
        """Return their item statistics."""


class Piece(NamedTuple):
    """Candidates of request number `query`, and the rows of the call in which they are placed."""

    query: int
    candidates: slice
    place: slice


class Part(NamedTuple):
    """The rows of one call, zero-padded to whole tiles, and the number of the piece of each: `of` [T * TILE].

    After the candidates there is one row more for each piece: the fast nets begin it from a zero state.
    """

    pieces: list[Piece]
    rows: Tensor
    buckets: Tensor
    of: Tensor


def parts(queries: Sequence[Query], order: Sequence[int]) -> Iterator[Part]:
    """Yield the candidates of all queries, in this order, in parts of about _ROWS rows; only long ones are divided."""
    pieces: list[Piece] = []
    filled = 0
    for i in order:
        n = len(queries[i].candidates)
        for start in range(0, n, _ROWS):
            some = slice(start, min(start + _ROWS, n))
            if pieces and filled + some.stop - start > _ROWS:
                yield _part(queries, pieces)
                pieces, filled = [], 0
            pieces.append(Piece(i, some, slice(filled, filled + some.stop - start)))
            filled += some.stop - start
    if pieces:
        yield _part(queries, pieces)


def _part(queries: Sequence[Query], pieces: list[Piece]) -> Part:
    n = pieces[-1].place.stop
    rows = np.full(-(-(n + len(pieces)) // TILE) * TILE, ROW_PADDING, np.int64)
    buckets, of = np.zeros((len(rows), len(FEATURES)), np.int64), np.zeros(len(rows), np.int64)
    of[n : n + len(pieces)] = np.arange(len(pieces))
    for number, (i, some, place) in enumerate(pieces):
        rows[place], of[place] = queries[i].candidates[some], number
        if (statistics := queries[i].item_statistics) is not None:
            buckets[place] = statistics[some]
    return Part(pieces, *map(torch.from_numpy, (rows, buckets, of)))


def distribute(part: Part, answers: Sequence[tuple[NDArray[np.floating], ...]], found: Sequence[Tensor]) -> None:
    """Write results per row, [T * TILE, ...] each, into the fields of the answers to all queries."""
    for i, some, place in part.pieces:
        for answer, values in zip(answers[i], found, strict=True):
            answer[some] = values[place].numpy()
