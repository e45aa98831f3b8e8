"""A monitor of a Faust worker's lag that queries the broker with a separate client in a separate thread.

Faust's own lag figures do not change any more when its consumer stalls, which is the case to be detected.
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
_INTERVAL_S = 2.0
_TIMEOUT_S = 5.0


class LagMonitor:
    """Updates `HEALTH` and the lag metric every two seconds; `role` is also the name of the consumer group."""

    def __init__(
        self, settings: Settings, role: str, app: PlatformApp, reader: ReleaseReader, sources: Sequence[Topic]
    ) -> None:
        self._role, self._app, self._reader = role, app, reader
        self._names = {topic.full(settings): topic.name for topic in sources}
        self._consumer = clients.consumer(settings, role)  # never joins the group: it only asks for its commits

    def start(self) -> None:
        """Monitor the worker until the process ends."""
        threading.Thread(target=self._run, name="lag-monitor", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_INTERVAL_S):
            HEALTH.needs("release", "" if self._reader.newest() else "no complete release yet")
            try:
                HEALTH.set_lag(self.lag())
            except KafkaException as error:  # without a broker the worker has nothing to do: it is not stuck
                log.info("lag is unknown: %s", error)
                HEALTH.set_lag(0)

    def lag(self) -> int:
        """Return how many records of this worker's partitions are not committed yet. Raises KafkaException."""
        try:
            assigned = [tp for tp in self._app.consumer.assignment() if tp.topic in self._names]
        except NotReady:
            return 0
        lags = dict.fromkeys(self._names.values(), 0)
        partitions = [TopicPartition(tp.topic, tp.partition) for tp in assigned]
        for committed in self._consumer.committed(partitions, timeout=_TIMEOUT_S) if partitions else ():
            low, high = self._consumer.get_watermark_offsets(committed, timeout=_TIMEOUT_S)
            lags[self._names[committed.topic]] += max(high - max(committed.offset, low), 0)
        for name, lag in lags.items():
            telemetry.LAG.labels(self._role, name).set(lag)
        return sum(lags.values())
