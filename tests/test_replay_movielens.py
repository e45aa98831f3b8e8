from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import RowError, SourceError
from streams.records import Kind
from tests.support.logs import read, skipped, write

NOW = 978_300_760  # s
RATINGS = st.lists(
    st.tuples(st.integers(1, 6040), st.integers(1, 3952), st.integers(1, 5), st.integers(700_000_000, 1_700_000_000)),
    min_size=1,
)


def files(folder: Path, ratings: list[tuple[int, ...]]) -> list[str]:
    """ML-1M and ML-100K of the same ratings, as their public downloads write them."""
    write(folder / "ratings.dat", "".join("::".join(map(str, row)) + "\n" for row in ratings))
    write(folder / "u.data", "".join("\t".join(map(str, row)) + "\n" for row in ratings))
    return [f"ml-1m:{folder}", f"ml-100k:{folder}"]


@settings(max_examples=25)
@given(RATINGS)
def test_every_rating_is_one_event_in_both_layouts(
    tmp_path_factory: pytest.TempPathFactory, ratings: list[tuple[int, ...]]
) -> None:
    for source in files(tmp_path_factory.mktemp("ml"), ratings):
        rows = read(source, "logged")
        assert rows == [(str(u), str(i), t * 1000, Kind.CLICK, 0) for u, i, _, t in ratings]


@settings(max_examples=25)
@given(RATINGS)
def test_rated_parts_the_ratings_into_clicks_and_exposures(
    tmp_path_factory: pytest.TempPathFactory, ratings: list[tuple[int, ...]]
) -> None:
    for source in files(tmp_path_factory.mktemp("ml"), ratings):
        kinds = [kind for *_, kind, _ in read(source, "rated")]
        assert kinds == [Kind.CLICK if rating >= 4 else Kind.EXPOSURE for *_, rating, _ in ratings]


def test_rated_is_what_a_log_of_ratings_is_read_with(tmp_path: Path) -> None:
    for source in files(tmp_path, [(1, 2, 3, NOW)]):
        assert read(source) == read(source, "rated") == [("1", "2", NOW * 1000, Kind.EXPOSURE, 0)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1::2::3", "wrong columns .3 instead of user, item, rating, timestamp"),
        ("1,2,3,4", "wrong columns"),
        ("x::2::3::4", "user or item is not a number"),
        ("1::::3::4", "user or item is not a number"),
        ("1::2::6::4", "rating is not 1 to 5"),
        ("1::2::nan::4", "rating is not 1 to 5"),
        ("1::2::3::-4", "time is negative"),
        ("1::2::3::nan", "time is not whole seconds"),
        ("1::2::3::4.5", "time is not whole seconds"),
        ("1::2::3::" + "9" * 13, "time is not whole seconds"),
        ("1::2::3::" + "9" * 10, "time is outside the years"),
        ("1::2::3::20230518", "time is outside the years .* looks like yyyymmdd"),
        ("1" * 257 + "::2::3::4", "user or item of more than 256 bytes"),
        ("\xb2::2::3::4", "user or item is not a number"),
    ],
)
def test_a_bad_rating_is_told_with_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    write(tmp_path / "ratings.dat", f"1::2::3::{NOW}\n{line}\n1::2::3::{NOW}\n".encode("latin-1"))
    with pytest.raises(RowError, match=rf"ratings\.dat, line 2: {reason}"):
        read(f"ml-1m:{tmp_path}")
    rows, refusals = skipped(f"ml-1m:{tmp_path}")
    assert len(rows) == 2
    assert refusals.total == 1


def test_a_folder_without_the_file_or_a_file_for_the_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ratings\.dat: No such file"):
        read(f"ml-1m:{tmp_path}")
    with pytest.raises(SourceError, match="Not a directory"):
        read(f"ml-100k:{write(tmp_path / 'u.data', 'x')}")


@settings(max_examples=60)
@given(st.binary(max_size=120))
def test_any_bytes_are_rows_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "ratings.dat"
    path.write_bytes(f"1::2::3::{NOW}\n".encode() + data)
    rows, refusals = skipped(f"ml-1m:{folder}")
    assert rows[0] == ("1", "2", NOW * 1000, Kind.EXPOSURE, 0)
    assert len(rows) + refusals.total == sum(
        bool(line.strip()) for line in path.read_bytes().decode("latin-1").split("\n")
    )
