"""Decompression of gzip, bzip2, xz and zstd streams and zip archives, which are recognized by their first bytes.

Files are read as streams, so memory does not depend on the decompressed size.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import BinaryIO, Final, cast

import numpy as np
import pyarrow as pa

from replay.errors import EmptyFileError, RowError, RowErrors, SourceError

STDIN = Path("/dev/stdin")
PARQUET: Final = b"PAR1"  # the first bytes of a file
PIPED_PARQUET: Final = "is Parquet, which can't be read from a pipe: save it into a file, and read that"
DAMAGED: Final = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)  # raised while reading

_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
_BACKUPS = (
    "~",
    ".bak",
    ".backup",
    ".old",
    ".orig",
    ".rej",
    ".swp",
    ".swo",
    ".tmp",
    ".part",
    ".crdownload",
    ".filepart",
)


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
            if not lines and (problem := foreign(chunk)):
                piped = chunk.startswith(PARQUET) and is_pipe(path)
                raise SourceError(f"{path} {PIPED_PARQUET if piped else problem}")
            lines += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))
            yield chunk


def damaged(path: Path, lines: int, error: object) -> RowError:
    """Return the error for a compressed stream that is damaged after `lines` lines, so that rows are missing."""
    return RowError(path, lines + 1, "compressed data are truncated or damaged", str(error))


@dataclass(frozen=True)
class Parts:
    """The files of a log in the order in which they are read, and those of its folder that are left out."""

    files: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()

    def report(self, errors: RowErrors) -> None:
        """Add the files that are left out to the findings of the log."""
        if self.left_out:
            errors.doubt("left-out-files", [str(path) for path in self.left_out])


def parts(path: Path, pattern: str | None = None) -> Parts:
    """Return the files of a log: all files in a folder and below in the order of their paths, or the file itself.

    Names that begin with a dot or an underscore are skipped, as in Spark and Hive. With a shell `pattern`, files whose
    path within the folder does not match it are skipped, too. Backups, unfinished downloads and the compressed copy of
    a file beside it are left out. Links are followed, and each folder
    is read once. Raises SourceError for a broken link, or if no file is left, and OSError for an unreadable folder.
    """
    if not path.is_dir():
        return Parts((path,))
    files, seen = [], set[str]()
    for folder, folders, names in os.walk(path, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        files += [Path(folder, name) for name in names if not _hidden(name)]
    files = [file for file in files if fnmatchcase(str(file.relative_to(path)), pattern or "*")]
    ordered, known = sorted(files, key=lambda file: file.relative_to(path)), set(files)
    left_out = tuple(file for file in ordered if _is_superfluous(file, known))
    if len(left_out) == len(files):
        hint = f", but backups or unfinished files such as {left_out[0]}: name a file to read it" if left_out else ""
        raise SourceError(f"{path}: no file in the folder" + (f" matches {pattern}" if pattern else "") + hint)
    rest = known.difference(left_out)
    read = tuple(file for file in ordered if file in rest)
    for file in read:
        if not file.is_file():
            raise SourceError(f"{file} is a broken link, or no file: --parts chooses the files of a folder")
    return Parts(read, left_out)


def _is_superfluous(file: Path, known: Container[Path]) -> bool:
    """Return True for a backup of an editor, an unfinished file, and a compressed file that is also there as it is."""
    name = file.name.lower()
    backup = name.endswith(_BACKUPS) or (name.startswith("#") and name.endswith("#") and len(name) > 1)
    return backup or (name.endswith(_ENDINGS) and file.with_suffix("") in known)


def is_pipe(path: Path) -> bool:
    """Return True for standard input and named pipes."""
    return path == STDIN or path.is_fifo()


def foreign(head: bytes) -> str:
    """Return what a file is that begins with `head` and is no text, as the end of a sentence; "" if that is unknown."""
    return next((sentence for offset, magic, sentence in _FOREIGN if head[offset:].startswith(magic)), "")


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _raise(error: OSError) -> None:
    raise error


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
        inside = [name for name in archive.namelist() if not name.endswith("/")]
        names = [name for name in inside if not any(map(_hidden, PurePath(name).parts))]
        if "[Content_Types].xml" in names:
            raise SourceError(f"{path} is a document of an office program: save its table as CSV")
        if len(names) != 1:
            listed = ", ".join(map(repr, names[:3])) + ("..." if len(names) > 3 else "")
            raise SourceError(
                f"{path}: the archive has {len(names)} files ({listed}): it must contain exactly one log; extract it, "
                "and read the folder or one file"
            )
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
_FOREIGN: Final = (  # offset, bytes there, sentence
    (0, b"version https://git-lfs", "is a pointer of Git LFS: `git lfs pull` gets the file itself"),
    (257, b"ustar", "is a tar archive: extract it, and read the folder"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive: extract it"),
    (0, b"Rar!\x1a\x07", "is a RAR archive: extract it"),
    (0, b"\x04\x22\x4d\x18", "is compressed by lz4: decompress it"),
    (0, PARQUET, "is Parquet: decompress it if it is compressed, and give it a name that ends in .parquet"),
    (0, b"ARROW1\0", "is an Arrow file: convert it to Parquet"),
    (0, b"SQLite format 3", "is a database of SQLite: export the table as CSV"),
    (0, b"\xd0\xcf\x11\xe0", "is a document of an office program: save its table as CSV"),
    *((offset, magic, "is compressed: decompress it") for offset, magic, _ in _OPENERS),
)
