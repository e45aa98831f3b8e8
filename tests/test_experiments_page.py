from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deploy.experiments.results import figures, page, plots, published
from deploy.experiments.results.plots import Value
from models.evaluation.metrics import METRICS, chance


def document(experiment: str, data: str, values: dict[str, list[float]], **more: Any) -> dict[str, Any]:
    """A result in which all metrics of a model have one value a seed."""
    rows = [
        {"model": model, "seed": seed, "metrics": dict.fromkeys(METRICS, value), "seconds": 10.0, "epochs": 3, **more}
        for model, of_seeds in values.items()
        for seed, value in enumerate(of_seeds, 1)
    ]
    tests = [
        {"a": "MC2-SF", "b": "GRU4Rec", "metric": metric, "difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.001}
        for metric in METRICS
    ]
    settings: dict[str, Any] = {
        "command": "mc2sf experiment",
        "seeds": [1, 2],
        "counts": {"users": 5},
        "chance": chance(100),
    }
    settings["cells"] = {"done": len(rows), "wanted": 9}
    return {
        "experiment": experiment,
        "data": data,
        "protocol": {"test": 5},
        "settings": settings,
        "rows": rows,
        "tests": tests if "MC2-SF" in values else [],
    }


def written(folder: Path, *documents: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    for each in documents:
        (folder / f"{each['experiment']}_{each['data']}.json").write_text(json.dumps(each))
    return page.write(folder).read_text()


def test_our_number_stands_beside_the_paper_s(tmp_path: Path) -> None:
    text = written(tmp_path, document("table2", "ml-1m", {"MC2-SF": [0.5, 0.7], "GRU4Rec": [0.5, 0.5]}))
    assert "| MC2-SF | **0.6000 (0.1414)** |" in text
    assert "| *MC2-SF, paper* | 0.6105 | 0.7166 | 0.7768 | 0.6643 | 0.6837 | 0.6636 |" in text
    assert "| MC2-SF - GRU4Rec | hr@1 | +0.1000 | +20.00% | +0.0500 to +0.1500 | 0.0010 | +11.83% |" in text
    assert "4 of 9 cells, 2 seeds run so far" in text


def test_slices_stand_under_what_they_begin_and_end_with(tmp_path: Path) -> None:
    result = document("table2", "ml-1m", {"MC2-SF": [0.5], "GRU4Rec": [0.5]})
    values = {"MC2-SF": 0.25, "GRU4Rec": 0.125}
    result["slices"] = [{"least": n, "clicks": 1000 * n, "ndcg@10": values} for n in (0, 1, 5, 100)]
    text = written(tmp_path, result)
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
    text = written(tmp_path, document("window", "ml-100k", {"tumbling 5": [0.4]}, uploads_per_user=7.5))
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
def test_every_figure_is_valid_svg_that_names_its_series(experiment: str) -> None:
    values = {"DIN": [0.3, 0.4], "tumbling 5": [0.4, 0.4], "tumbling 10": [0.5, 0.6], "d 4": [0.2, 0.2]}
    root = ET.fromstring(figures.drawn(document(experiment, "x", values)))
    text = " ".join(root.itertext())
    assert "DIN" in text
    assert ("tumbling 5" in text) is (experiment == "table2")
    assert "tumbling" in text


def test_bars_stand_in_proportion_and_errors_are_drawn() -> None:
    svg = plots.bars("t", {"m": {"a": Value(0.2, 0.05), "b": Value(0.4)}})
    root = ET.fromstring(svg)
    bars = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if list(r)]
    heights = [float(bar.get("height", "0")) for bar in bars]
    assert heights[1] > heights[0] > 0
    assert 'stroke-width="1.2"' in svg


def test_a_row_whose_fit_was_ended_by_its_limit_is_marked(tmp_path: Path) -> None:
    ended = {"item2vec": [0.1, 0.2], "DIN": [0.1, 0.4, 0.3, 0.3, 0.3]}
    text = written(tmp_path, document("table2", "log", {"DIN": [0.4]}, validation=ended))
    assert "| 10 | 3 |" in text
    text = written(
        tmp_path, document("table2", "log", {"DIN": [0.4]}, validation=ended | {"F2S": [0.1, 0.2, 0.4, 0.3]})
    )
    assert "| 10 | 3+ |" in text
