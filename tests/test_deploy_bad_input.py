"""Bad input as a user meets it: the installed command says which file, which line and why, and ends with an error."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from deploy.cli.errors import explain
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.settings import Settings
from tests.support.command import Command, installed
from tests.support.logs import HEADER

GOOD = HEADER + "u,i,1700000003,click\n"
CASES: dict[str, tuple[str, bytes, str]] = {
    "truncated gzip": (
        "a.csv.gz",
        gzip.compress((HEADER + "u,i,1700000003,click\n" * 10_000).encode())[:-200],
        "line ",
    ),
    "wrong columns": ("a.csv", b"who,what\n1,2\n", "there is no user, item, timestamp, event"),
    "a cell too few": ("a.csv", (GOOD + "u,i,3\n").encode(), "line 3: wrong columns"),
    "NaN": ("a.csv", (GOOD + "u,i,nan,click\n").encode(), "line 3: time is not a finite number"),
    "negative time": ("a.csv", (GOOD + "u,i,-5,click\n").encode(), "line 3: time is negative"),
    "unknown kind": ("a.csv", (GOOD + "u,i,1700000004,klick\n").encode(), "line 3: unknown event kind ('klick')"),
    "a long line": (
        "a.csv",
        (GOOD + "u," + 10_000_000 * "x" + ",1700000004,click\n").encode(),
        "line 3: line of more than",
    ),
    "another encoding": ("a.csv", (GOOD + "caf\xe9,i,4,click\n").encode("latin-1"), "line 3: not UTF-8"),
    "UTF-16 without its mark": (
        "a.csv",
        GOOD.encode("utf-16-le"),
        "is not a text file: is it an archive, a binary format, or in another --encoding?",
    ),
    "empty": ("a.csv", b"", "is empty"),
    "only a header": ("a.csv", HEADER.encode(), "no row could be read"),
    "broken JSON": ("a.jsonl", b'{"user": 1,\n', "line 1: not JSON"),
    "no Parquet": ("a.parquet", b"PAR1", "is not Parquet"),
    "another format": ("a.xlsx", b"x", "there is no user, item, timestamp, event"),
}
WHOLE = {
    "truncated gzip",
    "wrong columns",
    "UTF-16 without its mark",
    "empty",
    "only a header",
    "no Parquet",
    "another format",
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_a_sentence_with_file_and_line(mc2sf: Command, tmp_path: Path, case: str) -> None:
    name, data, says = CASES[case]
    (tmp_path / name).write_bytes(data)
    done = mc2sf("data", "inspect", f"log:{tmp_path / name}", "--on-error", "stop")
    assert done.returncode == 2
    assert f"{tmp_path / name}" in done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_rows_can_be_skipped_files_can_not(mc2sf: Command, tmp_path: Path, case: str) -> None:
    name, data, says = CASES[case]
    (tmp_path / name).write_bytes(data)
    done = mc2sf("data", "inspect", f"log:{tmp_path / name}", "--on-error", "skip")
    readable = case not in WHOLE | {"UTF-16", "broken JSON"}  # of these no row is left
    assert done.returncode == (0 if readable else 2)
    if readable:
        assert "1 rows refused" in done.stdout
        assert f"{tmp_path / name}, {says}" in done.stdout


def test_inspect_lists_every_reason_and_says_by_its_exit_code_that_a_run_would_stop(
    mc2sf: Command, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD + "u,i,nan,click\n" * 30 + "u,i,1700000004,klick\n")
    done = mc2sf("data", "inspect", f"log:{path}")
    assert done.returncode == 1
    assert "31 rows refused: 30 time is not a finite number, 1 unknown event kind; the first 20:" in done.stdout
    assert done.stdout.count(f"{path}, line ") == 20


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("log:{}/none.csv", "none.csv: No such file"),
        ("log:{}", "no file in the folder"),
        ("steam:{}", "is a folder"),
        ("steam:{}/none.json.gz", "No such file"),
        ("ml-1m:{}", "ratings.dat: No such file"),
        ("ml-100k:{}", "u.data: No such file"),
        ("ebnerd:{}", "has neither"),
        ("log:", "names no file"),
        ("movies:{}", "is no source"),
        ("synthetic:users=-1", "synthetic: users"),
        ("synthetic:user=1", "unknown parameter 'user'"),
    ],
)
def test_a_source_that_is_not_there_is_a_sentence(mc2sf: Command, tmp_path: Path, source: str, says: str) -> None:
    for command in (["data", "inspect"], ["run", "--out", str(tmp_path / "out")]):
        done = mc2sf(*command, source.format(tmp_path))
        assert done.returncode == 2
        assert says in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--from", "yesterday", "--from 'yesterday' is no time"),
        ("--to", "99999999999999999999", "--to '99999999999999999999' is no time"),
        ("--from", "20230518", "looks like yyyymmdd"),
        ("--to", "2023", "looks like yyyy"),
        ("--exposures", "rated", "exposures can't be 'rated' here"),
        ("--epoch", "often", "epoch 'often'"),
        ("--speed", "nan", "--speed"),
        ("--retrain-every", "1y", "--retrain-every"),
        ("--limit", "0", "--limit"),
        ("--faults", "luck=1", "--faults"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_sentence(
    mc2sf: Command, tmp_path: Path, option: str, value: str, says: str
) -> None:
    done = mc2sf("run", "synthetic:users=5", "--out", str(tmp_path / "out"), option, value)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--out", "x" * 300, "File name too long"),
        ("--out", "file/out", "Not a directory"),
        ("--out", "new/\udcff", "is not UTF-8"),
        ("--database", "nonsense", "can't be parsed"),
        ("--database", "postgresql://me:hunter2@h:port/x", "can't be parsed"),
        ("--database", "mysql://h/x", "mysql is no database that can be used"),
        ("--database", "sqlite:///.", "is a folder"),
        ("--database", "sqlite:///none/x.db", "there is no folder none"),
    ],
)
def test_a_place_that_can_not_be_written_is_a_sentence_and_nothing_is_left_there(
    mc2sf: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments = [option, value] if option == "--out" else ["--out", "new", option, value]
    done = mc2sf("run", "synthetic:users=3", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
    assert "hunter2" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.process
def test_a_terminal_that_is_not_utf_8_and_a_narrow_one_get_every_character(tmp_path: Path) -> None:
    log = tmp_path / "caf\u00e9.csv"
    log.write_text(HEADER + "caf\u00e9,i,1684411200,click\ncafe\u0301,i,1684411200,click\n")
    done = installed("data", "inspect", f"log:{log}", PYTHONIOENCODING="ascii", COLUMNS="40")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "..." not in done.stdout
    assert "group of the same user" in " ".join(done.stdout.replace("|", "").split())


@pytest.mark.process
def test_the_installed_command_stops_at_a_bad_row_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD + "u,i,1700000004,klick\n")
    done = installed("run", f"log:{tmp_path / 'a.csv'}", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "a.csv, line 3: unknown event kind ('klick')" in done.stderr


def test_replay_stops_at_a_bad_row_or_skips_counts_and_lists_it(
    settings: Settings, servers: Callable[[str], str], tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"brokers": servers("embedded"), "lockstep": False})
    topic_admin.create(settings)
    path = tmp_path / "a.parquet"
    table = pa.table(
        {"user": ["u"] * 3, "item": ["i"] * 3, "timestamp": [1_600_000_001, -1, 1_600_000_002], "event": ["click"] * 3}
    )
    pq.write_table(table, path)
    stopped = installed("replay", f"log:{path}", "--speed", "max", **settings.environment())
    assert stopped.returncode == 2
    assert f"{path}, row 2: time is negative (-1)" in stopped.stderr
    skipped = installed("replay", f"log:{path}", "--speed", "max", "--on-error", "skip", **settings.environment())
    assert skipped.returncode == 0
    assert "1 rows refused: 1 time is negative" in skipped.stdout
    assert f"{path}, row 2" in skipped.stdout
    assert "2 events sent" in skipped.stdout


def test_a_replay_that_may_not_go_on_says_why(settings: Settings, servers: Callable[[str], str]) -> None:
    settings = settings.model_copy(update={"brokers": servers("embedded"), "lockstep": False})
    topic_admin.create(settings)
    first = installed("replay", "synthetic:users=3", "--speed", "max", **settings.environment())
    assert first.returncode == 0
    other = installed("replay", "synthetic:users=4", "--speed", "max", **settings.environment())
    assert other.returncode == 2
    assert "belongs to another log or other options" in other.stderr


def test_a_damaged_database_and_a_missing_certificate_are_sentences(mc2sf: Command, tmp_path: Path) -> None:
    (tmp_path / "mc2sf.db").write_text("no database")
    with pytest.raises(sa.exc.DatabaseError) as damaged:
        connect(f"sqlite:///{tmp_path / 'mc2sf.db'}")
    assert (explained := explain(damaged.value)) is not None
    assert "file is not a database" in explained.sentence
    pair = ("--certificate", str(tmp_path / "none.pem"), "--key", str(tmp_path / "none.pem"))
    done = mc2sf("gateway", "serve", "--tokens", str(tmp_path / "tokens.json"), *pair)
    assert done.returncode == 2
    assert "No such file" in done.stderr
