"""A small disk (tmpfs) that is filled to the last byte and emptied again. Mounting takes root."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILLER = "filler"
_PIECE = bytes(1 << 16)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in `folder`, removed at the end. Raises CalledProcessError if mounting is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)  # noqa: S603 - fixed words
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)  # noqa: S603, S607 - the same


def fill(disk: Path) -> None:
    """Fill the free space to the last byte; call it repeatedly if other processes free some."""
    with (disk / _FILLER).open("ab", buffering=0) as filler:
        piece = _PIECE
        while piece:
            try:
                if os.write(filler.fileno(), piece) < len(piece):
                    piece = piece[: len(piece) // 2]
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece = piece[: len(piece) // 2]


def empty(disk: Path) -> None:
    """Free the space that `fill` took."""
    (disk / _FILLER).unlink()
