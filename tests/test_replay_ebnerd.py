"""EB-NeRD in both of its layouts, written small."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import RowErrors, SourceError
from replay.sources.ebnerd import FLAT, LEFT_OUT
from replay.sources.schema import Row
from replay.sources.source import parse
from replay.times import plausible_years
from streams.records import Kind
from tests.support.logs import read, skipped

DAY = 86_400
START = 1_684_000_000
PAST = [  # user, seconds, item: as in the history of both splits, where one click stands twice
    (1, START - DAY, 10),
    (1, START - 2 * DAY, 11),
    (1, START - DAY, 10),
    (1, START, 12),  # when the user's first impression began
    (1, START + 9, 13),  # after it
    (2, START - DAY, 10),
    (3, START + DAY, 14),  # of a user without impressions
]
SHOWN = [  # impression, user, seconds, articles in view, clicked ones
    (501, 1, START, [20, 21, 22], [21]),
    (502, 2, START + 5, [20, 23], [20, 23]),
    (503, 1, START + 5, [24], []),
]


def table(folder: Path, name: str, **columns: list[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name)


def flat(folder: Path, **changes: list[Any]) -> str:
    rows = [(n, u, t, i, int(i in taken)) for n, u, t, seen, taken in SHOWN for i in seen]
    names = ("impression_id", "user_id", "timestamp", "item_id", "clicked")
    table(folder, FLAT[0], **dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) | changes)
    table(folder, FLAT[1], **dict(zip(names[1:4], map(list, zip(*PAST, strict=True)), strict=True)))
    return f"ebnerd:{folder}"


def published(folder: Path, splits: int = 2) -> str:
    """The public layout: lists in columns, naive datetimes, both splits with overlapping histories."""

    def moments(seconds: list[int]) -> list[datetime]:
        return [datetime.fromtimestamp(s, UTC).replace(tzinfo=None) for s in seconds]

    for split, shown in (("train", SHOWN[:2]), ("validation", SHOWN[2:]))[:splits]:
        numbers, users, seconds, seen, taken = map(list, zip(*shown, strict=True))
        table(
            folder / split,
            "behaviors.parquet",
            impression_id=numbers,
            user_id=users,
            impression_time=moments(seconds),
            article_ids_inview=seen,
            article_ids_clicked=pa.array(taken, pa.list_(pa.int64())),
        )
        users = sorted({user for user, *_ in PAST})
        own = [[row for row in PAST if row[0] == user] for user in users]
        table(
            folder / split,
            "history.parquet",
            user_id=users,
            impression_time_fixed=[moments([t for _, t, _ in rows]) for rows in own],
            article_id_fixed=[[i for *_, i in rows] for rows in own],
        )
    return f"ebnerd:{folder}"


def expected() -> list[Row]:
    past = [(1, START - DAY, 10), (1, START - 2 * DAY, 11), (2, START - DAY, 10), (3, START + DAY, 14)]
    before = [(str(u), str(i), t * 1000, Kind.PAST_CLICK, 0) for u, t, i in past]
    kinds = {False: Kind.EXPOSURE, True: Kind.CLICK}
    shown = [(str(u), str(i), t * 1000, kinds[i in taken], n) for n, u, t, seen, taken in SHOWN for i in seen]
    return before + shown


@pytest.mark.parametrize("layout", [flat, published])
def test_past_clicks_come_first_once_each_and_none_after_the_first_impression(tmp_path: Path, layout: Any) -> None:
    errors = RowErrors()
    rows = read(layout(tmp_path), None, errors)
    assert sorted(rows[:4]) == sorted(expected()[:4])
    assert rows[4:] == expected()[4:]
    assert errors.left_out.keys() == set(LEFT_OUT)
    if layout is flat:
        assert errors.left_out.total() == len(PAST) - 4


@pytest.mark.parametrize(("folder", "exposures"), [("ebnerd_plain", 36), ("ebnerd_outside", 48)])
def test_a_click_outside_the_list_in_view_counts(cases: Path, folder: str, exposures: int) -> None:
    kinds = Counter(kind for *_, kind, _ in read(f"ebnerd:{cases / folder}"))
    assert kinds == {Kind.CLICK: 12, Kind.EXPOSURE: exposures, Kind.PAST_CLICK: 3}


def test_one_split_alone_is_read(tmp_path: Path) -> None:
    assert {row[4] for row in read(published(tmp_path, splits=1))} == {0, 501, 502}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("user_id", None, "user or item is missing"),
        ("item_id", None, "user or item is missing"),
        ("timestamp", None, "time is missing"),
        ("timestamp", -1, "time is negative"),
        ("timestamp", 20230518, f"time is outside the years 1990 to {plausible_years()[1]}"),
        ("timestamp", 9 * 10**15, "time is beyond the year 9999"),
        ("timestamp", 2**63 - 1, "time is beyond the year 9999"),  # as milliseconds it would not fit into 64 bits
        ("impression_id", 0, "impression is no positive number"),
        ("impression_id", 2**60, "impression is no positive number"),
        ("clicked", 2, "clicked is not 0 or 1"),
    ],
)
def test_a_bad_row_is_told_with_its_place_and_reason(
    tmp_path: Path, column: str, value: int | None, reason: str
) -> None:
    flat(tmp_path)
    values = pq.read_table(tmp_path / FLAT[0])[column].to_pylist()
    values[2] = value
    source = flat(tmp_path, **{column: values})
    with pytest.raises(SourceError, match=f"{FLAT[0]}, row 3: {reason}"):
        read(source)
    rows, refusals = skipped(source)
    assert len(rows) == len(expected()) - 1
    assert refusals.counts == {reason: 1}


def test_a_time_beyond_what_dates_can_be_is_refused_in_lists_too(tmp_path: Path) -> None:
    source = published(tmp_path)
    path = tmp_path / "train" / "behaviors.parquet"
    stored = pq.read_table(path)
    times = pa.array([START * 10**6, 9 * 10**18], pa.timestamp("us"))
    pq.write_table(stored.set_column(2, "impression_time", times), path)
    _, refusals = skipped(source)
    assert refusals.counts == {"time is beyond the year 9999": 2}  # a row of two articles
    assert refusals.first[0].startswith(f"{path}, row 2: ")


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("impression_id", 1.5, "impression comes out as DOUBLE"),
        ("user_id", "", "user comes out as VARCHAR"),
        ("item_id", 0.5, "item comes out as DOUBLE"),
        ("timestamp", float("nan"), "time comes out as DOUBLE"),
    ],
)
def test_numbers_that_are_not_whole_and_text_are_no_identifiers(
    tmp_path: Path, column: str, value: Any, kind: str
) -> None:
    source = flat(tmp_path, **{column: [value] * 6})
    with pytest.raises(SourceError, match=f"{FLAT[0]}: wrong columns: (?:{kind}), not as whole numbers"):
        skipped(source)


def test_what_fails_amid_the_reading_is_not_said_to_be_the_sorting(tmp_path: Path) -> None:
    rows = parse(flat(tmp_path)).read("logged", RowErrors("skip"))
    next(rows)
    (tmp_path / FLAT[0]).unlink()
    with pytest.raises(SourceError, match=f"^{tmp_path}: reading failed: .*{FLAT[0]}"):
        list(rows)


def test_what_is_missing_or_of_another_shape_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has neither"):
        read(f"ebnerd:{tmp_path}")
    source = flat(tmp_path)
    (tmp_path / FLAT[1]).unlink()
    with pytest.raises(SourceError, match=f"{FLAT[1]}: there is no such file"):
        read(source)
    (tmp_path / FLAT[1]).write_bytes(b"PAR1 not quite")
    with pytest.raises(SourceError, match=FLAT[1]):
        read(source)
    table(tmp_path, FLAT[1], user=[1], timestamp=[2], item_id=[3])
    with pytest.raises(SourceError, match=f"{FLAT[1]}: wrong columns: .*user_id"):
        read(source)
    table(tmp_path, FLAT[1], user_id=pa.array([], pa.int64()), timestamp=[], item_id=[])
    with pytest.raises(SourceError, match=f"{FLAT[1]} is empty|wrong columns"):
        read(source)
