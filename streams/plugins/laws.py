"""The laws that plugins must keep, checked on made-up inputs when a process loads one. Violations raise PluginError."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.data.item_statistics import BUCKETS, FEATURES
from streams.plugins.plugin import Plugin, PluginError
from streams.plugins.protocols import CandidateRule, Draw, Keys, Metric, Seen, Variant

T = TypeVar("T", np.int64, np.uint8)


def check_metric(plugin: Plugin, metric: Metric) -> None:
    """Check the laws of a metric: between 0 and 1, the same when asked again, not higher for a worse rank."""
    for n in (1, 2, 10, 100):
        values = [value(plugin, metric, rank, n) for rank in range(1, n + 1)]
        if values != [value(plugin, metric, rank, n) for rank in range(1, n + 1)]:
            raise _broken(plugin, f"asked again, ranks of {n} have other values")
        if any(worse > better for better, worse in pairwise(values)):
            raise _broken(plugin, f"of {n}, a worse rank is worth more")


def value(plugin: Plugin, metric: Metric, rank: int, n: int) -> float:
    """Return the value of a rank by a metric. Raises PluginError if it is no number between 0 and 1."""
    result = call(plugin, metric, rank, n)
    if not isinstance(result, int | float) or not 0 <= result <= 1:
        raise _broken(plugin, f"rank {rank} of {n} is worth {result!r}, which is no number between 0 and 1")
    return float(result)


def check_candidates(plugin: Plugin, rule: CandidateRule) -> None:
    """Check the laws of a candidate rule on catalogues of several sizes."""
    for size in (1, 5, 300):
        first, other = _draw(size, 1), _draw(size, 2)
        drawn = [negatives(plugin, rule, draw) for draw in (first, other, _draw(size, 1))]
        if not np.array_equal(drawn[0], drawn[2]):
            raise _broken(plugin, "asked again for the same click, it draws others")
        if not np.isin(drawn[0], first.catalogue).all():
            raise _broken(plugin, "it draws items that are not in the catalogue")


def negatives(plugin: Plugin, rule: CandidateRule, draw: Draw) -> Keys:
    """Return the negatives of `draw`. Raises PluginError for a repeat, for the target, or for too many."""
    draw = replace(draw, catalogue=_frozen(draw.catalogue), clicks=_frozen(draw.clicks))
    drawn = np.asarray(call(plugin, rule, draw))
    if drawn.ndim != 1 or (len(drawn) and drawn.dtype.kind != "i"):
        raise _broken(plugin, f"it returns {drawn.dtype} of shape {drawn.shape}, where a list of item keys is needed")
    keys: Keys = drawn.astype(np.int64)
    if len(keys) > draw.count:
        raise _broken(plugin, f"it draws {len(keys)} items where {draw.count} are asked for")
    if draw.target in keys:
        raise _broken(plugin, "it draws the clicked item as a negative")
    if len(np.unique(keys)) < len(keys):
        raise _broken(plugin, "it draws an item twice")
    return keys


def check_variant(plugin: Plugin, variant: Variant) -> None:
    """Check the laws of a variant: finite, and to the last bit the same for any order and number of candidates."""
    for history in (0, 3):
        seen = _seen(history)
        all_scores = scores(plugin, variant, seen)
        if not np.isfinite(all_scores).all():
            raise _broken(plugin, "a score is not finite")
        for order in _orders(len(all_scores)):
            part = Seen(seen.clicks, seen.exposures, seen.candidates[order], seen.item_statistics[order], seen.vectors)
            if not np.array_equal(scores(plugin, variant, part), all_scores[order]):
                raise _broken(plugin, "a score depends on the other candidates, on their order, or on earlier calls")


def scores(plugin: Plugin, variant: Variant, seen: Seen) -> NDArray[np.float64]:
    """Return the scores of the candidates, f8 [n]. Raises PluginError if they are no such list."""
    frozen = Seen(
        _frozen(seen.clicks),
        _frozen(seen.exposures),
        _frozen(seen.candidates),
        _frozen(seen.item_statistics),
        seen.vectors,
    )
    result = np.asarray(call(plugin, variant, frozen))
    if result.shape != (len(seen.candidates),) or result.dtype.kind not in "iuf":
        raise _broken(
            plugin, f"it returns {result.dtype} of shape {result.shape} for {len(seen.candidates)} candidates"
        )
    return result.astype(np.float64)


def _frozen(array: NDArray[T]) -> NDArray[T]:
    """Return the same array, not writable: the process goes on to use it."""
    view = array.view()
    view.flags.writeable = False
    return view


def _draw(size: int, seed: int) -> Draw:
    catalogue = np.arange(1000, 1000 + size)
    target = int(catalogue[seed % size])
    return Draw(f"user {seed}", target, catalogue, catalogue[: seed + 1], 99, np.random.default_rng(seed))


def _seen(history: int) -> Seen:
    random = np.random.default_rng(history)
    table = random.normal(size=(256, 8)).astype(np.float32)

    def vectors(keys: Keys) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = table[keys % 256]
        return rows

    candidates = random.permutation(70).astype(np.int64)  # more than a tile
    statistics = random.integers(0, BUCKETS, (len(candidates), len(FEATURES))).astype(np.uint8)
    return Seen(candidates[:history], candidates[-history or 70 :], candidates, statistics, vectors)


def _orders(n: int) -> Iterator[Keys]:
    """Yield other orders and numbers of n candidates, and at last the same ones again."""
    yield np.arange(n)[::-1]
    yield from (np.array([i]) for i in (0, n // 2, n - 1))
    yield np.arange(0, n, 3)
    yield np.arange(n)


def call(plugin: Plugin, function: Callable[..., object], *arguments: object) -> object:
    """Call the plugin. Raises PluginError instead of its own errors."""
    try:
        return function(*arguments)
    except PluginError:
        raise
    except Exception as error:
        raise _broken(plugin, f"{type(error).__name__}: {error}") from error


def _broken(plugin: Plugin, sentence: str) -> PluginError:
    return PluginError(f"{plugin}: {sentence}")
