from __future__ import annotations

import gzip
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import asked
from deploy.runs import UserError

HEADER = "user,item,timestamp,event\n"


def mc2sf(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"} | environment,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("who,what\n1,2\n", "column"),
        (HEADER + "1,2,nan,click\n", "line 2"),
        (HEADER + "1,2,3,click\n1,2,-5,click\n", "line 3"),
        (HEADER + "1,2,3,click\n1,2,4,klick\n", "klick"),
        (HEADER + "1,2,3,click\n1," + 10_000_000 * "x" + ",4,click\n", "line 3"),
    ],
    ids=["empty", "columns", "nan", "negative", "kind", "long"],
)
def test_bad_input_is_a_sentence_with_file_and_line_not_a_traceback(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(content)
    done = mc2sf("run", f"log:{path}", "--out", str(tmp_path / "out"))
    said = (done.stdout + done.stderr).replace("\n", " ")
    assert done.returncode == 2
    assert "log.csv" in said
    assert says in said
    assert "Traceback" not in said


def test_a_truncated_gzip_and_a_missing_file_are_sentences_too(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "1,2,3,click\n" * 10_000).encode())[:-200])
    for source in (path, tmp_path / "none.csv"):
        done = mc2sf("data", "inspect", f"log:{source}")
        assert done.returncode == 2
        assert source.name in done.stderr
        assert "Traceback" not in done.stderr


def test_skipped_rows_are_counted_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "1,2,3,click\n1,2,4,klick\n2,2,5,exposure\n")
    done = mc2sf("data", "inspect", f"log:{path}", "--on-error", "skip")
    assert done.returncode == 0
    assert "line 3" in done.stdout


def test_a_misspelt_variable_is_refused() -> None:
    done = mc2sf("doctor", MC2SF_BROKER="x")
    assert done.returncode == 2
    assert "MC2SF_BROKER" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_is_shown_nowhere() -> None:
    done = mc2sf("doctor", MC2SF_DATABASE="postgresql+psycopg://me:hunter2@127.0.0.1:1/db", MC2SF_BROKERS="127.0.0.1:1")
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr


def test_every_command_teaches_itself() -> None:
    for command in ("run", "replay", "evaluate", "recommend", "doctor", "retrain", "recorder", "data inspect"):
        done = mc2sf(*command.split(), "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


@given(st.integers(0, 4_000_000_000))
def test_a_moment_is_read_from_seconds_and_from_iso(seconds: int) -> None:
    iso = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert asked.moment(iso) == asked.moment(str(seconds)) == seconds * 1000


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_pace_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--speed"):
        asked.pace(text)
