from __future__ import annotations

import gzip
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deploy.cli import options
from deploy.cli.errors import explain
from deploy.cli.main import main
from deploy.runs import write_run_file
from deploy.user_error import UserError
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.settings import Settings
from tests.support.command import UNUSABLE_BROKER, Command
from tests.support.simulation import SMALL
from tests.test_streams_rescoring import a_recorded_run

HEADER = "user,item,timestamp,event\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("who,what\n1,2\n", "column"),
        (HEADER + "1,2,nan,click\n", "line 2"),
        (HEADER + "1,2,1700000003,click\n1,2,-5,click\n", "line 3"),
        (HEADER + "1,2,1700000003,click\n1,2,1700000004,klick\n", "klick"),
        (HEADER + "1,2,1700000003,click\n1," + 10_000_000 * "x" + ",1700000004,click\n", "line 3"),
    ],
    ids=["empty", "columns", "nan", "negative", "kind", "long"],
)
def test_bad_input_is_a_sentence_with_file_and_line_not_a_traceback(
    mc2sf: Command, tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text(content)
    done = mc2sf("run", f"log:{path}", "--out", str(tmp_path / "out"))
    said = (done.stdout + done.stderr).replace("\n", " ")
    assert done.returncode == 2
    assert "log.csv" in said
    assert says in said
    assert "Traceback" not in said


def test_a_truncated_gzip_and_a_missing_file_are_sentences_too(mc2sf: Command, tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "1,2,1700000003,click\n" * 10_000).encode())[:-200])
    for source in (path, tmp_path / "none.csv"):
        done = mc2sf("data", "inspect", f"log:{source}")
        assert done.returncode == 2
        assert source.name in done.stderr
        assert "Traceback" not in done.stderr


OF_A_RUN = ("state/device/x", "logs/x.log", "mc2sf.db", "mc2sf.db-wal")


def filled(folder: Path, *names: str) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return held(folder)


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("more", [(), ("--retrain-every", "often")], ids=["no source", "no option"])
def test_a_run_that_can_not_begin_leaves_the_one_before_it_as_it_was(
    mc2sf: Command, tmp_path: Path, settings: Settings, more: tuple[str, ...]
) -> None:
    filled(tmp_path, *OF_A_RUN)
    write_run_file(tmp_path, settings, "synthetic")
    before = held(tmp_path)
    source = "synthetic:users=5" if more else f"log:{tmp_path / 'nothing.csv'}"
    done = mc2sf("run", source, "--out", str(tmp_path), *more)
    assert done.returncode == 2
    after = held(tmp_path)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize(
    "names", [("notes.txt",), OF_A_RUN, ("plan.json", "notes.txt")], ids=["other", "alike", "a plan of another kind"]
)
def test_a_folder_that_was_never_a_runs_is_refused_and_left_alone(
    mc2sf: Command, tmp_path: Path, names: tuple[str, ...]
) -> None:
    before = filled(tmp_path / "mine", *names)
    done = mc2sf("run", "synthetic:users=5", "--out", str(tmp_path / "mine"))
    assert done.returncode == 2
    assert "mine is not empty and holds no run" in done.stderr
    assert held(tmp_path / "mine") == before


def test_skipped_rows_are_counted_and_listed(mc2sf: Command, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "1,2,1700000003,click\n1,2,1700000004,klick\n2,2,1700000005,exposure\n")
    done = mc2sf("data", "inspect", f"log:{path}", "--on-error", "skip")
    assert done.returncode == 0
    assert "line 3" in done.stdout


@pytest.fixture
def recorded_run(tmp_path: Path) -> Path:
    """The --out folder of a run that is recorded in its own SQLite database."""
    settings = SMALL.model_copy(update={"database": SecretStr(f"sqlite:///{tmp_path / 'mc2sf.db'}")})
    engine = connect(settings.database.get_secret_value())
    a_recorded_run(engine, settings)
    engine.dispose()
    write_run_file(tmp_path, settings, "test")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the command refuses."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    "arguments", ["releases show {} 99", "releases rollback {} 99", "evaluate {} --release 99"], ids=lambda a: a[:17]
)
def test_a_release_that_is_not_there_is_a_sentence(
    recorded_run: Path, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    said = refused(capsys, *arguments.format(recorded_run).split())
    assert "there is no release 99 in run sim" in said


def test_no_release_that_is_not_there_recommends(recorded_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "recommend", "a", "--run", str(recorded_run), "--release", "99")
    assert "there is no release 99 in run sim" in said


def test_a_database_that_is_away_is_named_without_its_password(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/db"
    monkeypatch.setenv("MC2SF_DATABASE", url)
    write_run_file(tmp_path, settings.model_copy(update={"database": SecretStr(url)}), "test")
    said = refused(capsys, "releases", "list", str(tmp_path))
    assert "postgresql+psycopg://me:***@127.0.0.1:1/db" in said
    assert "refused" in said
    assert "hunter2" not in said


def test_a_folder_without_its_database_is_a_sentence(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = SecretStr(f"sqlite:///{tmp_path / 'gone' / 'mc2sf.db'}")
    write_run_file(tmp_path, settings.model_copy(update={"database": gone}), "test")
    said = refused(capsys, "releases", "list", str(tmp_path))
    assert str(tmp_path / "gone" / "mc2sf.db") in said
    assert "there is no database" in said


def test_a_database_folder_that_does_not_exist_is_not_waited_for(
    tmp_path: Path, settings: Settings, mc2sf: Command, broker: str
) -> None:
    topic_admin.create(settings.model_copy(update={"brokers": broker}))
    gone = tmp_path / "gone" / "mc2sf.db"
    environment = settings.model_copy(
        update={"brokers": broker, "database": SecretStr(f"sqlite:///{gone}")}
    ).environment()
    done = mc2sf("recorder", **environment | {"MC2SF_PATIENCE_S": "100000"})  # longer than the test may take
    assert (done.returncode, f"there is no folder {gone.parent}" in " ".join(done.stderr.split())) == (2, True)


def test_a_database_url_that_can_not_be_parsed_is_told_before_the_broker_is_waited_for(mc2sf: Command) -> None:
    done = mc2sf("recorder", MC2SF_DATABASE="garbage", MC2SF_BROKERS="127.0.0.1:1", MC2SF_PATIENCE_S="100000")
    assert (done.returncode, "can't be parsed" in " ".join(done.stderr.split())) == (2, True)


def test_a_database_that_sqlite_can_not_open_is_explained() -> None:
    error = sa.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError("unable to open database file"))
    explained = explain(error)
    assert explained is not None
    assert explained.sentence.endswith("copy a read-only folder elsewhere")


def test_a_damaged_run_file_is_named(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "one"
    folder.mkdir(parents=True)
    write_run_file(folder, settings, "test")
    (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:30])
    said = refused(capsys, "releases", "list", settings.run)
    assert str(folder / "run.json") in said


def test_a_misspelt_variable_is_refused(mc2sf: Command) -> None:
    done = mc2sf("doctor", MC2SF_BROKER="x")
    assert done.returncode == 2
    assert "MC2SF_BROKER" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_is_shown_nowhere(mc2sf: Command) -> None:
    done = mc2sf("doctor", MC2SF_DATABASE="postgresql+psycopg://me:hunter2@127.0.0.1:1/db", **UNUSABLE_BROKER)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr


def test_every_command_teaches_itself(mc2sf: Command) -> None:
    for command in ("run", "replay", "evaluate", "recommend", "doctor", "retrain", "recorder", "data inspect"):
        done = mc2sf(*command.split(), "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


@given(st.integers(700_000_000, 1_700_000_000))
def test_a_moment_is_read_from_seconds_and_from_iso(seconds: int) -> None:
    iso = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert options.moment("--from", iso) == options.moment("--from", str(seconds)) == seconds * 1000


@pytest.mark.parametrize("text", ["0", "7", "4100000000000", "20230518", "19495", "11/15/2019", "8:55", "soon", "-1"])
def test_a_wrong_moment_is_refused_without_the_options_of_logs(text: str) -> None:
    with pytest.raises(
        UserError, match=r"^--as-of '.*' is no time: .*; write ISO 8601 or seconds since 1970$"
    ) as caught:
        options.moment("--as-of", text)
    assert "--" not in str(caught.value).removeprefix("--as-of")


def test_a_moment_may_be_of_the_year_in_which_a_log_counts_from_0() -> None:
    assert options.moment("--as-of", "1970-01-01T00:00:07") == 7_000


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_pace_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--speed"):
        options.speed_factor(text)
