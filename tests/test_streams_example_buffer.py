from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.codec import RecordError, Tensor
from streams.learner import examples
from streams.learner.example_buffer import MAX_HELD, ExampleBuffer
from streams.records import EndOfLog, EpochEnd, FastExample, Versions

PARTITIONS = 3


def example(user: str, seq: int, epoch: int, **changes: Tensor) -> FastExample:
    fields = {
        "clicks": Tensor.of(np.arange(3), "<i8"),
        "exposures": Tensor.of(np.arange(2), "<i8"),
        "items": Tensor.of(np.arange(5), "<i8"),
        "r_t": Tensor.of(np.zeros((5, 2)), "<f2"),
        "r_n": Tensor.of(np.zeros((5, 2)), "<f2"),
    }
    return FastExample(user, seq, epoch, 1000 * epoch + seq % 7, **(fields | changes), versions=Versions())


Stream = list[list[FastExample | EpochEnd | EndOfLog]]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw the records of the partitions: examples of three epochs with their markers, some repeated."""
    stream: Stream = [[] for _ in range(PARTITIONS)]
    for epoch in range(3):
        for partition in stream:
            users = draw(st.lists(st.sampled_from("abc"), max_size=4))
            sent = [example(f"{user}{stream.index(partition)}", i, epoch) for i, user in enumerate(users)]
            partition.extend([*sent, *sent[: draw(st.integers(0, 2))], EpochEnd(epoch, 0)])
            if draw(st.booleans()):  # a worker was restarted: it sends the epoch again
                partition.extend([*sent, EpochEnd(epoch, 0)])
    for partition in stream:
        partition.append(EndOfLog(2, 0, 0))
    return stream


def run(stream: Stream, seed: int, crashes: bool) -> list[list[tuple[str, int]]]:
    """Return the examples of each epoch, with partitions read in random order and restarts from the offsets."""
    chance = random.Random(seed)
    buffer, epochs = ExampleBuffer(PARTITIONS, -1), []
    places = [0] * PARTITIONS
    while not buffer.log_ended():
        if buffer.ready():
            epochs.append([(e.user, e.seq) for e in buffer.close()])
            if crashes:
                offsets, closed = buffer.offsets(), buffer.closed
                buffer = ExampleBuffer(PARTITIONS, closed)
                buffer.resume(offsets)
                places = [offsets[p] for p in range(PARTITIONS)]
        else:
            p = chance.choice([p for p in range(PARTITIONS) if places[p] < len(stream[p])])
            buffer.put(p, places[p], stream[p][places[p]])
            places[p] += 1
    return epochs


@given(streams(), st.integers(0, 99))
def test_an_epoch_has_the_same_examples_in_total_order_for_any_order_of_reading(stream: Stream, seed: int) -> None:
    expected = [
        [
            key[1:]
            for key in sorted(
                {(r.time, r.user, r.seq) for p in stream for r in p if isinstance(r, FastExample) and r.epoch == epoch}
            )
        ]
        for epoch in range(3)
    ]
    assert run(stream, seed, crashes=False) == expected
    assert run(stream, seed, crashes=True) == expected


def test_no_epoch_is_ready_before_every_partition_has_ended_it() -> None:
    buffer = ExampleBuffer(2, -1)
    buffer.put(0, 0, EpochEnd(0, 0))
    buffer.put(0, 1, EndOfLog(0, 0, 0))
    assert not buffer.ready()
    buffer.put(1, 0, EpochEnd(0, 0))
    assert buffer.ready()
    buffer.close()
    assert not buffer.log_ended()
    buffer.put(1, 1, EndOfLog(0, 0, 0))
    assert buffer.log_ended()


def test_a_partition_far_ahead_is_full_until_the_epoch_is_closed() -> None:
    buffer = ExampleBuffer(2, -1)
    buffer.put(0, 0, EpochEnd(0, 0))
    for offset in range(MAX_HELD + 1):
        assert not buffer.full(0)
        buffer.put(0, 1 + offset, example("a", offset, 1))
    assert buffer.full(0)
    buffer.put(1, 0, EpochEnd(0, 0))
    buffer.close()
    assert not buffer.full(0)


def test_a_repeat_of_a_closed_epoch_is_dropped() -> None:
    buffer = ExampleBuffer(1, 4)
    buffer.put(0, 0, example("a", 0, 4))
    buffer.put(0, 1, EpochEnd(5, 0))
    assert buffer.close() == []


def test_examples_are_restored_from_bytes() -> None:
    some = [example("a", 1, 0), example("b", 2, 0)]
    assert examples.from_bytes(examples.to_bytes(some)) == some


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": Tensor.of(np.arange(1), "<i8")},
        {"items": Tensor.of(np.arange(4), "<i8")},
        {"items": Tensor.of(np.ones((5, 1)), "<i8")},
        {"clicks": Tensor.of(np.ones(3), "<f4")},
        {"r_t": Tensor.of(np.zeros((5, 3)), "<f2")},
        {"r_n": Tensor.of(np.full((5, 2), np.nan), "<f2")},
        {"r_n": Tensor("<f2", (5, 2), b"\0")},
    ],
)
def test_an_example_whose_shapes_do_not_fit_is_refused(wrong: dict[str, Tensor]) -> None:
    examples.check(example("a", 0, 0), dim=2)
    with pytest.raises(RecordError):
        examples.check(example("a", 0, 0, **wrong), dim=2)
