"""Runs are compared in pairs where their clicks are the same, and several seeds are run and kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from deploy.analysis.comparison import Comparison, compare, distinct_names
from deploy.analysis.reading import read_clicks
from deploy.analysis.seeds import SEEDS_FILE, read_seeds_file, run_seeds, seed_folder
from deploy.cli.main import app
from deploy.report.summary import METRICS
from deploy.user_error import UserError
from tests.support.report import quality, summary
from tests.support.runs import CLICKS, finished, outcomes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: `a`; `better`, of the same clicks; `other`, other lists; `part`, `later`, of other times; `few` users."""
    folder = tmp_path_factory.mktemp("runs")
    rows = outcomes("r")
    finished(folder / "a", summary(run="r"), rows)
    finished(folder / "better", summary(run="r"), outcomes("r", seed=2, best=5))
    finished(folder / "other", summary(run="r"), [row | {"candidates": LIST_OF_TWO} for row in rows])
    finished(folder / "part", summary(run="r"), [row | {"time": 7_000_000 + row["time"]} for row in rows[::2]])
    later = [row | {"time": 7_000_000 + row["time"]} for row in outcomes("r", seed=2, best=5)]
    finished(folder / "later", summary(run="r"), later)
    finished(folder / "few", summary(run="r"), outcomes("r", users=4))
    return folder


LIST_OF_TWO = bytes(16)


def compared(folder: Path, *names: str) -> Comparison:
    return compare([(name, read_clicks(str(folder / name))) for name in names])


def test_the_same_clicks_are_compared_in_pairs(folder: Path) -> None:
    (found,) = compared(folder, "a", "better").differences
    assert found.paired
    assert found.clicks == found.same_candidates == 60 * CLICKS
    assert found.variants["mc2sf"]["ndcg@10"].verdict == "higher"
    assert found.variants["fast"]["ndcg@10"].verdict == "not distinguishable"
    assert "with the same candidates" in found.explanation


def test_a_run_differs_from_itself_by_nothing(folder: Path) -> None:
    (found,) = compared(folder, "a", "a").differences
    for each in found.variants["mc2sf"].values():
        assert (each.difference, each.low, each.high, each.distinguishable) == (0, 0, 0, False)


def test_other_candidates_of_the_same_clicks_are_reported(folder: Path) -> None:
    (found,) = compared(folder, "a", "other").differences
    assert found.paired
    assert found.same_candidates == 0
    assert f"{60 * CLICKS:,} of them with other candidates" in found.explanation


def test_runs_without_clicks_in_common_are_compared_unpaired_and_wider(folder: Path) -> None:
    (apart,) = compared(folder, "a", "part").differences
    (same,) = compared(folder, "a", "other").differences
    assert not apart.paired
    assert "unpaired" in apart.explanation
    wide, narrow = (each.variants["mc2sf"]["mrr"] for each in (apart, same))
    assert wide.high - wide.low > narrow.high - narrow.low
    assert wide.low < 0 < wide.high


def test_an_unpaired_difference_is_that_of_the_two_runs_metrics(folder: Path) -> None:
    found = compared(folder, "a", "later")
    for variant, metrics in found.differences[0].variants.items():
        for name, each in metrics.items():
            one, other = (run.metrics[variant][name].value for run in found.runs)
            assert each.difference == pytest.approx(other - one, abs=2e-6)
    assert found.differences[0].variants["mc2sf"]["ndcg@10"].verdict == "higher"


def test_runs_of_few_users_are_compared_without_an_interval(folder: Path) -> None:
    found = compared(folder, "few", "few", "part").differences
    assert [each.variants["mc2sf"]["mrr"].low for each in found] == [None, None]


def test_the_command_prints_tables_or_json(folder: Path) -> None:
    names = [str(folder / name) for name in ("a", "better", "part")]
    shown = CliRunner().invoke(app, ["compare", *names], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "better minus a, ndcg@10: paired on 480 clicks" in shown.output
    assert "part minus a, ndcg@10: compared unpaired" in shown.output
    found = msgspec.json.decode(
        CliRunner().invoke(app, ["compare", *names, "--json"], catch_exceptions=False).stdout, type=Comparison
    )
    assert [run.run for run in found.runs] == ["a", "better", "part"]
    assert set(found.differences[0].variants["mc2sf"]) == set(METRICS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["one"], "at least two"),
        (["one", "two"], "no run 'one'"),
        (["one", "two", "--metric", "auc"], "known are hr@1"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        CliRunner().invoke(app, ["compare", *arguments], catch_exceptions=False)


def test_runs_of_one_name_are_told_apart() -> None:
    assert distinct_names(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


# seeds --------------------------------------------------------------------------------------------------------------


def of_seed(seed: int, folder: Path) -> None:
    """A run whose metrics grow with its seed."""
    online = {"mc2sf": quality(seed / 9, 480)}
    run = f"seed{seed}"
    finished(folder, summary(run=run, seed=seed, online=online, offline=online), outcomes(run, seed=seed))


def test_finished_seeds_are_kept_and_their_means_have_intervals(tmp_path: Path) -> None:
    folder, asked = tmp_path / "seeds", []

    def failing(seed: int, of: Path) -> None:
        asked.append(seed)
        if seed == 3 and asked.count(3) == 1:
            finished(of, summary(run="stopped"), [], status="running")
            raise KeyboardInterrupt
        shutil.rmtree(of, ignore_errors=True)  # as `mc2sf run` clears its folder
        of_seed(seed, of)

    with pytest.raises(KeyboardInterrupt):
        run_seeds(folder, "synthetic", {}, [2, 3, 4], failing)
    assert read_seeds_file(folder).finished == [2]
    found = run_seeds(folder, "synthetic", {}, [2, 3, 4], failing)
    assert asked == [2, 3, 3, 4]
    assert found == read_seeds_file(folder)
    assert found.finished == [2, 3, 4]
    mean = found.online["mc2sf"]["hr@10"]
    assert mean.mean == pytest.approx(quality(3 / 9, 480).metric("hr@10"))
    assert mean.half_width > 0


def test_another_source_or_option_is_not_mixed_with_the_finished_seeds(tmp_path: Path) -> None:
    run_seeds(tmp_path / "seeds", "synthetic", {"epoch": "6h"}, [1], of_seed)
    for source, options in (("log:x", {"epoch": "6h"}), ("synthetic", {"epoch": "1h"})):
        with pytest.raises(UserError, match="other options"):
            run_seeds(tmp_path / "seeds", source, options, [1, 2], of_seed)
    finished(tmp_path / "run", summary(), [])
    with pytest.raises(UserError, match="is not empty"):
        run_seeds(tmp_path / "run", "synthetic", {}, [1], of_seed)
    (tmp_path / "seeds" / SEEDS_FILE).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_seeds_file(tmp_path / "seeds")


@pytest.mark.parametrize(
    "options", [[], ["--out", "x", "--resume", "r", "--brokers", "b:1"]], ids=["no folder", "resume"]
)
def test_several_seeds_need_a_folder_and_continue_by_themselves(options: list[str]) -> None:
    with pytest.raises(UserError, match="--seeds needs --out"):
        CliRunner().invoke(app, ["run", "synthetic", "--seeds", "2", *options], catch_exceptions=False)


def test_the_command_runs_each_seed_that_is_not_finished_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_seeds(Path("seeds"), "synthetic:users=5", {"epoch": "6h", "workers": "2"}, [7, 8], of_seed)
    arguments = ["run", "synthetic:users=5", "--epoch", "6h", "--workers", "2", "--seed", "7", "--out", "seeds"]
    shown = CliRunner().invoke(app, [*arguments, "--seeds", "2"], catch_exceptions=False)
    assert "mean of 2 seeds" in shown.output
    assert "seeds/seed-7" not in shown.output  # both are finished
    with pytest.raises(UserError, match="other options"):
        CliRunner().invoke(app, [*arguments, "--seeds", "2", "--threshold", "5"], catch_exceptions=False)


def test_folders_of_seeds_are_compared_click_by_click_of_each_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_seeds(tmp_path / name, "synthetic", {}, [1, 2], of_seed)
    (found,) = compare([(name, read_clicks(str(tmp_path / name))) for name in ("one", "two")]).differences
    assert found.paired
    assert found.clicks == 2 * 60 * CLICKS
    assert found.variants["mc2sf"]["mrr"].difference == 0
    alone = read_clicks(str(seed_folder(tmp_path / "one", 1)))
    assert len(alone) == 60 * CLICKS
