"""Plugins, recomputed: candidates in other orders and numbers, means from lists of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from streams.database import schema
from streams.plugins.loaded import loaded
from streams.plugins.protocols import Seen
from streams.verification import reference_ranking
from streams.verification.differences import require_equal
from streams.verification.reference_fold import RankedClick

Vectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class PluginReference:
    """The variants and metrics that are plugins of a run."""

    def __init__(self, setting: str) -> None:
        """`setting` is the run's `plugins`. Raises PluginError if one was changed."""
        self._plugins = loaded(setting)

    def ranks(self, click: RankedClick, buckets: NDArray[np.uint8], vectors: Vectors, *, alone: bool) -> dict[str, int]:
        """Return the ranks by the variants, from the list in reverse, or from one candidate after the other."""
        clicks, exposures = np.array(click.clicks, np.int64), np.array(click.exposures, np.int64)
        keys, ranks = np.array(click.candidates.keys, np.int64), {}
        parts = [slice(i, i + 1) for i in range(len(keys))] if alone else [slice(None, None, -1)]
        for name, scores in self._plugins.variants.items():
            values = np.zeros(len(keys))
            for part in parts:
                values[part] = scores(Seen(clicks, exposures, keys[part], buckets[part], vectors))
            ranks[name] = reference_ranking.rank(values.tolist(), click.candidates.target_index)
        return ranks

    def metrics(
        self, connection: Connection, run: str, ranks: Mapping[str, Sequence[int]], sizes: Mapping[str, Sequence[int]]
    ) -> dict[str, dict[str, float]]:
        """Return the metrics by variant, equal to those of the run's summary if it has ended.

        `ranks` and `sizes` are those of each list. Raises DifferenceFound.
        """
        r = schema.runs.c
        summary = connection.execute(sa.select(r.summary).where(r.run == run)).scalar_one() or {}
        recorded = summary.get("plugin_metrics", {})
        means: dict[str, dict[str, float]] = {variant: {} for variant in ranks}
        for name, metric in self._plugins.metrics.items():
            for variant, by_variant in ranks.items():
                values = [metric(rank, n) for rank, n in zip(by_variant, sizes[variant], strict=True)]
                means[variant][name] = math.fsum(values) / len(values)
                if recorded:
                    require_equal("", variant, name, recorded[name][variant]["online"], means[variant][name])
        return means
