from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replay.sources.text.csv_records import LINE_BYTES, Cutter, Dialect, blocks, line_ends

FIELDS = st.text(st.sampled_from('ab ,;\t|"\r\n\0é'), max_size=6)
TABLES = st.lists(st.lists(FIELDS, min_size=2, max_size=4), min_size=1, max_size=8)


def found(data: bytes, dialect: Dialect, block_bytes: int) -> list[tuple[int, str]]:
    """Line and text of every record, from blocks of any size."""
    chunks = [data[at : at + 7] for at in range(0, len(data), 7)]
    records: list[tuple[int, str]] = []
    for block in blocks(chunks, dialect, block_bytes=block_bytes):
        assert not block.problems
        whole = block if block.records is not None else Cutter(dialect).cut_records(block.data, last=True)[0]
        assert whole.records is not None
        texts = [record.decode() for record in whole.records]
        records += zip(block.lines.tolist(), texts, strict=True)
    return records


@settings(max_examples=200)
@given(
    TABLES,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.integers(1, 60),
)
def test_what_python_s_csv_writes_is_cut_into_its_records_and_lines(
    rows: list[list[str]], separator: str, end: str, quoting: int, size: int
) -> None:
    texts, lines = [], []
    text = io.StringIO()
    if quoting != csv.QUOTE_ALL and end == "\n":  # Python's writer does not quote another line end, nor read it back
        rows = [[field.replace("\r", "") for field in row] for row in rows]
    for row in rows:
        one = io.StringIO()
        csv.writer(one, delimiter=separator, lineterminator=end, quoting=quoting).writerow(row)
        lines.append(1 + line_ends(text.getvalue().encode()))
        text.write(one.getvalue())
        texts.append(one.getvalue().removesuffix(end))
    expected = [(line, one) for line, one in zip(lines, texts, strict=True) if one.strip(" ")]
    assert found(text.getvalue().encode(), Dialect(separator.encode()), size) == expected


@settings(max_examples=200)
@given(st.text(st.sampled_from('ab,"\r\n'), max_size=30), st.integers(1, 40))
@example('"\n,"', 1)  # the only line end is within quotes
def test_damaged_quotes_lose_no_line_and_give_the_same_records_in_blocks_of_any_size(text: str, size: int) -> None:
    data = text.encode()
    whole = Cutter(Dialect(b","), width=2).cut_records(data, last=True)[0]
    assert whole.records is not None
    chunks = [data[at : at + 5] for at in range(0, len(data), 5)]
    parts = list(blocks(chunks, Dialect(b","), block_bytes=size, width=2))
    assert [line for part in parts for line in part.quoted_rows.tolist()] == whole.quoted_rows.tolist()
    assert [line for part in parts for line in part.lines.tolist()] == whole.lines.tolist()
    assert tuple(problem for part in parts for problem in part.problems) == whole.problems


@pytest.mark.parametrize(
    ("data", "records", "bad"),
    [
        (b'a,b\n"c,d\ne,f\n', [(1, b"a,b"), (3, b"e,f")], [2]),
        (b'a,b\n"c"x,d\ne,f\n', [(1, b"a,b"), (3, b"e,f")], [2]),
        (b'5" pipe,b\nc,"d\n', [(1, b'5" pipe,b')], [2]),
        (b"a,b\rc,d\re,f", [(1, b"a,b"), (2, b"c,d"), (3, b"e,f")], []),
        (b'"a\n\nb",c\n\nd,e', [(1, b'"a\n\nb",c'), (5, b"d,e")], []),
    ],
)
def test_a_quote_that_does_not_close_costs_its_line_alone(
    data: bytes, records: list[tuple[int, bytes]], bad: list[int]
) -> None:
    (block,) = blocks([data], Dialect(b","))
    if block.records is not None:
        assert list(zip(block.lines.tolist(), block.records, strict=True)) == records
    assert block.lines.tolist() == [line for line, _record in records]
    assert [line for line, _reason, _detail in block.problems] == bad


def test_a_line_longer_than_any_block_is_refused_and_not_kept() -> None:
    chunks = [b"a,b\n", *[b"x" * 100_000] * 30, b"\nc,d\n"]
    found = list(blocks(chunks, Dialect(b","), block_bytes=200_000))
    assert [line for block in found for line in block.lines] == [1, 3]
    assert [problem for block in found for problem in block.problems] == [(2, "line of more than 1,000,000 bytes", "")]


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_the_longest_line_allowed_is_read_wherever_blocks_end(quote: bytes) -> None:
    line = quote + b"x" * (LINE_BYTES - 2 * len(quote)) + quote
    for size in (1000, LINE_BYTES, 4 * LINE_BYTES):
        found = list(blocks([line + b"\n" + line + b"y\n" + line], Dialect(b",", quote), block_bytes=size))
        expected = [1, 3]
        assert np.concatenate([block.lines for block in found]).tolist() == expected


def test_lines_that_begin_with_a_comment_s_character_are_passed_over() -> None:
    (block,) = blocks([b"# a,b\nc,d\n#\n e,#f\n#g"], Dialect(b",", comment=b"#"))
    assert block.records == (b"c,d", b" e,#f")
    assert block.lines.tolist() == [2, 4]
