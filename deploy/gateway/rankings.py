"""Rankings through Kafka: a request goes to the user's device worker, its answers come back on the topic `rankings`.

The fast part's answer comes at once, the complete answer when the cloud has answered. A gateway waits for the complete
one until the deadline and then returns the fast part's. Every gateway reads all answers, so that each knows the last
rankings, also those that another gateway requested.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Assignment

from deploy.gateway.ingest import Ingest
from streams.codec import Reader, RecordError
from streams.kafka import clients
from streams.kafka.partition_consumer import PartitionConsumer
from streams.kafka.stall_detector import StalledError
from streams.kafka.types import TopicPartition
from streams.prequential.served import By
from streams.process.log_throttle import LogThrottle
from streams.records import Forget, GatewayRequest, Ranking, RankingEvent
from streams.settings import Settings
from streams.topics import RANKINGS

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

KEPT = 20_000  # answers in memory, two per ranking: 3 KB each with 100 candidates
FAST = ".fast"
_MAX_RECORDS, _WAIT_S, _REQUEST_TIMEOUT_S = 1000, 0.05, 10.0
_FETCH_MS = 10  # the longest wait of the broker for more records, since a client waits for the answer

_rankings: Reader[Ranking] = Reader(RankingEvent)


def answer_id(ranking: Ranking) -> str:
    """Return the id of an answer: the fast part's answer is another list than the complete one, with another id."""
    return ranking.id + FAST if ranking.degraded else ranking.id


class NoRankingError(RuntimeError):
    """No device worker has answered."""


class Rankings:
    """Requests rankings, and keeps the last ones. `wall_ms` is the wall clock."""

    def __init__(
        self,
        ingest: Ingest,
        wall_ms: Callable[[], int],
        served: Callable[[], By],
        deadline_s: float = 0.5,
        fast_s: float = 2.0,
    ) -> None:
        """`served` returns the variant to be served.

        `fast_s` is how long to wait beyond the deadline if not even the fast part has answered.
        """
        self._ingest, self._wall_ms, self._served = ingest, wall_ms, served
        self._deadline_s, self._fast_s = deadline_s, fast_s
        self._known: OrderedDict[str, Ranking] = OrderedDict()
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Event, asyncio.Event]] = {}  # any, whole

    async def ask(
        self, user: str, k: int, candidates: list[str], variant: By | None = None, ranking: str = ""
    ) -> Ranking:
        """Return a ranking of `candidates`, of some of the catalogue if there are none.

        By default it is ordered by the variant that is served, and has a new id. Raises UnacknowledgedError,
        NoRankingError.
        """
        asked, wanted = self._wall_ms(), ranking or secrets.token_urlsafe(12)
        deadline = asked + int((self._deadline_s + self._fast_s) * 1000)
        fast, whole = asyncio.Event(), asyncio.Event()
        self._waiting[wanted] = asyncio.get_running_loop(), fast, whole
        try:
            async with asyncio.timeout(self._deadline_s):
                by = await asyncio.to_thread(self._served) if variant is None else variant
                await self._ingest.put(user, GatewayRequest(wanted, user, candidates, k, deadline, asked, by))
                await whole.wait()
        except TimeoutError:
            try:
                async with asyncio.timeout(self._fast_s):
                    await fast.wait()
            except TimeoutError as error:
                raise NoRankingError(f"no device worker has answered {wanted}") from error
        finally:
            del self._waiting[wanted]
        return self._known.get(wanted) or self._known[wanted + FAST]

    def find(self, ranking: str) -> Ranking | None:
        """Return one of the last rankings."""
        return self._known.get(ranking)

    def take(self, answer: Ranking | Forget) -> None:
        """Store an answer and wake up the request that waits for it. Thread-safe."""
        if isinstance(answer, Forget):
            for each in [answer_id(each) for each in self._known.values() if each.user == answer.user]:
                del self._known[each]
            return
        self._known.setdefault(answer_id(answer), answer)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        if (waiting := self._waiting.get(answer.id)) is not None:
            loop, fast, whole = waiting
            loop.call_soon_threadsafe(fast.set)
            if not answer.degraded:
                loop.call_soon_threadsafe(whole.set)


class RankingsReader:
    """Reads the last answers and all later ones in a background thread."""

    def __init__(self, settings: Settings, take: Callable[[Ranking | Forget], None]) -> None:
        self._settings, self._take, self._stop = settings, take, threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-rankings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except (KafkaException, StalledError) as error:
                log.warning("rankings can't be read: %s; trying again", error)
                self._stop.wait(1.0)

    def _read(self) -> None:
        consumer, start = clients.consumer(self._settings, "gateway", **{"fetch.wait.max.ms": _FETCH_MS}), {}
        for partition in range(self._settings.partitions):
            here = Assignment(RANKINGS.full(self._settings), partition)
            low, end = consumer.get_watermark_offsets(here, timeout=_REQUEST_TIMEOUT_S)
            start[TopicPartition(RANKINGS.name, partition)] = max(low, end - KEPT // self._settings.partitions)
        with closing(PartitionConsumer(self._settings, "gateway", start, consumer=consumer)) as reader:
            while not self._stop.is_set():
                for message in reader.read(_MAX_RECORDS, _WAIT_S):
                    try:
                        self._take(_rankings.decode(message.value))
                    except RecordError as error:
                        log.warning("%s: %s", message.position, error)
