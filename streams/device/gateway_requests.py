"""Requests of gateways to a device worker: rankings, and to forget users. Free-running runs only."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from streams.codec import RecordError
from streams.device.live_ranking import complete_ranking, start_ranking
from streams.device.rows import DeviceRows
from streams.device.user import Context, DeferredNegativeMemory
from streams.kafka.message import Message
from streams.process.log_throttle import LogThrottle
from streams.records import Forget, GatewayRequest, RankRequest, SlowPriors
from streams.releases.release import Release
from streams.state.pending_writes import PendingWrites
from streams.topics import DEVICE_UPLINK, OUTCOMES, RANKINGS

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

SendUp = Callable[[Message, Iterable[DeferredNegativeMemory | RankRequest]], None]


class GatewayRequests:
    """Answers the requests of a batch. `counts` gets the number of requests by result, `wall` is the wall clock, ms."""

    def __init__(
        self, rows: DeviceRows, writes: PendingWrites, send_up: SendUp, counts: Counter[str], wall: int
    ) -> None:
        self._rows, self._writes, self._send_up, self._counts, self._wall = rows, writes, send_up, counts, wall

    def start(self, message: Message, request: GatewayRequest, context: Context, release: Release) -> None:
        """Send the fast part's ranking and a request to the cloud; drop expired requests. Raises RecordError."""
        if request.deadline_wall < self._wall:
            self._counts["late"] += 1
            return
        user, uploaded = self._rows.user(message.key), self._rows.partition(message.partition).uploaded
        try:
            started = start_ranking(user, request, context, release, message.offset, uploaded)
        except Exception as error:
            log.exception("user %r, ranking %r", request.user, request.id)
            raise RecordError(f"could not be ranked: {error!r}") from error
        if started.user is not user and user.state.seq:  # a user without events gets no row
            self._rows.put_user(message.partition, message.key, started.user)
        self._send_up(message, started.uplink)
        self._writes.send(RANKINGS, message.partition, message.key, started.first)
        self._rows.index.rankings[request.id] = started.first, request.variant

    def complete(self, message: Message, priors: SlowPriors, releases: Callable[[int | None], Release]) -> None:
        """Send the complete ranking, given the cloud's priors, if a ranking waits for them. Raises RecordError."""
        first, variant = self._rows.index.rankings.get(priors.ranking, (None, ""))
        if first is None or first.user != priors.user or first.versions != priors.versions:
            self._counts["unasked"] += 1
            return
        whole = complete_ranking(first, variant, priors, releases(first.versions.release), self._wall)
        del self._rows.index.rankings[priors.ranking]
        self._writes.send(RANKINGS, message.partition, message.key, whole)
        self._counts["bytes down"] += len(message.value)

    def forget(self, message: Message, record: Forget) -> None:
        """Delete a user, and forward the record."""
        self._rows.forget(message.partition, message.key)
        for topic in (DEVICE_UPLINK, OUTCOMES, RANKINGS):
            self._writes.send(topic, message.partition, message.key, record)

    def expire(self, limit: int) -> None:
        """Drop the rankings that were asked for before `limit` (wall clock, ms)."""
        waiting = self._rows.index.rankings
        for ranking in [each for each, (first, _) in waiting.items() if first.answered_wall < limit]:
            del waiting[ranking]
