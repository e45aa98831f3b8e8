"""All five kinds of plugins in an experiment: its lists, models, metrics and cells."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deploy.cli.main import main
from deploy.experiments.data.candidate_lists import draw_candidates
from deploy.experiments.data.protocol import Phase
from models.data.catalogue import FIRST_ROW
from models.data.event_kinds import CLICK
from tests.support.experiments import SMALL, trainer

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in EXAMPLES.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_docs_files_are_of_at_most_40_lines_and_run_together_in_an_experiment(folder: Path) -> None:
    assert all(len(path.read_text().splitlines()) <= 40 for path in folder.glob("*.py"))
    draw, time = random.Random(1), datetime(2026, 11, 1, tzinfo=UTC)
    lines = []
    for _ in range(400):
        time += timedelta(seconds=draw.randrange(600))
        lines.append(f"{time.isoformat()} u{draw.randrange(10)} heard {draw.randrange(80)}\n")
    (folder / "radio.log").write_text("".join(lines))
    own = "--exposures recent:Recent --candidates unclicked:unclicked --metric auc:auc --variant last_click:LastClick"
    command = f"experiment ablation --data radio:Radio:radio.log {own} --epochs 1 --seeds 1"
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--threads", "1", "--out", "out", "--work", "work"])
    assert ended.value.code in {None, 0}
    (path,) = Path("out").glob("*.json")
    result = json.loads(path.read_text())
    assert [plugin.partition("@")[0] for plugin in result["plugins"]] == [
        "source=radio:Radio",
        "exposures=recent:Recent",
        "candidates=unclicked:unclicked",
        "metric=auc:auc",
        "variant=last_click:LastClick",
    ]
    assert all(option in result["settings"]["command"] for option in own.split(" --")[1:])
    assert "radio.log" not in result["settings"]["command"]
    assert result["protocol"]["exposures"] == "recent:Recent"
    by_model = {row["model"]: row["metrics"] for row in result["rows"]}
    assert {"LastClick", "MC2-SF"} <= by_model.keys()
    assert all(0 < metrics["auc"] < 1 for metrics in by_model.values())
    assert result["settings"]["chance"]["auc"] == pytest.approx(0.5)
    assert "| mrr | auc | seconds |" in Path("out/README.md").read_text()


def test_the_lists_are_those_of_the_rule_and_another_code_has_other_cells(folder: Path) -> None:
    protocol = replace(SMALL, candidates="unclicked:unclicked")
    first = trainer(folder, protocol)
    log, clicks = first.dataset.log, first.dataset.clicks(Phase.TEST)
    lists = draw_candidates(first.dataset, clicks, protocol)
    assert np.array_equal(lists.items, draw_candidates(first.dataset, clicks, protocol).items)
    for click, target, items in zip(clicks, lists.target_index, lists.items, strict=True):
        assert items[target] == log.keys[click]
        assert len(set(items)) == protocol.negatives + 1
        assert items.min() >= FIRST_ROW
        before = np.arange(log.offsets[log.users[click]], click)
        last = log.keys[before[log.kinds[before] == CLICK][-protocol.short :]]
        assert not set(np.delete(items, target)) & set(last)
    path = folder / "unclicked.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert trainer(folder, protocol).identity != first.identity
