"""Containers: the same log in each, damage as one sentence, and folders of parts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from replay.errors import RowErrors, SourceError
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from replay.sources.text.containers import parts
from replay.suggest.suggestion import suggestion
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
    for names, says in (
        ((), "does not begin like a .zip file"),
        (("a.csv", "b.csv"), r"the archive has 2 files \('a\.csv', 'b\.csv'\)"),
        (("[Content_Types].xml", "xl/workbook.xml"), "is a document of an office program: save its table as CSV"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, TEXT)
        with pytest.raises(SourceError, match=rf"a\.zip.*{says}"):
            read(f"log:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/a.csv", TEXT)
        for name in ("__MACOSX/folder/._a.csv", ".DS_Store", "folder/.DS_Store"):
            archive.writestr(name, b"\0")
    assert len(read(f"log:{path}")) == 20_000


def test_the_parts_of_a_folder_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ("part-2.csv", "part-10.csv.gz", "user=alice/[a]*.csv", "_SUCCESS", ".part-1.csv.crc", "_old/a.csv")
    for n, name in enumerate(names):
        write(tmp_path / name, HEADER + f"u{n},i,1684393203,click\n")
    inside = [str(path.relative_to(tmp_path)) for path in parts(tmp_path).files]
    assert inside == ["part-10.csv.gz", "part-2.csv", "user=alice/[a]*.csv"]
    assert parts(tmp_path, "part-?.csv").files == (tmp_path / "part-2.csv",)
    assert parts(tmp_path / "part-2.csv").files == (tmp_path / "part-2.csv",)
    with pytest.raises(SourceError, match="no file in the folder matches x"):
        parts(tmp_path, "x")


@pytest.mark.parametrize("target", ["folder", "file", "loop"])
def test_links_in_a_folder_are_followed_and_each_folder_is_read_once(tmp_path: Path, target: str) -> None:
    write(tmp_path / "real" / "b.csv", HEADER + "u,i,1684393203,click\n")
    write(tmp_path / "log" / "a.csv", HEADER + "v,i,1684393203,click\n")
    linked = {"folder": tmp_path / "real", "file": tmp_path / "real" / "b.csv", "loop": tmp_path / "log"}[target]
    (tmp_path / "log" / "link").symlink_to(linked)
    assert [row[0] for row in read(f"log:{tmp_path / 'log'}")] == (["v"] if target == "loop" else ["v", "u"])


def test_a_broken_link_is_a_sentence_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "log" / "a.csv", HEADER + "v,i,1684393203,click\n")
    (tmp_path / "log" / "b.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"b\.csv is a broken link"):
        read(f"log:{tmp_path / 'log'}")
    assert len(parts(tmp_path / "log", "a*").files) == 1


def test_backups_and_compressed_copies_in_a_folder_are_left_out_and_named(tmp_path: Path) -> None:
    copies = ("#a.csv#", "a.csv.bak", "a.csv.gz", "a.csv~", "b/c.csv.orig")
    for name in ("a.csv", "b/c.csv", "d.csv.gz", *copies):
        write(tmp_path / "log" / name, HEADER + f"u,{name},1684393203,click\n")
    plan = prepare(parse(f"log:{tmp_path / 'log'}"), Options(), tmp_path / "plan")
    (finding,) = (each for each in plan.findings if each.name == "left-out-files")
    assert (plan.contents.rows, finding.count) == (3, len(copies))
    assert finding.first == tuple(str(tmp_path / "log" / name) for name in copies)
    assert len(read(f"log:{tmp_path / 'log' / 'a.csv~'}")) == 1
    with pytest.raises(SourceError, match=r"no file in the folder matches .*, but backups"):
        parts(tmp_path / "log", "*~")


def test_parquet_from_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"is Parquet, which can't be read from a pipe"):
        read(f"log:{path}")


@pytest.mark.parametrize("name", ["pipe", "pipe.csv"])
def test_a_pipe_is_read_once_and_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as writer:
        writer.submit(path.write_bytes, TEXT)
        plan = prepare(parse(f"log:{path}"), Options(), tmp_path / "plan")
    assert (plan.contents.rows, {finding.name for finding in plan.findings}) == (20_000, {"no-exposures"})
    with ThreadPoolExecutor(1) as writer:
        writer.submit(path.write_bytes, TEXT)
        assert '"user" = "user"' in suggestion(f"log:{path}", None)


OTHERS = {
    "a.csv": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    "a.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    "b.parquet": (gzip.compress(b"PAR1"), "is compressed: decompress it"),
    "a.gz": (gzip.compress(gzip.compress(TEXT)), "is compressed: decompress it"),
    "b.csv": (b"PAR1\0\0", "is Parquet: "),
    "a.jsonl": (b"a.csv".ljust(257, b"\0") + b"ustar\0", "is a tar archive"),
    "c.csv": (b'{"user": 1}\n', "looks like JSON: .*jsonl"),
    "d.csv": (b'[{"user": 1}]', "looks like JSON: .*jsonl"),
    "e.csv": (TEXT.decode().encode("utf-16-le"), "is not a text file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_format_says_what_it_is_and_nothing_is_suggested(tmp_path: Path, name: str) -> None:
    data, says = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=rf"{re.escape(name)} {says}"):
        read(f"log:{tmp_path / name}", None, RowErrors("skip"))
    with pytest.raises(SourceError, match=rf"{re.escape(name)} {says}"):
        suggestion(f"log:{tmp_path / name}", None)


@pytest.mark.parametrize(("source", "says"), [("s3://bucket/a.csv", "is an address"), ("*.csv", "no wildcards")])
def test_an_address_or_a_pattern_is_no_path(source: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        parse(f"log:{source}")
