"""The rescoring beside the last retrain: when it starts, and what becomes of its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from rich.console import Console

from deploy.local.child_process import Child
from deploy.local.early_rescoring import EarlyRescoring
from deploy.local.supervisor import Supervisor
from streams.database import schema
from streams.rescoring import rescore
from streams.settings import Settings

LOCKSTEP = Settings(run="r", lockstep=True)


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    """A supervisor without processes."""
    return Supervisor(tmp_path)


def with_learner(supervisor: Supervisor) -> Child:
    learner = Child("learner", [], {}, supervisor.folder / "learner.log")
    supervisor.children["learner"] = learner
    return learner


def record(engine: sa.Engine, *, over: bool) -> None:
    row = {"run": LOCKSTEP.run, "role": "recorder", "epoch": 3, "time": 0, "over": over}
    with engine.begin() as connection:
        connection.execute(schema.progress.insert().values(row))


def test_it_starts_as_soon_as_the_log_is_recorded_and_the_learner_is_left_to_end(
    engine: sa.Engine, supervisor: Supervisor
) -> None:
    learner = with_learner(supervisor)
    record(engine, over=True)
    early = EarlyRescoring.start(engine, LOCKSTEP, supervisor)
    assert early is not None
    assert not learner.restart
    early.result(Console(quiet=True))


def test_it_does_not_start_before(engine: sa.Engine, supervisor: Supervisor) -> None:
    learner = with_learner(supervisor)
    assert EarlyRescoring.start(engine, LOCKSTEP, supervisor) is None
    record(engine, over=False)
    assert EarlyRescoring.start(engine, LOCKSTEP, supervisor) is None
    assert learner.restart


@pytest.mark.parametrize("change", [{"frozen": True}, {"lockstep": False}])
def test_a_run_that_waits_for_no_retrain_has_none(
    engine: sa.Engine, supervisor: Supervisor, change: dict[str, bool]
) -> None:
    record(engine, over=True)
    assert EarlyRescoring.start(engine, LOCKSTEP.model_copy(update=change), supervisor) is None


def test_an_error_of_the_early_rescoring_is_left_to_the_one_after_the_end(engine: sa.Engine) -> None:
    assert EarlyRescoring(engine, "absent").result(Console(quiet=True)) is None
    with pytest.raises(LookupError, match="absent"):
        rescore.rescore(engine, "absent")
