"""The map of a log: data in TOML, whose errors name the file and the field."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from replay.errors import SourceError
from replay.sources.log_map import LogMap, Slate, read_map
from tests.support.logs import write

MAP = """
columns = {user = "visitorid", item = "2", timestamp = "time", event = "action"}
events = {view = "exposure", addtocart = "click", refund = "ignore"}
separator = "::"
tz = "Europe/Copenhagen"
time_unit = "us"
null = ["?"]
[slate]
column = "shown"
click_suffix = "-1"
"""


def test_a_map_is_read_from_toml_and_kept_in_json(tmp_path: Path) -> None:
    found = read_map(write(tmp_path / "map.toml", MAP))
    assert found.columns == {"user": "visitorid", "item": "2", "timestamp": "time", "event": "action"}
    assert found.events["refund"] == "ignore"
    assert found.slate == Slate(column="shown", click_suffix="-1")
    assert msgspec.json.decode(msgspec.json.encode(found), type=LogMap) == found
    assert read_map(write(tmp_path / "map.toml", "\ufeff")) == LogMap()  # as editors of Windows write it


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('colums = {user = "a"}', "unknown field `colums`"),
        ('columns = {buyer = "a"}', "'buyer'.*columns"),
        ('events = {view = "seen"}', "'seen'.*events"),
        ("header = 3", "header"),
        ("click_from = 3", "click_from: columns names no click and no rating"),
        ('events = {buy = "click"}\nevent = "click"', "events: event decides"),
        ('events = {buy = "click"}\ncolumns = {click = "c"}', "events: the column click decides"),
        ('events = {buy = "click"}\n[slate]\ncolumn = "s"', "events: the slate decides"),
        ('time_unit = "s"\ntime_format = "%Y"', "time_unit: time_format is given, too"),
        ('encoding = "utf-99"', "encoding: 'utf-99' is unknown"),
        ('encoding = "a\\u0000"', "encoding: "),
        ('encoding = "rot13"', "encoding: 'rot13' is unknown"),
        ('encoding = "idna"', "encoding: 'idna' is unknown"),
        ('[slate]\ncolumn = "a"\nseparator = ""', "separator: '' can't separate items"),
        ('tz = "Mars/Base"', "tz: 'Mars/Base' is no time zone"),
        ('tz = "../../etc/passwd"', "tz: "),
        ("click_from = nan", "click_from: nan"),
        ('separator = ""', "separator: ''"),
        ("separator = '\"'", "separator: "),
        ('comment = "//"', "comment: "),
        ('columns = {click = "a", rating = "b"}', "columns: only one of click, rating"),
        ('event = "click"\ncolumns = {rating = "b"}', "event: the column rating decides"),
        ('[slate]\nseparator = "|"', "column.*slate"),
        ("columns = ", r"map\.toml: "),
        (b"\xff", r"map\.toml: "),
    ],
)
def test_an_error_of_a_map_names_the_file_and_the_field(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(SourceError, match=rf"map\.toml: .*{says}|{says}"):
        read_map(write(tmp_path / "map.toml", text))


def test_a_map_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(SourceError, match=str(path)):
            read_map(path)
