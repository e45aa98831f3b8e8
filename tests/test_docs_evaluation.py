"""The queries of the tutorial give the metrics of summary.json."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from streams.database import schema
from streams.database.engine import connect
from streams.prequential.metrics import Ranked, subsets, summary
from tests.support.command import Command, installed
from tests.support.docs import ROOT, blocks, commands
from tests.support.docs import mc2sf as called
from tests.support.report import put

TUTORIAL = ROOT / "docs" / "tutorial.md"
METRICS = {"hr_10": "hr@10", "ndcg_10": "ndcg@10", "mrr": "mrr", "n": "n"}
Figures = Mapping[str, Mapping[str, float]]


def by_sql(engine: sa.Engine) -> Figures:
    query = blocks(TUTORIAL, "sql")[engine.dialect.name == "postgresql"]
    with engine.connect() as connection:
        rows = connection.execute(sa.text(query.replace("::", r"\:\:"))).mappings().all()
    return {row["variant"]: {name: float(row[name]) for name in METRICS} for row in rows}


def by_polars() -> Figures:
    """Run the program of the tutorial in the current folder."""
    names: dict[str, Any] = {}
    exec(compile(blocks(TUTORIAL, "python")[1], TUTORIAL, "exec"), names)
    return {row.pop("variant"): row for row in names["metrics"].to_dicts()}


def assert_equal(found: Figures, expected: Mapping[str, Mapping[str, float | None]]) -> None:
    assert set(found) == set(expected)
    for variant, figures in found.items():
        for name, value in figures.items():
            assert value == pytest.approx(expected[variant][METRICS[name]], abs=1e-12), (variant, name)


def outcomes(run: str, count: int) -> tuple[list[dict[str, Any]], list[Ranked]]:
    """Random outcomes, some of them cold, as rows of the table and as ranked clicks."""
    draw = random.Random(1)
    rows, ranked = [], []
    for seq in range(count):
        cold, ranks = draw.random() < 0.2, {name: draw.randint(1, 100) for name in ("mc2sf", "din", "random")}
        if draw.random() < 0.1:
            del ranks["din"]  # expired
        rows.append({"run": run, "user": "u", "seq": seq, "cold": cold, "ranks": ranks, "slate": "sampled"})
        ranked.append(Ranked(seq, 100, subsets(cold=cold, history=1, window=1), ranks))
    return rows, ranked


def test_the_queries_give_the_metrics_of_the_summary(database_url: str) -> None:
    rows, ranked = outcomes("a", 300)
    engine = connect(database_url)
    with engine.begin() as connection:
        put(connection, schema.outcomes, rows)
    assert_equal(by_sql(engine), summary(ranked))
    engine.dispose()


def test_the_program_with_polars_gives_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "runs" / "tutorial" / "mc2sf.db"
    database.parent.mkdir(parents=True)
    rows, ranked = outcomes("a", 300)
    engine = connect(f"sqlite:///{database}")
    with engine.begin() as connection:
        put(connection, schema.outcomes, rows)
    engine.dispose()
    monkeypatch.chdir(tmp_path)
    assert_equal(by_polars(), summary(ranked))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.proof
@pytest.mark.timeout(900)
def test_the_tutorial_works_from_the_csv_to_the_evaluation(
    mc2sf: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes of the run
    exec(compile(blocks(TUTORIAL, "python")[0], TUTORIAL, "exec"), {})
    for command in commands(TUTORIAL):  # those that are not of mc2sf have other tests
        for arguments in called(command.text):
            done = installed(*arguments) if arguments[0] == "run" else mc2sf(*arguments)
            assert done.returncode == 0, (command.text, done.stdout + done.stderr)
    folder = tmp_path / "runs" / "tutorial"
    online = json.loads((folder / "summary.json").read_text())["online"]
    assert online
    engine = connect(f"sqlite:///{folder / 'mc2sf.db'}")
    assert_equal(by_sql(engine), online)
    engine.dispose()
    assert_equal(by_polars(), online)
