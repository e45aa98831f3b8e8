"""Containers: the same log in each, damage as one sentence, and folders of parts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from replay.errors import RowErrors, SourceError
from replay.sources.text.containers import parts
from tests.support.logs import HEADER, read, write

TEXT = (HEADER + "".join(f"u{n},i{n % 7},{1684393203 + n},click\n" for n in range(20_000))).encode()


def zipped(data: bytes, name: str = "a.csv") -> bytes:
    buffer = pa.BufferOutputStream()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue().to_pybytes()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".zip": zipped,
}


@pytest.mark.parametrize("ending", PACKED)
def test_a_log_is_the_same_in_any_container_and_under_any_name(tmp_path: Path, ending: str) -> None:
    plain, packed, named = tmp_path / "a.csv", tmp_path / f"a.csv{ending}", tmp_path / "b.csv"
    plain.write_bytes(TEXT)
    packed.write_bytes(PACKED[ending](TEXT))
    named.write_bytes(packed.read_bytes())
    assert read(f"log:{packed}") == read(f"log:{named}") == read(f"log:{plain}")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_streams_that_follow_each_other_are_one_log(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.csv{ending}"
    path.write_bytes(PACKED[ending](TEXT) + PACKED[ending](b"last,i,1684393203,click\n"))
    assert read(f"log:{path}")[-1][0] == "last"


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("damage", ["cut", "begin", "other"])
def test_a_damaged_container_is_one_sentence(tmp_path: Path, ending: str, on_error: str, damage: str) -> None:
    data = PACKED[ending](TEXT)
    path = tmp_path / f"a.csv{ending}"
    path.write_bytes({"cut": data[: len(data) // 2], "begin": b"\0" * 8 + data[8:], "other": TEXT}[damage])
    says = rf"a\.csv{ending}, line [\d,]+: compressed data are truncated or damaged|a\.csv{ending}: the archive can't"
    with pytest.raises(SourceError, match=says):
        read(f"log:{path}", None, RowErrors("skip" if on_error == "skip" else "stop"))


def test_an_archive_holds_one_log(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for names in ((), ("a.csv", "b.csv")):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, TEXT)
        with pytest.raises(SourceError, match=rf"a\.zip: .*{len(names)} files|a\.zip"):
            read(f"log:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/a.csv", TEXT)
        archive.writestr("__MACOSX/folder/._a.csv", b"\0")
    assert len(read(f"log:{path}")) == 20_000


def test_the_parts_of_a_folder_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ("part-2.csv", "part-10.csv.gz", "user=alice/[a]*.csv", "_SUCCESS", ".part-1.csv.crc", "_old/a.csv")
    for n, name in enumerate(names):
        write(tmp_path / name, HEADER + f"u{n},i,1684393203,click\n")
    inside = [str(path.relative_to(tmp_path)) for path in parts(tmp_path)]
    assert inside == ["part-10.csv.gz", "part-2.csv", "user=alice/[a]*.csv"]
    assert parts(tmp_path, "part-?.csv") == (tmp_path / "part-2.csv",)
    assert parts(tmp_path / "part-2.csv") == (tmp_path / "part-2.csv",)
    with pytest.raises(SourceError, match="no file in the folder matches x"):
        parts(tmp_path, "x")
