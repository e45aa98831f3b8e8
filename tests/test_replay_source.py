from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import RowErrors, SourceError
from replay.parameters import parameters
from replay.sources.source import FORMS, parse
from replay.sources.synthetic.users import Synthetic
from tests.support.logs import HEADER


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no source"),
        ("ml-20n:x", "no source: write one of synthetic"),
        ("log", "names no file: write log:PATH"),
        ("ml-1m:", "names no file"),
        ("synthetic:users", "int expected"),
        ("synthetic:users=many", "int expected"),
        ("synthetic:noise=much", "float expected"),
        ("synthetic:user=5", "unknown parameter 'user': there are users, items"),
        ("synthetic:users=5,users=6", "parameter 'users' is given twice"),
        ("synthetic:users=" + "x" * 5000, r"users='x{56}\.\.\.: int expected$"),
        ("log:\0.csv", "names no file: write log:PATH"),
        ("log:~no-such-user/a.csv", "~no-such-user/a.csv: "),
        ("synthetic:users=0", "synthetic: users"),
    ],
)
def test_what_is_no_source_is_told_what_is(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        parse(text)


@pytest.mark.parametrize("form", ["log:{}.csv", "log:{}.parquet", "steam:{}", "ml-1m:{}", "ml-100k:{}", "ebnerd:{}"])
def test_what_the_system_says_of_a_file_is_a_sentence(form: str, tmp_path: Path) -> None:
    name = tmp_path / ("x" * 300)
    with pytest.raises(SourceError, match=f"{name}.*: File name too long"):
        list(parse(form.format(name)).read("logged", RowErrors()))
    with pytest.raises(SourceError, match=f"{name}.*: File name too long"):
        parse(form.format(name)).file_stamps()


def test_the_parameters_named_to_users_are_the_defaults() -> None:
    example = re.search(r"synthetic\[:(.*?),\.\.\.\]", FORMS)
    assert example
    assert parameters(Synthetic, example[1]) == Synthetic()
    readme = Path(__file__).parents[1] / "README.md"
    assert example[0] in readme.read_text()


def test_parameters_go_into_the_world() -> None:
    source = parse("synthetic:users=5,items=60,noise=0.5")
    found = [batch.to_pylist() for batch in source.read("logged", RowErrors())]
    assert found == [batch.to_pylist() for batch in Synthetic(users=5, items=60, noise=0.5).batches()]


@pytest.mark.parametrize(
    ("text", "policies"),
    [
        ("ml-1m:x", ("rated", "simulated", "logged")),
        ("ml-100k:x", ("rated", "simulated", "logged")),
        ("steam:x", ("simulated", "logged")),
        ("log:x", ("logged", "simulated")),
        ("alipay:x", ("logged", "simulated")),
        ("ebnerd:x", ("logged",)),
        ("synthetic", ("logged",)),
    ],
)
def test_each_source_says_which_exposures_it_can_have(text: str, policies: tuple[str, ...]) -> None:
    source = parse(text)
    assert source.policies == policies
    refused = next((p for p in ("rated", "simulated") if p not in policies), None)
    if refused:
        with pytest.raises(SourceError, match=f"exposures can't be '{refused}' here, but {' or '.join(policies)}"):
            next(source.read(refused, RowErrors()))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_rows_carry_their_file_and_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [("u", f"i{n}", "x" if n == 1 else 1_700_000_000 + n) for n in range(4)]  # the second one is refused
    if name.endswith("csv"):
        path.write_text(HEADER + "".join(f"{u},{i},{t},click\n" for u, i, t in rows))
    elif name.endswith("jsonl"):
        path.write_text(
            "".join(f'{{"user":"{u}","item":"{i}","timestamp":"{t}","event":"click"}}\n' for u, i, t in rows)
        )
    else:
        columns = {"user": ["u"] * 4, "item": [r[1] for r in rows], "timestamp": [str(r[2]) for r in rows]}
        pq.write_table(pa.table(columns | {"event": ["click"] * 4}), path)
    errors = RowErrors("skip")
    (batch,) = parse(f"log:{path}").read("logged", errors)
    found = list(zip(batch["item"].to_pylist(), batch["line"].to_pylist(), strict=True))
    header = 2 if name.endswith("csv") else 1
    assert found == [(f"i{n}", n + header) for n in (0, 2, 3)]
    unit = "row" if name.endswith("parquet") else "line"
    assert errors.location(batch["file"][0].as_py(), found[0][1]) == f"{path}, {unit} {header}"
