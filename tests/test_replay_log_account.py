"""The account of the rows of a log, and the findings about rows that can be read but may not have been meant."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from replay.errors import SourceError
from replay.prepare.log_account import Acceptable
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.records import Kind
from tests.support.logs import HEADER, write

WITH_IMPRESSION = HEADER.strip() + ",impression\n"
DAY = 86_400
NOON = 1_684_411_200  # 2023-05-18 12:00 UTC


def planned(folder: Path, rows: list[str], header: str = WITH_IMPRESSION, **options: object) -> Plan:
    log = write(folder / "log.csv", header + "".join(f"{row}\n" for row in rows))
    return prepare(parse(f"log:{log}"), Options(**options), folder / "plan")


def found(plan: Plan) -> dict[str, int]:
    return {finding.name: finding.count for finding in plan.findings}


GOOD = st.tuples(
    st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(NOON, NOON + 5000), st.sampled_from([0, 1, 2])
)
BAD = st.sampled_from(["u,i", "u,i,yesterday,click,1", "u,i,5000000000,bought,1", ",i,1684411200,click,1"])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@settings(max_examples=8)
@given(st.lists(st.one_of(GOOD, BAD), max_size=25), st.integers(1, 3), st.integers(0, 5000))
def test_every_row_is_sent_or_counted_once_under_random_damage(
    tmp_path_factory: pytest.TempPathFactory,
    ending: str,
    rows: list[tuple[str, str, int, int] | str],
    users: int,
    start: int,
) -> None:
    kinds = ["click", "exposure"]
    lines = [r if isinstance(r, str) else f"{r[0]},{r[1]},{r[2]},{kinds[r[2] % 2]},{r[3]}" for r in rows]
    lines += [f"{user},x,{NOON + 5000},click,0" for user in "abc"]  # so that no selection is empty
    folder = tmp_path_factory.mktemp("account")
    log, names = folder / f"log.{ending}", WITH_IMPRESSION.strip().split(",")
    records = [dict(zip(names, line.split(","), strict=False)) for line in lines]
    if ending == "csv":
        write(log, WITH_IMPRESSION + "\n".join(lines))
    elif ending == "jsonl":
        write(log, "\n".join(json.dumps(record) for record in records))
    else:
        pq.write_table(pa.Table.from_pylist(records, schema=pa.schema([(name, pa.string()) for name in names])), log)
    options = Options(on_error="skip", accept=None, users=users, start=(NOON + start) * 1000)
    plan = prepare(parse(f"log:{log}"), options, folder / "plan")
    account = plan.account
    assert account.read == len(lines)
    assert sum(account.refused.values()) == sum(isinstance(row, str) for row in rows)
    assert account.sent == pq.read_table(plan.path).num_rows
    account.check()
    with pytest.raises(SourceError, match="internal error"):
        replace(account, outside=account.outside + 1).check()


def test_an_exposure_of_an_item_that_is_clicked_in_the_same_impression_is_left_out(tmp_path: Path) -> None:
    rows = [f"u,{item},{NOON},exposure,7" for item in "abc"] + [f"u,b,{NOON + 9},click,7", f"u,b,{NOON},exposure,8"]
    plan = planned(tmp_path, rows)
    sent = [(row["item"], row["kind"]) for row in pq.read_table(plan.path).to_pylist()]
    assert sorted(sent) == [("a", Kind.EXPOSURE), ("b", Kind.EXPOSURE), ("b", Kind.CLICK), ("c", Kind.EXPOSURE)]
    assert plan.account.left_out == {"exposure of an item that is clicked in the same impression": 1}
    assert [finding.first for finding in plan.findings] == [(f"{tmp_path / 'log.csv'}, line 3: user u, item b",)]


def test_an_impression_that_lasts_too_long_is_split_where_nothing_happened_and_after_the_longest_span(
    tmp_path: Path,
) -> None:
    daily = [
        f"u,d{day}{n},{NOON + day * DAY + 60 * n},{'click' if n else 'exposure'},1" for day in range(3) for n in (0, 1)
    ]
    session = [f"v,{n},{NOON + 600 * n},click,1" for n in range(5)]
    plan = planned(tmp_path, daily + session)
    pieces: dict[tuple[str, int], list[str]] = {}
    for row in pq.read_table(plan.path).to_pylist():
        pieces.setdefault((row["user"], row["impression"]), []).append(row["item"])
    assert sorted(pieces.values()) == [["0", "1", "2", "3"], ["4"], ["d00", "d01"], ["d10", "d11"], ["d20", "d21"]]
    assert (found(plan), plan.longest_impression, plan.largest_impression) == (
        {"long-impressions": 2},
        (2 * DAY + 60) * 1000,
        6,
    )
    assert "the column holds one value" in plan.findings[0].sentence
    assert found(planned(tmp_path, daily + session, impression_span=3 * DAY * 1000)) == {}


def test_an_impression_too_large_for_a_record_is_named_by_file_and_line(tmp_path: Path) -> None:
    rows = ["u,i,1684411200,click,0", *["u,i,1684411201,exposure,pages"] * 2001]
    with pytest.raises(
        SourceError,
        match=r"log\.csv, line 3: the impression of this line of user u has 2,001 events.*exposure,pages'\)$",
    ):
        planned(tmp_path, rows)


def test_names_that_differ_only_by_how_they_are_written_are_counted_by_cause_and_not_changed(tmp_path: Path) -> None:
    users = ["7", "7.0", " 7", "007", "a", "A", "b\ufeff", "b", "caf\u00e9", "cafe\u0301", "other"]
    plan = planned(tmp_path, [f"{user},i,{NOON},click,0" for user in users])
    (finding,) = (one for one in plan.findings if one.name == "similar-users")
    assert plan.contents.users == len(users)
    assert finding.count == 6
    for cause in (
        "1 by blanks around them",
        "1 by invisible marks",
        "1 by leading zeros",
        "1 by a trailing .0",
        "1 by Unicode normalisation",
        "1 by upper and lower case",
    ):
        assert cause in finding.sentence
    assert "'A' and 'a'" in finding.first


def test_rows_that_repeat_another_one_are_sent_and_counted(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["u,i,1684411200,click,0"] * 3 + ["u,j,1684411200,click,0"])
    assert (plan.events, found(plan)["repeated-rows"]) == (4, 2)
    assert f"{tmp_path / 'log.csv'}, line 2: 3 times" in plan.findings[0].first


def test_an_event_years_away_from_all_others_is_refused_with_its_line_unless_it_is_accepted_or_left_out(
    tmp_path: Path,
) -> None:
    rows = [f"u,i{n},{NOON + n},{'click' if n % 2 else 'exposure'},0" for n in range(50)]
    rows.insert(20, "u,i,946684800,click,0")
    with pytest.raises(SourceError, match=r"1 events are years away.*line 22: 2000-01-01.*--accept stray-times"):
        planned(tmp_path, rows)
    assert list((tmp_path / "plan").iterdir()) == []
    assert found(planned(tmp_path, rows, accept=frozenset([Acceptable.STRAY_TIMES])))["stray-times"] == 1
    assert found(planned(tmp_path, rows, start=NOON * 1000)) == {}


def test_a_log_without_clicks_is_refused_and_one_without_exposures_is_pointed_to_another_policy(tmp_path: Path) -> None:
    exposures = [f"u,i{n},{NOON + n},exposure,0" for n in range(5)]
    with pytest.raises(SourceError, match=r"none of the 5 events is a click.*--accept no-clicks"):
        planned(tmp_path, exposures)
    assert planned(tmp_path, exposures, accept=frozenset([Acceptable.NO_CLICKS])).events == 5
    clicks = [row.replace("exposure", "click") for row in exposures]
    (finding,) = planned(tmp_path, clicks).findings
    assert "--exposures simulated adds exposures" in finding.sentence
    assert found(planned(tmp_path, clicks, exposures="simulated")) == {}


def test_a_copy_is_reused_for_the_same_content_and_for_no_other_of_equal_size_and_time(tmp_path: Path) -> None:
    first = planned(tmp_path, ["u,i,1684411200,click,0"])
    made = first.path.stat().st_mtime_ns
    stamp = (tmp_path / "log.csv").stat()
    os.utime(tmp_path / "log.csv", ns=(1, 1))
    assert planned(tmp_path, ["u,i,1684411200,click,0"]) == first
    assert first.path.stat().st_mtime_ns == made
    log = write(tmp_path / "log.csv", WITH_IMPRESSION + "v,j,1684411200,click,0\n")
    os.utime(log, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert log.stat().st_size == stamp.st_size
    other = prepare(parse(f"log:{log}"), Options(), tmp_path / "plan")
    assert pq.read_table(other.path)["user"].to_pylist() == ["v"]


def test_a_log_that_grows_while_it_is_read_is_taken_as_far_as_it_was_read_and_its_copy_is_not_reused(
    tmp_path: Path,
) -> None:
    log = write(tmp_path / "log.csv", WITH_IMPRESSION + "u,i,1684411200,click,0\n")
    source = parse(f"log:{log}")

    def growing(*arguments: object) -> object:
        yield from source.reader(*arguments)
        with log.open("a") as file:
            file.write("v,j,1684411200,click,0\n")

    grown = dataclasses.replace(source, reader=growing)
    plan = prepare(grown, Options(), tmp_path / "plan")
    assert (plan.events, found(plan)["changed-file"]) == (1, 1)
    again = prepare(source, Options(), tmp_path / "plan")
    assert (again.events, "changed-file" in found(again)) == (2, False)


def test_a_run_that_goes_on_uses_its_copy_of_a_log_that_was_deleted(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["u,i,1684411200,click,0"])
    (tmp_path / "log.csv").unlink()
    source = parse(f"log:{tmp_path / 'log.csv'}")
    assert prepare(source, Options(), tmp_path / "plan", resume=True) == plan
    with pytest.raises(SourceError, match="No such file"):
        prepare(source, Options(), tmp_path / "plan")
