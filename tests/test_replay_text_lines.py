from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import OnError, RowError, RowErrors, SourceError
from replay.sources.text.lines import LINE_BYTES, lines
from tests.support.logs import write


def found(path: Path, refusals: RowErrors | None = None, encoding: str = "utf-8") -> list[tuple[int, str]]:
    return list(lines(path, refusals or RowErrors("stop"), encoding))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=20), min_size=1))
def test_every_line_that_is_not_blank_comes_with_its_number(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    for name in ("a.txt", "a.txt.gz"):
        path = write(tmp_path_factory.mktemp("lines") / name, "".join(text + "\n" for text in texts))
        assert found(path) == [(n, text) for n, text in enumerate(texts, 1) if text.strip()]


def test_line_ends_of_windows_and_a_last_line_without_one_are_read(tmp_path: Path) -> None:
    assert found(write(tmp_path / "a.txt", b"one\r\n\r\nthree")) == [(1, "one"), (3, "three")]


def test_a_line_of_ten_megabytes_is_refused_with_its_size_and_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\n" + b"x" * 10_000_000 + b"\nthree\n")
    with pytest.raises(RowError, match=r"a\.txt, line 2: line of more than 1,000,000 bytes \(10,000,001 bytes\)"):
        found(path)
    assert found(path, RowErrors("skip")) == [(1, "one"), (3, "three")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_longest_line_allowed_is_read(tmp_path: Path, end: bytes) -> None:
    path = write(tmp_path / "a.txt", b"x" * (LINE_BYTES - 2) + end)
    assert len(found(path)[0][1]) == LINE_BYTES - 2


def test_another_encoding_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "fine\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(RowError, match=r"line 2: not UTF-8 \(byte 4 of the line\)"):
        found(path)
    assert found(path, RowErrors("skip")) == [(1, "fine")]
    assert found(path, encoding="latin-1")[1] == (2, "caf\xe9")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_damaged_gzip_is_an_error_even_where_rows_may_be_skipped(
    tmp_path: Path, on_error: OnError, damage: str
) -> None:
    data = bytearray(gzip.compress(b"".join(b"line %d\n" % n for n in range(50_000))))
    if damage == "cut":
        del data[-1000:]
    elif damage == "flipped":
        data[-6] ^= 255  # of the checksum
    else:
        data = bytearray(b"user,item\n")
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.txt\.gz, line [\d,]+: compressed data are truncated or damaged"):
        found(path, RowErrors(on_error))


def test_nothing_to_read_is_said_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        found(tmp_path / "none.txt")
    with pytest.raises(SourceError, match="is a folder"):
        found(tmp_path)
    for name in ("empty.txt", "empty.txt.gz"):
        with pytest.raises(SourceError, match="is empty"):
            found(write(tmp_path / name, b""))
