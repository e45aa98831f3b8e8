"""A file of one's own is a metric, a candidate rule or a variant of a run; and one that breaks a law is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from streams.database import schema
from streams.database.engine import connect
from streams.plugins.loaded import loaded, setting
from streams.plugins.plugin import PluginError, named
from streams.rescoring.rescore import rescore
from streams.settings import Settings
from streams.verification.differences import DifferenceFound
from streams.verification.verify import verify
from tests.support.simulation import SMALL
from tests.test_streams_rescoring import a_recorded_run

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    connected = connect(settings.database.get_secret_value())
    yield connected
    connected.dispose()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, code: str) -> None:
    (folder / "own.py").write_text(code)


# names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("os:system", r"os\.py: No such file"),
        ("a.b:c:d", "names no metric"),
        ("../x:Y", "names no metric"),
        ("/etc/x:Y", "names no metric"),
        ("own", "names no metric"),
        ("own:", "names no metric"),
        (":Y", "names no metric"),
        ("own:x y", "names no metric"),
        ("own:x\n", "names no metric"),
        ("own:x@" + 64 * "0", "names no metric"),
        ("öwn:x", "names no metric"),
        ("own\0:x", "names no metric"),
        ("n" * 300 + ":x", "too long"),
        ("own:missing", "has no missing"),
        ("own:NUMBER", "neither a function nor a class"),
        ("own:mrr", "the name mrr is taken"),
    ],
)
def test_a_name_that_stands_for_no_plugin_is_refused_with_a_sentence(folder: Path, name: str, sentence: str) -> None:
    write(folder, "NUMBER = 1\ndef mrr(rank, n):\n    return 1.0\n")
    with pytest.raises(PluginError, match=sentence):
        setting(metrics=[name])


@pytest.mark.parametrize("code", ["1 +", "raise ValueError('no')", "import no_such_module"])
def test_a_file_that_fails_is_named(folder: Path, code: str) -> None:
    write(folder, code)
    with pytest.raises(PluginError, match=r"own\.py can't be loaded: \w+Error"):
        setting(metrics=["own:x"])


def test_a_damaged_setting_executes_nothing(folder: Path) -> None:
    write(folder, "raise SystemExit(9)")
    for text in ("metric=own:x", "metric=own:x@12", f"other=own:x@{64 * '0'}", f"metric=../own:x@{64 * '0'}"):
        with pytest.raises(PluginError, match="is needed"):
            loaded(text)
    with pytest.raises(PluginError, match="was changed"):
        loaded(f"metric=own:x@{64 * '0'}")


def test_a_changed_file_is_refused_before_it_runs(folder: Path) -> None:
    write(folder, "def one(rank, n):\n    return 1.0\n")
    text = setting(metrics=["own:one"])
    assert hashlib.sha256((folder / "own.py").read_bytes()).hexdigest() in text
    loaded.cache_clear()
    write(folder, "raise SystemExit(9)")
    with pytest.raises(PluginError, match=r"own\.py was changed: the run began with code of SHA-256"):
        loaded(text.replace("own:one", "own:two"))
    assert named("metric", "own:one").setting != text


# metrics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("return 2.0", "no number between 0 and 1"),
        ("return float('nan')", "no number between 0 and 1"),
        ("return None", "no number between 0 and 1"),
        ("return 'high'", "no number between 0 and 1"),
        ("return rank / n", "a worse rank is worth more"),
        ("import random; return random.random()", "asked again|worse rank"),
        ("return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_metric_that_breaks_a_law_is_refused(folder: Path, code: str, sentence: str) -> None:
    write(folder, f"def own(rank, n):\n    {code}\n")
    with pytest.raises(PluginError, match=sentence):
        setting(metrics=["own:own"])


def test_a_metric_is_the_same_online_offline_and_verified(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    settings = SMALL.model_copy(update={"plugins": setting(metrics=["auc:auc"])})
    a_recorded_run(engine, settings)
    found = rescore(engine, settings.run)
    means = found.plugin_metrics["auc"]
    assert means.keys() == found.metrics.keys()
    assert means["random"].chance == pytest.approx(0.5)
    assert means["random"].n == found.metrics["random"]["n"]
    summary = {"plugin_metrics": {"auc": {v: {"online": mean.value} for v, mean in means.items()}}}
    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(summary=summary))
    verified = verify(engine, settings)
    assert {v: values["auc"] for v, values in verified.metrics.items()} == {v: mean.value for v, mean in means.items()}
    summary["plugin_metrics"]["auc"]["mc2sf"]["online"] /= 2
    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(summary=summary))
    with pytest.raises(DifferenceFound, match="auc"):
        verify(engine, settings)
    assert rescore(engine, settings.run, more=loaded(setting(metrics=["auc:auc"]))).plugin_metrics == {"auc": means}
