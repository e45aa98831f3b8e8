"""Settings: what decides results is marked on each field, and every variable is explained and checked."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from streams.settings import DecidesResults, MethodSettings, Settings

DECISIVE = {
    *(
        "lockstep",
        "seed",
        "exposures",
        "plugins",
        "faults",
        "evaluate",
        "negatives",
        "threshold",
        "window_age_s",
        "carry",
    ),
    *("history_long", "history_short", "dim", "symlog_priors", "stacked", "frozen", "retrain_every", "retrain_events"),
    *("retrain_delay", "learner_delay", "retrain_device", "transitions_every"),
    *("retrain_passes", "retrain_threads", "learning_rate", "online_rate", "batch", "l2", "gate_margin"),
}


class OneMore(MethodSettings):
    """A group with two more fields, before all others of its kind."""

    without: int = Field(1, description="decides nothing")
    within: DecidesResults[float | None] = Field(2.0, gt=0, description="decides results")


class More(OneMore, Settings):
    last_within: DecidesResults[int] = 3
    last_without: int = 4


def test_these_settings_decide_results_and_no_others() -> None:
    assert Settings().semantic().keys() == DECISIVE


def test_a_field_decides_results_by_its_mark_wherever_it_is_declared() -> None:
    assert More().semantic().keys() == DECISIVE | {"within", "last_within"}


def test_a_marked_field_keeps_its_bounds() -> None:
    for wrong in ({"within": 0.0}, {"dim": 6}, {"negatives": 1001}, {"window_age_s": 0}, {"evaluate": -0.1}):
        with pytest.raises(ValidationError):
            More.model_validate(wrong)


def test_every_setting_is_explained() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(run="r7", window_age_s=60, kafka_user="device", seed=9)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC2SF_TRESHOLD", "5")
    with pytest.raises(ValidationError, match="MC2SF_TRESHOLD"):
        Settings()
