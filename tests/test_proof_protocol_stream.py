"""The stream gives what the experiment gives: `protocol:SOURCE`, its log, its refusals, and a whole run of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import torch
from numpy.typing import NDArray

from deploy.cli.source_argument import parse_source
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.streaming.initial_release import InitialRelease, initial_release
from deploy.experiments.streaming.source import StreamRequest
from deploy.experiments.training.models import DIN_MODEL, F2S_SERVED_MODEL, FAST_MODEL, MC2SF_SERVED_MODEL, Model
from deploy.experiments.training.trainer import Trainer
from deploy.user_error import UserError
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.event_kinds import CANDIDATE, CLICK
from models.data.interaction_log import InteractionLog, click_states
from models.data.views import ViewSpec
from models.mc2sf.served_variant import ServedVariant
from replay.errors import SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from streams.database import schema
from streams.database.engine import connect
from tests.support import experiments as experiment_logs
from tests.support.command import Command
from tests.support.protocol import impressions_log, ratings_log, single_events_log
from tests.support.whole_run import PATIENCE_S

SYNTHETIC = "synthetic:users=30,items=150"


@pytest.mark.parametrize("source", [ratings_log, single_events_log, impressions_log])
def test_the_stream_shows_each_test_click_what_the_experiment_does(tmp_path: Path, source: Any) -> None:
    text = f"protocol:work={tmp_path},{source(tmp_path)}"
    plan = prepare(parse_source(text), Options(), tmp_path / "plan")
    table = pq.read_table(plan.path)
    assert len(plan.ends) == 2
    user = table["user"].to_numpy(zero_copy_only=False)
    order = np.argsort(user, kind="stable")
    request = StreamRequest.of(text).request
    trainer = Trainer(
        experiment_logs.load(request.source, request.protocol, tmp_path / "again"), request.protocol, tmp_path
    )
    row_of = {item: FIRST_ROW + i for i, item in enumerate(trainer.dataset.items)}
    columns = {name: table[name].to_numpy()[order].astype(np.int64) for name in ("kind", "time", "impression")}
    epochs = (np.arange(len(user)) >= plan.ends[0]).astype(np.int64)[order]
    keys = np.array([row_of[item] for item in table["item"].to_pylist()])[order]
    offsets = np.searchsorted(user[order], [*trainer.dataset.users, "\uffff"])
    log = InteractionLog(offsets, keys, columns["kind"], columns["time"], columns["impression"], epochs)
    protocol = trainer.protocol
    states = click_states(
        log, ViewSpec(history_long=protocol.history, history_short=protocol.short, threshold=protocol.threshold)
    )
    of_test = trainer.candidate_lists(Phase.TEST)
    queries = trainer.known_history(fresh=False).queries(of_test.clicks)
    assert np.array_equal(states.user, trainer.test_users)
    assert np.array_equal(states.target, trainer.dataset.log.keys[of_test.clicks])
    assert (queries.history.numpy() != ROW_PADDING).any()
    assert (queries.window.numpy() != ROW_PADDING).any()
    for i in range(len(states)):
        view = states.view(i)
        for seen, offline in (
            (view.history, queries.history[queries.history_index[i]]),
            (view.clicks, queries.clicks[i]),
            (view.exposures, queries.exposures[i]),
            (view.window_items, queries.window[i]),
        ):
            assert seen.tolist() == offline[offline != ROW_PADDING].tolist()
        group = np.flatnonzero(
            (states.log.users == states.user[i]) & (log.impressions == log.impressions[states.event[i]])
        )
        assert log.keys[group].tolist() == of_test.items[i][of_test.items[i] != ROW_PADDING].tolist()
        assert log.kinds[group].tolist() == [CLICK if u == states.event[i] else CANDIDATE for u in group]
        assert int(states.event[i] - group[0]) == of_test.target_index[i]


def test_two_clicks_of_one_impression_are_refused(tmp_path: Path) -> None:
    lines = ["user,item,timestamp,event,impression"]
    lines += [f"u,{i},{1_600_000_001 + i},click,{1 if i >= 28 else ''}" for i in range(30)]
    lines += [f"v,{30 + i},{1_600_000_001 + i},click," for i in range(30)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(SourceError, match="2 test clicks share their impression with another click"):
        parse_source(f"protocol:work={tmp_path},log:{tmp_path / 'log.csv'}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("protocol:", "names no source"),
        ("protocol:somewhere", "is no source"),
        ("protocol:epoch=3,synthetic", "unknown parameter 'epoch'"),
        ("protocol:seed=0,synthetic", "seed must be at least 1"),
        ("protocol:users=many,synthetic", "int expected"),
    ],
)
def test_what_names_no_experiment_is_refused(text: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        parse_source(text)


# nets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [DIN_MODEL, F2S_SERVED_MODEL, FAST_MODEL, MC2SF_SERVED_MODEL], ids=lambda model: model.name
)
def test_a_form_scores_the_same_as_it_is_served(tmp_path: Path, model: Model) -> None:
    trainer = experiment_logs.trainer(tmp_path, users=8)
    net = model.fit(trainer, experiment_logs.QUICK_SET, 1)
    of_test = trainer.candidate_lists(Phase.TEST)
    queries, items = trainer.known_history(fresh=model.fresh).queries(of_test.clicks), torch.from_numpy(of_test.items)
    with torch.inference_mode():
        fitted, served = net(queries, items), ServedVariant(net)(queries, items)
    torch.testing.assert_close(served, fitted, rtol=1e-4, atol=1e-4)
    one = ServedVariant(net)(queries[:1], items[:1])
    assert torch.equal(one, served[:1]), "to the last bit, whatever stands beside it"


def text_of(work: Path) -> str:
    return f"protocol:epochs=2,work={work},{SYNTHETIC}"


def test_without_its_fits_an_experiment_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"item2vec is not fitted in {tmp_path}") as refused:
        initial_release(text_of(tmp_path))
    told = f"mc2sf experiment ablation --data {SYNTHETIC} --seeds 1 --work {tmp_path} --epochs 2"
    assert told in str(refused.value)


def test_a_fit_that_was_cut_is_not_taken(tmp_path: Path) -> None:
    trainer = Trainer(experiment_logs.dataset(tmp_path, Protocol()), Protocol(), tmp_path / "fits")
    one = replace(experiment_logs.QUICK, epochs=1)
    hyperparameters = replace(experiment_logs.QUICK_SET, din=one)
    DIN_MODEL.fit(trainer, hyperparameters, 1)
    again = Trainer(trainer.dataset, Protocol(), tmp_path / "fits", cached_only=True)
    assert isinstance(DIN_MODEL.fit(again, hyperparameters, 1), torch.nn.Module)
    (kept,) = (tmp_path / "fits").glob("*.safetensors")
    longer = replace(hyperparameters, din=experiment_logs.QUICK)
    with pytest.raises(LookupError, match="DIN is not fitted"):
        DIN_MODEL.fit(again, longer, 1)
    longer_fit = Trainer(trainer.dataset, Protocol(), tmp_path / "other")
    DIN_MODEL.fit(longer_fit, longer, 1)
    (whole,) = (tmp_path / "other").glob("*.safetensors")
    shutil.copy(kept, tmp_path / "fits" / whole.name)  # as if it had been cut after an epoch
    with pytest.raises(LookupError, match="DIN is fitted for 1 epochs only"):
        DIN_MODEL.fit(again, longer, 1)


# a run --------------------------------------------------------------------------------------------------------------

VARIANTS = {"din": "DIN", "f2s": "DIN w/ F2S, served", "mc2sf": "MC2-SF, served"}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The experiment, and then the run, as a user starts them; the fits are under `work`, the run in `run`."""
    folder = tmp_path_factory.mktemp("protocol")
    work, shared = str(folder / "work"), ("--seeds", "1", "--epochs", "2", "--threads", "1")
    experiment = "experiment", "ablation", "--data", SYNTHETIC, *shared, "--work", work, "--out", str(folder / "paper")
    for arguments in (experiment, ("run", text_of(folder / "work"), "--out", str(folder / "run"))):
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())
    return folder, summary


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(1800)  # an experiment and a whole run
def test_online_figures_are_the_experiments_to_the_last_digit(stream: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = stream
    (written,) = (folder / "paper").glob("ablation_synthetic-*.json")
    result = json.loads(written.read_text())
    offline = {row["model"]: row["metrics"] for row in result["rows"]}
    assert summary["outcomes"] == result["settings"]["counts"]["test"] == 150
    assert summary["releases"] == [summary["releases"][0]]
    for variant, model in VARIANTS.items():
        online = {name: summary["online"][variant][name] for name in offline[model]}
        assert online == offline[model]
    assert summary["experiment"]["differences"] == 0
    for variant, figures in summary["experiment"]["metrics"].items():
        assert figures == {name: summary["online"][variant][name] for name in figures}
    assert len({json.dumps(figures) for figures in summary["experiment"]["metrics"].values()}) == 4


def online(run: Path) -> tuple[sa.Engine, str, list[Any]]:
    engine = connect(f"sqlite:///{run / 'mc2sf.db'}")
    name = json.loads((run / "run.json").read_text())["run"]
    with engine.connect() as connection:
        rows = list(
            connection.execute(sa.select(schema.outcomes).order_by(schema.outcomes.c.user, schema.outcomes.c.seq))
        )
    return engine, name, rows


@pytest.mark.process
@pytest.mark.slow
def test_each_rank_is_the_experiments(stream: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = stream
    _, _, rows = online(folder / "run")
    request = StreamRequest.of(text_of(folder / "work")).request
    dataset = experiment_logs.load(request.source, request.protocol, folder / "again")
    trainer = Trainer(dataset, request.protocol, folder / "work" / "fits", cached_only=True)
    assert [row.user for row in rows] == [dataset.users[user] for user in trainer.test_users]
    for model, variant in (
        (DIN_MODEL, "din"),
        (F2S_SERVED_MODEL, "f2s"),
        (FAST_MODEL, "fast"),
        (MC2SF_SERVED_MODEL, "mc2sf"),
    ):
        offline: NDArray[np.int64] = trainer.ranks(model.fit(trainer, request.hyperparameters, 1), fresh=model.fresh)
        assert [outcome.ranks[variant] for outcome in rows] == offline.tolist()
    assert all(outcome.slate == "logged" and not outcome.cold for outcome in rows)


@pytest.mark.process
@pytest.mark.slow
def test_an_altered_list_place_or_rank_is_progress(stream: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = stream
    engine, name, rows = online(folder / "run")
    expected = initial_release(text_of(folder / "work"))
    keys, place = expected.lists[7]
    altered = replace(expected, lists=[*expected.lists[:7], (keys[8:] + keys[:8], place), *expected.lists[8:]])
    moved = replace(expected, lists=[*expected.lists[:7], (keys, place + 1), *expected.lists[8:]])
    ranks = expected.ranks["mc2sf"].copy()
    ranks[7] += 1
    other = replace(expected, ranks=expected.ranks | {"mc2sf": ranks})
    fewer = InitialRelease(expected.draft, {}, expected.users[:-1], expected.lists[:-1], expected.ranks)
    user, last = rows[7].user, rows[-1].user
    with engine.connect() as connection:
        assert expected.differences(connection, name) == []
        found = [one.differences(connection, name) for one in (altered, moved, other, fewer)]
    assert [[(d.user, d.click, d.what) for d in each] for each in found] == [
        [(user, 2, "list")],
        [(user, 2, "list")],
        [(user, 2, "mc2sf")],
        [(last, 0, "clicks ranked")],
    ]


@pytest.mark.process
@pytest.mark.slow
def test_the_certificate_holds_for_it_too(stream: tuple[Path, dict[str, Any]], mc2sf: Command) -> None:
    folder, _ = stream
    certified = mc2sf("verify", str(folder / "run"), "--sample", "3")
    assert certified.returncode == 0, certified.stdout + certified.stderr


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("more", [("--epoch", "100"), ("--evaluate", "0.5"), ("--free",), ("--limit", "9")])
def test_options_that_would_change_the_protocol_are_refused(
    stream: tuple[Path, dict[str, Any]], mc2sf: Command, more: tuple[str, ...]
) -> None:
    folder, _ = stream
    refused = mc2sf("run", text_of(folder / "work"), "--out", str(folder / "other"), *more)
    assert refused.returncode == 2
    assert "the experiment decides" in refused.stdout + refused.stderr
