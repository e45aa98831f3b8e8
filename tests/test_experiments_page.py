from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from msgspec.structs import replace

from benchmarks.training import increment
from deploy.experiments.results import page, plots, published, result
from deploy.experiments.results.result import (
    CellCount,
    Counts,
    Difference,
    FrequencySlice,
    Result,
    ResultRow,
    RunSettings,
    Tuning,
    UploadCosts,
    Versions,
    over_seeds,
    read_results,
)
from deploy.experiments.results.styles import STYLES, base, style
from models.evaluation.metrics import METRICS, chance

PAPER = Path(__file__).parents[1] / "benchmarks" / "paper"
NO_COSTS = UploadCosts()


def document(
    experiment: str,
    data: str,
    values: dict[str, list[float]],
    validation: dict[str, list[float]] | None = None,
    costs: UploadCosts = NO_COSTS,
) -> Result:
    """A result in which all metrics of a model have one value per seed."""
    rows = [
        ResultRow(
            model=model,
            seed=seed,
            metrics=dict.fromkeys(METRICS, value),
            seconds=10.0,
            epochs=3,
            validation=validation or {},
            varied={},
            **msgspec.structs.asdict(costs),
        )
        for model, of_seeds in values.items()
        for seed, value in enumerate(of_seeds, 1)
    ]
    tests = [Difference("MC2-SF", "GRU4Rec", metric, 0.1, 0.05, 0.15, 0.001) for metric in METRICS]
    settings = RunSettings(
        command="mc2sf experiment",
        source=data,
        users=None,
        seeds=[1, 2],
        cells=CellCount(len(rows), 9),
        counts=Counts(5, 5, 5, 5, 5, 5, 5),
        chance=chance(100),
        hyperparameters={},
        threads=1,
        versions=Versions("", "", ""),
    )
    return Result(
        experiment=experiment,
        data=data,
        protocol={"test": 5},
        settings=settings,
        rows=rows,
        tests=tests if "MC2-SF" in values else [],
    )


def written(folder: Path, *results: Result) -> str:
    folder.mkdir(exist_ok=True)
    for each in results:
        (folder / f"{each.experiment}_{each.data}.json").write_bytes(msgspec.json.encode(each))
    return page.write(folder).read_text()


def test_our_number_stands_beside_the_paper_s(tmp_path: Path) -> None:
    text = written(tmp_path, document("table2", "ml-1m", {"MC2-SF": [0.5, 0.7], "GRU4Rec": [0.5, 0.5]}))
    assert "| MC2-SF | **0.6000 (0.1414)** |" in text
    assert "| *MC2-SF, paper* | 0.6105 | 0.7166 | 0.7768 | 0.6643 | 0.6837 | 0.6636 |" in text
    assert "| MC2-SF - GRU4Rec | hr@1 | +0.1000 | +20.00% | +0.0500 to +0.1500 | 0.0010 | +11.83% |" in text
    assert "4 of 9 cells, 2 seeds run so far" in text


def test_slices_stand_under_what_they_begin_and_end_with(tmp_path: Path) -> None:
    values = {"MC2-SF": 0.25, "GRU4Rec": 0.125}
    slices = [FrequencySlice(n, 1000 * n, values) for n in (0, 1, 5, 100)]
    text = written(tmp_path, replace(document("table2", "ml-1m", {"MC2-SF": [0.5], "GRU4Rec": [0.5]}), slices=slices))
    assert "| model | 0 | 1 to 4 | 5 to 99 | 100 and more |" in text
    assert "| *test clicks* | 0 | 1,000 | 5,000 | 100,000 |" in text
    assert "| GRU4Rec | 0.1250 | 0.1250 | 0.1250 | 0.1250 |" in text


def test_orders_are_compared_where_the_paper_has_one(tmp_path: Path) -> None:
    values = {"MC2-SF": [0.3], "GRU4Rec": [0.5], "popularity": [0.1]}
    text = written(tmp_path, document("table2", "ml-1m", values))
    assert "Ours: MC2-SF < GRU4Rec. The paper's: GRU4Rec < MC2-SF." in text
    assert "paper*" not in written(tmp_path / "of a sample", document("table2", "ml-1m-60", values))
    other = written(tmp_path, document("table2", "log", values))
    assert "## Device side (Table 2): log" in other
    assert "paper*" not in other.partition("Table 2): ml-1m")[0]


def test_what_others_published_stands_beside_leave_one_out(tmp_path: Path) -> None:
    text = written(tmp_path, document("reference", "ml-1m", {"SASRec": [0.58], "Caser": [0.5]}))
    assert "| *SASRec, published* | - | - | 0.8245 | - | 0.5905 | - |" in text
    assert "published*" not in written(tmp_path / "other", document("reference", "ml-100k", {"SASRec": [0.58]}))


def test_costs_of_windows_have_a_table(tmp_path: Path) -> None:
    text = written(
        tmp_path, document("window", "ml-100k", {"tumbling 5": [0.4]}, costs=UploadCosts(uploads_per_user=7.5))
    )
    assert "| tumbling 5 | 0.4000 | 7.5 |" in text


def test_a_division_by_a_model_without_a_hit_is_no_error(tmp_path: Path) -> None:
    text = written(tmp_path, document("table2", "ml-1m", {"MC2-SF": [0.1], "GRU4Rec": [0.0]}))
    assert "| MC2-SF - GRU4Rec | hr@1 | +0.1000 | - |" in text


def test_results_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other_thing.json").write_text("{}")
    assert "##" not in written(tmp_path)


def test_the_paper_s_gains_come_out_of_its_own_table() -> None:
    """HR@1 +7.65 %, NDCG@10 +4.57 %, MRR +5.27 % over the second best."""
    table = published.TABLE2["ml-1m"]
    second = {
        metric: max(row[i] for name, row in table.items() if name != "MC2-SF") for i, metric in enumerate(METRICS)
    }
    gains = {metric: table["MC2-SF"][i] / second[metric] - 1 for i, metric in enumerate(METRICS)}
    assert gains["hr@1"] == pytest.approx(0.0765, abs=1e-4)
    assert gains["ndcg@10"] == pytest.approx(0.0457, abs=1e-4)
    assert gains["mrr"] == pytest.approx(0.0527, abs=1e-4)


@pytest.mark.parametrize("experiment", ["table2", "sensitivity", "window"])
def test_every_figure_is_valid_svg_that_names_its_models_or_values(experiment: str) -> None:
    values = {"DIN": [0.3, 0.4], "tumbling 5": [0.4, 0.4], "tumbling 10": [0.5, 0.6]}
    root = ET.fromstring(plots.draw(document(experiment, "x", values), "a title"))
    text = " ".join(root.itertext())
    assert "a title: x" in text
    assert "DIN" in text
    assert ("tumbling 5" in text) is (experiment == "table2")
    assert "tumbling" in text


def test_an_interval_is_student_s_of_the_mean_and_one_seed_has_none() -> None:
    found = over_seeds([0.1, 0.2, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert over_seeds([0.4]).half_width == 0


def test_each_model_of_the_committed_results_has_a_style_and_no_two_share_one() -> None:
    models = {model for each in read_results(PAPER, list(page.TITLES)) for model in each.models}
    named = [model for model in models if not model.rpartition(" ")[2].replace("e-", "").replace(".", "").isdigit()]
    assert {base(model) for model in named} - {"every exposure uploaded"} == set(STYLES) & {base(m) for m in named}
    assert len({look.colour for look in STYLES.values()}) == len(STYLES)
    for one, other in combinations(STYLES, 2):
        assert style(one)[1:] != style(other)[1:], (one, other)
    assert style("DIN, softmax") == style("DIN")
    assert style("fast alone, fine-tuned") != style("fast alone")


# what is committed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PAPER.glob("*_*.json")), ids=lambda path: path.stem)
def test_a_committed_result_is_read_whole(path: Path) -> None:
    kind = Tuning if path.name.startswith("tuning") else Result
    assert msgspec.to_builtins(msgspec.json.decode(path.read_bytes(), type=kind)) == msgspec.json.decode(
        path.read_bytes()
    )


def test_the_committed_schema_is_that_of_the_types() -> None:
    assert (PAPER / "schema.json").read_text() == result.schema()


@pytest.mark.slow
def test_committed_figures_and_page_are_drawn_from_the_committed_results(tmp_path: Path) -> None:
    for path in PAPER.glob("*_*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    page.write(tmp_path)
    made = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert made == sorted(path.name for path in PAPER.glob("*.svg"))
    for name in [*made, "README.md"]:
        assert (tmp_path / name).read_text() == (PAPER / name).read_text(), f"{name}: run python -m benchmarks.figures"
    rows = msgspec.json.decode(increment.RESULT.read_bytes())["rows"]
    assert increment.draw(rows) == increment.RESULT.with_suffix(".svg").read_text()


# marks --------------------------------------------------------------------------------------------------------------


def test_a_row_whose_fit_was_ended_by_its_limit_is_marked(tmp_path: Path) -> None:
    ended = {"item2vec": [0.1, 0.2], "DIN": [0.1, 0.4, 0.3, 0.3, 0.3]}
    text = written(tmp_path, document("table2", "log", {"DIN": [0.4]}, validation=ended))
    assert "| 10 | 3 |" in text
    text = written(
        tmp_path, document("table2", "log", {"DIN": [0.4]}, validation=ended | {"F2S": [0.1, 0.2, 0.4, 0.3]})
    )
    assert "| 10 | 3+ |" in text
