"""Decompression of gzip, bzip2, xz and zstd streams and zip archives, which are recognized by their first bytes.

Files are read as streams, so memory does not depend on the decompressed size.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import pyarrow as pa

from replay.errors import EmptyFileError, RowError, SourceError

STDIN = Path("/dev/stdin")
DAMAGED: Final = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)  # raised while reading

_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")


def plain_name(path: Path) -> str:
    """Return the file's name in lower case without an extension of a compressed format."""
    name = path.name.lower()
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its decompressed bytes. Raises SourceError for a missing or empty file, or a folder."""
    try:
        if path.is_dir():
            raise SourceError(f"{path} is a folder: a file is needed here")
        with path.open("rb") as file:
            head = file.peek(16)
            if not head:
                raise EmptyFileError(f"{path} is empty")
            kind = next((open_ for offset, magic, open_ in _OPENERS if head[offset:].startswith(magic)), None)
            if kind is None and path.suffix.lower() in _ENDINGS:
                raise damaged(path, 0, f"it does not begin like a {path.suffix} file")
            with kind(path, file) if kind else nullcontext(cast(BinaryIO, file)) as plain:
                yield plain
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


def byte_chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in chunks. Raises SourceError like `open_plain`, and for damaged data."""
    lines = 0
    with open_plain(path) as file:
        while True:
            try:
                chunk = file.read(size)
            except DAMAGED as error:
                raise damaged(path, lines, error) from error
            if not chunk:
                return
            lines += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))
            yield chunk


def damaged(path: Path, lines: int, error: object) -> RowError:
    """Return the error for a compressed stream that is damaged after `lines` lines, so that rows are missing."""
    return RowError(path, lines + 1, "compressed data are truncated or damaged", str(error))


def parts(path: Path, pattern: str | None = None) -> tuple[Path, ...]:
    """Return the files of a log: all files in a folder and below in the order of their paths, or the file itself.

    Names that begin with a dot or an underscore are skipped, as in Spark and Hive. With a shell `pattern`, files whose
    path within the folder does not match it are skipped, too. Raises SourceError if no file is left.
    """
    if not path.is_dir():
        return (path,)
    inside = sorted((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
    files = tuple(
        file
        for name, file in inside
        if not any(part.startswith((".", "_")) for part in name.parts) and fnmatchcase(str(name), pattern or "*")
    )
    if not files:
        raise SourceError(f"{path}: no file in the folder" + (f" matches {pattern}" if pattern else ""))
    return files


def _gzip(_path: Path, file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file))


def _bzip2(_path: Path, file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, bz2.open(file))


def _xz(_path: Path, file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, lzma.open(file))


def _zstd(_path: Path, file: BinaryIO) -> BinaryIO:
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


def _zip(path: Path, file: BinaryIO) -> BinaryIO:
    """Open the only file in an archive. Raises SourceError for another number of files, or an encrypted file."""
    try:
        archive = zipfile.ZipFile(file)
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            raise SourceError(f"{path}: the archive has {len(names)} files: it must contain exactly one log")
        return cast(BinaryIO, archive.open(names[0]))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise SourceError(f"{path}: the archive can't be read: {error}") from error


_OPENERS: Final[tuple[tuple[int, bytes, Callable[[Path, BinaryIO], BinaryIO]], ...]] = (  # offset, bytes there
    (0, b"\x1f\x8b", _gzip),
    (4, b"1AY&SY", _bzip2),
    (0, b"\xfd7zXZ\0", _xz),
    (0, b"\x28\xb5\x2f\xfd", _zstd),
    (0, b"PK\x03\x04", _zip),
)
