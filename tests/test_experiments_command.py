from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from deploy.experiments.commands import Name
from deploy.experiments.definitions.catalogue import EXPERIMENTS
from tests.support.command import Command
from tests.support.experiments import write_log

DOCS = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()


def test_every_experiment_has_a_command_and_a_line_in_the_docs() -> None:
    names = [experiment.name for experiment in EXPERIMENTS] + ["tune"]
    assert sorted(get_args(Name)) == sorted(names)
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", DOCS, re.MULTILINE)) == sorted(names)


@pytest.mark.slow
def test_a_small_form_runs_on_any_log_and_says_how_it_was_made(mc2sf: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv", users=16)
    command = ["experiment", "ablation", "--data", f"log:{tmp_path / 'log.csv'}", "--seeds", "1", "--epochs", "1"]
    more = ["--users", "12", "--threads", "1", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = mc2sf(*command, *more)
    assert done.returncode == 0, done.stderr
    assert "MC2-SF, seed 1: NDCG@10" in done.stdout
    document = json.loads((tmp_path / "out" / "ablation_log-log-12-epochs-1.json").read_text())
    assert document["settings"]["command"] == (
        "mc2sf experiment ablation --data log:FILE --epochs 1 --users 12 --seeds 1"
    )
    assert document["settings"]["seeds"] == [1]
    assert document["settings"]["counts"]["users"] == 12
    assert str(tmp_path) not in json.dumps(document)
    assert "| DIN w/ F2S |" in (tmp_path / "out" / "README.md").read_text()

    other = ["--users", "12", "--threads", "1", "--out", str(tmp_path / "again"), "--work", str(tmp_path / "empty")]
    again = mc2sf(*command, *other, "--cells", str(tmp_path / "work" / "cells"))
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "ablation_log-log-12-epochs-1.json").read_text()) == document
    assert not (tmp_path / "empty" / "fits").exists()  # cells are enough: nothing was fitted


def test_a_source_that_is_too_small_is_a_sentence(mc2sf: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv", clicks=8)
    done = mc2sf("experiment", "table2", "--data", f"log:{tmp_path / 'log.csv'}", "--work", str(tmp_path / "work"))
    assert done.returncode == 2
    assert "20 interactions" in done.stderr
    assert "Traceback" not in done.stderr
