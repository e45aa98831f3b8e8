"""The horizontal axis of the report's charts: event time from the first to the last event of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_MINUTE, _DAY = 60_000, 86_400_000
_TICKS = 4  # more dates overlap on a narrow screen


@dataclass(frozen=True)
class TimeAxis:
    """Event times in ms: `times` of the points of a chart, `first` and `last` of the events of the run."""

    times: Sequence[int]
    first: int
    last: int

    def share(self, time: float) -> float:
        """Return the position of an event time: 0 at the first event, 1 at the last one."""
        return (time - self.first) / (self.last - self.first) if self.last > self.first else 0.5

    def label(self, time: float) -> str:
        """Return an event time as text (UTC), as precise as the span of the axis requires."""
        span = self.last - self.first
        form = "%d %b %Y" if span > 8 * _DAY else "%d %b %H:%M" if span > 10 * _MINUTE else "%H:%M:%S"
        return datetime.fromtimestamp(time / 1000, UTC).strftime(form)

    def ticks(self) -> list[tuple[float, str]]:
        """Return position and label of ticks at even distances, from the first to the last event."""
        if self.last <= self.first:
            return [(0.5, self.label(self.first))]
        shares = [i / (_TICKS - 1) for i in range(_TICKS)]
        return [(share, self.label(self.first + (self.last - self.first) * share)) for share in shares]
