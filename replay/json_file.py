"""JSON files that are replaced in one step."""

from __future__ import annotations

from pathlib import Path

import msgspec

from models.atomic_file import write_atomically


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as indented JSON; after a crash the file holds the old or the new value, complete."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")
