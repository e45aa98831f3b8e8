"""Files that are there whole or not at all: what is kept on disk is read again after a crash, and while it is written.

The bytes go to a file beside it, are on the disk before that one takes the name, and nobody sees half of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; at the end of the block it replaces `path` in one step, or goes away."""
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
    """Replace `path` by `data` in one step: after a crash the old or the new one is there, whole."""
    with atomically(path) as part:
        part.write_bytes(data)
