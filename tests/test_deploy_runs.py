"""A run is found again by its id and its folder, and its parts agree on what decides its results."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from deploy.runs import (
    RunFile,
    check_run_folder,
    clear_run_folder,
    find,
    find_in,
    lock_folder,
    new_folder,
    register_run,
    write_run_file,
)
from deploy.user_error import UserError
from replay.errors import SourceError
from replay.json_file import write_json
from replay.prepare.plan import Options, find_plan
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.database import schema
from streams.database.engine import DatabaseUrlError, connect, sqlite_url
from streams.settings import Settings
from tests.support.command import Command


def test_parts_with_the_same_settings_agree_and_others_are_told_what_differs(
    settings: Settings, database_url: str
) -> None:
    engine = connect(database_url)
    for _ in range(2):
        register_run(settings, engine, "parts")
    other = settings.model_copy(update={"threshold": 7, "seed": 9, "take_max": 5})
    with pytest.raises(UserError, match=r"other settings: seed, threshold$"):
        register_run(other, engine, "parts")
    with engine.connect() as connection:
        assert connection.execute(sa.select(schema.runs.c.source)).scalars().all() == ["parts"]
    engine.dispose()


def test_a_run_that_should_be_fresh_must_not_be_there(settings: Settings, database_url: str) -> None:
    engine = connect(database_url)
    register_run(settings, engine, "synthetic", fresh=True)
    with pytest.raises(UserError, match="--resume"):
        register_run(settings, engine, "synthetic", fresh=True)
    engine.dispose()


def test_a_run_is_found_by_its_folder_with_the_settings_it_was_begun_with(tmp_path: Path, settings: Settings) -> None:
    begun = settings.model_copy(update={"threshold": 7})
    engine = connect(begun.database.get_secret_value())
    register_run(begun, engine, "synthetic")
    engine.dispose()
    write_run_file(tmp_path, begun, "synthetic")
    found = find(str(tmp_path))
    assert found.settings.semantic() == begun.semantic()
    found.engine.dispose()
    with pytest.raises(UserError, match="no run 'nobody'"):
        find("nobody")


def test_a_database_that_is_missing_is_not_created(tmp_path: Path, settings: Settings) -> None:
    missing = tmp_path / "gone.db"
    gone = settings.model_copy(update={"database": SecretStr(sqlite_url(missing))})
    write_run_file(tmp_path, gone, "synthetic")
    for look in (lambda: find(str(tmp_path)), lambda: find_in(sqlite_url(missing), None)):
        with pytest.raises(DatabaseUrlError, match="there is no database"):
            look()
    assert not missing.exists()


def test_a_database_without_tables_of_a_run_gets_none_by_a_search(tmp_path: Path, settings: Settings) -> None:
    other = tmp_path / "other.db"
    engine = sa.create_engine(sqlite_url(other))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (x INTEGER)")
    write_run_file(tmp_path, settings.model_copy(update={"database": SecretStr(sqlite_url(other))}), "synthetic")
    for look in (lambda: find(str(tmp_path)), lambda: find_in(sqlite_url(other), "run")):
        with pytest.raises(DatabaseUrlError, match="has no tables of a run"):
            look()
    assert sa.inspect(engine).get_table_names() == ["theirs"]
    engine.dispose()


def test_an_id_of_two_folders_is_not_guessed_and_a_damaged_third_hides_none(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "run.json").write_text("{")
    run = begun(runs / "b", settings, 7)
    found = find(run.run)
    assert found.folder == Path("runs/b")
    found.engine.dispose()
    shutil.copytree(runs / "b", runs / "c")
    with pytest.raises(UserError, match=f"2 runs are called '{run.run}': give the folder of one: runs/b, runs/c"):
        find(run.run)
    with pytest.raises(UserError, match="is damaged"):
        find("runs/a")


def begun(folder: Path, settings: Settings, threshold: int, database: str = "mc2sf.db") -> Settings:
    """A run in `folder`, with its database there."""
    folder.mkdir()
    url = SecretStr(sqlite_url((folder / database).resolve()))
    run = settings.model_copy(update={"database": url, "threshold": threshold})
    engine = connect(url.get_secret_value())
    register_run(run, engine, "synthetic")
    engine.dispose()
    write_run_file(folder, run, "synthetic")
    return run


@pytest.mark.parametrize("version_0_1", [False, True])
def test_a_copied_or_moved_folder_works_by_its_own_database(
    tmp_path: Path, settings: Settings, version_0_1: bool
) -> None:
    database = "mc2sf.db" if version_0_1 else "own.db"
    run = begun(tmp_path / "first", settings, 7, database)
    if version_0_1:  # the whole path is in the file
        record = RunFile(run.run, run.database.get_secret_value(), run.brokers, "synthetic")
        write_json(tmp_path / "first" / "run.json", record)
    shutil.copytree(tmp_path / "first", tmp_path / "copy [1]?#%41")
    (tmp_path / "first").rename(tmp_path / "moved")
    begun(tmp_path / "first", settings, 9, database)  # another run is where the first one was
    for name in ("copy [1]?#%41", "moved"):
        found = find(str(tmp_path / name))
        assert (found.engine.url.database, found.settings.threshold) == (str(tmp_path / name / database), 7)
        found.engine.dispose()


def test_a_run_is_found_with_its_number_of_partitions(tmp_path: Path, settings: Settings) -> None:
    begun(tmp_path / "run", settings.model_copy(update={"partitions": 3}), 7, "own.db")
    found = find(str(tmp_path / "run"))
    found.engine.dispose()
    assert found.settings.partitions == 3


def test_a_new_folder_is_deleted_if_nothing_was_put_into_it_and_no_other(tmp_path: Path) -> None:
    for name, content in (("a/b", False), ("c/d", True), (".", False)):
        with suppress(ValueError), new_folder(tmp_path / name):
            if content:
                (tmp_path / name / "log").touch()
            raise ValueError
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["c", "c/d", "c/d/log"]


def test_a_run_gives_way_to_the_next_in_its_folder_and_nothing_else_does(tmp_path: Path, settings: Settings) -> None:
    state, log, database = tmp_path / "state" / "x", tmp_path / "logs" / "x.log", tmp_path / "mc2sf.db"
    for path in (state, log, database, tmp_path / "summary.json"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    clear_run_folder(tmp_path)
    assert state.exists()
    assert log.exists()
    assert database.exists()
    write_run_file(tmp_path, settings, "synthetic")
    check_run_folder(tmp_path)
    clear_run_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "run.json", "run.db"}  # that of `settings`


def test_a_folder_in_use_is_refused_and_free_again_after_the_run(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with pytest.raises(UserError, match="is in use by another run"), lock_folder(tmp_path):
            pytest.fail("two runs hold one folder")
        assert not list(tmp_path.iterdir())
    with lock_folder(tmp_path):
        pass


def test_a_second_run_into_a_folder_in_use_touches_nothing(tmp_path: Path, mc2sf: Command) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with lock_folder(tmp_path):
        done = mc2sf("run", "synthetic:users=5", "--out", str(tmp_path))
    assert (done.returncode, "is in use by another run" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_run_that_never_began_leaves_a_folder_that_the_next_may_have(tmp_path: Path) -> None:
    for name in (None, "plan.json", "log.parquet", "mc2sf.db"):
        if name is not None:
            (tmp_path / name).touch()
        check_run_folder(tmp_path)
    check_run_folder(tmp_path / "none")
    with pytest.raises(UserError, match="is not a folder"):
        check_run_folder(tmp_path / "plan.json")


def test_what_a_killed_preparation_leaves_is_replaced_and_a_foreign_log_is_not(tmp_path: Path) -> None:
    source, killed = parse("synthetic:users=5,items=40,clicks=4"), tmp_path / "killed"

    def kill(task: str, _rows: int) -> None:
        if task == "checking":
            shutil.copytree(tmp_path / "run", killed)  # as kill -9 would leave it now

    plan = prepare(source, Options(), tmp_path / "run", progress=kill)
    assert [path.name for path in killed.iterdir()] == [".mc2sf-preparing"]
    assert list(killed.rglob("*.parquet"))
    check_run_folder(killed)
    assert prepare(source, Options(), killed).contents == plan.contents
    assert sorted(path.name for path in killed.iterdir()) == ["log.parquet", "plan.json"]
    (killed / "plan.json").unlink()
    with pytest.raises(UserError, match="holds no run"):
        check_run_folder(killed)


def test_a_preparation_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    source = parse("synthetic:users=5,items=40,clicks=4")
    plan = prepare(source, Options(), tmp_path)
    for again, options in ((source, Options(seed=2, epoch="x")), (parse(f"log:{tmp_path / 'none'}"), Options())):
        with pytest.raises(SourceError):
            prepare(again, options, tmp_path)
        assert find_plan(tmp_path) == plan
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log.parquet", "plan.json"]
