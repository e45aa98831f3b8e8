"""Device and cloud on records that are wrong, missing, late or hostile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from benchmarks.servers.releases import release
from models.data.item_statistics import ItemStatistics
from streams.cloud.batch import CloudWork
from streams.codec import Reader, Record, Tensor, encode
from streams.device.worker import Device
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_of
from streams.records import (
    ClickUpload,
    DeadLetter,
    DeviceBatch,
    Envelope,
    EpochBegin,
    EpochEnd,
    ExampleEvent,
    NegativeMemory,
    OutcomeEvent,
    RankingEvent,
    RankRequest,
    SlowPriors,
    Uplink,
    Versions,
)
from streams.settings import Settings
from streams.state.device import DeviceState, user_key
from streams.state.row_codec import decode_row, encode_row
from streams.topics import (
    CLOUD_DOWNLINK,
    DEAD_LETTERS,
    DEVICE_EVENTS,
    DEVICE_UPLINK,
    FAST_EXAMPLES,
    OUTCOMES,
    RANKINGS,
    Topic,
)
from tests.support.simulation import SMALL

RELEASES = {0: release(SMALL, 0, 12), 1: release(SMALL, 1, 12)}
RELEASES[2] = replace(release(SMALL, 2, 12), catalogue=None)  # type: ignore[arg-type] # every step fails on it
FREE = SMALL.model_copy(update={"lockstep": False, "request_timeout_s": 30.0})


def partition(user: str) -> int:
    return partition_of(user.encode(), SMALL.partitions)


def at(
    topic: Topic,
    record: Record | bytes,
    *,
    user: str = "u",
    key: bytes | None = None,
    number: int = -1,
    offset: int = 0,
) -> Message:
    data = record if isinstance(record, bytes) else encode(record)
    number = partition(user) if number < 0 else number
    return Message(topic.name, number, offset, user.encode() if key is None else key, data)


def batch(*items: int, seq: int = 0, kind: int = 1, user: str = "u", **columns: Any) -> DeviceBatch:
    n = len(items)
    made = DeviceBatch(user, seq, [str(i) for i in items], bytes([kind] * n), list(range(n)), [0] * n)
    values = {name: getattr(made, name) for name in made.__struct_fields__}
    return DeviceBatch(**{**values, **columns})


@dataclass
class Worker:
    """A worker with its table in memory, and the records that it sent per topic."""

    settings: Settings = SMALL
    cloud: bool = False
    wall: int = 0
    newest: int = 0  # release
    rows: dict[bytes, bytes] = field(default_factory=dict)
    sent: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = Device(self.settings)

    def work(self, *received: Message) -> Any:
        if self.cloud:
            work: Any = CloudWork(self.settings, received, self.rows, 0, self.wall)
        else:
            work = self.device(received, self.rows, 0, self.wall)
        work.required_releases()
        writes = work.process(
            lambda version: RELEASES[self.newest if version is None else version], lambda _: ItemStatistics.empty()
        )
        kinds = {DEVICE_UPLINK: Uplink, OUTCOMES: OutcomeEvent, DEAD_LETTERS: DeadLetter, CLOUD_DOWNLINK: SlowPriors}
        kinds |= {FAST_EXAMPLES: ExampleEvent, RANKINGS: RankingEvent}
        for topic, *record in writes.records():
            for known, kind in kinds.items():
                if topic == known.full(self.settings):
                    sent = [Reader[Any](kind).decode(each.value) for each in Message.received(known.name, 0, *record)]
                    self.sent.setdefault(known.name, []).extend(sent)
        for key, row in writes.rows():
            if row is None:
                self.rows.pop(key, None)  # it may have been made in the same batch
            else:
                self.rows[key] = encode_row(row)
        work.count(self.wall)
        return work

    def state(self, user: str = "u") -> DeviceState:
        return decode_row(self.rows[user_key(user)], DeviceState)

    @property
    def dead(self) -> list[DeadLetter]:
        return self.sent.get(DEAD_LETTERS.name, [])


WRONG = {
    "garbage": (at(DEVICE_EVENTS, b"\xff\x00garbage"), "schema number"),
    "empty": (at(DEVICE_EVENTS, b""), "empty value"),
    "a newer schema": (at(DEVICE_EVENTS, b"\x7f" + encode(batch(1))[1:]), "newer"),
    "another record": (at(DEVICE_EVENTS, ClickUpload("u", 0, Tensor("<i8", (0,), b""), 0)), "clicks"),
    "no events": (at(DEVICE_EVENTS, batch()), "unequal length"),
    "unequal columns": (at(DEVICE_EVENTS, batch(1, 2, times=[1])), "unequal length"),
    "an unknown kind": (at(DEVICE_EVENTS, batch(1, kind=4)), "unknown kind of event 4"),
    "a negative time": (at(DEVICE_EVENTS, batch(1, times=[-1])), "negative"),
    "a huge time": (at(DEVICE_EVENTS, batch(1, times=[2**60])), "too large"),
    "a huge impression": (at(DEVICE_EVENTS, batch(1, impressions=[-(2**60)])), "too large"),
    "a negative seq": (at(DEVICE_EVENTS, batch(1, seq=-1)), "seq"),
    "an empty item": (at(DEVICE_EVENTS, batch(1, items=[""])), "item is empty"),
    "no user": (at(DEVICE_EVENTS, batch(1, user=""), user=""), "user is empty"),
    "a NUL in the user": (at(DEVICE_EVENTS, batch(1, user="a\0b"), user="a\0b"), "NUL"),
    "another's key": (at(DEVICE_EVENTS, batch(1), key=b"someone"), "under the key"),
    "another partition": (at(DEVICE_EVENTS, batch(1), number=1 - partition("u")), "belongs to partition"),
    "an answer that is none": (at(CLOUD_DOWNLINK, b"\x01\x02"), "array"),
}


def test_garbage_in_an_envelope_is_a_dead_letter_of_its_own_and_its_neighbours_are_applied() -> None:
    worker = Worker()
    worker.work(at(DEVICE_EVENTS, EpochBegin(0, 0, 0), key=b""))
    values = [encode(batch(1)), b"garbage", encode(batch(1)), encode(batch(2, seq=1))]
    envelope = encode(Envelope([(b"u", value) for value in values]))
    worker.work(*Message.received(DEVICE_EVENTS.name, partition("u"), 1, b"", envelope))
    [dead] = worker.sent["dead-letters"]
    assert (dead.offset, dead.envelope_index, dead.value) == (1, 1, b"garbage")
    assert decode_row(worker.rows[user_key("u")], DeviceState).seq == 2


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_record_goes_to_dead_letters_and_the_worker_goes_on(what: str) -> None:
    wrong, reason = WRONG[what]
    worker = Worker()
    work = worker.work(wrong, at(DEVICE_EVENTS, batch(1, 2)))
    assert not work.fatal
    (dead,) = worker.dead
    assert reason in dead.reason
    assert (dead.topic, dead.partition, dead.offset, dead.role) == (
        wrong.topic,
        wrong.partition,
        wrong.offset,
        "device",
    )
    assert (dead.key, dead.value) == (wrong.key, wrong.value)
    assert worker.state().seq == 2


f4 = Tensor.of(np.zeros(4), "<f4")
i8 = Tensor.of(np.arange(3), "<i8")
WRONG_UP = {
    "r2 of another size": NegativeMemory("u", 1, Tensor.of(np.zeros(5), "<f4"), 0, 3, 0),
    "r2 of another type": NegativeMemory("u", 1, Tensor.of(np.zeros(4), "<f2"), 0, 3, 0),
    "r2 that is cut": NegativeMemory("u", 1, Tensor("<f4", (4,), b"123"), 0, 3, 0),
    "clicks of another shape": ClickUpload("u", 0, Tensor("<i8", (1, 3), i8.data), 0),
    "clicks of another type": ClickUpload("u", 0, f4, 0),
    "no candidates": RankRequest("u", 0, Tensor("<i8", (0,), b""), 0, 0, Versions()),
    "too many candidates": RankRequest("u", 0, Tensor.of(np.arange(50_000), "<i8"), 0, 0, Versions()),
}


@pytest.mark.parametrize("what", WRONG_UP)
def test_the_cloud_refuses_arrays_that_are_not_as_they_should_be(what: str) -> None:
    worker = Worker(cloud=True)
    worker.work(at(DEVICE_UPLINK, WRONG_UP[what]), at(DEVICE_UPLINK, ClickUpload("u", 0, i8, 0)))
    assert len(worker.dead) == 1
    assert worker.dead[0].role == "cloud"
    assert list(worker.rows) == [b"u"]


@given(st.binary(max_size=80), st.sampled_from([DEVICE_EVENTS, CLOUD_DOWNLINK, DEVICE_UPLINK]), st.binary(max_size=5))
def test_no_bytes_stop_a_worker(data: bytes, topic: Topic, key: bytes) -> None:
    worker = Worker(cloud=topic is DEVICE_UPLINK)
    worker.work(Message(topic.name, 0, 0, key, data), Message(topic.name, 0, 0, key, b"\x01" + data))
    assert len(worker.dead) == 2


@given(st.integers(0, 2**32))
def test_no_mutation_of_a_real_record_stops_a_worker(seed: int) -> None:
    chance = random.Random(seed)
    for cloud, topic, record in (
        (False, DEVICE_EVENTS, batch(1, 2, 3)),
        (True, DEVICE_UPLINK, RankRequest("u", 0, i8, 0, 1, Versions())),
        (True, DEVICE_UPLINK, NegativeMemory("u", 1, f4, 0, 3, 0)),
    ):
        data = bytearray(encode(record))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert not Worker(cloud=cloud).work(at(topic, bytes(data))).fatal or not cloud


def test_records_passed_over_end_the_process_once_and_are_given_up_where_the_log_itself_lacks_them() -> None:
    worker = Worker()
    log = [
        at(DEVICE_EVENTS, batch(1, 2)),
        at(DEVICE_EVENTS, batch(4, seq=3), offset=2),
        at(DEVICE_EVENTS, batch(3, seq=2), offset=3),
    ]
    first = worker.work(*log)
    assert "got offset 2, expected 1" in first.fatal
    assert worker.dead == []
    assert worker.state().seq == 2
    again = worker.work(*log)  # the same batch, delivered again
    assert not again.fatal
    assert ["behind a missing or refused record" in dead.reason for dead in worker.dead] == [True]
    assert worker.state().clicks == [1, 2, 3]
    assert not worker.work(at(DEVICE_EVENTS, batch(4, seq=3), offset=4)).fatal
    assert "got offset 6, expected 5" in worker.work(at(DEVICE_EVENTS, batch(5, seq=4), offset=6)).fatal


def test_what_was_lost_on_the_way_is_applied_when_it_is_delivered_again() -> None:
    worker = Worker()
    lost, behind = at(DEVICE_EVENTS, batch(1, 2)), at(DEVICE_EVENTS, batch(4, seq=2), offset=1)
    assert worker.work(behind).fatal
    assert not worker.work(lost, behind).fatal
    assert worker.dead == []
    assert worker.state().clicks == [1, 2, 4]


@given(st.integers(1, 2**52), st.sampled_from(["u", "v"]))
def test_no_device_can_end_a_worker_by_a_gap(ahead: int, hostile: str) -> None:
    worker = Worker()
    log = [batch(1), batch(9, seq=ahead + 1, user=hostile), batch(2, seq=1), batch(8, user="w")]
    offsets: dict[int, int] = {}
    for each in log:
        number = partition(each.user)
        offset = offsets[number] = offsets.get(number, -1) + 1
        assert not worker.work(at(DEVICE_EVENTS, each, user=each.user, offset=offset)).fatal
    assert ["behind a missing or refused record" in dead.reason for dead in worker.dead] == [True]
    assert worker.state().clicks == [1, 2]
    assert worker.state("w").clicks == [8]


def test_behind_a_refused_record_all_of_the_user_is_refused_until_it_is_repaired() -> None:
    worker = Worker()
    worker.work(at(DEVICE_EVENTS, batch(1)), at(DEVICE_EVENTS, batch(2, seq=1, kind=9)))
    assert not worker.work(at(DEVICE_EVENTS, batch(3, seq=2))).fatal
    assert len(worker.dead) == 2
    repaired = [at(DEVICE_EVENTS, batch(2, seq=1)), at(DEVICE_EVENTS, worker.dead[1].value)]
    assert not worker.work(*repaired).fatal
    assert worker.state().clicks == [1, 2, 3]
    assert len(worker.dead) == 2


def requests_of(worker: Worker, *items: int, seq: int = 0) -> list[RankRequest]:
    before = len(worker.sent.get(DEVICE_UPLINK.name, []))
    worker.work(at(DEVICE_EVENTS, batch(*items, seq=seq)))
    return [r for r in worker.sent[DEVICE_UPLINK.name][before:] if isinstance(r, RankRequest)]


def priors(request: RankRequest, **changes: Any) -> SlowPriors:
    n = request.candidates.shape[0]
    values: dict[str, Any] = {
        "user": request.user,
        "seq": request.seq,
        "r_t": Tensor.of(np.zeros((n, 4)), "<f2"),
        "r_n": Tensor.of(np.zeros((n, 4)), "<f2"),
        "din": Tensor.of(np.arange(n), "<f4"),
        "f2s": Tensor.of(-np.arange(n), "<f4"),
        "history": 0,
        "window": 0,
        "versions": request.versions,
    }
    return SlowPriors(**{**values, **changes})


def test_an_answer_makes_one_outcome_and_its_repeat_none() -> None:
    worker = Worker()
    (request,) = requests_of(worker, 3)
    answer = at(CLOUD_DOWNLINK, priors(request))
    worker.work(answer, answer)
    worker.work(answer)
    (outcome,) = worker.sent[OUTCOMES.name]
    n = request.candidates.shape[0]
    assert outcome.ranks["din"] == n - outcome.target_index
    assert outcome.ranks["f2s"] == outcome.target_index + 1
    assert outcome.ranks["random"] == outcome.target_index + 1
    assert set(outcome.ranks) == {"random", "din", "f2s", "fast", "mc2sf"}
    assert outcome.bytes_up == len(encode(request))
    assert outcome.bytes_down == len(answer.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"din": Tensor.of(np.zeros(3), "<f4")},
        {"r_t": Tensor.of(np.zeros((10, 5)), "<f2")},
        {"r_n": Tensor.of(np.zeros((10, 4)), "<f4")},
        {"f2s": Tensor("<f4", (10,), b"1234")},
        {"history": -1},
        {"history": SMALL.history_long + 1},
        {"window": -1},
        {"window": 1},
    ],
)
def test_an_answer_that_does_not_fit_is_refused_and_the_right_one_is_still_taken(changes: dict[str, Any]) -> None:
    worker = Worker()
    (request,) = requests_of(worker, 3)
    worker.work(at(CLOUD_DOWNLINK, priors(request, **changes)))
    assert len(worker.dead) == 1
    assert OUTCOMES.name not in worker.sent
    worker.work(at(CLOUD_DOWNLINK, priors(request)))
    assert len(worker.sent[OUTCOMES.name]) == 1


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_answer_to_an_earlier_request_under_another_release_is_counted_and_the_right_one_taken() -> None:
    killed = Worker(FREE)
    (before,) = requests_of(killed, 3)  # sent; the worker died before its rows were written
    worker = Worker(FREE, newest=1)
    (request,) = requests_of(worker, 3)
    assert (before.seq, before.versions.encoder, request.versions.encoder) == (request.seq, 0, 1)
    counted = metric("mc2sf_outcomes_total", kind="outdated")
    worker.work(at(CLOUD_DOWNLINK, priors(before)))
    assert metric("mc2sf_outcomes_total", kind="outdated") == counted + 1
    assert not worker.dead
    assert OUTCOMES.name not in worker.sent
    worker.work(at(CLOUD_DOWNLINK, priors(request)))
    (outcome,), (example,) = worker.sent[OUTCOMES.name], worker.sent[FAST_EXAMPLES.name]
    assert outcome.versions == example.versions == request.versions


def test_a_request_expires_if_only_an_earlier_one_for_the_same_click_was_answered() -> None:
    killed, worker = Worker(FREE), Worker(FREE, newest=1)
    (before,), _ = requests_of(killed, 3), requests_of(worker, 3)
    worker.work(at(CLOUD_DOWNLINK, priors(before)))
    worker.wall = 30_001
    worker.work()
    (outcome,) = worker.sent[OUTCOMES.name]
    assert outcome.expired


def test_scores_that_are_not_finite_rank_last_and_are_counted() -> None:
    worker = Worker()
    (request,) = requests_of(worker, 3)
    worker.work(at(CLOUD_DOWNLINK, priors(request, din=Tensor.of(np.full(10, np.nan), "<f4"))))
    (outcome,) = worker.sent[OUTCOMES.name]
    assert outcome.ranks["din"] == 10
    assert outcome.not_finite == 10


def test_an_overdue_request_is_scored_by_the_fast_part_alone_and_its_late_answer_dropped() -> None:
    worker = Worker(FREE)
    (request,) = requests_of(worker, 3)
    worker.work(at(DEVICE_EVENTS, EpochEnd(0, 9)))
    worker.wall = 30_000
    worker.work()
    assert OUTCOMES.name not in worker.sent
    worker.wall = 30_001
    worker.work()
    outcome, marker = worker.sent[OUTCOMES.name]
    assert outcome.expired
    assert set(outcome.ranks) == {"random", "fast"}
    assert marker == EpochEnd(0, 9)
    worker.work(at(CLOUD_DOWNLINK, priors(request)))
    assert len(worker.sent[OUTCOMES.name]) == 2


def test_in_lockstep_no_request_expires() -> None:
    worker = Worker()
    requests_of(worker, 3)
    worker.wall = 10**9
    worker.work()
    assert OUTCOMES.name not in worker.sent


def test_markers_that_come_again_do_nothing() -> None:
    worker = Worker(SMALL.model_copy(update={"evaluate": 0.0}))
    markers = [at(DEVICE_EVENTS, EpochBegin(0, 0, 0)), at(DEVICE_EVENTS, batch(1)), at(DEVICE_EVENTS, EpochEnd(0, 9))]
    worker.work(*markers)
    sent = {topic: list(records) for topic, records in worker.sent.items()}
    rows = dict(worker.rows)
    worker.work(*markers)
    assert worker.sent == sent
    assert worker.rows == rows
    assert [type(r) for r in sent[DEVICE_UPLINK.name]] == [ClickUpload, EpochEnd]


def test_clicks_of_a_later_epoch_are_not_uploaded_by_an_earlier_marker_that_comes_again() -> None:
    worker = Worker(SMALL.model_copy(update={"evaluate": 0.0}))
    worker.work(at(DEVICE_EVENTS, EpochBegin(1, 0, 0)), at(DEVICE_EVENTS, batch(1)))
    worker.work(at(DEVICE_EVENTS, EpochEnd(0, 5)))
    assert [type(r) for r in worker.sent[DEVICE_UPLINK.name]] == [EpochEnd]
    worker.work(at(DEVICE_EVENTS, EpochEnd(1, 9)))
    (upload,) = [r for r in worker.sent[DEVICE_UPLINK.name] if isinstance(r, ClickUpload)]
    assert upload.items.array().tolist() == [1]


@pytest.mark.parametrize("restarted", [False, True])
def test_clicks_are_uploaded_once_and_their_user_is_not_written_again_for_it(restarted: bool) -> None:
    worker = Worker(SMALL.model_copy(update={"evaluate": 0.0}))
    worker.work(at(DEVICE_EVENTS, EpochBegin(0, 0, 0)), at(DEVICE_EVENTS, batch(1)))
    row = worker.rows[user_key("u")]
    for epoch in (0, 1):
        if restarted:
            worker.device = Device(worker.settings)  # it builds its index from the rows
        worker.work(at(DEVICE_EVENTS, EpochEnd(epoch, 9)), at(DEVICE_EVENTS, EpochBegin(epoch + 1, 0, 9)))
    assert worker.rows[user_key("u")] is row
    worker.work(at(DEVICE_EVENTS, batch(2, seq=1)), at(DEVICE_EVENTS, EpochEnd(2, 9)))
    sent = [record for record in worker.sent[DEVICE_UPLINK.name] if isinstance(record, ClickUpload)]
    assert [(upload.epoch, upload.items.array().tolist()) for upload in sent] == [(0, [1]), (2, [2])]


def test_the_metrics_count_what_was_sent() -> None:
    names = "mc2sf_r2_uploads_total", "mc2sf_click_uploads_total"
    before = [metric(name) for name in names]
    worker = Worker(SMALL.model_copy(update={"evaluate": 0.0}))
    events = [at(DEVICE_EVENTS, batch(*range(1, 7), kind=0)), at(DEVICE_EVENTS, batch(7, seq=6))]
    worker.work(*events, at(DEVICE_EVENTS, EpochEnd(0, 9)))
    sent = [type(record) for record in worker.sent[DEVICE_UPLINK.name]]
    assert sent == [NegativeMemory, NegativeMemory, ClickUpload, EpochEnd]
    assert [metric(name) for name in names] == [before[0] + 2, before[1] + 1]


def test_a_step_that_fails_refuses_the_record_and_goes_on() -> None:
    worker = Worker(newest=2)
    assert not worker.work(at(DEVICE_EVENTS, batch(1))).fatal
    assert "could not be applied: TypeError" in worker.dead[0].reason
