"""Options that say how a log is written: they win over a map's file, and are part of what was prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cli.data.map_options import MapOptions
from deploy.user_error import UserError
from replay.prepare.plan import Options, find_plan
from replay.prepare.prepare import prepare
from replay.sources.log_map import LogMap
from replay.sources.source import Source, parse
from tests.support.logs import write

T = 1_684_393_203  # s


def test_options_win_over_the_file_field_by_field_and_word_by_word(tmp_path: Path) -> None:
    text = 'columns = {user = "a", item = "b"}\nevents = {view = "click"}\nnull = ["?"]\ntz = "Europe/Paris"\n'
    options = MapOptions(
        map_file=write(tmp_path / "map.toml", text),
        columns="user=who,timestamp=when",
        events="view=exposure,a=b=click",
        null="n.a.",
        separator="tab",
        header=False,
    )
    assert options.log_map() == LogMap(
        columns={"user": "who", "item": "b", "timestamp": "when"},
        events={"view": "exposure", "a=b": "click"},
        null=("?", "n.a."),
        tz="Europe/Paris",
        separator="\t",
        header=False,
    )
    one = MapOptions(map_file=options.map_file, events="click", time_unit="s").log_map()
    assert one is not None
    assert (one.event, one.events, one.time_unit) == ("click", {}, "s")
    timed = write(tmp_path / "timed.toml", 'time_format = "%Y"\nevent = "click"\n')
    other = MapOptions(map_file=timed, events="view=click", time_unit="s").log_map()
    assert other == LogMap(events={"view": "click"}, time_unit="s")
    assert MapOptions().log_map() is None
    assert MapOptions(events="click").log_map() == LogMap(event="click")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (MapOptions(columns="user"), "--columns 'user': write name=value"),
        (MapOptions(columns="user=a,user=b"), "--columns: user is given twice"),
        (MapOptions(time_unit="s", time_format="%Y"), "time_unit: time_format is given, too"),
        (MapOptions(columns="buyer=a"), "the map of the log: .*buyer"),
        (MapOptions(events="view=seen"), "the map of the log: .*seen"),
        (MapOptions(events="seen"), "the map of the log: .*seen"),
        (MapOptions(time_unit="weeks"), "the map of the log: .*weeks"),
        (MapOptions(encoding="rot13"), "the map of the log: encoding"),
    ],
)
def test_an_option_that_can_not_be_is_a_sentence(options: MapOptions, says: str) -> None:
    with pytest.raises(UserError, match=says):
        options.log_map()


def test_a_log_that_was_prepared_with_another_map_is_prepared_again(tmp_path: Path) -> None:
    rows = f"user,item,timestamp,event\nu,i,{T},click\nv,i,{T},click\nu,j,{T},view\n"
    path, folder = write(tmp_path / "a.csv", rows), tmp_path / "plan"

    def source(view: str) -> Source:
        return parse(f"log:{path}", MapOptions(events=f"view={view}").log_map())

    assert prepare(source("exposure"), Options(), folder).contents.clicks == 2
    assert prepare(source("click"), Options(), folder).contents.clicks == 3
    kept = find_plan(folder)
    assert kept is not None
    assert kept.identity.log_map == LogMap(events={"view": "click"})
