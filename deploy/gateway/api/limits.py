"""Rate limits: a token bucket for each owner of a token, in the memory of one gateway."""

from __future__ import annotations

from collections.abc import Callable


class RateLimits:
    """Buckets that are filled at `rate` requests a second up to `burst`. `clock` returns seconds."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: dict[str, tuple[float, float]] = {}  # name -> content, time

    def take(self, name: str) -> float:
        """Take a request out of the bucket of `name`; return 0, or how many seconds to wait if there is none."""
        now = self._clock()
        content, since = self._buckets.get(name, (self._burst, now))
        content = min(self._burst, content + (now - since) * self._rate)
        allowed = content >= 1
        self._buckets[name] = content - allowed, now
        return 0.0 if allowed else (1 - content) / self._rate
