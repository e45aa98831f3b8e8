"""Device and cloud together, without a broker: outcomes depend on the log, not on batches or crashes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.servers.releases import release
from streams.records import (
    DeadLetter,
    DeviceBatch,
    EndOfLog,
    EpochBegin,
    EpochEnd,
    ExampleEvent,
    FastExample,
    NegativeMemory,
    Outcome,
    OutcomeEvent,
    RankRequest,
    Uplink,
)
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, DEVICE_UPLINK, FAST_EXAMPLES, OUTCOMES
from tests.support.simulation import SMALL, Simulation, outcomes, without_offsets

EPOCHS = 4
RELEASES = {0: release(SMALL, 0, 12), 1: release(SMALL, 1, 20), 2: release(SMALL, 2, 20, encoder=1)}
IN_FORCE = (0, 0, 1, 2)


def event_log(chance: random.Random, *, users: int = 4, batches: int = 40) -> list[list[DeviceBatch]]:
    """Return batches of whole impression groups for each epoch."""
    seqs: dict[str, int] = {}
    time, impression, epochs = 0, 0, []
    for _ in range(EPOCHS):
        epoch = []
        for _ in range(batches // EPOCHS):
            user = f"u{chance.randrange(users)}"
            items, kinds, impressions = [], [], []
            for _ in range(chance.randrange(1, 4)):
                size, impression = chance.randrange(1, 5), impression + 1
                items += [str(chance.randrange(1, 24)) for _ in range(size)]
                kinds += [chance.choice((0, 0, 0, 1, 1, 2, 3)) for _ in range(size)]
                impressions += [impression if size > 1 else 0] * size
            times = [time := time + chance.randrange(1000) for _ in items]
            epoch.append(DeviceBatch(user, seqs.get(user, 0), items, bytes(kinds), times, impressions))
            seqs[user] = seqs.get(user, 0) + len(items)
        epochs.append(epoch)
    return epochs


def recut(batches: list[DeviceBatch], chance: random.Random) -> list[DeviceBatch]:
    """Return the same events in other batches, cut between impression groups."""
    smaller = []
    for b in batches:
        starts = [
            i for i in range(1, len(b.items)) if b.impressions[i] == 0 or b.impressions[i] != b.impressions[i - 1]
        ]
        cuts = [0, *sorted(i for i in starts if chance.random() < 0.5), len(b.items)]
        for i, j in pairwise(cuts):
            columns = b.items[i:j], b.kinds[i:j], b.times[i:j], b.impressions[i:j]
            smaller.append(DeviceBatch(b.user, b.seq + i, *columns))
    return smaller


def simulate(
    epochs: list[list[DeviceBatch]], seed: int, crashes: float, how: Settings = SMALL, *, cut: bool = False
) -> Simulation:
    chance = random.Random(seed)
    simulation = Simulation(how, RELEASES, chance, crashes)
    for epoch, batches in enumerate(epochs):
        simulation.send_marker(EpochBegin(epoch, IN_FORCE[epoch], epoch))
        simulation.send(*(recut(batches, chance) if cut else batches))
        simulation.send_marker(EpochEnd(epoch, epoch))
        simulation.settle()
    simulation.send_marker(EndOfLog(EPOCHS - 1, EPOCHS, 0))
    simulation.settle()
    return simulation


VARIANTS = {
    "windows from zero": SMALL,
    "state carried over windows": SMALL.model_copy(update={"carry": True}),
    "windows closed by age": SMALL.model_copy(update={"window_age_s": 2.0}),
    "sampled slates": SMALL.model_copy(update={"exposures": "simulated", "evaluate": 0.5}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32), batches=st.just(28))
# older r2's come again, then the cloud dies before it has committed: a request comes twice
@example(seed=16777216, batches=40)
def test_outcomes_and_states_are_the_same_for_any_batches_envelopes_and_crashes(
    variant: str, seed: int, batches: int
) -> None:
    how = VARIANTS[variant]
    epochs = event_log(random.Random(seed), batches=batches)
    calm = simulate(epochs, seed, 0.0, how.model_copy(update={"envelopes": False}))
    wild = simulate(epochs, seed + 1, 0.3, how, cut=True)
    assert outcomes(wild.topics) == outcomes(calm.topics)
    assert without_offsets(wild.device.rows) == without_offsets(calm.device.rows)
    assert wild.cloud.rows == calm.cloud.rows


def test_every_click_has_an_outcome_and_nothing_waits_at_the_end() -> None:
    epochs = event_log(random.Random(3))
    done = simulate(epochs, 3, 0.0)
    clicks = {(b.user, b.seq + i) for batches in epochs for b in batches for i, kind in enumerate(b.kinds) if kind == 1}
    assert set(outcomes(done.topics)) == clicks
    assert not [key for key in done.device.rows if b"\0" in key[1:] and not key.startswith(b"\0")]
    assert done.topics.read(DEAD_LETTERS, DeadLetter) == [[]]


def test_a_marker_is_sent_on_only_after_the_answers_to_what_was_before_it() -> None:
    done = simulate(event_log(random.Random(5)), 5, 0.3)
    for topic, kinds in ((OUTCOMES, OutcomeEvent), (FAST_EXAMPLES, ExampleEvent)):
        for records in done.topics.read(topic, kinds):
            ended, seen = -1, set()
            for record in records:
                if isinstance(record, EpochEnd):
                    ended = max(ended, record.epoch)
                elif isinstance(record, Outcome | FastExample):
                    assert record.epoch > ended or (record.user, record.seq) in seen
                    seen.add((record.user, record.seq))
            assert ended == EPOCHS - 1
            assert any(isinstance(record, EndOfLog) for record in records)


def test_what_a_request_must_see_precedes_it() -> None:
    done = simulate(event_log(random.Random(7), batches=120), 7, 0.3)
    named = 0
    for records in done.topics.read(DEVICE_UPLINK, Uplink):
        sent = set()
        for record in records:
            if isinstance(record, NegativeMemory):
                sent.add((record.user, record.window, record.encoder))
            elif isinstance(record, RankRequest) and record.window:
                assert (record.user, record.window, record.versions.encoder) in sent
                named += 1
    assert named
    assert all(
        o.window == r.window for o in outcomes(done.topics).values() for r in _requests(done) if _id(o) == _id(r)
    )


def _id(record: Outcome | RankRequest) -> tuple[str, int]:
    return record.user, record.seq


def _requests(done: Simulation) -> list[RankRequest]:
    return [r for records in done.topics.read(DEVICE_UPLINK, Uplink) for r in records if isinstance(r, RankRequest)]


def test_histories_windows_and_r2s_are_those_of_a_naive_implementation() -> None:
    epochs = event_log(random.Random(11), batches=120)
    done = simulate(epochs, 11, 0.2)
    found = outcomes(done.topics)
    memories = {
        (m.user, m.window, m.encoder): m.r2.array()
        for records in done.topics.read(DEVICE_UPLINK, Uplink)
        for m in records
        if isinstance(m, NegativeMemory)
    }
    checked = 0
    for user in {b.user for batches in epochs for b in batches}:
        for seq, expected in naive(user, epochs):
            outcome = found[user, seq]
            assert (outcome.window, outcome.history) == (expected.window, expected.history)
            assert outcome.r2_age == (expected.time - expected.closed if expected.window else 0)
            if expected.window:
                scorer, catalogue = RELEASES[expected.release].scorer, RELEASES[expected.release].catalogue
                state = np.zeros((1, SMALL.dim), np.float32)
                for item in expected.items:
                    state = scorer.step(state, catalogue.rows([item]))
                encoder = RELEASES[expected.release].manifest.versions.encoder
                assert np.array_equal(memories[user, expected.window, encoder], state[0])
                checked += 1
    assert checked > 20


class Expected(NamedTuple):
    """The inputs that a click is ranked with."""

    window: int
    closed: int
    items: list[int]  # of the closed window
    history: int
    time: int
    release: int


def naive(user: str, epochs: list[list[DeviceBatch]]) -> Iterator[tuple[int, Expected]]:
    """Yield what each click is ranked with, by a second and simple implementation: lists of all events so far."""
    shown: list[tuple[int, int]] = []
    clicked, earlier = 0, 0
    for epoch, batches in enumerate(epochs):
        earlier = clicked
        for b in batches:
            for i in range(len(b.items) if b.user == user else 0):
                if i == 0 or not b.impressions[i] or b.impressions[i] != b.impressions[i - 1]:
                    closed = len(shown) // SMALL.threshold * SMALL.threshold
                    last = shown[closed - SMALL.threshold : closed] if closed else []
                    seen = Expected(
                        window=closed // SMALL.threshold,
                        closed=last[-1][1] if last else 0,
                        items=[item for item, _ in last],
                        history=min(earlier, SMALL.history_long),
                        time=b.times[i],
                        release=IN_FORCE[epoch],
                    )
                    start = i
                if b.kinds[i] == 1:
                    yield b.seq + i, seen
                # applied at the end of the group: no click of it sees them
                if i + 1 == len(b.items) or not b.impressions[i] or b.impressions[i + 1] != b.impressions[i]:
                    for j in range(start, i + 1):
                        if b.kinds[j] == 0:
                            shown.append((int(b.items[j]), b.times[j]))
                        clicked += b.kinds[j] in (1, 3)
