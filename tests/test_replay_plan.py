"""From a source to a plan: what is kept, what is made again, and what can't be planned."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from replay.errors import SourceError
from replay.faults import Faults
from replay.prepare.plan import LOG, PLAN, Options, Plan, read_plan
from replay.prepare.prepare import prepare
from replay.send.replayer import digest
from replay.sources.source import parse
from streams.records import Kind
from tests.support.logs import HEADER, write

ROWS = "".join(
    f"u{n % 7},i{n % 11},{1_600_000_000 + 60 * (n * 37 % 400)},{'click' if n % 3 else 'exposure'}\n" for n in range(400)
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", HEADER + ROWS)


def planned(log: Path, folder: Path | None = None, **options: object) -> Plan:
    return prepare(parse(f"log:{log}"), Options(**options), folder or log.parent / "plan")


def test_a_plan_says_what_the_log_holds_and_where_its_epochs_end(log: Path) -> None:
    plan = planned(log, epoch="100")
    assert (plan.events, plan.contents.users, plan.contents.items, plan.epochs) == (400, 7, 11, 4)
    assert plan.contents.clicks + plan.contents.exposures == 400
    assert plan.contents.exposures_logged
    assert plan.ends == (100, 200, 300, 400)
    assert pq.read_table(plan.path)["time"].to_pylist() == sorted(pq.read_table(plan.path)["time"].to_pylist())


def test_the_order_of_the_file_does_not_matter_but_among_ties(log: Path) -> None:
    lines = ROWS.splitlines(keepends=True)
    by_time = sorted(lines, key=lambda line: int(line.split(",")[2]))
    other = write(log.parent / "other.csv", HEADER + "".join(by_time))
    assert pq.read_table(planned(other, log.parent / "other").path).equals(pq.read_table(planned(log).path))


def test_a_plan_is_used_again_and_made_again_where_the_source_or_a_choice_changed(log: Path) -> None:
    first = planned(log)
    made = first.path.stat().st_mtime_ns
    assert planned(log) == first
    assert first.path.stat().st_mtime_ns == made
    assert planned(log, epoch="100").path.stat().st_mtime_ns == made, "epochs are no matter of the order"
    assert planned(log, limit=100).events == 100
    assert planned(log) == first
    log.write_text(HEADER + ROWS + "new,i1,1600000000,click\n")
    os.utime(log, ns=(1, 1))
    assert planned(log).contents.users == 8


def test_what_was_half_made_is_made_again(log: Path) -> None:
    first = planned(log)
    (first.path.parent / "plan.json").unlink()
    first.path.write_bytes(b"half")
    assert planned(log) == first


def test_skipped_rows_are_in_the_plan_also_when_it_is_used_again(log: Path) -> None:
    log.write_text(HEADER + ROWS + "u,i,nan,click\nu,i,1600000000,klick\nu,i,1600000000,klick\n")
    for _ in range(2):
        plan = planned(log, on_error="skip")
        assert plan.refused == {"time is not a finite number": 1, "unknown event kind": 2}
        assert [text.partition(", ")[2] for text in plan.refused_first] == [
            "line 402: time is not a finite number ('nan')",
            "line 403: unknown event kind ('klick')",
            "line 404: unknown event kind ('klick')",
        ]
    with pytest.raises(SourceError, match="line 402"):
        planned(log)


def test_nothing_is_left_behind_where_a_log_could_not_be_read(log: Path) -> None:
    log.write_text(HEADER + ROWS + "bad\n")
    with pytest.raises(SourceError, match="line 402"):
        planned(log)
    assert list((log.parent / "plan").iterdir()) == []


def test_a_log_of_bad_rows_only_is_an_error_also_when_they_may_be_skipped(log: Path) -> None:
    log.write_text(HEADER + "a,b,c,click\nd\n")
    with pytest.raises(SourceError, match=r"no row could be read; 2 were refused, the first: .*line 2"):
        planned(log, on_error="skip")


@pytest.mark.parametrize("options", [{"start": 10**15}, {"end": 1}])
def test_a_choice_that_leaves_nothing_is_an_error(log: Path, options: dict[str, int]) -> None:
    with pytest.raises(SourceError, match="exclude all of 400 rows"):
        planned(log, **options)


@pytest.mark.parametrize("options", [{"limit": 0}, {"users": 0}, {"loops": 0}])
def test_numbers_below_one_are_refused(log: Path, options: dict[str, int]) -> None:
    with pytest.raises(SourceError, match="at least 1"):
        planned(log, **options)


def test_loops_repeat_events_and_epochs(log: Path) -> None:
    once, thrice = planned(log, epoch="100"), planned(log, epoch="100", loops=3)
    assert (thrice.events, thrice.epochs) == (3 * once.events, 3 * once.epochs)
    assert thrice.shift == once.contents.last - once.contents.first + 1


def test_from_and_to_are_times_of_impression_groups(log: Path) -> None:
    middle = 1_600_000_000_000 + 60_000 * 200
    early, late = planned(log, end=middle).contents, planned(log, start=middle).contents
    assert early.rows + late.rows == 400
    assert early.last < middle <= late.first


def test_simulated_exposures_are_of_the_seed_and_logged_ones_are_not(tmp_path: Path) -> None:
    clicks = write(tmp_path / "log.csv", HEADER + ROWS.replace("exposure", "click"))

    def log_of(seed: int, policy: str) -> object:
        return pq.read_table(planned(clicks, tmp_path / f"{seed}{policy}", seed=seed, exposures=policy).path)

    assert log_of(1, "simulated").equals(log_of(1, "simulated"))
    assert not log_of(1, "simulated").equals(log_of(2, "simulated"))
    assert log_of(1, "logged").equals(log_of(2, "logged"))
    contents = planned(clicks, tmp_path / "again", exposures="simulated").contents
    assert contents.exposures > 0
    assert not contents.exposures_logged
    assert Kind.EXPOSURE in log_of(1, "simulated")["kind"].to_pylist()


def test_the_digest_tells_plans_apart(log: Path) -> None:
    plan = planned(log)
    others = [planned(log, epoch="7"), planned(log, loops=2), planned(log, limit=100)]
    others.append(replace(plan, contents=replace(plan.contents, ties=10**6)))
    assert len({digest(one) for one in [plan, *others]}) == 5
    assert digest(planned(log)) == digest(plan)


def test_a_plan_stands_in_the_folder_it_was_asked_for(log: Path, tmp_path: Path) -> None:
    assert planned(log, tmp_path / "a" / "b").path == tmp_path / "a" / "b" / LOG


def test_a_prepared_plan_is_read_as_it_was_made_and_moves_with_its_folder(log: Path, tmp_path: Path) -> None:
    plan = planned(log, epoch="100", faults=Faults(lost=0.1, hostile=2), speed=10.0, seed=7)
    assert read_plan(log.parent / "plan") == plan
    moved = (log.parent / "plan").rename(tmp_path / "moved")
    assert read_plan(moved) == replace(plan, folder=str(moved))
    assert digest(read_plan(moved)) == digest(plan)


@pytest.mark.parametrize("missing", [PLAN, LOG])
def test_a_folder_without_a_complete_plan_is_a_sentence(log: Path, missing: str) -> None:
    folder = planned(log).path.parent
    (folder / missing).unlink()
    with pytest.raises(SourceError, match="holds no prepared plan"):
        read_plan(folder)
