"""Reader of the lines of a text file, compressed or not, in memory bounded by LINE_BYTES."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from replay.errors import RowError, RowErrors, SourceError
from replay.sources.text.containers import DAMAGED, damaged, open_plain
from replay.sources.text.csv_records import LINE_BYTES


def lines(path: Path, errors: RowErrors, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (1-based number, text without line end) of each line that is not blank.

    Lines that are too long or not in `encoding` are added to `errors`. Raises SourceError if the file is missing or
    empty, or its compressed data are damaged, since skipping an unknown number of rows would hide that.
    """
    number = 0
    errors.opens(path)
    with open_plain(path) as file:
        while True:
            try:
                line = file.readline(LINE_BYTES + 1)
                if len(line) > LINE_BYTES and not line.endswith(b"\n"):
                    number += 1
                    size = len(line) + _rest(file)
                    errors.add(RowError(path, number, f"line of more than {LINE_BYTES:,} bytes", f"{size:,} bytes"))
                    continue
            except DAMAGED as error:
                raise damaged(path, number, error) from error
            if not line:
                break
            number += 1
            try:
                text = line.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                errors.add(RowError(path, number, f"not {encoding.upper()}", f"byte {error.start + 1} of the line"))
                continue
            if number == 1:
                text = text.removeprefix("\ufeff")  # a byte order mark
            if text.strip():
                errors.line = number
                yield number, text
    if number == 0:
        raise SourceError(f"{path} is empty")


def _rest(file: BinaryIO) -> int:
    """Skip to the end of the line, and return the number of bytes."""
    size = 0
    while part := file.readline(LINE_BYTES):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size
