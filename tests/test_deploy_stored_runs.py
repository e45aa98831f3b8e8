"""Runs that are kept are listed, shown, deleted and pruned; nothing of another run is touched."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from deploy.cli.main import app
from deploy.doctor import examine
from deploy.runs import lock_folder, register_run, write_run_file
from streams.database import schema
from streams.database.engine import connect
from streams.settings import Settings
from tests.support.command import UNUSABLE_BROKER
from tests.support.report import RUN, fill, put
from tests.support.simulation import SMALL
from tests.test_streams_rescoring import a_recorded_run

DAY_MS = 86_400_000


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["runs", *words])
    return result.exit_code, result.output if result.exception is None else f"{result.output}{result.exception}"


def stored(
    settings: Settings, name: str, database: str, folder: Path | None, *, days: int = 0, status: str = "ended"
) -> None:
    own = settings.model_copy(update={"run": name, "database": type(settings.database)(database)})
    if folder is not None:
        folder.mkdir(parents=True)
        write_run_file(folder, own, "synthetic")
    engine = connect(database)
    register_run(own, engine, "synthetic")
    values = {"created_wall": int(time.time() * 1000) - days * DAY_MS, "status": status}
    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).where(schema.runs.c.run == name).values(values))
        connection.execute(sa.insert(schema.leases).values(run=name, role="coordinator", holder="h", until_wall=1))
    engine.dispose()


@pytest.fixture
def shared(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with two runs, and a folder `runs` with one that has its own database."""
    url = f"sqlite:///{tmp_path}/all.db"
    monkeypatch.setenv("MC2SF_DATABASE", url)
    monkeypatch.chdir(tmp_path)
    stored(settings, "old", url, None, days=40)
    stored(settings, "live", url, None, days=50, status="running")
    stored(settings, "own", f"sqlite:///{tmp_path}/runs/own/mc2sf.db", tmp_path / "runs" / "own", days=1)
    return url


def names() -> list[str]:
    return [row["run"] for row in json.loads(run("list", "--json")[1])]


def rows(url: str) -> set[str]:
    engine = connect(url)
    with engine.connect() as connection:
        found = {run for t in schema.metadata.sorted_tables for run in connection.scalars(sa.select(t.c.run))}
    engine.dispose()
    return found


@pytest.mark.usefixtures("shared")
def test_runs_of_folders_and_of_the_database_are_listed_oldest_first() -> None:
    assert names() == ["live", "old", "own"]
    code, text = run("list")
    assert code == 0
    assert "old" in text


@pytest.mark.usefixtures("shared")
def test_a_run_is_shown_with_its_settings() -> None:
    shown = json.loads(run("show", "runs/own", "--json")[1])
    assert (shown["run"], shown["source"], shown["settings"]["threshold"]) == ("own", "synthetic", Settings().threshold)


def test_only_the_run_that_is_named_is_deleted(shared: str) -> None:
    assert run("delete", "old", "--yes")[0] == 0
    assert (names(), rows(shared)) == (["live", "own"], {"live"})
    assert run("delete", "own", "--yes")[0] == 0
    assert (names(), Path("runs/own").exists()) == (["live"], False)


def test_nothing_is_deleted_without_a_yes(shared: str) -> None:
    assert run("delete", "old")[0] == 1
    assert rows(shared) == {"old", "live"}


@pytest.mark.usefixtures("shared")
def test_a_run_in_use_is_not_deleted() -> None:
    with lock_folder(Path("runs/own")):
        assert "in use" in run("delete", "own", "--yes")[1]
    assert names() == ["live", "old", "own"]


@pytest.mark.usefixtures("shared")
def test_old_runs_are_pruned_but_not_those_that_run() -> None:
    assert run("prune", "--older", "30d", "--yes")[0] == 0
    assert names() == ["live", "own"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["delete", "no"], "no run 'no'"),
        (["prune", "--older", "x"], "not a span"),
        (["trim", "old", "--keep", "x"], "not a span"),
    ],
)
@pytest.mark.usefixtures("shared")
def test_mistakes_end_with_a_sentence(words: list[str], sentence: str) -> None:
    assert sentence in run(*words)[1]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("damaged", ["run.json", "mc2sf.db"])
def test_a_damaged_run_hides_no_other_and_is_deleted_by_name_only(damaged: str) -> None:
    for left in Path("runs/own").glob(f"{damaged}*"):
        left.unlink()
    Path("runs/own", damaged).write_text("{ this is neither")
    listed = json.loads(run("list", "--json")[1])
    assert [(each["run"], each["status"]) for each in listed] == [
        ("own", "unreadable"),
        ("live", "running"),
        ("old", "ended"),
    ]
    assert listed[0]["problem"]
    assert "unreadable" in run("list")[1]
    assert run("prune", "--older", "1d", "--yes")[0] == 0
    assert names() == ["own", "live"]
    assert run("delete", "runs/own", "--yes")[0] == 0
    assert names() == ["live"]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("garbage", "can't be parsed"),
        ("postgresql://:x/", "can't be parsed"),
        ("mysql://h/d", "mysql is no database"),
        ("sqlite:////tmp/no-such-folder/x.db", "there is no database"),
    ],
)
def test_a_wrong_database_url_is_a_sentence_in_every_command_and_creates_nothing(
    url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MC2SF_DATABASE", url)
    for name, value in UNUSABLE_BROKER.items():
        monkeypatch.setenv(name, value)
    (first, *_) = examine(Settings())
    assert (first.ok, first.subject, sentence in first.text) == (False, "database", True)
    if "tmp" not in url:
        for words in (["list"], ["show", "x"], ["delete", "x", "--yes"]):
            assert sentence in run(*words)[1]
    assert not list(tmp_path.iterdir())


def everything(url: str) -> dict[str, list[tuple[object, ...]]]:
    engine = connect(url)
    with engine.connect() as connection:
        found = {
            name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for name, table in schema.public_tables().items()
        }
    engine.dispose()
    return found


def test_a_backup_is_a_run_of_its_own_and_restored_it_has_every_row(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MC2SF_DATABASE", database_url)
    monkeypatch.chdir(tmp_path)
    engine = connect(database_url)
    with engine.begin() as connection:
        fill(connection, RUN)
        fill(connection, "another")
        put(connection, schema.dead_letters, [{"run": RUN, "topic": "t", "offset": 2**40, "value": b"\x00\xff"}])
    engine.dispose()
    before = everything(database_url)
    assert run("backup", RUN, "copy")[0] == 0
    assert run("backup", RUN, "copy")[0] == 1, "the folder has one already"
    copied = everything(f"sqlite:///{tmp_path}/copy/mc2sf.db")
    assert {name: len(rows) for name, rows in copied.items()} == {
        name: sum(row[0] == RUN for row in rows) for name, rows in before.items()
    }
    assert json.loads(run("show", "copy", "--json")[1])["run"] == RUN

    def printed(*words: str) -> list[dict[str, object]]:
        return json.loads(CliRunner().invoke(app, [*words, "copy", "--json"]).output)  # type: ignore[no-any-return]

    assert [(each["version"], each["kind"]) for each in printed("releases", "list")][-1] == (4, "retrain")
    (letter,) = printed("dead-letters", "list")
    assert (letter["position"], letter["value"]) == (f"t/0@{2**40}", "AP8=")
    refused, sentence = run("restore", "copy")
    assert (refused, "already" in sentence) == (1, True)
    assert run("delete", RUN, "--yes")[0] == 0
    assert run("restore", "copy")[0] == 0
    assert everything(database_url) == before


def test_doctor_of_a_run_that_has_ended_asks_no_broker(settings: Settings, tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/runs/own/mc2sf.db", tmp_path / "runs" / "own"
    stored(settings, "own", url, folder, status="finished")

    def findings() -> dict[str, dict[str, object]]:
        done = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
        found = {each["subject"]: each for each in json.loads(done.output)}
        assert done.exit_code == (0 if all(each["ok"] for each in found.values()) else 1)
        return found

    assert set(findings()) == {"database", "run", "dead letters", "versions"}
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(status="failed"))
    engine.dispose()
    assert findings()["run"]["ok"] is False


def test_of_a_trimmed_run_each_kept_click_is_ranked_again_as_it_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MC2SF_DATABASE", database_url)
    engine = connect(database_url)
    monkeypatch.setenv("MC2SF_QUALITY_SPAN_S", "1")
    a_recorded_run(engine, SMALL)
    keys = [{"run": SMALL.run, "user": user, "seq": seq, "key": seq} for user in "ab" for seq in range(130)]
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.idempotency_keys), keys)
    before = everything(database_url)
    assert run("trim", SMALL.run, "--keep", "10d")[0] == 0
    assert {name: len(rows) for name, rows in before.items()} == {
        name: len(rows) + 4 * (name == "idempotency_keys") for name, rows in everything(database_url).items()
    }
    assert run("trim", SMALL.run, "--keep", "1s")[0] == 0
    after = everything(database_url)
    smaller = {name for name in before if len(after[name]) < len(before[name])}
    assert smaller == {"outcomes", "click_uploads", "metric_points", "idempotency_keys"}
    assert 0 < len(after["outcomes"]) < len(before["outcomes"])
    assert len(after["interactions"]) == len(before["interactions"])
    engine.dispose()
    if engine.dialect.name != "sqlite":
        return
    evaluated = CliRunner().invoke(app, ["evaluate", SMALL.run])
    assert "0 ranks differ" in evaluated.output
    assert "were deleted: of later ones river and served are not compared" in " ".join(evaluated.output.split())
    none = CliRunner().invoke(app, ["evaluate", SMALL.run, "--as-of", "1970-01-01"])
    assert "no click was ranked up to that event time" in f"{none.output}{none.exception}"
    refused = CliRunner().invoke(app, ["verify", SMALL.run])
    assert "can't be verified" in f"{refused.output}{refused.exception}"
    with engine.begin() as connection:
        changed = sa.case((schema.outcomes.c.target_index == 0, 1), else_=0)
        connection.execute(sa.update(schema.outcomes).values(target_index=changed))
    assert CliRunner().invoke(app, ["evaluate", SMALL.run]).exit_code == 1
    engine.dispose()
