"""The progress of a contender, noted by a thread in its process, in the same way for all contenders.

A line is written whenever `mc2sf_events_applied_total` has moved: wall seconds, CPU seconds of the process, events.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from streams.process import telemetry

_LOOK_S = 0.02
WARM_UP = 0.1  # share of the events before the clock starts: imports, joins and first batches are not raced


def start(notes: Path) -> None:
    """Start the thread that notes the progress of this process."""
    threading.Thread(target=_note, args=(notes,), daemon=True).start()


def _note(notes: Path) -> None:
    before = 0
    with notes.open("w", buffering=1) as file:
        while True:
            now = int(telemetry.EVENTS_APPLIED.collect()[0].samples[0].value)  # type: ignore[index]
            if now != before:
                file.write(f"{time.perf_counter()} {time.process_time()} {now}\n")
                before = now
            time.sleep(_LOOK_S)


@dataclass(frozen=True)
class Pace:
    """Events per second of wall-clock time and of the process's CPU time, and the number of events."""

    events_per_second: float
    events_per_cpu_second: float
    events: int


def applied(notes: Path) -> int:
    """Return the number of events that the process has applied."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    whole = [line for line in lines if len(line.split()) == 3]
    return int(whole[-1].split()[2]) if whole else 0


def pace(notes: Path, total: int) -> Pace:
    """Return the pace between the first note after the warm-up and the last one."""
    rows = [tuple(map(float, line.split())) for line in notes.read_text().splitlines()]
    warm = [row for row in rows if row[2] >= WARM_UP * total]
    (wall, cpu, events), (wall_end, cpu_end, events_end) = warm[0], warm[-1]
    done = events_end - events
    return Pace(done / (wall_end - wall), done / (cpu_end - cpu), int(events_end))
