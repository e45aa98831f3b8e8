"""Sums and quantiles of the Prometheus metrics of several processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from deploy.report.summary import Latency

_BUCKET = re.compile(r'^(\w+)_bucket\{le="([^"]+)"\}$')
Samples = Mapping[str, float]


def latency(samples: Iterable[Samples | None], metric: str) -> Latency:
    """Return quantiles over the histograms of all workers in ms."""
    in_seconds = quantiles(samples, metric, (0.5, 0.95, 0.99))
    return Latency(*(None if seconds is None else round(1000 * seconds, 3) for seconds in in_seconds))


def quantiles(samples: Iterable[Samples | None], metric: str, shares: Iterable[float]) -> list[float | None]:
    """Return quantiles of a histogram in seconds over several processes, interpolated as Prometheus does."""
    buckets: dict[float, float] = {}
    for one in samples:
        for name, value in (one or {}).items():
            if (match := _BUCKET.match(name)) and match[1] == metric:
                bound = float(match[2].replace("+Inf", "inf"))
                buckets[bound] = buckets.get(bound, 0.0) + value
    return [_quantile(buckets, share) for share in shares]


def _quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Return a quantile of a cumulative histogram; None if it is empty."""
    bounds = sorted(buckets)
    wanted = share * buckets[bounds[-1]] if bounds else 0.0
    below, low = 0.0, 0.0
    for bound in bounds if wanted else ():
        if buckets[bound] >= wanted:
            high = low if bound == float("inf") else bound
            return low + (high - low) * (wanted - below) / (buckets[bound] - below)
        below, low = buckets[bound], bound
    return None


def total(samples: Iterable[Samples | None], name: str) -> float | None:
    """Return the sum of one metric over several processes.

    `samples` are the metrics of each, by name and labels; None, which makes the sum None, if it could not be read.
    """
    read = [one.get(name, 0.0) if one is not None else None for one in samples]
    known = [value for value in read if value is not None]
    return sum(known) if len(known) == len(read) else None


def counted(value: float | None) -> int | None:
    """Return a counter as an integer."""
    return None if value is None else int(value)
