from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.codec import RecordError, Tensor
from streams.release_records import EmbeddingRow
from streams.releases.embedding_table import ItemRows

DIM = 2
changes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30)  # (encoder, row)


def row(encoder: int, index: int, value: float | None = None) -> EmbeddingRow:
    vector = np.full(DIM, 10.0 * encoder + index if value is None else value)
    return EmbeddingRow(100 + index, index, Tensor.of(vector, "<f4"), encoder)


@given(changes, st.integers(0, 4), st.integers(0, 4))
def test_each_version_has_per_item_the_newest_row_up_to_it(
    arrivals: list[tuple[int, int]], settled: int, asked: int
) -> None:
    rows = ItemRows(DIM)
    for place, (encoder, index) in enumerate(arrivals):
        if place == len(arrivals) // 2:
            rows.merge_up_to(settled)
        rows.put(row(encoder, index))
    version = max(asked, settled)  # older ones are not asked for any more
    newest = [max((e for e, i in arrivals if i == index and e <= version), default=None) for index in range(4)]
    found = rows.assemble(version, 4)
    if None in newest:
        assert found is None
    else:
        assert found is not None
        assert found[0].tolist() == [100, 101, 102, 103]
        assert found[1][:, 0].tolist() == [10 * e + i for i, e in enumerate(newest) if e is not None]


def test_a_table_that_grew_and_shrank_keeps_to_the_rows_asked_for() -> None:
    rows = ItemRows(DIM)
    for index in range(5):
        rows.put(row(1, index))
    keys, E = rows.assemble(1, 3) or (None, None)
    assert keys is not None
    assert E is not None
    assert (keys.tolist(), E.shape) == ([100, 101, 102], (3, DIM))
    assert rows.assemble(1, 6) is None


@pytest.mark.parametrize(
    "wrong",
    [
        row(1, -1),
        row(1, 1 << 40),
        row(-1, 0),
        EmbeddingRow(100, 0, Tensor.of(np.zeros(3), "<f4"), 1),
        EmbeddingRow(100, 0, Tensor.of(np.zeros(DIM), "<f2"), 1),
        EmbeddingRow(100, 0, Tensor("<f4", (DIM,), b"\0"), 1),
        EmbeddingRow(999, 1, Tensor.of(np.zeros(DIM), "<f4"), 1),
    ],
)
def test_a_row_that_cannot_be_one_is_refused_and_changes_nothing(wrong: EmbeddingRow) -> None:
    rows = ItemRows(DIM)
    rows.put(row(1, 0))
    rows.put(row(1, 1))
    with pytest.raises(RecordError):
        rows.put(wrong)
    found = rows.assemble(1, 2)
    assert found is not None
    assert found[1][:, 0].tolist() == [10.0, 11.0]


def test_a_table_that_was_read_elsewhere_replaces_wrong_rows() -> None:
    rows = ItemRows(DIM)
    rows.put(EmbeddingRow(555, 0, Tensor.of(np.zeros(DIM), "<f4"), 1))
    rows.replace(1, np.array([100, 101]), np.ones((2, DIM), dtype=np.float32))
    rows.put(row(2, 1))
    found = rows.assemble(2, 2)
    assert found is not None
    assert found[0].tolist() == [100, 101]
    assert found[1][:, 0].tolist() == [1.0, 21.0]
