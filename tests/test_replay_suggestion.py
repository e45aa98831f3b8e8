"""The map that is proposed for an unknown log: its TOML is a map, and reads the log."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import RowErrors, SourceError
from replay.sources.log_map import LogMap, Slate, read_map
from replay.sources.source import parse
from replay.suggest.suggestion import suggestion
from tests.support.logs import write

T = 1_684_393_203  # s


def proposed(path: Path) -> LogMap:
    return msgspec.toml.decode(suggestion(f"log:{path}", None), type=LogMap)


def rows(path: Path) -> int:
    source = parse(f"log:{path}", proposed(path))
    return sum(batch.num_rows for batch in source.read(source.policies[0], RowErrors()))


LOGS: dict[str, tuple[str, str, int, dict[str, str]]] = {  # name of the file, text, rows, words for events
    "names": (
        "a.csv",
        f"visitorid,event,itemid,timestamp\n1,view,2,{T}000\n1,addtocart,2,{T}001\n",
        2,
        {"view": "exposure", "addtocart": "click"},
    ),
    "no header": ("a.csv", f"1,2,9,pv,{T}\n1,3,9,buy,{T + 1}\n", 2, {"pv": "exposure", "buy": "click"}),
    "RecBole": ("a.inter", f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t5\t{T}\n", 1, {}),
    "ratings": ("a.csv", f"A1,B1,4.0,{T}\nA1,B2,5.0,{T}\nA2,B1,1.0,{T}\n", 3, {}),
    "dates": ("a.csv", "user;item;timestamp;event\nu;i;31.12.2021 07:01;click\n", 1, {"click": "click"}),
    "lists": (
        "a.jsonl",
        json.dumps({"session": 1, "events": [{"aid": 1, "ts": T, "type": "carts"}]}),
        1,
        {"carts": "click"},
    ),
    "only ids": ("a.csv", f"user_id,movie,ts\n1,2,{T}\n1,3,{T}\n", 2, {}),
}


@pytest.mark.parametrize("case", LOGS)
def test_a_log_is_read_with_the_map_that_is_proposed_for_it(tmp_path: Path, case: str) -> None:
    name, text, count, events = LOGS[case]
    path = write(tmp_path / name, text)
    assert rows(path) == count
    assert proposed(path).events == events


def test_slates_with_marked_clicks_are_noticed(tmp_path: Path) -> None:
    lines = [f"{n}\tU{n % 2}\t1/10/2023 1:00:00 PM\t\tN1-0 N2-1" for n in range(4)]
    path = write(tmp_path / "behaviors.tsv", "\n".join(lines))
    assert proposed(path).slate == Slate(column="5", click_suffix="-1", exposure_suffix="-0")
    assert proposed(path).columns["user"] == "2"
    assert rows(path) == 8


def test_a_column_of_a_parquet_file_is_proposed_by_its_name(tmp_path: Path) -> None:
    table = pa.table({"customer_id": [1], "asin": ["B"], "event_time": [T], "event_type": [b"purchase"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == 1


def test_what_is_unsure_is_said(tmp_path: Path) -> None:
    text = suggestion(
        f"log:{write(tmp_path / 'a.csv', f'user,item,timestamp,event{chr(10)}u,i,{T},wave{chr(10)}')}", None
    )
    assert 'events = {"wave" = "ignore"}  # unsure: "wave"' in text
    assert "nothing looks like timestamp" in suggestion(f"log:{write(tmp_path / 'b.csv', 'a,b' + chr(10))}", None)
    with pytest.raises(SourceError, match="synthetic: only log:FILE takes a map"):
        suggestion("synthetic", None)


@settings(max_examples=60)
@given(st.lists(st.text(max_size=8), min_size=2, max_size=5), st.text(max_size=30), st.binary(max_size=40))
def test_whatever_a_log_has_for_names_and_words_the_proposal_is_toml(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], word: str, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    first = json.dumps({**dict.fromkeys(names, word), "event": word, "timestamp": T})
    for path in (write(folder / "a.jsonl", first), write(folder / "a.csv", data), write(folder / "b.csv", word)):
        try:
            proposed(path)
        except SourceError as error:
            assert str(path) in str(error)  # noqa: PT017 - both ends are right


LABELLED = "user,item,timestamp,event\n"
ODD = {  # a log, and a line of the map that is proposed for it
    "a name twice": ("x,user,x,item,timestamp,event\n0,u,9,i,{t},click\n", 'columns = {"user" = "user"'),
    "no names": (",user,,item,timestamp,event\n0,u,9,i,{t},click\n", '"item" = "item"'),
    "comments": ("# made by x\n# in 2023\n" + LABELLED + "u,i,{t},click\n", 'comment = "#"'),
    "Excel": ("sep=;\n" + LABELLED.replace(",", ";") + "u;i;{t};click\n", 'separator = ";"'),
    "yes and no": (LABELLED + "u,i,{t},yes\nu,j,{t},no\n", 'events = {"yes" = "click", "no" = "exposure"}  # unsure'),
    "0 and 1": (LABELLED + "u,i,{t},0\nu,j,{t},1\n", 'events = {"0" = "exposure", "1" = "click"}  # unsure'),
    "ratings to 10": ("user,item,timestamp,rating\nu,i,{t},10\nu,j,{t},2\n", "click_from = 8  # unsure"),
    "ratings to 5": ("user,item,timestamp,rating\nu,i,{t},5\nu,j,{t},.5\n", "click_from = 4  # unsure"),
    "one wrong time": (LABELLED + "u,i,0,click\nu,i,{t},click\nu,i,{t},click\n", "events = {"),
    "day first, at last": (
        LABELLED + "u,i,01/02/2023 08:00,click\nu,i,13/02/2023 08:00,click\n",
        'time_format = "%d/%m/%Y %H:%M"\n',
    ),
    "from 0": (LABELLED + "u,i,77,click\nu,i,78,click\n", 'time_unit = "s"  # unsure: counts from 0'),
    "two digits of a year": (LABELLED + "u,i,31/12/22 08:00,click\n", 'time_format = "%d/%m/%y %H:%M"\n'),
    "Oracle": (LABELLED + "u,i,18-MAY-23 07.00.03.000000 AM,click\n", 'time_format = "%d-%b-%y %I.%M.%S.%f %p"'),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_log_is_read_with_the_map_that_is_proposed_for_it(tmp_path: Path, case: str) -> None:
    text, line = ODD[case]
    path = write(tmp_path / "a.csv", text.format(t=T))
    proposed = suggestion(f"log:{path}", None)
    assert line in proposed
    assert "time_unit" not in proposed or case == "from 0"
    errors = RowErrors("skip")
    source = parse(f"log:{path}", read_map(write(tmp_path / "map.toml", proposed)))
    assert sum(batch.num_rows for batch in source.read(source.policies[0], errors))
    assert errors.total == (case == "one wrong time")


def test_an_encoding_and_rows_of_another_width_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", (LABELLED + f"\xe9,i,{T},click\n").encode("cp1252"))
    assert 'encoding = "cp1252"  # unsure' in suggestion(f"log:{path}", None)
    path = write(tmp_path / "a.csv", LABELLED + f"u,i,{T},click,\n")
    with pytest.raises(SourceError, match="no row has the 4 fields of line 1"):
        suggestion(f"log:{path}", None)


@pytest.mark.parametrize("damage", [slice(0, 0), slice(40, 60)])
def test_a_damaged_parquet_file_is_a_sentence(tmp_path: Path, damage: slice) -> None:
    path = tmp_path / "a.parquet"
    latin = pa.array([b"\xff" * 99]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"user": latin, "item": [1]}), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[damage] = b"\xff" * (damage.stop - damage.start)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet, near row 1"):
        suggestion(f"log:{path}", None)
