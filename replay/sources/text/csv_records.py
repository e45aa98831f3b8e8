"""Splitting of a CSV stream into blocks of whole records, which may contain quoted line ends (RFC 4180).

A block whose quotes all follow the RFC is found with numpy, and its records are left to a fast parser. Other blocks are
split record by record: a quote within an unquoted field is an ordinary character; a record with an unclosed quote, or
with text after a closing quote, is refused, and the next line begins a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

LINE_BYTES = 1_000_000  # maximum size of a record
BLOCK_BYTES = 1 << 22

_UNCLOSED = "a quote is not closed, or text follows it"
_LINE_END = re.compile(rb"\r\n|\n|\r")

Problem = tuple[int, str, str]  # line, reason and detail, as in RowError
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dialect:
    """The special characters of a CSV file, one byte each; `quote` and `comment` may be empty."""

    separator: bytes
    quote: bytes = b'"'
    comment: bytes = b""

    def record(self) -> re.Pattern[bytes]:
        """Return a pattern that matches one record; its group 1 is without the line end."""
        separator, quote = re.escape(self.separator), re.escape(self.quote)
        field = rb"[^%b\r\n]*+" % separator
        if quote:
            field = rb"(?:%b(?:[^%b]++|%b%b)*+%b|(?!%b)%b)" % (quote, quote, quote, quote, quote, quote, field)
        return re.compile(rb"(%b(?:%b%b)*+)(?:\r\n|\n|\r|\Z)" % (field, separator, field))


@dataclass(frozen=True)
class Block:
    """Whole records, with the 1-based number of the first line of each record that is not empty."""

    lines: Numbers
    data: bytes = b""  # the records as in the file, if every quote is regular
    records: tuple[bytes, ...] | None = None  # else: the records without line ends
    problems: tuple[Problem, ...] = ()  # of lines that are not in a record
    quoted_rows: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))  # lines within quotes, as wide as a row


def leading(data: bytes, dialect: Dialect) -> Iterator[re.Match[bytes]]:
    """Yield the first records as matches of `Dialect.record`, without comments, up to the first invalid one."""
    record, position = dialect.record(), 0
    while position < len(data) and (match := record.match(data, position)) and len(match[1]) <= LINE_BYTES:
        position = match.end()
        if match[1].strip(b" ") and not (dialect.comment and match[1].startswith(dialect.comment)):
            yield match


def blocks(
    chunks: Iterable[bytes], dialect: Dialect, line: int = 1, block_bytes: int = BLOCK_BYTES, width: int = 0
) -> Iterator[Block]:
    """Yield the records of a stream in blocks of about `block_bytes`; `line` is the number of its first line.

    With the number of fields of a row, `width`, a block has the lines within quotes that look like rows.
    """
    cutter = Cutter(dialect, line, width)
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) >= block_bytes:
            block, used = cutter.cut(data, last=False)
            data = data[used:]
            yield block
    if data:
        yield cutter.cut(data, last=True)[0]


class Cutter:
    """Splits data into blocks of records, and counts lines."""

    def __init__(self, dialect: Dialect, line: int = 1, width: int = 0) -> None:
        """Begin at line number `line`; a row has `width` fields (0: unknown)."""
        self.dialect, self.line, self.width = dialect, line, width
        self._record = dialect.record()
        self._in_long_line = False

    def cut(self, data: bytes, *, last: bool) -> tuple[Block, int]:
        """Return the complete records at the start of `data`, and their size; `last`: the stream ends with `data`."""
        return self._cut_regular(data, last=last) or self.cut_records(data, last=last)

    def _cut_regular(self, data: bytes, *, last: bool) -> tuple[Block, int] | None:
        """Return the block and its size; None if a quote or line end is irregular or a record too long."""
        dialect = self.dialect
        commented = dialect.comment and (data.startswith(dialect.comment) or b"\n" + dialect.comment in data)
        has_lone_cr = b"\r" in data and data.count(b"\r") != data.count(b"\r\n")
        if self._in_long_line or commented or has_lone_cr:
            return None
        codes = np.frombuffer(data, np.uint8)
        newlines = np.flatnonzero(codes == ord("\n"))
        ends, quotes, inside = newlines, None, newlines[:0]
        if dialect.quote and dialect.quote in data:
            quotes = np.flatnonzero(codes == dialect.quote[0])
            is_inside = np.searchsorted(quotes, newlines) % 2 == 1
            ends, inside = newlines[~is_inside], newlines[is_inside]
        if last and not data.endswith(b"\n"):
            ends = np.append(ends, len(data))
        size = min(int(ends[-1]) + 1, len(data)) if len(ends) else 0
        if (last and size < len(data)) or not size:
            return None
        if quotes is not None and not _quotes_are_regular(codes[:size], quotes[quotes < size], dialect):
            return None
        starts = np.concatenate([[0], ends[:-1] + 1])
        sizes = ends - starts
        if sizes.max() > LINE_BYTES:
            return None
        filled = (sizes > 1) | ((sizes == 1) & (codes[starts] != ord("\r")))
        lines_before = np.flatnonzero(filled) if quotes is None else np.searchsorted(newlines, starts[filled])
        lines = self.line + lines_before
        quoted_rows = lines[:0]
        inside = inside[inside < size]
        if quotes is not None and self.width and len(inside):
            separators = np.flatnonzero(codes == dialect.separator[0])
            next_newline = np.append(newlines, size)[np.searchsorted(newlines, inside, "right")]
            end = np.minimum(next_newline, quotes[np.searchsorted(quotes, inside)])
            found = np.searchsorted(separators, end) - np.searchsorted(separators, inside) == self.width - 1
            quoted_rows = self.line + 1 + np.searchsorted(newlines, inside[found])
        self.line += int(np.searchsorted(newlines, size))
        return Block(lines, data[:size], quoted_rows=quoted_rows), size

    def cut_records(self, data: bytes, *, last: bool) -> tuple[Block, int]:
        """Split record by record; return the records with problems for other lines, and their total size."""
        records: list[bytes] = []
        lines: list[int] = []
        problems: list[Problem] = []
        quoted_rows: list[int] = []
        separator, quote = self.dialect.separator, self.dialect.quote
        start = self._skip_line(data, 0) if self._in_long_line else 0
        while start < len(data):
            comment = self.dialect.comment and data.startswith(self.dialect.comment, start)
            match = None if comment else self._record.match(data, start)
            end = match.end() if match else len(data)
            complete = last or (end < len(data) if match else False) or (match and data.endswith(b"\n"))
            line = self.line
            if match and complete and len(match[1]) <= LINE_BYTES:
                if match[1].strip(b" "):
                    records.append(match[1])
                    lines.append(line)
                    inside = match[1].split(b"\n")[1:] if self.width else []
                    pieces = enumerate((part.partition(quote)[0] for part in inside), line + 1)
                    quoted_rows += [n for n, part in pieces if part.count(separator) == self.width - 1]
                self.line += line_ends(data[start:end])
                start = end
            elif not last and len(data) - start <= LINE_BYTES + 2 and not (comment and b"\n" in data[start:]):
                break  # the next chunk may complete it
            else:
                begin, start = start, self._skip_line(data, start)
                if match:
                    problems.append((line, f"line of more than {LINE_BYTES:,} bytes", ""))
                elif not comment:
                    escaped = b"\\" + quote in data[begin:start]
                    hint = "a backslash before a quote? quotes are doubled in CSV" if escaped else _UNCLOSED
                    problems.append((line, "not CSV", hint))
        found = np.array(quoted_rows, np.int64)
        return Block(np.array(lines, np.int64), b"", tuple(records), tuple(problems), found), start

    def _skip_line(self, data: bytes, start: int) -> int:
        """Return the position after the line at `start`, or the end of the data if the line is not complete."""
        line_end = _LINE_END.search(data, start)
        self._in_long_line = line_end is None
        self.line += line_end is not None
        return len(data) if line_end is None else line_end.end()


def line_ends(data: bytes) -> int:
    """Return the number of line ends: LF, CR LF or CR."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def _quotes_are_regular(codes: npt.NDArray[np.uint8], quotes: Numbers, dialect: Dialect) -> bool:
    """Return True if every field with a quote begins and ends with one, and quotes inside are doubled."""
    if len(quotes) % 2:
        return False
    is_border = np.zeros(256, np.bool_)  # by byte: may be next to a quoted field
    is_border[[ord("\n"), ord("\r"), dialect.separator[0], dialect.quote[0]]] = True
    opening, closing = quotes[::2], quotes[1::2]
    before, after = opening[opening > 0] - 1, closing[closing < len(codes) - 1] + 1
    return bool(is_border[codes[before]].all() and is_border[codes[after]].all())
