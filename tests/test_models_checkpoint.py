"""Nets as bytes and back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from models.data.item_neighbours import WEIGHTS, ItemNeighbours, max_neighbours
from models.mc2sf.checkpoint import CheckpointError, config_of, pack, unpack, unpack_part
from models.mc2sf.nets import PARTS, NetConfig, Nets
from models.mc2sf.tiled_scorer import Scorer

SMALL = NetConfig(dim=8, history_long=6, history_short=4, attention=(8, 4), gate=(8, 4), head=(8, 4))


def table(nets: Nets) -> np.ndarray:
    return nets.encoder.E.detach().numpy()


def test_saved_and_loaded_nets_give_every_score_again_bit_for_bit() -> None:
    nets = Nets.initial(SMALL, 50, 1)
    again = unpack(SMALL, pack(nets), table(nets))
    candidates, r2 = np.arange(2, 50), np.ones(8, np.float32)
    one, other = (Scorer(each).slow(np.arange(2, 9), r2, candidates) for each in (nets, again))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    fast = [Scorer(each).fast(candidates[:3], candidates[5:9], candidates, one.r_t, one.r_n) for each in (nets, again)]
    assert all(np.array_equal(a, b) for a, b in zip(*fast, strict=True))


def test_the_same_weights_are_the_same_bytes_and_others_are_not() -> None:
    assert pack(Nets.initial(SMALL, 9, 1)) == pack(Nets.initial(SMALL, 9, 1))
    one, other = pack(Nets.initial(SMALL, 9, 1)), pack(Nets.initial(SMALL, 9, 2))
    assert all(one[part] != other[part] for part in PARTS)


def test_the_item_table_is_not_in_the_encoders_bytes() -> None:
    small, large = (len(pack(Nets.initial(SMALL, rows, 1))["encoder"]) for rows in (10, 10_000))
    assert small == large


def test_neighbours_of_items_are_stored_as_many_as_there_are_and_come_back() -> None:
    config, rows, rng = replace(SMALL, stacked=True), 1000, np.random.default_rng(1)
    nets = Nets.initial(config, rows, 1)
    empty = len(pack(nets)["fast"])
    neighbours, keys = ItemNeighbours.empty(rows + 2), np.array([77, 5])  # two items that E lacks
    neighbours.rows[7], neighbours.rows[9, :2] = np.arange(2, 2 + max_neighbours(rows + 2)), (5, rows + 1)
    neighbours.weights[neighbours.rows > 0] = rng.random((max_neighbours(rows + 2) + 2, WEIGHTS))
    nets.fast.neighbours.replace(neighbours, keys)
    stored = 8 * (max_neighbours(rows + 2) + 2) + 9 * len(keys)
    assert len(pack(nets)["fast"]) - empty == pytest.approx(stored, abs=16), "the header differs by a few bytes"
    again = unpack(config, pack(nets), table(nets)).fast.neighbours
    assert np.array_equal(again.rows.numpy(), neighbours.rows)
    assert np.array_equal(again.weights.numpy(), neighbours.weights)
    assert np.array_equal(again.keys.numpy(), keys)
    header = {"mc2sf": json.dumps({"part": "fast", **asdict(config)})}
    tensors = load(pack(nets)["fast"])
    counts, named = tensors["neighbour_counts"].clone(), tensors["neighbour_keys"]
    counts[3] = 1
    for name, damaged in (("neighbour_counts", counts), ("neighbour_keys", named[:1]), ("neighbour_keys", named * 0)):
        with pytest.raises(CheckpointError, match="item neighbours"):
            unpack_part(nets, "fast", save(tensors | {name: damaged}, metadata=header))
    assert np.array_equal(nets.fast.neighbours.keys.numpy(), keys)


def test_sizes_are_stored_with_the_weights() -> None:
    for part, data in pack(Nets.initial(SMALL, 9, 1)).items():
        assert config_of(data) == (part, SMALL)


def test_sizes_beyond_the_paper_are_stored_only_if_they_are_used() -> None:
    plain = pack(Nets.initial(SMALL, 9, 1))["fast"]
    assert b"min_gru" not in plain  # the bytes of a run of the paper's nets are as ever
    assert b"symlog" not in plain
    assert b"stacked" not in plain
    config = replace(SMALL, history_layers=1, min_gru=True, symlog_priors=True, stacked=True)
    nets = Nets.initial(config, 9, 1)
    assert config_of(pack(nets)["fast"]) == ("fast", config)
    with pytest.raises(CheckpointError, match="sizes differ"):
        unpack(SMALL, pack(nets), table(nets))
    again = unpack(config, pack(nets), table(nets))
    assert all(torch.equal(a, b) for a, b in zip(nets.state_dict().values(), again.state_dict().values(), strict=True))


def test_files_from_before_the_product_existed_are_read_as_without_one() -> None:
    data = pack(Nets.initial(SMALL, 9, 1))["fast"]
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    note = json.loads(header["__metadata__"]["mc2sf"])
    assert note.pop("fast_product")
    assert not note.pop("slow_product")
    header["__metadata__"]["mc2sf"] = json.dumps(note)
    old = json.dumps(header).encode()
    before = len(old).to_bytes(8, "little") + old + data[8 + length :]
    assert config_of(before) == ("fast", replace(SMALL, fast_product=False))


def test_loading_refuses_what_is_not_these_weights() -> None:
    nets = Nets.initial(SMALL, 9, 1)
    parts, E = pack(nets), table(nets)
    wide = NetConfig(dim=8, history_long=6, history_short=4, attention=(8, 4), gate=(8, 4), head=(16, 4))
    with pytest.raises(CheckpointError, match="sizes differ"):
        unpack(wide, parts, E)
    with pytest.raises(CheckpointError, match="shape"):
        unpack(SMALL, parts, E[:, :4])
    with pytest.raises(CheckpointError, match="missing"):
        unpack(SMALL, {"slow": parts["slow"], "encoder": parts["encoder"]}, E)
    with pytest.raises(CheckpointError, match="weights of slow, not of fast"):
        unpack(SMALL, parts | {"fast": parts["slow"]}, E)
    for part in PARTS:
        for damaged in (b"", b"\0" * 40, parts[part][:-5], parts[part][:20], b"{" * 100):
            with pytest.raises(CheckpointError):
                unpack(SMALL, parts | {part: damaged}, E)


def test_a_refused_part_changes_nothing() -> None:
    nets, other = Nets.initial(SMALL, 9, 1), pack(Nets.initial(SMALL, 9, 2))
    before = {name: w.clone() for name, w in nets.state_dict().items()}
    with pytest.raises(CheckpointError):
        unpack_part(nets, "slow", other["slow"][:-4])
    assert all(torch.equal(w, before[name]) for name, w in nets.state_dict().items())
    unpack_part(nets, "slow", other["slow"])
    changed = {name.split(".")[0] for name, w in nets.state_dict().items() if not torch.equal(w, before[name])}
    assert changed == {"slow"}


def test_the_table_is_copied_not_shared() -> None:
    nets = Nets.initial(SMALL, 9, 1)
    E = table(nets).copy()
    again = unpack(SMALL, pack(nets), E)
    E += 1
    assert torch.equal(again.encoder.E, nets.encoder.E)
