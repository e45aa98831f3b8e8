"""No character of a path, a name or an id is interpreted: not by duckdb, in a URL, on the terminal, by Alembic."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploy.cli import main
from deploy.console import terminal
from replay.errors import SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.database.engine import alembic_config, connect, sqlite_url

ROWS = "user,item,timestamp,event\n" + "".join(f"u{n % 5},i{n % 7},{1_700_000_000 + n},click\n" for n in range(40))
HOSTILE = st.text("=[]*?#%&<>'\"\\`:{}$;!ab1 \n\té😀", min_size=1, max_size=20).filter(lambda name: set(name) - {" "})
KNOWN = [
    "user=alice",
    "?\\",
    "time=5",
    "a[b]",
    "*",
    "q?x",
    "h#x",
    "p%41",
    "%(here)s",
    "it's",
    ":smile:",
    "[red]",
    "{file}",
]


def with_known(test: Callable[..., None]) -> Callable[..., None]:
    for name in KNOWN:
        test = example(name=name)(test)
    return test


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return contents(tmp_path_factory.mktemp("plain"))


def contents(folder: Path) -> dict[str, int]:
    """Prepare the log in `folder` with duckdb, and count what the sorted log contains."""
    log = folder / "log.csv"
    log.write_text(ROWS)
    found = prepare(parse(f"log:{log}"), Options(exposures="simulated"), folder / "out").contents
    return {"rows": found.rows, "users": found.users, "items": found.items, "first": found.first, "last": found.last}


@given(name=HOSTILE)
@with_known
@hypothesis_settings(max_examples=8)
def test_a_log_below_a_hostile_folder_is_the_same_log(expected: dict[str, int], name: str) -> None:
    with TemporaryDirectory() as folder:
        inner = Path(folder) / name
        inner.mkdir()
        if "\\" in name and set(name) & set("*?["):  # duckdb takes the backslash for a separator
            with pytest.raises(SourceError, match="can't be read"):
                contents(inner)
        else:
            assert contents(inner) == expected


@given(name=HOSTILE)
@with_known
@hypothesis_settings(max_examples=200)
def test_an_sqlite_url_leads_to_its_path(name: str) -> None:
    assert sa.make_url(sqlite_url(Path("/folder") / name)).database == str(Path("/folder") / name)


@pytest.mark.parametrize("name", KNOWN)
def test_a_database_is_made_in_a_hostile_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    connect(sqlite_url(folder / "mc2sf.db")).dispose()
    assert [path.name for path in folder.iterdir() if path.suffix == ".db"] == ["mc2sf.db"]


def test_a_database_named_by_a_uri_of_sqlite_is_opened(tmp_path: Path) -> None:
    connect(f"sqlite:///file:{tmp_path / 'run.db'}?uri=true").dispose()
    assert (tmp_path / "run.db").is_file()


@given(name=HOSTILE)
@with_known
def test_the_terminal_prints_a_name_as_it_is(name: str) -> None:
    printed = StringIO()
    console = terminal()
    console.file = printed
    console.print(name, soft_wrap=True)
    assert printed.getvalue().split() == name.split()  # tabs become spaces


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", ":smile:", "a[b]*?"])
def test_a_log_is_inspected_under_its_own_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / f"{name.replace('/', '')}.csv"
    log.write_text(ROWS)
    with pytest.raises(SystemExit) as ended:
        main.main(["data", "inspect", f"log:{log}"])
    assert ended.value.code == 0
    assert log.name in "".join(capsys.readouterr().out.split())


@given(name=HOSTILE)
@with_known
def test_migrations_are_found_below_a_hostile_folder(name: str) -> None:
    folder = Path("/folder") / name
    assert alembic_config(folder).get_main_option("script_location") == str(folder)
