"""Options accept the values of the types that the code uses, and parsing them is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace

from deploy.cli.main import main
from deploy.cli.options import FREE_MIN_S, FREE_RATE, TICK_MAX_S, ReplayOptions, for_embedded_broker, paced
from deploy.experiments.commands import Name, called
from deploy.experiments.definitions.catalogue import EXPERIMENTS, TABLE2
from deploy.user_error import UserError
from replay.prepare.plan import TICK_S, Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse


def test_every_experiment_can_be_called_and_only_tuning_borrows_one() -> None:
    assert set(get_args(Name)) == {each.name for each in EXPERIMENTS} | {"tune"}
    assert [called(each.name, EXPERIMENTS) for each in EXPERIMENTS] == list(EXPERIMENTS)  # type: ignore[arg-type]  # a Name
    assert called("tune", EXPERIMENTS) is TABLE2
    with pytest.raises(KeyError, match="window"):
        called("window", (TABLE2,))


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [
        ("run synthetic --exposures none", ("logged", "rated", "simulated")),
        ("run synthetic --on-error none", ("stop", "skip")),
        ("data inspect synthetic --on-error none", ("stop", "skip")),
        ("experiment none --data synthetic", get_args(Name)),
        ("experiment table2 --data synthetic --candidates none", ("uniform", "popularity", "full")),
        ("experiment table2 --data synthetic --positives none", ("rated", "all")),
        ("experiment table2 --data synthetic --min-count none", ("users", "both")),
    ],
)
def test_a_choice_that_there_is_not_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, offered: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(f"'{choice}'" in said for choice in offered)


@pytest.mark.process
def test_the_command_starts_without_torch() -> None:
    code = "import sys, deploy.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_pace_is_a_speed_or_a_rate() -> None:
    for text, pace in (
        ("max", (None, None)),
        ("auto", (None, None)),
        ("3600x", (3600.0, None)),
        ("50/s", (None, 50.0)),
    ):
        parsed = ReplayOptions(speed=text).parsed()
        assert (parsed.speed, parsed.rate) == pace
    with pytest.raises(UserError, match="--speed '0'"):
        ReplayOptions(speed="0/s").parsed()


def test_a_long_replay_sends_fewer_batches_to_the_embedded_broker(tmp_path: Path) -> None:
    plan = prepare(parse("synthetic:users=5,items=20,clicks=4"), Options(), tmp_path)
    assert for_embedded_broker(plan) == plan, "as fast as possible"
    for seconds, tick_s in ((60, TICK_S), (1_000, 0.2), (1_000_000, TICK_MAX_S)):
        by_rate = replace(plan, rate=plan.events / seconds)
        by_speed = replace(plan, speed=plan.shift / 1000 / seconds)
        for paced_plan in (by_rate, by_speed):
            assert for_embedded_broker(paced_plan).tick_s == pytest.approx(tick_s)


def test_a_free_running_replay_is_slow_enough_to_learn_from_unless_a_pace_is_given(tmp_path: Path) -> None:
    small = prepare(parse("synthetic:users=5,items=20,clicks=4"), Options(), tmp_path)
    large = replace(small, loops=1_000_000)
    assert paced(small, "auto", lockstep=False).rate == small.events / FREE_MIN_S
    assert paced(large, "auto", lockstep=False).rate == FREE_RATE
    for plan in (small, large):
        assert paced(plan, "auto", lockstep=True) == paced(plan, "max", lockstep=False) == plan
