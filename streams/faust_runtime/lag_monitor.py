"""Looks at a Faust worker from the outside: how much waits for it at the broker, and whether it has what it needs.

Faust's own view of lag stands still when its consumer does, and a silent consumer is what is to be found out. So the
ends of the topics and the group's commits are asked for by another client, in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from confluent_kafka import KafkaException, TopicPartition
from faust.exceptions import NotReady

from streams.faust_runtime.app import PlatformApp
from streams.kafka import clients
from streams.process import telemetry
from streams.process.health import HEALTH
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)
_LOOK_S = 2.0
_PATIENCE_S = 5.0


class LagMonitor:
    """Tells `health.HEALTH` and the lag metric every two seconds; `role` is also the group's name."""

    def __init__(
        self, settings: Settings, role: str, app: PlatformApp, reader: ReleaseReader, sources: Sequence[Topic]
    ) -> None:
        self._role, self._app, self._reader = role, app, reader
        self._names = {topic.full(settings): topic.name for topic in sources}
        self._consumer = clients.consumer(settings, role)  # never joins the group: it only asks for its commits

    def start(self) -> None:
        """Look on until the process ends."""
        threading.Thread(target=self._run, name="worker-watch", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_S):
            HEALTH.needs("release", "" if self._reader.newest() else "no release is whole yet")
            try:
                HEALTH.set_lag(self.look())
            except KafkaException as error:  # without a broker nobody is stuck
                log.info("lag is unknown: %s", error)
                HEALTH.set_lag(0)

    def look(self) -> int:
        """Return how many records of this worker's partitions are not committed yet. Raises KafkaException."""
        try:
            assigned = [tp for tp in self._app.consumer.assignment() if tp.topic in self._names]
        except NotReady:
            return 0
        lags = dict.fromkeys(self._names.values(), 0)
        asked = [TopicPartition(tp.topic, tp.partition) for tp in assigned]
        for place in self._consumer.committed(asked, timeout=_PATIENCE_S) if asked else ():
            low, high = self._consumer.get_watermark_offsets(place, timeout=_PATIENCE_S)
            lags[self._names[place.topic]] += max(high - max(place.offset, low), 0)
        for name, lag in lags.items():
            telemetry.LAG.labels(self._role, name).set(lag)
        return sum(lags.values())
