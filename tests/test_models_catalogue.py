"""The catalogue: items and their rows of E."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.catalogue import FIRST_ROW, ROW_UNKNOWN, Catalogue

keys = st.lists(st.integers(-(2**62), 2**62), max_size=30)


@given(keys, keys)
def test_extending_moves_no_row_and_adds_each_new_item_once(first: list[int], more: list[int]) -> None:
    old = Catalogue(list(dict.fromkeys(first)))
    new = old.extended(more)
    assert np.array_equal(new.keys[: len(old)], old.keys)
    assert set(new.keys.tolist()) == set(first) | set(more)
    assert np.array_equal(new.rows(old.keys), old.rows(old.keys))
    assert np.array_equal(new.rows(new.keys), np.arange(FIRST_ROW, FIRST_ROW + len(new)))
    assert new.size == FIRST_ROW + len(new)
    assert new.extended(more) == new


@given(keys, st.lists(st.integers(-(2**62), 2**62), max_size=10))
def test_an_item_without_a_row_has_the_unknown_one(first: list[int], asked: list[int]) -> None:
    catalogue = Catalogue(list(dict.fromkeys(first)))
    wanted = [FIRST_ROW + catalogue.keys.tolist().index(key) if key in first else ROW_UNKNOWN for key in asked]
    assert catalogue.rows(asked).tolist() == wanted


def test_rows_keep_the_shape_asked_for() -> None:
    assert Catalogue([7, 3]).rows([[3, 7], [5, 3]]).tolist() == [[3, 2], [ROW_UNKNOWN, 3]]
    assert Catalogue([]).rows(np.array([[3]])).tolist() == [[ROW_UNKNOWN]]


def test_an_item_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Catalogue([1, 2, 1])
