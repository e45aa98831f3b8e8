"""Reader of CSV logs: `csv_records` finds the records, pyarrow parses them, `values.events` converts their columns."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from replay.errors import EmptyFileError, RowErrors, SourceError
from replay.sources.text.containers import byte_chunks
from replay.sources.text.csv_form import CsvForm, csv_form, fields
from replay.sources.text.csv_records import BLOCK_BYTES, Block, Cutter, Problem, blocks
from replay.values.events import EventReader
from replay.values.table import Table

_UTF8 = ("utf-8", "ascii", "utf-8-sig")


def csv_log(path: Path, reader: EventReader, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of `schema.ROWS`. Invalid rows are added to `errors`. Raises SourceError for an unreadable file."""
    errors.opens(path)
    chunks = utf8(path, reader.log_map.encoding)
    form = csv_form(path, head := next(chunks), reader.log_map)
    pieces = form.separated(chain([head], chunks))
    parser = _Parser(path, form, reader.log_map.encoding)
    for block in blocks(chain([next(pieces)[form.begin :]], pieces), form.dialect, form.line, width=len(form.names)):
        if len(block.quoted_rows):
            errors.doubt("quoted-rows", [f"{path}, line {line:,}" for line in block.quoted_rows.tolist()])
        table, problems = parser.table(block)
        if table.rows.num_rows or problems:
            yield reader.events(table, errors, problems)


def utf8(path: Path, encoding: str) -> Iterator[bytes]:
    """Yield chunks of the file's text, converted to UTF-8; bytes that are invalid in `encoding` are unchanged.

    A byte order mark is removed; one of UTF-16 or UTF-32 overrides `encoding`. Raises SourceError for an empty file.
    """
    chunks = byte_chunks(path, BLOCK_BYTES)
    head = next(chunks, b"")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"  # first, because its mark begins with that of UTF-16
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    head = head.removeprefix(codecs.BOM_UTF8)
    if not head:
        raise EmptyFileError(f"{path} is empty")
    if codecs.lookup(encoding).name in _UTF8:
        yield from chain([head], chunks)
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    try:
        for chunk in chain([head], chunks):
            yield decoder.decode(chunk).encode("utf-8", "surrogateescape")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")
    except UnicodeError as error:
        raise SourceError(f"{path}: not {encoding.upper()}: {error}") from error


@dataclass(frozen=True)
class _Parser:
    path: Path
    form: CsvForm
    encoding: str

    def table(self, block: Block) -> tuple[Table, list[Problem]]:
        """Return the rows of a block with our column names, and the problems of other lines."""
        if block.records is None:
            parsed = self._parse_fast(block)
            if parsed is not None:
                return parsed
            block, _size = Cutter(self.form.dialect, int(block.lines[0])).cut_records(block.data, last=True)
        return self._parse_records(block)

    def _parse_fast(self, block: Block) -> tuple[Table, list[Problem]] | None:
        """Return the rows as parsed by pyarrow; None if it can't parse the block, for example if it is not UTF-8."""
        bad: list[csv.InvalidRow] = []

        def skip(row: csv.InvalidRow) -> str:
            bad.append(row)
            return "skip"

        names = [str(number) for number in range(len(self.form.names))]
        included = [str(position) for position in self.form.positions.values()]
        dialect = self.form.dialect
        quote = dialect.quote if dialect.quote in block.data else b""
        valid = is_utf8(block.data)
        try:
            parsed = csv.read_csv(
                pa.BufferReader(block.data),
                csv.ReadOptions(use_threads=False, block_size=len(block.data) + 1, column_names=names),
                csv.ParseOptions(
                    delimiter=dialect.separator.decode(),
                    quote_char=quote.decode() or False,
                    newlines_in_values=bool(quote),
                    invalid_row_handler=skip if valid else None,  # it is called with text
                ),
                csv.ConvertOptions(
                    check_utf8=not valid,
                    column_types=dict.fromkeys(included, pa.string()),
                    strings_can_be_null=False,
                    include_columns=included,
                ),
            )
        except pa.ArrowInvalid:  # a value or an invalid row is not UTF-8
            return None
        lines = np.delete(block.lines, [row.number - 1 for row in bad])
        if len(lines) != parsed.num_rows:
            return None
        problems = [
            (int(block.lines[row.number - 1]), *_wrong_columns(row.actual_columns, row.expected_columns))
            for row in bad
            if row.text.strip(" ")
        ]
        columns = [one.chunk(0) if one.num_chunks == 1 else one.combine_chunks() for one in parsed.columns]
        return self._table(columns, lines), problems

    def _parse_records(self, block: Block) -> tuple[Table, list[Problem]]:
        """Return the rows as parsed by Python's csv; a row that is not UTF-8 becomes a problem of its line."""
        assert block.records is not None
        problems = list(block.problems)
        rows: list[list[str]] = []
        lines: list[int] = []
        texts = (record.decode(errors="surrogateescape") for record in block.records)
        for line, values in zip(block.lines.tolist(), fields(texts, self.form.dialect), strict=True):
            if len(values) != len(self.form.names):
                problems.append((line, *_wrong_columns(len(values), len(self.form.names))))
                continue
            row = [values[position] for position in self.form.positions.values()]
            if any("\udc80" <= character <= "\udcff" for character in "".join(row)):
                problems.append((line, *_not_encoded(self.encoding)))
                continue
            rows.append(row)
            lines.append(line)
        columns = zip(*rows, strict=True) if rows else [()] * len(self.form.positions)
        return self._table([pa.array(column, pa.string()) for column in columns], np.array(lines, np.int64)), problems

    def _table(self, columns: list[pa.Array], lines: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Table:
        return Table(self.path, pa.RecordBatch.from_arrays(columns, names=list(self.form.positions)), lines)


def is_utf8(data: bytes) -> bool:
    """Return True if the bytes are text in UTF-8."""
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _not_encoded(encoding: str) -> tuple[str, str]:
    hint = "is it in another --encoding, such as cp1252?" if codecs.lookup(encoding).name == "utf-8" else ""
    return f"not {encoding.upper()}", hint


def _wrong_columns(actual: int, expected: int) -> tuple[str, str]:
    return "wrong columns", f"{actual} instead of {expected}"
