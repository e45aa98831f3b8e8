"""A batch of the cloud worker, from what was received to what is to be sent and written: everything but Kafka."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from streams.codec import Reader, RecordError, Tensor, encode
from streams.faust_runtime.worker import Releases, Standings
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_key
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.records import ClickUpload, EndOfLog, EpochEnd, NegativeMemory, RankRequest, SlowPriors, Uplink
from streams.releases.item_statistics import buckets_array
from streams.settings import Settings
from streams.state.cloud import R2, CloudState, PartitionState
from streams.state.row_codec import decode_row
from streams.topics import CLOUD_DOWNLINK, DEAD_LETTERS

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

ROLE = "cloud"
LARGEST = 4000  # candidates: what an answer of at most MAX_BYTES has room for, and more than any slate has

_uplink: Reader[Uplink] = Reader(Uplink)


def check(record: NegativeMemory | ClickUpload | RankRequest, settings: Settings) -> None:
    """Raise RecordError where the arrays of a record are not as they should be."""
    if isinstance(record, NegativeMemory):
        record.r2.expect("r2", "<f4", (settings.dim,))
    elif isinstance(record, ClickUpload):
        record.items.expect("items", "<i8", (None,))
    else:
        n = len(record.candidates.expect("candidates", "<i8", (None,)))
        if not 0 < n <= LARGEST:
            raise RecordError(f"{n} candidates: between 1 and {LARGEST} are allowed")
        buckets_array(record.item_statistics, n)


class CloudWork:
    """One batch; see `worker.Work`."""

    def __init__(
        self, settings: Settings, received: Sequence[Message], rows: Mapping[bytes, bytes], _assigned: int, _wall: int
    ) -> None:
        self._settings, self._table = settings, rows
        self.fatal = ""
        self.outputs: list[tuple[str, int, bytes, bytes]] = []
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.marks: list[EpochEnd | EndOfLog] = []
        self._partitions: dict[int, PartitionState] = {}
        self._users: dict[str, CloudState] = {}
        self._read = [r for r in map(self._decoded, received) if r is not None]

    def _decoded(self, received: Message) -> tuple[Message, Uplink] | None:
        try:
            record: Uplink = _uplink.decode(received.value)
            if isinstance(record, NegativeMemory | ClickUpload | RankRequest):
                received.check_user(record.user, self._settings.partitions)
                check(record, self._settings)
        except RecordError as error:
            self._refuse(received, str(error))
            return None
        return received, record

    def needs(self) -> set[int | None]:
        """The releases that the requests name."""
        return {record.versions.release for _, record in self._read if isinstance(record, RankRequest)}

    def standings(self) -> tuple[()]:
        """None: a request says how its candidates stand."""
        return ()

    def run(self, releases: Releases, _standings: Standings) -> None:
        """Learn what came up, answer what was asked, in the order received."""
        for received, record in self._read:
            if isinstance(record, NegativeMemory):
                r2 = R2(record.window, record.encoder, record.r2.data)
                self._users[record.user] = self._user(record.user).remembering(r2)
            elif isinstance(record, ClickUpload):
                clicks = tuple(record.items.array().tolist())
                state = self._user(record.user).uploaded(record.epoch, clicks, self._settings.history_long)
                self._users[record.user] = state
            elif isinstance(record, RankRequest):
                try:
                    self._answer(received, record, releases)
                except Exception as error:
                    log.exception("user %r, seq %d", record.user, record.seq)
                    self._refuse(received, f"could not be answered: {error!r}")
            else:
                self._mark(received.partition, record)

    def _answer(self, received: Message, request: RankRequest, releases: Releases) -> None:
        release = releases(request.versions.release)
        state, dim = self._user(request.user), self._settings.dim
        history = state.history(request.epoch, self._settings.history_long)
        r2 = state.r2(request.window, request.versions.encoder) if request.window else None
        if request.window and r2 is None:
            if state.moved_past(request.window, request.versions.encoder):
                self.counts["repeated"] += 1  # delivered again to this worker; who asks again sends its r2 again
                return
            self.counts["without r2"] += 1
        answer = release.scorer.slow(
            release.catalogue.rows(history),
            np.zeros(dim, np.float32) if r2 is None else np.frombuffer(r2, dtype="<f4"),
            release.catalogue.rows(request.candidates.array()),
            buckets_array(request.item_statistics, len(request.candidates.array())),
        )
        priors = SlowPriors(
            user=request.user,
            seq=request.seq,
            r_t=Tensor.of(answer.r_t, "<f2"),
            r_n=Tensor.of(answer.r_n, "<f2"),
            din=Tensor.of(answer.din, "<f4"),
            f2s=Tensor.of(answer.f2s, "<f4"),
            history=len(history),
            window=0 if r2 is None else request.window,
            versions=request.versions,
        )
        self.counts["answered"] += 1
        topic = CLOUD_DOWNLINK.full(self._settings)
        self.outputs.append((topic, received.partition, received.key, encode(priors)))

    def _mark(self, part: int, mark: EpochEnd | EndOfLog) -> None:
        self.marks.append(mark)
        if (partition := self._partitions.get(part)) is None:
            data = self._table.get(partition_key(part))
            partition = PartitionState() if data is None else decode_row(data, PartitionState)
        self._partitions[part] = partition.passing(mark.epoch, over=isinstance(mark, EndOfLog))

    def _user(self, name: str) -> CloudState:
        if name not in self._users:
            data = self._table.get(name.encode())
            return CloudState() if data is None else decode_row(data, CloudState)
        return self._users[name]

    def _refuse(self, received: Message, reason: str) -> None:
        log.warning("%s/%d@%d refused: %s", received.topic, received.partition, received.offset, reason)
        self.refused[received.topic] += 1
        dead = encode(received.refused(reason, ROLE))
        self.outputs.append((DEAD_LETTERS.full(self._settings), 0, received.topic.encode(), dead))

    def records(self) -> Iterable[tuple[str, int, bytes, bytes]]:
        """What is to be sent."""
        return self.outputs

    def rows(self) -> Iterable[tuple[bytes, Struct | None]]:
        """What is to be written."""
        for name, state in self._users.items():
            yield name.encode(), state
        for part, partition in self._partitions.items():
            yield partition_key(part), partition

    def count(self, _now_ms: int) -> None:
        """Tell the metrics what was done."""
        telemetry.RANK_REQUESTS.labels(ROLE).inc(self.counts["answered"])
        telemetry.REQUESTS_WITHOUT_R2.inc(self.counts["without r2"])
        for topic, letters in self.refused.items():
            telemetry.DEAD_LETTERS.labels(ROLE, topic).inc(letters)
        for mark in self.marks:
            telemetry.EPOCH.labels(ROLE).set(mark.epoch)
            telemetry.EVENT_TIME.labels(ROLE).set(mark.time / 1000)
