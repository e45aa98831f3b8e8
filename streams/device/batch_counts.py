"""Counts of a batch of the device worker, for the metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from streams.process import telemetry
from streams.records import ClickUpload, EpochMarker, NegativeMemory, RankRequest
from streams.state.pending_writes import PendingWrites
from streams.topics import DEVICE_UPLINK

ROLE = "device"


@dataclass
class BatchCounts:
    """The counts of one batch, added to the metrics once it is durable."""

    by_kind: Counter[str] = field(default_factory=Counter)  # events applied and repeated, answers, bytes
    sent_wall: list[int] = field(default_factory=list)  # of each record applied
    waited_ms: list[int] = field(default_factory=list)  # by each answered request
    markers: list[EpochMarker] = field(default_factory=list)  # applied

    def observe(self, now_ms: int, writes: PendingWrites) -> None:
        """Add the counts, and the records sent by `writes`; `now_ms` is when the batch was durable."""
        for sent in self.sent_wall:
            telemetry.FRESHNESS.observe(max(now_ms - sent, 0) / 1000)
        for waited in self.waited_ms:
            telemetry.ANSWER_SECONDS.observe(max(waited, 0) / 1000)
        telemetry.EVENTS_APPLIED.inc(self.by_kind["applied"])
        telemetry.EVENTS_DUPLICATE.inc(self.by_kind["repeated"])
        for kind in ("answered", "expired", "unasked", "outdated"):
            telemetry.OUTCOMES.labels(kind).inc(self.by_kind[kind])
        telemetry.RANK_REQUESTS.labels(ROLE).inc(writes.sent[RankRequest])
        telemetry.R2_UPLOADS.inc(writes.sent[NegativeMemory])
        telemetry.CLICK_UPLOADS.inc(writes.sent[ClickUpload])
        telemetry.DEVICE_BYTES.labels("up").inc(writes.sent_bytes[DEVICE_UPLINK])
        telemetry.DEVICE_BYTES.labels("down").inc(self.by_kind["bytes down"])
        writes.count_refused()
        for marker in self.markers:
            telemetry.EPOCH.labels(ROLE).set(marker.epoch)
            telemetry.EVENT_TIME.labels(ROLE).set(marker.time / 1000)
