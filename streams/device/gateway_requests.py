"""Requests of gateways to a device worker: rankings, and to forget users. Free-running runs only."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from streams.codec import RecordError
from streams.device.live_ranking import ask, complete
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
    """Answers the requests of a batch. `counts` says what became of them; `wall` is the wall clock, ms."""

    def __init__(
        self, rows: DeviceRows, writes: PendingWrites, send_up: SendUp, counts: Counter[str], wall: int
    ) -> None:
        self._rows, self._writes, self._send_up, self._counts, self._wall = rows, writes, send_up, counts, wall

    def ask(self, message: Message, request: GatewayRequest, context: Context, release: Release) -> None:
        """Answer by the fast part, and ask the cloud; not if it comes too late for both. Raises RecordError."""
        if request.deadline_wall < self._wall:
            self._counts["late"] += 1
            return
        user, uploaded = self._rows.user(message.key), self._rows.partition(message.partition).uploaded
        try:
            asked = ask(user, request, context, release, message.offset, uploaded)
        except Exception as error:
            log.exception("user %r, ranking %r", request.user, request.id)
            raise RecordError(f"could not be ranked: {error!r}") from error
        if asked.user is not user and user.state.seq:  # a user without events gets no row
            self._rows.put_user(message.partition, message.key, asked.user)
        self._send_up(message, asked.uplink)
        self._writes.send(RANKINGS, message.partition, message.key, asked.first)
        self._rows.index.rankings[request.id] = asked.first, request.variant

    def complete(self, message: Message, priors: SlowPriors, releases: Callable[[int | None], Release]) -> None:
        """Answer with the cloud's priors, unless nobody waits for them. Raises RecordError."""
        first, variant = self._rows.index.rankings.get(priors.ranking, (None, ""))
        if first is None or first.user != priors.user or first.versions != priors.versions:
            self._counts["unasked"] += 1
            return
        whole = complete(first, variant, priors, releases(first.versions.release), self._wall)
        del self._rows.index.rankings[priors.ranking]
        self._writes.send(RANKINGS, message.partition, message.key, whole)
        self._counts["bytes down"] += len(message.value)

    def forget(self, message: Message, record: Forget) -> None:
        """Delete a user, and pass it on."""
        self._rows.forget(message.partition, message.key)
        for topic in (DEVICE_UPLINK, OUTCOMES, RANKINGS):
            self._writes.send(topic, message.partition, message.key, record)

    def expire(self, limit: int) -> None:
        """Drop the rankings that were asked for before `limit` (wall clock, ms)."""
        waiting = self._rows.index.rankings
        for ranking in [each for each, (first, _) in waiting.items() if first.answered_wall < limit]:
            del waiting[ranking]
