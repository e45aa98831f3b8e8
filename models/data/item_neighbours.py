"""Item neighbours: for each item the items that the same users click, from the clicks of all users.

A pair of items has two weights: the coefficient of EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data",
2019), a ridge regression of each item on all others in closed form, and the normalised number of transitions, clicks
on one item soon after the other. Neither net can learn them: the cloud's nets are delayed, and the device knows one
user only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.data.catalogue import FIRST_ROW

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_NEIGHBOURS, MAX_NEIGHBOURS = 64, 255  # bounds of `max_neighbours`
PAIRS = 1 << 19  # largest number of pairs in catalogues of medium size: 4 MB in a release
WEIGHTS = 2  # per neighbour: EASE, transitions
RIDGE = 200.0  # L2 penalty of EASE
EASE_ITEMS = 3000  # most clicked items that EASE covers: its cost is their number cubed
EASE_CLICKS = 200  # newest clicks of each user that EASE uses: its cost is their number squared
WITHIN = 5  # largest distance of the two clicks of a transition in the user's sequence
WITHIN_MS = 6 * 3_600_000  # the same in time
SHRINKAGE = 5.0  # added to an item's clicks: transitions of rare items weigh less


class ItemNeighbours(NamedTuple):
    """Neighbours of each row of E: rows i4 [rows, max_neighbours], 0: none; and their weights f2 [.., WEIGHTS]."""

    rows: NDArray[np.int32]
    weights: NDArray[np.float16]

    def flat(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float16]]:
        """Return the number of neighbours of each row, and their rows and weights one after the other."""
        used = self.rows > 0
        return used.sum(1).astype(np.uint8), self.rows[used], self.weights[used]

    @classmethod
    def from_flat(
        cls, counts: NDArray[np.uint8], rows: NDArray[np.int32], weights: NDArray[np.float16]
    ) -> ItemNeighbours:
        """Return the neighbours of `flat`. Raises ValueError if the arrays do not fit each other."""
        if int(counts.max(initial=0)) > max_neighbours(len(counts)) or (int(counts.sum()), WEIGHTS) != weights.shape:
            raise ValueError(f"{weights.shape} weights of item neighbours, {int(counts.sum())} counted")
        used = np.arange(max_neighbours(len(counts))) < counts[:, None]
        neighbours = cls.empty(len(counts))
        neighbours.rows[used], neighbours.weights[used] = rows, weights
        return neighbours

    @classmethod
    def empty(cls, size: int) -> ItemNeighbours:
        """Return `size` rows without neighbours."""
        shape = size, max_neighbours(size)
        return cls(np.zeros(shape, np.int32), np.zeros((*shape, WEIGHTS), np.float16))


def max_neighbours(size: int) -> int:
    """Return the largest number of neighbours per item in an E of `size` rows: the more rows, the fewer."""
    return int(np.clip(PAIRS // max(size, 1), MIN_NEIGHBOURS, MAX_NEIGHBOURS))


def fit_neighbours(rows: Ints, users: Ints, times: Ints, size: int) -> ItemNeighbours:
    """Return the neighbours of the items of an E of `size` rows, from clicks [N] in order of user and time (ms)."""
    known = rows >= FIRST_ROW
    rows, users, times = rows[known], users[known], times[known]
    return _strongest(_ease(rows, users, size), _transitions(rows, users, times, size), size)


def with_transitions(before: ItemNeighbours, rows: Ints, users: Ints, times: Ints) -> ItemNeighbours:
    """Return `before` with its EASE weights, and transitions counted in clicks [N] as for `fit_neighbours`."""
    size, known = len(before.rows), rows >= FIRST_ROW
    source, column = np.nonzero(before.weights[:, :, 0])
    codes, values = source * size + before.rows[source, column], before.weights[source, column, 0].astype(np.float64)
    order = np.argsort(codes)
    transitions = _transitions(rows[known], users[known], times[known], size)
    return _strongest((codes[order], values[order]), transitions, size)


def _strongest(ease: tuple[Ints, Floats], transitions: tuple[Ints, Floats], size: int) -> ItemNeighbours:
    """Return the strongest neighbours of each of `size` rows, from the sorted pairs of each kind and their weights."""
    codes, _ = _distinct(np.concatenate([transitions[0], ease[0]]))
    weights = np.zeros((len(codes), WEIGHTS))
    for kind, (pairs, values) in enumerate((ease, transitions)):
        weights[np.searchsorted(codes, pairs), kind] = values
    source, target = codes // size, codes % size
    strength = (weights / np.maximum(weights.std(0), 1e-9)).sum(1) if len(codes) else np.zeros(0)
    order = np.lexsort((target, -strength, source))
    source, target, weights = source[order], target[order], weights[order]
    column = np.arange(len(source)) - np.searchsorted(source, source)  # rank among the neighbours of its item
    kept = column < max_neighbours(size)
    neighbours = ItemNeighbours.empty(size)
    neighbours.rows[source[kept], column[kept]] = target[kept]
    neighbours.weights[source[kept], column[kept]] = weights[kept]
    return neighbours


def _transitions(rows: Ints, users: Ints, times: Ints, size: int) -> tuple[Ints, Floats]:
    """Return the pairs (from * size + to) of items clicked soon after each other, sorted, and their weights."""
    pairs = [np.zeros(0, np.int64)]
    for distance in range(1, WITHIN + 1):
        soon = (users[distance:] == users[:-distance]) & (times[distance:] - times[:-distance] <= WITHIN_MS)
        pairs.append(rows[:-distance][soon] * size + rows[distance:][soon])
    codes, counts = _distinct(np.concatenate(pairs))
    clicks = np.bincount(rows, minlength=size) + SHRINKAGE
    return codes, counts / np.sqrt(clicks[codes // size] * clicks[codes % size])


def _ease(rows: Ints, users: Ints, size: int) -> tuple[Ints, Floats]:
    """Return the pairs of items with the largest positive coefficients of EASE, sorted, and the coefficients."""
    items = np.sort(np.argsort(-np.bincount(rows, minlength=size), kind="stable")[:EASE_ITEMS])
    index = np.full(size, -1)
    index[items] = np.arange(len(items))
    newest = np.searchsorted(users, users, side="right") - np.arange(len(users)) <= EASE_CLICKS
    used = newest & (index[rows] >= 0)
    user, item = np.divmod(_distinct(users[used] * size + index[rows[used]])[0], size)  # distinct pairs
    gram = np.zeros((len(items), len(items)), np.float32)  # counts are exact, and the weights are kept in 16 bits
    first = np.arange(len(user))  # index of the first of two items of one user that are `distance` pairs apart
    for distance in range(1, EASE_CLICKS):
        first = first[: np.searchsorted(first, len(user) - distance)]
        first = first[user[first] == user[first + distance]]
        if not len(first):
            break
        np.add.at(gram.reshape(-1), item[first] * len(items) + item[first + distance], np.float32(1))
    gram += gram.T
    gram[np.diag_indices_from(gram)] = np.bincount(item, minlength=len(items)) + RIDGE
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram)))
    coefficients = -inverse / inverse.diagonal()
    best = coefficients.fill_diagonal_(0).topk(min(max_neighbours(size), len(items)), 1)
    codes = (items[:, None] * size + items[best.indices.numpy()]).ravel()
    values = best.values.numpy().ravel().astype(np.float64)
    order = np.argsort(codes)
    order = order[values[order] > 0]
    return codes[order], values[order]


def _distinct(codes: Ints) -> tuple[Ints, Ints]:
    """Return the distinct codes, sorted, and their counts, in half the time of `np.unique`."""
    ordered = np.sort(codes, kind="stable")  # a radix or merge sort: the parts are often sorted already
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))  # codes are not negative
    return ordered[starts], np.diff(starts, append=len(ordered))
