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


# candidate rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("return draw.catalogue", "draws the clicked item|draws 300 items"),
        ("return [5, 5]", "an item twice"),
        ("return [draw.target]", "draws the clicked item"),
        ("return [-5]", "not in the catalogue"),
        ("return ['a']", "a list of item keys is needed"),
        ("return draw.catalogue[draw.catalogue != draw.target]", "draws 299 items where 99 are asked for"),
        ("draw.catalogue[0] = 1", "read-only"),
        (
            "import numpy; return numpy.random.permutation(draw.catalogue[draw.catalogue != draw.target])[:50]",
            "draws others",
        ),
        ("raise KeyError(draw.user)", "KeyError: 'user 1'"),
    ],
)
def test_a_candidate_rule_that_breaks_a_law_is_refused(folder: Path, code: str, sentence: str) -> None:
    write(folder, f"def own(draw):\n    {code}\n")
    with pytest.raises(PluginError, match=sentence):
        setting(candidates="own:own")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def __call__(self, seen): return [0.0]", r"of shape \(1,\) for 70 candidates"),
        ("def __call__(self, seen): return ['a'] * len(seen.candidates)", "for 70 candidates"),
        ("def __call__(self, seen): return [float('inf')] * len(seen.candidates)", "not finite"),
        ("def __call__(self, seen): return range(len(seen.candidates))", "on the other candidates"),
        ("n = 0\n    def __call__(self, seen): self.n += 1; return seen.candidates * 0 + self.n", "earlier calls"),
        ("def __call__(self, seen): return seen.candidates - seen.candidates.mean()", "on the other candidates"),
        ("def __call__(self, seen): seen.candidates.sort(); return seen.candidates", "read-only"),
        ("def __init__(self, needed): pass", "TypeError"),
        ("pass", "neither a function nor a class with __call__"),
    ],
)
def test_a_variant_that_breaks_a_law_is_refused(folder: Path, body: str, sentence: str) -> None:
    write(folder, f"class Own:\n    {body}\n")
    with pytest.raises(PluginError, match=sentence):
        setting(variants=["own:Own"])


# runs ---------------------------------------------------------------------------------------------------------------


def test_metric_candidates_and_variant_are_the_same_online_offline_and_verified(
    engine: sa.Engine, folder: Path
) -> None:
    for name in ("auc", "unclicked", "last_click"):
        (folder / f"{name}.py").write_bytes((EXAMPLES / f"{name}.py").read_bytes())
    (folder / "more").mkdir()
    code = (EXAMPLES / "last_click.py").read_text().replace("class LastClick", "class Twice")
    (folder / "more" / "last_click.py").write_text(code)
    text = setting(candidates="unclicked:unclicked", variants=["last_click:LastClick"], metrics=["auc:auc"])
    settings = SMALL.model_copy(update={"plugins": text, "exposures": "rated"})
    a_recorded_run(engine, settings)
    found = rescore(
        engine, settings.run, extra_plugins=setting(variants=["more.last_click:Twice"], metrics=["auc:auc"])
    )
    assert found.differences == [], "a variant that the run did not have is none"
    assert found.metrics["LastClick"]["n"] == found.metrics["mc2sf"]["n"] > 20
    assert found.metrics["Twice"] == found.metrics["LastClick"]
    means = found.plugin_metrics["auc"]
    assert means.keys() == found.metrics.keys()
    assert means["random"].n == found.metrics["random"]["n"]

    def summary(by_random: float) -> dict[str, object]:
        online = {v: by_random if v == "random" else mean.value for v, mean in means.items() if v != "Twice"}
        return {"plugin_metrics": {"auc": {v: {"online": value} for v, value in online.items()}}}

    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(summary=summary(means["random"].value)))
    verified = verify(engine, settings, sample=3).metrics
    assert verified["LastClick"]["mrr"] == found.metrics["LastClick"]["mrr"]
    assert {v: values["auc"] for v, values in verified.items()} == {
        v: m.value for v, m in means.items() if v != "Twice"
    }
    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(summary=summary(0.1)))
    with pytest.raises(DifferenceFound, match="auc"):
        verify(engine, settings)
    without_rule = " ".join(word for word in text.split() if not word.startswith("candidates"))
    with pytest.raises(DifferenceFound, match="candidates"):
        verify(engine, settings.model_copy(update={"plugins": without_rule}))
    o = schema.outcomes.c
    with engine.begin() as connection:
        row = connection.execute(sa.select(o.user, o.seq, o.ranks).order_by(o.user, o.seq).limit(1)).one()
        changed = row.ranks | {"LastClick": row.ranks["LastClick"] % 2 + 1}
        which = (o.user == row.user) & (o.seq == row.seq)
        connection.execute(sa.update(schema.outcomes).where(which).values(ranks=changed))
    with pytest.raises(DifferenceFound, match="rank by LastClick"):
        verify(engine, settings)
