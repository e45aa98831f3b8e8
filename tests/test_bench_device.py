"""The benchmark of the device compares like with like: the naive agent comes to what the worker comes to."""

from __future__ import annotations

import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.device.compare import OTHERS, PER_RECORD, result
from benchmarks.device.naive import NaiveDevice
from benchmarks.device.records import Workload
from benchmarks.device.stopwatch import applied, pace
from models.mc2sf.tiled_scorer import Scorer
from streams.records import NegativeMemory, Uplink, Versions
from streams.release_records import Manifest
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.device import DeviceState, user_key
from streams.state.row_codec import decode_row
from streams.topics import DEVICE_UPLINK
from tests.support.simulation import Simulation

WORKLOAD = Workload(events=900, users=6, items=40)
FREE = Settings(run="sim", partitions=2, lockstep=False, evaluate=0.0)
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def release() -> Release:
    nets, catalogue = WORKLOAD.nets(FREE)
    manifest = Manifest(0, 0, "initial", Versions(), -1, 0, catalogue.size, "", {}, {}, {})
    return Release(manifest, nets, Scorer(nets), catalogue)


def naive(per_record: int) -> tuple[dict[str, DeviceState], list[NegativeMemory]]:
    device, states, sent = NaiveDevice(FREE, release()), dict[str, DeviceState](), []
    for batch in WORKLOAD.batches(per_record):
        state = states.setdefault(batch.user, DeviceState())
        sent += [device.apply(state, batch, i) for i in range(len(batch.items))]
    return states, [memory for memory in sent if memory is not None]


def worker(per_record: int) -> tuple[dict[str, DeviceState], list[NegativeMemory]]:
    simulation = Simulation(FREE, {0: release()}, random.Random(1))
    simulation.send(*WORKLOAD.batches(per_record))
    simulation.settle()
    users = {batch.user for batch in WORKLOAD.batches(per_record)}
    states = {user: decode_row(simulation.device.rows[user_key(user)], DeviceState) for user in users}
    return states, list(chain(*simulation.topics.read(DEVICE_UPLINK, Uplink)))


def without(record: Any, *names: str) -> dict[str, Any]:
    return {k: v for k, v in msgspec.structs.asdict(record).items() if k not in names}


def close(some: bytes, others: bytes) -> bool:
    return len(some) == len(others) and np.allclose(np.frombuffer(some, "<f4"), np.frombuffer(others, "<f4"), 0, 1e-5)


@pytest.mark.parametrize("per_record", PER_RECORD)
def test_the_naive_agent_uploads_the_workers_r2_and_keeps_its_state(per_record: int) -> None:
    (states, sent), (expected, uplink) = naive(per_record), worker(per_record)
    assert len(sent) > 60
    by_window = {(memory.user, memory.window): memory for memory in uplink}
    assert len(by_window) == len(sent) == len(uplink)
    for memory in sent:
        other = by_window[memory.user, memory.window]
        assert without(memory, "r2") == without(other, "r2")
        assert close(memory.r2.data, other.r2.data)
    assert set(states) == set(expected)
    for user, state in states.items():
        assert without(state, "gru_state", "r2") == without(expected[user], "gru_state", "r2")
        assert close(state.gru_state, expected[user].gru_state)
        assert close(state.r2, expected[user].r2)


def test_records_of_one_and_of_three_events_hold_the_same_events_in_the_same_order() -> None:
    def events(per_record: int) -> list[tuple[Any, ...]]:
        return [
            (b.user, b.seq + i, b.items[i], b.kinds[i], b.times[i])
            for b in WORKLOAD.batches(per_record)
            for i in range(len(b.items))
        ]

    assert events(1) == events(3)
    assert len(events(1)) == WORKLOAD.events


def test_the_pace_is_that_after_the_warm_up_and_a_line_half_written_is_not_read(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    assert applied(notes) == 0
    notes.write_text("0.0 0.0 5\n10.0 1.0 100\n12.0 2.0 500\n14.0 3.0 900\n")
    assert (pace(notes, 1000).events_per_second, pace(notes, 1000).events_per_cpu_second) == (200.0, 400.0)
    notes.write_text("10.0 1.0 100\n12.0 2.0")
    assert applied(notes) == 100


def test_ratios_are_medians_within_a_repeat() -> None:
    def row(n: int, worker: float, other: float) -> dict[str, Any]:
        speed = {"events_per_second": worker, "events_per_cpu_second": worker}
        rest = {"events_per_second": other, "events_per_cpu_second": other}
        return {"per_record": n, "worker": speed} | dict.fromkeys(OTHERS, rest)

    made = result([row(n, *pair) for n in PER_RECORD for pair in ((100, 10), (40, 20), (90, 30))])
    assert made["events_per_second"] == 90
    assert made["vs_naive"] == made["per_record"]["1"]["vs_naive"] == 3.0


def test_the_committed_result_is_that_of_its_repeats_and_keeps_the_target() -> None:
    kept = json.loads((BENCHMARKS / "device" / "device.json").read_text())
    assert kept["result"] == result(kept["repeats"])
    assert kept["result"]["vs_naive"] >= 3


def test_the_table_in_the_readme_is_the_committed_result() -> None:
    kept = json.loads((BENCHMARKS / "device" / "device.json").read_text())["result"]["per_record"]
    text = (BENCHMARKS / "README.md").read_text()
    for n in map(str, PER_RECORD):
        walls = " | ".join(str(kept[n][f"vs_{which}"]) for which in OTHERS)
        cpus = " | ".join(str(kept[n][f"vs_{which}_by_cpu"]) for which in OTHERS)
        assert f"| {n} | {kept[n]['events_per_second']:,.0f} | {walls} |" in text
        assert f"| {n}, by CPU time | | {cpus} |" in text
