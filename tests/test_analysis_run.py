"""A run is read from Python as frames with names and units, and drawn."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from deploy.analysis import Run, compare, inspect, plots
from deploy.analysis.commands import arguments
from deploy.analysis.export import export
from deploy.cli.main import app
from deploy.user_error import UserError
from streams.database import schema
from streams.database.engine import connect, sqlite_url
from streams.state.cloud import R2, CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import encode_row
from tests.support.report import EPOCHS, RUN, START, fill, put, summary
from tests.support.runs import CLICKS, finished, outcomes

NAMES = {0: "zero", 1: "[bold]one[/bold]", 7: "seven"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with outcomes, names of three items, and a row in other tables."""
    folder = finished(tmp_path_factory.mktemp("runs") / "one", summary(), outcomes(RUN))
    engine = connect(sqlite_url(folder / "mc2sf.db"))
    with engine.begin() as connection:
        of = {"run": RUN, "user": "u1"}
        put(connection, schema.items, [{"run": RUN, "item": key, "name": name} for key, name in NAMES.items()])
        put(connection, schema.items, [{"run": "another", "item": 5, "name": "another's"}])
        kinds = [{"seq": kind, "item": 7 - kind, "kind": kind, "time": START} for kind in range(4)]
        put(connection, schema.interactions, [of | row for row in kinds])
        put(connection, schema.click_uploads, [of | {"items": np.array([7, 1, 5]).tobytes(), "time": START}])
        put(connection, schema.negative_memories, [of | {"window": 1, "r2": np.array([0.5, -1], "<f4").tobytes()}])
    engine.dispose()
    return folder


@pytest.fixture
def run(folder: Path) -> Run:
    with Run(folder) as run:
        yield run


def test_items_have_their_names_times_their_zone_and_kinds_their_words(run: Run) -> None:
    events = run.polars("interactions")
    assert events["item"].to_list() == ["seven", None, None, None]
    assert events["kind"].to_list() == ["exposure", "click", "candidate", "past_click"]
    assert events["time"][0] == datetime.fromtimestamp(START / 1000, UTC)
    assert "run" not in events.columns
    assert run.polars("click_uploads")["items"].to_list() == [["seven", NAMES[1], None]]
    assert run.polars("negative_memories")["r2"].to_list() == [[0.5, -1.0]]
    assert run.polars("items").to_dicts()[1] == {"item": 1, "name": "[bold]one[/bold]"}


def test_outcomes_have_a_column_of_ranks_per_variant(run: Run) -> None:
    clicks = run.polars("outcomes", ["user", "ranks", "r2_age", "candidates", "cold"])
    assert len(clicks) == 60 * CLICKS
    assert {name for name in clicks.columns if name.startswith("rank_")} == {
        f"rank_{variant}" for variant in ("mc2sf", "fast", "din", "popularity", "random")
    }
    assert clicks["r2_age"][0] == timedelta(0)
    assert clicks["candidates"][0].to_list()[:2] == ["zero", NAMES[1]]
    assert clicks["rank_mc2sf"].max() <= 20


def test_every_table_can_be_read_and_its_columns_have_a_meaning(run: Run) -> None:
    for table in run.tables:
        frame = run.polars(table)
        if table != "outcomes":
            assert set(frame.columns) == set(run.meanings(table))
        assert all(run.meanings(table).values()), table
        assert isinstance(run.pandas(table).shape, tuple)


def test_a_frame_of_pandas_has_the_same_values(run: Run) -> None:
    clicks = run.pandas("outcomes")
    assert clicks["rank_mc2sf"].tolist() == run.polars("outcomes")["rank_mc2sf"].to_list()
    assert str(clicks["time"].dt.tz) == "UTC"


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_without_the_library_a_frame_is_refused_with_a_sentence(
    run: Run, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"need it: pip install '?{'mc2sf' if library == 'polars' else 'pandas'}"):
        getattr(run, library)("items")
    assert run.arrow("items").num_rows == len(NAMES)


def test_an_unknown_table_column_subset_or_metric_is_a_sentence(run: Run) -> None:
    with pytest.raises(UserError, match="no table 'outcome', but click_uploads"):
        run.arrow("outcome")
    with pytest.raises(UserError, match="no column 'rank', but user"):
        run.arrow("outcomes", ["rank"])
    with pytest.raises(UserError, match="no subset 'warm', but all"):
        run.intervals("warm")
    with pytest.raises(UserError, match="no metric 'auc', but hr@1"):
        plots.over_time(run, "auc")


def test_a_run_is_found_by_the_url_of_its_database(folder: Path) -> None:
    url = sqlite_url(folder / "mc2sf.db")
    with Run(url) as by_url, Run(folder) as by_folder:
        assert by_url.id == by_folder.id == RUN
        assert by_url.summary == by_folder.summary == summary()
    engine = connect(url)
    with engine.begin() as connection:
        put(connection, schema.runs, [{"run": "second"}])
    with pytest.raises(UserError, match="holds 2 runs: name one"):
        Run(url)
    with Run(url, "second") as second, pytest.raises(UserError, match="is not over"):
        _ = second.summary
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.runs).where(schema.runs.c.run == "second"))
    engine.dispose()


def test_intervals_become_rows_of_a_frame(run: Run) -> None:
    rows = pl.DataFrame(compare(run, run).rows(), infer_schema_length=None)
    assert set(rows["run"]) == {RUN, f"{RUN} (2)"}
    assert rows.filter(pl.col("minus").is_not_null())["value"].abs().max() == 0
    found = pl.DataFrame(run.intervals().rows(), infer_schema_length=None)
    assert set(found.columns) == {"variant", "minus", "metric", "value", "low", "high", "distinguishable"}


def test_figures_are_drawn_of_one_run_and_of_several(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", summary(), [])
    engine = connect(sqlite_url(folder / "mc2sf.db"))
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.runs))
        fill(connection, RUN)
        connection.execute(
            sa.update(schema.runs).values(summary=msgspec.to_builtins(summary()), source="log:$x_1$.csv")
        )
    engine.dispose()
    with Run(folder) as run:
        lines = plots.over_time(run)
        assert len(lines.axes[0].get_lines()) == 7 + sum(r.kind == "retrain" for r in run.summary.releases)
        assert all(len(line.get_xdata()) == EPOCHS for line in lines.axes[0].get_lines()[:7])
        for figure in (lines, plots.with_intervals(run), plots.differences(compare(run, folder))):
            figure.savefig(picture := io.BytesIO(), format="png")
            assert picture.getvalue().startswith(b"\x89PNG")
        with pytest.raises(UserError, match="needs two runs"):
            plots.differences(compare(run))


def test_options_become_arguments_and_no_value_becomes_an_option() -> None:
    options = {"retrain_every": "1d", "from_": "2023", "lockstep": False, "json": True, "users": None, "header": False}
    assert arguments(options) == ["--retrain-every=1d", "--from=2023", "--free", "--json", "--no-header"]
    assert arguments({"out": Path("--x")}) == ["--out=--x"]
    assert arguments({"metric": ["a:B", "c:D"], "columns": {"user": "uid", "item": "sku"}}) == [
        "--metric=a:B",
        "--metric=c:D",
        "--columns=user=uid,item=sku",
    ]


def test_every_negation_is_an_option_of_the_command() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], catch_exceptions=False, env={"COLUMNS": "200"}).output
    assert all(f"--{name}" in shown for name in ("free", "no-header", "lockstep", "header"))


@pytest.mark.process
def test_a_log_of_foreign_columns_is_described_and_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "a [log].csv"
    log.write_text("uid,sku,at\n" + "".join(f"u{i},i{i % 3},{1_700_000_000 + i}\n" for i in range(9)))
    columns = {"user": "uid", "item": "sku", "timestamp": "at"}
    found = inspect(f"log:{log}", columns=columns, events="click", exposures="simulated")
    assert found["contents"]["clicks"] == 9
    with pytest.raises(UserError, match="nowhere"):
        inspect("log:nowhere.csv")


def test_an_export_has_every_table_with_names_units_and_decoded_states(folder: Path, tmp_path: Path) -> None:
    engine = connect(sqlite_url(folder / "mc2sf.db"))
    device = DeviceState(seq=3, r2=np.array([0.5, -1], "<f4").tobytes(), clicks=[7, 1])
    cloud = CloudState(r2s=(R2(1, 2, device.r2),), last_clicks=(7,))
    with engine.begin() as connection:
        rows = [("device", encode_row(device)), ("cloud", encode_row(cloud))]
        put(
            connection,
            schema.user_snapshots,
            [{"run": RUN, "user": "u1", "side": s, "epoch": 0, "state": v} for s, v in rows],
        )
    engine.dispose()
    result = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    written = {path.stem: pl.read_parquet(path) for path in (tmp_path / "out").iterdir()}
    with Run(folder) as run:
        assert set(written) == set(run.tables)
        assert written["outcomes"].equals(run.polars("outcomes"))
    states = {row["side"]: json.loads(row["state"]) for row in written["user_snapshots"].to_dicts()}
    assert (states["device"]["seq"], states["device"]["r2"], states["device"]["clicks"]) == (3, [0.5, -1.0], [7, 1])
    assert states["cloud"]["r2s"] == [{"window": 1, "encoder": 2, "data": [0.5, -1.0]}]
    with pytest.raises(UserError, match="not an empty folder"), Run(folder) as run:
        export(run, tmp_path / "out")
