"""The wall clock of the processes: for leases, expiry and rows' times of recording; never for what decides a result."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """The wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000
