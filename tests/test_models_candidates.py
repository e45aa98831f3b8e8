"""Sampling of evaluated clicks and of candidate lists."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.candidates import Candidates, evaluated, sampled, slate

KEYS = np.arange(1000, 3000)


def test_the_share_of_clicks_is_met_and_a_higher_share_holds_a_lower_one() -> None:
    clicks = [(f"u{i % 50}", i) for i in range(20_000)]
    low, high = ({c for c in clicks if evaluated(1, *c, share)} for share in (0.05, 0.3))
    assert len(low) == pytest.approx(1000, abs=120)
    assert len(high) == pytest.approx(6000, abs=300)
    assert low < high
    assert not any(evaluated(1, *c, 0.0) for c in clicks[:500])
    assert all(evaluated(1, *c, 1.0) for c in clicks[:500])


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 2**40), st.integers(1, 60), st.integers(0, 300))
def test_a_list_is_the_target_and_n_other_items_each_once(seed: int, user: str, seq: int, n: int, size: int) -> None:
    keys = KEYS[:size]
    listed = sampled(seed, user, seq, keys, 1003, n)
    assert listed.keys[listed.target_index] == 1003
    assert len(set(listed.keys.tolist())) == len(listed.keys) == 1 + min(n, len(keys) - (1003 in keys))
    assert set(listed.keys.tolist()) <= {*keys.tolist(), 1003}
    assert listed.cold == (1003 not in keys or len(keys) - 1 < n)


def test_negatives_are_uniform_and_the_target_is_at_any_index() -> None:
    drawn = [sampled(1, "u", seq, KEYS[:400], 1007, 20) for seq in range(4000)]
    counts = np.unique(np.concatenate([np.delete(c.keys, c.target_index) for c in drawn]), return_counts=True)[1]
    assert len(counts) == 399
    assert abs(counts - 4000 * 20 / 399).max() < 5.5 * np.sqrt(4000 * 20 / 399)
    places = np.bincount([c.target_index for c in drawn], minlength=21)
    assert abs(places - 4000 / 21).max() < 5.5 * np.sqrt(4000 / 21)


@pytest.mark.process
def test_every_process_gets_the_same_list() -> None:
    code = (
        "import numpy as np; from models.evaluation.candidates import sampled, evaluated; c = sampled(7, 'ü', 12, "
        "np.arange(1000, 3000), 1003, 99); print(c.target_index, c.keys.tolist(), evaluated(7, 'ü', 12, 0.5))"
    )
    listed = sampled(7, "ü", 12, KEYS, 1003, 99)
    wanted = f"{listed.target_index} {listed.keys.tolist()} {evaluated(7, 'ü', 12, 0.5)}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=".")
    assert run.stdout.strip() == wanted


def test_the_list_is_pinned_for_good() -> None:
    """A change of these numbers changes every digest, so it must be intended."""
    listed = sampled(1, "u", 5, KEYS, 1003, 4)
    assert (listed.keys.tolist(), listed.target_index) == ([2197, 2208, 2484, 1003, 1306], 3)


def test_seed_user_and_seq_each_give_another_list() -> None:
    lists = [sampled(*of, KEYS, 1003, 99).keys.tolist() for of in ((1, "u", 1), (2, "u", 1), (1, "v", 1), (1, "u", 2))]
    assert len({tuple(each) for each in lists}) == 4


def test_a_slate_is_shuffled_whole_whatever_the_order_of_the_log() -> None:
    shown = np.array([30, 10, 20, 10, 50])
    one, other = slate(1, "u", 3, shown, 20), slate(1, "u", 3, shown[::-1], 20)
    assert sorted(one.keys.tolist()) == [10, 20, 30, 50]
    assert one.keys[one.target_index] == 20
    assert np.array_equal(one.keys, other.keys)
    assert not one.cold
    assert slate(1, "u", 3, shown, 20, cold=True).cold
    assert slate(1, "u", 3, np.empty(0, np.int64), 20) == Candidates(np.array([20]), 0, cold=False)
    places = {slate(1, "u", seq, shown, 20).target_index for seq in range(100)}
    assert places == {0, 1, 2, 3}
