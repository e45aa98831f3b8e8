"""The account of a log, which is part of a plan: counts of rows read, refused, left out and sent, and findings."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from replay.errors import SourceError


class Acceptable(StrEnum):
    """The findings that a run refuses unless they are accepted."""

    NO_CLICKS = "no-clicks"
    STRAY_TIMES = "stray-times"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was made to a log, or something in it that is probably a mistake."""

    name: str  # short and stable
    count: int
    sentence: str  # the finding with its likely cause
    first: tuple[str, ...] = ()  # location and value of the first cases

    @property
    def refused(self) -> bool:
        """True if a run stops unless it is accepted."""
        return self.name in set(Acceptable)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of the rows of a log, for one loop: `read + added` is the sum of all other fields."""

    read: int  # rows of the source, refused ones included
    refused: dict[str, int]  # rows that are no event, by reason
    left_out: dict[str, int]  # events that are not sent, by reason
    outside: int  # events outside --from, --to, --limit and --users
    added: int  # simulated exposures
    lost: int  # events that --faults lost before they were sent
    sent: int

    def rows(self) -> list[tuple[str, str, int]]:
        """Return (name of the field, reason or "", rows) of every count."""
        whole = ("read", "outside", "added", "lost", "sent")
        refused = [("refused", reason, count) for reason, count in self.refused.items()]
        left_out = [("left_out", reason, count) for reason, count in self.left_out.items()]
        return [(name, "", getattr(self, name)) for name in whole] + refused + left_out

    def sentence(self) -> str:
        """Return all numbers in one line."""
        plus = f" + {self.added:,} simulated exposures" if self.added else ""
        parts = {"refused": sum(self.refused.values())} | self.left_out
        parts |= {"outside the selection": self.outside, "lost by faults": self.lost}
        others = "".join(f" + {count:,} {reason}" for reason, count in parts.items() if count)
        return f"{self.read:,} read{plus} = {self.sent:,} sent{others}"

    def check(self) -> None:
        """Raise SourceError if a row is missing or counted twice."""
        not_sent = sum(self.refused.values()) + sum(self.left_out.values()) + self.outside + self.lost
        if self.read + self.added != self.sent + not_sent:
            raise SourceError(
                f"internal error: {self.read:,} rows read and {self.added:,} added, but {self.sent:,} to be sent and "
                f"{not_sent:,} refused, left out or lost; please report this"
            )


def not_accepted(findings: tuple[Finding, ...], accept: frozenset[Acceptable] | None) -> str:
    """Return a sentence about the findings that stop a run and are not in `accept` (None: all are accepted), or ""."""
    return "; ".join(
        " ".join([finding.sentence, *(f"({first})" for first in finding.first[:1])])
        + f": --accept {finding.name} uses the log anyway"
        for finding in findings
        if finding.refused and accept is not None and finding.name not in accept
    )
