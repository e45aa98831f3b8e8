"""Atomic writes of files: readers see the old or the new content, never a part of it, also after a crash.

The bytes are written to a temporary file in the same folder and synced to disk before it replaces the target.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; after the block it replaces `path`, or is removed if the block raised."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data` in one step."""
    with atomically(path) as part:
        part.write_bytes(data)
