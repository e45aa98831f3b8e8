from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from replay.prepare.plan import TICK_S
from replay.send.clock_file import ClockFile, ReplayChange, ReplayControl
from replay.send.virtual_clock import VirtualClock


class Wall:
    """A wall clock that stands until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1


def clock(speed: float | None, tick_s: float = TICK_S) -> tuple[VirtualClock, Wall]:
    wall = Wall()
    return VirtualClock(speed, tick_s=tick_s, time=wall, sleep=wall.sleep), wall


def nothing() -> None:
    pass


def test_event_time_runs_speed_times_as_fast_as_the_wall() -> None:
    virtual, wall = clock(60)
    virtual.begin(1_000_000)
    wall.now += 2
    assert virtual.reached() == 1_000_000 + 120_000


def test_an_event_is_due_when_its_time_has_come_and_not_before() -> None:
    virtual, wall = clock(10)
    virtual.wait(0, nothing)
    assert not wall.slept
    looks: list[float] = []
    virtual.wait(5_000, lambda: looks.append(virtual.reached()))
    assert looks
    assert max(looks) < 5_000 <= virtual.reached() < 5_000 + 2 * 1000 * TICK_S * 10


def test_a_longer_tick_reads_the_clock_more_rarely() -> None:
    virtual, wall = clock(10, tick_s=10 * TICK_S)
    virtual.wait(0, nothing)
    virtual.wait(10_000, nothing)
    assert wall.slept == pytest.approx(1 / (10 * TICK_S), abs=1)


def test_without_a_speed_everything_is_due_at_once() -> None:
    virtual, wall = clock(None)
    assert virtual.reached() == -math.inf
    virtual.wait(10**12, nothing)
    virtual.wait(10**15, nothing)
    assert virtual.reached() == math.inf
    assert not wall.slept


@pytest.mark.parametrize("speed", [None, 10.0])
def test_a_pause_holds_event_time_and_nothing_is_due_until_it_ends(speed: float | None) -> None:
    virtual, wall = clock(speed)
    virtual.begin(0)
    wall.now += 1
    virtual.pause()
    virtual.pause()  # once more is no more
    stood = virtual.reached()
    wall.now += 1000
    assert virtual.reached() == stood
    looks = 0

    def resume_at_the_third_look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            assert virtual.paused
            virtual.resume()

    virtual.wait(0, resume_at_the_third_look)
    assert looks == 3
    assert not virtual.paused
    if speed is not None:
        assert virtual.reached() == pytest.approx(stood + 1000 * TICK_S * speed)


def test_a_signal_pauses_and_the_next_one_resumes() -> None:
    virtual, _ = clock(1)
    virtual.toggle(10, None)
    assert virtual.paused
    virtual.toggle(10, None)
    assert not virtual.paused


def test_only_the_first_begin_counts() -> None:
    virtual, _ = clock(1)
    virtual.begin(500)
    virtual.begin(9_000)
    assert virtual.reached() == 500


@pytest.mark.parametrize("speed", [0, -1, math.nan, math.inf])
def test_a_speed_is_a_positive_number(speed: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        VirtualClock(speed)


def test_another_speed_applies_from_now_on_also_from_no_limit_and_while_paused() -> None:
    virtual, wall = clock(60)
    virtual.begin(0)
    wall.now += 1
    virtual.set_speed(2)
    wall.now += 1
    assert virtual.reached() == 62_000
    virtual.pause()
    virtual.set_speed(10)
    wall.now += 5
    assert virtual.reached() == 62_000
    virtual.resume()
    wall.now += 1
    assert virtual.reached() == 72_000
    virtual.set_speed(None)
    virtual.wait(500_000, nothing)
    virtual.set_speed(1)
    assert virtual.reached() == 500_000, "it goes on from the event that was sent last"
    with pytest.raises(ValueError, match="positive"):
        virtual.set_speed(0)


def test_a_file_pauses_a_clock_and_sets_its_speed_once_each_time_it_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    virtual, _ = clock(2)
    file = ClockFile(tmp_path)
    control = file.control(virtual, rate=100)  # 200 events per second
    control()
    assert (virtual.paused, virtual.speed) == (False, 2)
    file.change(ReplayChange(paused=True, speed=50))
    control()
    assert (virtual.paused, virtual.speed) == (True, 0.5)
    virtual.toggle()  # the space bar
    control()
    assert not virtual.paused, "the file was applied before"
    file.change(ReplayChange(paused=False, speed=0))
    control()
    assert virtual.speed is None
    (tmp_path / "clock.json").write_text('{"speed": -1}')
    control()
    assert (virtual.speed, "is ignored" in caplog.text) == (2, True)


def test_a_change_of_the_file_leaves_what_it_does_not_name(tmp_path: Path) -> None:
    file = ClockFile(tmp_path / "new")
    file.change(ReplayChange(speed=50))
    assert file.change(ReplayChange(paused=True)) == ReplayControl(paused=True, speed=50)
    file.change(ReplayChange(paused=False, skip_to=7))
    assert file.read() == ReplayControl(speed=50, skip_to=7)
    file.change(ReplayChange(speed=None, skip_to=0))
    assert file.read() == ReplayControl()


def test_changes_at_the_same_time_are_all_in_the_file(tmp_path: Path) -> None:
    def change(n: int) -> None:
        fields = {"paused": True}, {"speed": 5.0}, {"skip_to": 9}
        ClockFile(tmp_path).change(msgspec.convert(fields[n % 3], ReplayChange))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(300)))
    assert ClockFile(tmp_path).read() == ReplayControl(paused=True, speed=5, skip_to=9)
