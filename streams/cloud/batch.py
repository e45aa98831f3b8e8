"""One batch of the cloud worker, from received messages to pending writes, without Kafka."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.mc2sf.tiled_scorer import SlowAnswer, SlowQuery
from streams.codec import Reader, RecordError, Tensor
from streams.faust_runtime.worker import Releases, StatisticsByEpoch
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_key
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.records import ClickUpload, EndOfLog, EpochEnd, Forget, NegativeMemory, RankRequest, SlowPriors, Uplink
from streams.releases.item_statistics import buckets_array
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.cloud import R2, CloudPartitionState, CloudState
from streams.state.pending_writes import PendingRows, PendingWrites
from streams.state.row_codec import row_or_new
from streams.topics import CLOUD_DOWNLINK

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

ROLE = "cloud"
MAX_CANDIDATES = 4000  # more than any slate has; an answer with this number still fits into MAX_BYTES

_uplink: Reader[Uplink] = Reader(Uplink)


def check_arrays(record: NegativeMemory | ClickUpload | RankRequest, settings: Settings) -> None:
    """Raise RecordError if the arrays of a record have a wrong type or shape."""
    if isinstance(record, NegativeMemory):
        record.r2.expect("r2", "<f4", (settings.dim,))
    elif isinstance(record, ClickUpload):
        record.items.expect("items", "<i8", (None,))
    else:
        n = len(record.candidates.expect("candidates", "<i8", (None,)))
        if not 0 < n <= MAX_CANDIDATES:
            raise RecordError(f"{n} candidates: between 1 and {MAX_CANDIDATES} are allowed")
        buckets_array(record.item_statistics, n)


class _OpenRequest(NamedTuple):
    """A request that is answered at the end of the batch, with the user's clicks and r2 when it was received."""

    message: Message
    request: RankRequest
    history: NDArray[np.int64]
    r2: bytes | None


class CloudWork:
    """One batch: decoded at construction, processed once its releases are there."""

    fatal = ""

    def __init__(
        self,
        settings: Settings,
        received: Sequence[Message],
        table: Mapping[bytes, bytes],
        _assignment: int,
        _wall: int,
    ) -> None:
        self._settings = settings
        self._users = PendingRows(table, row_or_new(CloudState))
        self._partitions = PendingRows(table, row_or_new(CloudPartitionState))
        self._writes = PendingWrites(settings, ROLE, self._users, self._partitions)
        self._counts: Counter[str] = Counter()
        self._markers: list[EpochEnd | EndOfLog] = []
        self._open_requests: list[_OpenRequest] = []
        self._received = [(message, self._decode(message)) for message in received]

    def _decode(self, message: Message) -> Uplink | RecordError:
        try:
            record: Uplink = _uplink.decode(message.value)
            if isinstance(record, NegativeMemory | ClickUpload | RankRequest | Forget):
                message.check_user(record.user, self._settings.partitions)
            if isinstance(record, NegativeMemory | ClickUpload | RankRequest):
                check_arrays(record, self._settings)
        except RecordError as error:
            return error
        return record

    def required_releases(self) -> set[int | None]:
        """Return the releases that the requests name."""
        return {record.versions.release for _, record in self._received if isinstance(record, RankRequest)}

    def required_item_statistics(self) -> tuple[()]:
        """Return none: a request brings those of its candidates."""
        return ()

    def process(self, releases: Releases, _item_statistics: StatisticsByEpoch) -> PendingWrites:
        """Process the batch in the order received, and answer its requests together; return its writes."""
        for message, record in self._received:
            self._writes.trace = message.trace
            try:
                if isinstance(record, RecordError):
                    raise record
                if isinstance(record, NegativeMemory):
                    user = self._users.get(message.key)
                    self._users.put(message.key, user.with_r2(R2(record.window, record.encoder, record.r2.data)))
                elif isinstance(record, ClickUpload):
                    user, clicks = self._users.get(message.key), tuple(record.items.array().tolist())
                    user = user.with_upload(record.epoch, clicks, self._settings.history_long)
                    self._users.put(message.key, user)
                elif isinstance(record, RankRequest):
                    self._ask(message, record)
                elif isinstance(record, Forget):
                    self._users.delete(message.key)
                else:
                    self._apply_marker(message.partition, record)
            except RecordError as error:
                self._writes.refuse(message, str(error))
        self._answer(releases)
        return self._writes

    def _ask(self, message: Message, request: RankRequest) -> None:
        state = self._users.get(message.key)
        if state.epoch > request.epoch:
            return  # a repeat: clicks of its own epoch or later ones are in the history already
        r2 = state.r2(request.window, request.versions.encoder) if request.window else None
        if request.window and r2 is None:
            if state.has_later_r2(request.window, request.versions.encoder):
                return  # a repeat: the device sends its r2 again before it repeats a request that has no answer
            self._counts["without r2"] += 1
        history = state.history(request.epoch, self._settings.history_long)
        self._open_requests.append(_OpenRequest(message, request, history, r2))

    def _answer(self, releases: Releases) -> None:
        """Answer the requests of each release together, and one by one if that fails."""
        of_release: defaultdict[int, list[int]] = defaultdict(list)
        for i, open_request in enumerate(self._open_requests):
            of_release[open_request.request.versions.release].append(i)
        answers: dict[int, SlowAnswer] = {}
        for version, indices in of_release.items():
            with suppress(Exception):  # it is raised again below, for the request that causes it
                scored = self._scores([self._open_requests[i] for i in indices], releases(version))
                answers.update(zip(indices, scored, strict=True))
        for i, open_request in enumerate(self._open_requests):
            message, request = open_request.message, open_request.request
            self._writes.trace = message.trace
            try:
                answer = answers.get(i) or self._scores([open_request], releases(request.versions.release))[0]
            except Exception as error:
                log.exception("user %r, seq %d", request.user, request.seq)
                self._writes.refuse(message, f"could not be answered: {error!r}")
                continue
            self._counts["answered"] += 1
            self._writes.send(CLOUD_DOWNLINK, message.partition, message.key, _priors(open_request, answer))

    def _scores(self, open_requests: Sequence[_OpenRequest], release: Release) -> list[SlowAnswer]:
        rows, zero = release.catalogue.rows, np.zeros(self._settings.dim, np.float32)
        queries = []
        for _, request, history, r2 in open_requests:
            candidates = request.candidates.array()
            statistics = buckets_array(request.item_statistics, len(candidates))
            state = zero if r2 is None else np.frombuffer(r2, dtype="<f4")
            queries.append(SlowQuery(rows(history), state, rows(candidates), statistics))
        return release.scorer.slow_many(queries)

    def _apply_marker(self, number: int, marker: EpochEnd | EndOfLog) -> None:
        self._markers.append(marker)
        key = partition_key(number)
        partition = self._partitions.get(key).with_marker(marker.epoch, over=isinstance(marker, EndOfLog))
        self._partitions.put(key, partition)

    def count(self, _now_ms: int) -> None:
        """Add the batch to the metrics."""
        telemetry.RANK_REQUESTS.labels(ROLE).inc(self._counts["answered"])
        telemetry.REQUESTS_WITHOUT_R2.inc(self._counts["without r2"])
        self._writes.count_refused()
        for marker in self._markers:
            telemetry.EPOCH.labels(ROLE).set(marker.epoch)
            telemetry.EVENT_TIME.labels(ROLE).set(marker.time / 1000)


def _priors(open_request: _OpenRequest, answer: SlowAnswer) -> SlowPriors:
    _, request, history, r2 = open_request
    return SlowPriors(
        user=request.user,
        seq=request.seq,
        r_t=Tensor.of(answer.r_t, "<f2"),
        r_n=Tensor.of(answer.r_n, "<f2"),
        din=Tensor.of(answer.din, "<f4"),
        f2s=Tensor.of(answer.f2s, "<f4"),
        history=len(history),
        window=0 if r2 is None else request.window,
        versions=request.versions,
        statistics_epoch=request.statistics_epoch,
        ranking=request.ranking,
        history_items=Tensor.of(history, "<i8") if request.ranking else None,
        r2=(r2 or b"") if request.ranking else b"",
    )
