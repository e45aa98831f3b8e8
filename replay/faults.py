"""Simulated faults of devices: their kinds, rates and limits. The rules are in docs/faults.md.

A hash of (fault, seed, user, number) decides whether a fault occurs, so a replay with faults is repeatable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

from replay.errors import SourceError
from replay.parameters import parameters

HOUR, DAY = 3_600_000, 86_400_000  # ms
OFFLINE_SPAN = DAY  # a device is online or offline for a whole span of event time
MAX_OFFLINE_SPANS = 7  # largest number of offline spans in a row
DELAY = HOUR  # the longest delay of an upload
SKEW = 6 * HOUR  # the largest error of a clock, fast or slow
LATENESS = HOUR  # a click that arrives later than this after its event time is never ranked
MAX_HOSTILE = 1000  # largest number of hostile devices


@dataclass(frozen=True)
class Faults:
    """Shares in [0, 1], and the number of hostile devices. The default is no faults."""

    offline: float = 0.0  # of the days of a device: it is offline, and sends a backlog afterwards
    reordered: float = 0.0  # of uploads: delayed by up to DELAY, while uploads of other devices overtake them
    skew: float = 0.0  # of devices: the clock is wrong by up to SKEW
    lost: float = 0.0  # of uploads: they never leave the device
    duplicates: float = 0.0  # of records: sent again although they arrived
    old: float = 0.0  # of devices: an old version of the app writes schema 1
    hostile: int = 0  # devices that send garbage, floods, sequence gaps, and records of other users

    def __post_init__(self) -> None:
        """Raise SourceError for a share outside [0, 1], or too many hostile devices."""
        for field in fields(self):
            value, largest = getattr(self, field.name), MAX_HOSTILE if field.name == "hostile" else 1
            if not 0 <= value <= largest:
                kind = "a number of devices" if field.name == "hostile" else "a share"
                raise SourceError(f"{field.name}={value:g}: it is {kind} in 0..{largest}")

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Parse `offline=0.05,hostile=3`; an empty text is no faults. Raises SourceError."""
        return parameters(cls, text)

    def __str__(self) -> str:
        """Return the text that `parse` reads, without faults that are 0."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ",".join(f"{name}={value:g}" for name, value in pairs if value)

    @property
    def change_arrivals(self) -> bool:
        """Return True if events are lost, or arrive at another time than they happen."""
        return any((self.offline, self.reordered, self.skew, self.lost))


NO_FAULTS = Faults()


def chance(fault: str, seed: int, user: str, number: int) -> float:
    """Return a number in [0, 1): a hash of the arguments."""
    data = hashlib.blake2b(f"{fault}\0{seed}\0{user}\0{number}".encode(), digest_size=8).digest()
    return (int.from_bytes(data, "little") >> 11) / 2.0**53
