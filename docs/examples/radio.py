"""A source: a station's log with lines such as `2026-11-29T08:00:00 anna heard 17`, named as radio:Radio:FILE."""

from collections.abc import Iterator
from pathlib import Path

EVENTS = {"heard": "click", "skipped": "exposure"}


class Radio:
    """The log in the file that is named after `radio:Radio:`."""

    def __init__(self, parameters: str) -> None:
        self.files = [Path(parameters)]

    def events(self) -> Iterator[tuple[str, str, str, str, None]]:
        """Yield user, item, time, event, and no impression."""
        with self.files[0].open(encoding="utf-8") as lines:
            for line in lines:
                time, user, event, song = line.split()
                yield user, song, time, EVENTS.get(event, event), None
