"""Detection of the form of a CSV file from its first records: separator, header, and positions of columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from replay.errors import EmptyFileError, InvalidError, SourceError
from replay.sources import columns
from replay.sources.log_map import LogMap
from replay.sources.text.csv_records import LINE_BYTES, Dialect, leading, line_ends

SEPARATORS: Final = (",", "\t", ";", "|", "::")

_SEPARATOR = re.compile(rb'(?i)"?sep=([\t,;|])"?\r?\n')
_SNIFFED = 20  # number of records for which separators are compared
_UNIT = b"\x1f"  # replaces a separator of more than one byte

csv.field_size_limit(LINE_BYTES + 1)


@dataclass(frozen=True)
class CsvForm:
    """The separator, quotes and columns of a CSV file, and the position of its first row."""

    separator: bytes
    dialect: Dialect
    names: list[str]  # of the columns; their numbers if there is no header
    positions: dict[str, int]  # of the columns that are read
    begin: int  # bytes before the first row, with `_UNIT` as separator
    line: int  # number of the first row's line

    def separated(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks, with a separator of more than one byte replaced by `_UNIT`."""
        kept = b""
        for chunk in chunks:
            data, kept = _separated(kept + chunk, self.separator), b""
            for size in range(len(self.separator) - 1, 0, -1):  # the chunk may end within a separator
                if data.endswith(self.separator[:size]):
                    data, kept = data[:-size], data[-size:]
                    break
            yield data
        if kept:
            yield kept


def csv_form(path: Path, head: bytes, log_map: LogMap) -> CsvForm:
    """Return the form of a file that begins with `head`. Raises SourceError for missing columns."""
    separator = (log_map.separator or sniffed(head, log_map)).encode()
    dialect = _dialect(separator, log_map)
    data = _separated(head, separator)
    first = next(_leading(data, dialect), None)
    if first is None:
        raise SourceError(f"{path}, line 1: not CSV") if data.strip() else EmptyFileError(f"{path} is empty")
    names = next(fields([first[1].decode(errors="replace")], dialect))
    header = not log_map.by_number if log_map.header is None else log_map.header
    if not header:
        names = [str(number) for number in range(1, len(names) + 1)]
    try:
        positions = columns.positions(names, log_map)
    except InvalidError as error:
        check_csv(path, head)
        one = f"line 1 is one column if {separator.decode()!r} separates columns: --separator says what does; or "
        hint = (one if len(names) == 1 else "") + columns.HINT
        raise SourceError(f"{path}: {error.reason}: {error.detail}; {hint}") from error
    begin = first.end() if header else first.start()
    return CsvForm(separator, dialect, names, positions, begin, 1 + line_ends(data[:begin]))


def check_csv(path: Path, head: bytes) -> None:
    """Raise SourceError if a file that begins with `head` looks like another format."""
    if b"\0" in head[:1000]:  # archives and UTF-16 have NULs
        raise SourceError(f"{path} is not a text file: is it an archive, a binary format, or in another --encoding?")
    if head.lstrip()[:1] in (b"{", b"["):
        raise SourceError(f"{path} looks like JSON: only a file whose name ends in .jsonl is read as JSON lines")


def fields(records: Iterable[str], dialect: Dialect) -> Iterator[list[str]]:
    """Yield the values of each record; it must match `Dialect.record`."""
    separator, quote = dialect.separator.decode(), dialect.quote.decode()
    if quote:
        return csv.reader(records, delimiter=separator, quotechar=quote)
    return csv.reader(records, delimiter=separator, quoting=csv.QUOTE_NONE)


def first_records(head: bytes, separator: str, log_map: LogMap) -> Iterator[list[str]]:
    """Yield the values of the first records, up to the first invalid one."""
    dialect = _dialect(separator.encode(), log_map)
    records = _leading(_separated(head, separator.encode()), dialect)
    return fields((one[1].decode(errors="replace") for one in records), dialect)


def sniffed(head: bytes, log_map: LogMap) -> str:
    """Return the separator that line 1 names, or the one that splits the first records into equally many fields."""
    if named := _SEPARATOR.match(head):
        return named[1].decode()

    def score(separator: str) -> tuple[bool, int]:
        widths = [len(row) for row in islice(first_records(head, separator, log_map), _SNIFFED)]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max(SEPARATORS, key=score)  # ties: the first of SEPARATORS


def _leading(data: bytes, dialect: Dialect) -> Iterator[re.Match[bytes]]:
    """Yield the first records, without a line in which Excel names the separator."""
    return (record for record in leading(data, dialect) if record.start() or not _SEPARATOR.match(data))


def _dialect(separator: bytes, log_map: LogMap) -> Dialect:
    comment = (log_map.comment or "").encode()
    quote = log_map.quote.encode()
    return Dialect(separator, quote, comment) if len(separator) == 1 else Dialect(_UNIT, b"", comment)


def _separated(data: bytes, separator: bytes) -> bytes:
    return data.replace(separator, _UNIT) if len(separator) > 1 else data
