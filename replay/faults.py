"""What can be wrong with a fleet of devices: which faults, how often, and whom they hit. The rules: docs/faults.md.

Whom a fault hits is a hash of (fault, seed, user, number): a faulty fleet is as repeatable as a sound one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

from replay.errors import SourceError
from replay.parameters import parameters

HOUR, DAY = 3_600_000, 86_400_000  # ms
OFFLINE_SPAN = DAY  # a device is with or without a connection for such a span of event time
OFFLINE_MOST = 7  # spans on end
DELAY = HOUR  # an upload that is under way for long takes at most this
SKEW = 6 * HOUR  # a wrong clock is fast or slow by at most this
LATENESS = HOUR  # a click that arrives later than this after its event time is never ranked
HOSTILE_MOST = 1000  # devices


@dataclass(frozen=True)
class Faults:
    """Shares in [0, 1], and the number of hostile devices. The default: a fleet without faults."""

    offline: float = 0.0  # of a device's days: it has no connection, and comes back with a backlog
    reordered: float = 0.0  # of uploads: under way for up to DELAY, while other devices' overtake it
    skew: float = 0.0  # of devices: their clock is wrong by up to SKEW
    lost: float = 0.0  # of uploads: they never leave the device
    duplicates: float = 0.0  # of records: sent again although they arrived
    old: float = 0.0  # of devices: their app writes the schema before the last
    hostile: int = 0  # devices that send garbage, floods, holes, and records of other users

    def __post_init__(self) -> None:
        """Raises SourceError for what is no share, or too many hostile devices."""
        for field in fields(self):
            value, most = getattr(self, field.name), HOSTILE_MOST if field.name == "hostile" else 1
            if not 0 <= value <= most:
                what = "a number of devices" if field.name == "hostile" else "a share"
                raise SourceError(f"{field.name}={value:g}: it is {what} in 0..{most}")

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read `offline=0.05,hostile=3`; an empty text is no faults. Raises SourceError."""
        return parameters(cls, text)

    def __str__(self) -> str:
        """As `parse` reads it, without what is 0."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ",".join(f"{name}={value:g}" for name, value in given if value)

    @property
    def on_the_way(self) -> bool:
        """Whether what arrives, and when, is another log than the devices' own."""
        return any((self.offline, self.reordered, self.skew, self.lost))


SOUND = Faults()


def chance(fault: str, seed: int, user: str, number: int) -> float:
    """A number in [0, 1)."""
    data = hashlib.blake2b(f"{fault}\0{seed}\0{user}\0{number}".encode(), digest_size=8).digest()
    return (int.from_bytes(data, "little") >> 11) / 2.0**53
