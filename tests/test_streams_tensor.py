"""An array that travelled is taken as what it is expected to be, or refused with what it is instead."""

from __future__ import annotations

import numpy as np
import pytest

from streams.codec import RecordError, Tensor

TWO_BY_THREE = Tensor.of(np.arange(6).reshape(2, 3), "<f4")


@pytest.mark.parametrize("shape", [(2, 3), (None, 3), (2, None), (None, None)])
def test_an_array_of_the_shape_expected_is_taken(shape: tuple[int | None, ...]) -> None:
    assert TWO_BY_THREE.expect("r2", "<f4", shape).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        ("<f2", (2, 3), r"^r2 is <f4 \(2, 3\), not <f2 \(2, 3\)$"),
        ("<f4", (2, 4), r"not <f4 \(2, 4\)$"),
        ("<f4", (None, 4), r"not <f4 \(n, 4\)$"),
        ("<f4", (None,), r"not <f4 \(n,\)$"),
        ("<f4", (2, 3, 1), r"not <f4 \(2, 3, 1\)$"),
        ("<f4", (), r"not <f4 \(\)$"),
    ],
)
def test_another_array_is_refused_with_what_it_is(dtype: str, shape: tuple[int | None, ...], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        TWO_BY_THREE.expect("r2", dtype, shape)


@pytest.mark.parametrize(
    "wrong", [Tensor("<f4", (3,), b"12345678"), Tensor("<f4", (-1,), b""), Tensor("<f4", (1,), b"123")]
)
def test_bytes_that_do_not_fill_the_shape_are_refused(wrong: Tensor) -> None:
    with pytest.raises(RecordError, match="holds"):
        wrong.expect("r2", "<f4", (None,))
