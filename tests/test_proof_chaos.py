"""The short form of `make chaos`: a few schedules of kill -9 on a real Kafka, and how schedules and rows are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.chaos import Kill, Schedule, chaos
from benchmarks.faults.whole_run import ROLES, good


def test_a_schedule_is_drawn_from_its_number_and_the_seed_alone() -> None:
    drawn = [Schedule.draw(number, 1) for number in range(1, 101)]
    assert drawn == [Schedule.draw(number, 1) for number in range(1, 101)]
    assert drawn != [Schedule.draw(number, 2) for number in range(1, 101)]
    three = [schedule for schedule in drawn if schedule.brokers == 3]
    assert len(three) == 30
    assert all(any(kill.role == "broker" for kill in schedule.kills) for schedule in three)
    assert {kill.role for schedule in drawn for kill in schedule.kills} == {*ROLES, "broker"}


@pytest.mark.parametrize(
    "wrong", [{"lost": 1}, {"doubled": 1}, {"digest": "b"}, {"digest": None, "lost": None, "doubled": None}]
)
def test_a_row_is_good_only_if_nothing_is_lost_or_doubled_and_the_digest_is_the_same(wrong: dict[str, object]) -> None:
    row = {"lost": 0, "doubled": 0, "digest": "a", "expected": "a"}
    assert good(row)
    assert not good(row | wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"lost": 1}, {"doubled": 1}, {"differing": 1}, {"verified": "user u"}, {"error": "exit code 1"}, {"lost": None}],
)
def test_a_free_row_is_good_only_if_every_rank_is_explained_by_its_record(wrong: dict[str, object]) -> None:
    row = {"lost": 0, "doubled": 0, "differing": 0, "verified": True}
    assert good(row)
    assert not good(row | wrong)


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1200)  # a run with its kills; how long it takes is the machine's matter
def test_runs_under_kill_come_out_as_if_nobody_had_disturbed_them(
    kafka_home: Path, undisturbed: Path, tmp_path: Path
) -> None:
    roles = ("broker", "device", "learner", "recorder", "coordinator", "retrain", "cloud", "replay")
    kills = (Kill(role, 0.08 * number) for number, role in enumerate(roles))  # no broker when the run begins
    rows = list(chaos(kafka_home, [Schedule(1, 0, 1, 2, tuple(kills))], tmp_path, undisturbed))
    assert [row for row in rows if not good(row)] == []
    assert sum(len(row["kills"]) for row in rows) >= 5  # some may come when its process is between two lives
