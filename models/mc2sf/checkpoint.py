"""Nets as bytes: one safetensors file per part, with the sizes in its metadata; never pickle.

E is not in the encoder's file: it is published by rows, so that only changed rows are sent. Standalone nets, which
make one score of a release, are one file that includes E.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save  # a third of the time of torch's, and the same bytes
from safetensors.torch import load
from torch import Tensor

from models.data.item_neighbours import ItemNeighbours
from models.mc2sf.nets import PARTS, NetConfig, Nets

_TABLE = "E"
_NEIGHBOURS = ("neighbours.rows", "neighbours.weights", "neighbours.keys")  # tensors in memory
_KEYS = "neighbour_keys"  # tensors in a file: this one and _FLAT
_FLAT = ("neighbour_counts", "flat_neighbour_rows", "flat_neighbour_weights")
# fields that are written only if they differ from the default, so that files from before they existed are unchanged
_OPTIONAL = ("floor", "history_layers", "min_gru", "symlog_priors", "stacked")


class CheckpointError(ValueError):
    """Bytes are not the expected weights: damaged, of another part, or of other sizes."""


def pack(nets: Nets) -> dict[str, bytes]:
    """Return the bytes of each part. The same weights give the same bytes."""
    return {part: pack_part(nets, part) for part in PARTS}


def pack_part(nets: Nets, part: str) -> bytes:
    """Return the bytes of one part, without E."""
    weights = {name: weight for name, weight in nets.get_submodule(part).state_dict().items() if name != _TABLE}
    if weights.keys() >= set(_NEIGHBOURS):  # most items of a large catalogue have few neighbours
        *table, weights[_KEYS] = (weights.pop(name) for name in _NEIGHBOURS)
        flat = ItemNeighbours(*(each.numpy() for each in table)).flat()
        weights |= dict(zip(_FLAT, map(torch.from_numpy, flat), strict=True))
    return _to_bytes(weights, part, nets.config)


def pack_standalone(nets: Nets, name: str) -> bytes:
    """Return the bytes of standalone nets, one of `nets.STANDALONE`, E included."""
    return _to_bytes(nets.state_dict(), name, nets.config)


def _to_bytes(weights: Mapping[str, Tensor], part: str, config: NetConfig) -> bytes:
    """Return weights as a safetensors file that names the part and the sizes."""
    # one key of metadata: the order of several in the file would be arbitrary
    sizes = asdict(config)
    for name in _OPTIONAL:
        if sizes[name] == getattr(NetConfig, name):
            del sizes[name]
    header = json.dumps({"part": part, **sizes}, sort_keys=True)
    return save({name: weight.contiguous().numpy() for name, weight in weights.items()}, metadata={"mc2sf": header})


def config_of(data: bytes) -> tuple[str, NetConfig]:
    """Return the name of the part in `data`, and the sizes of its nets. Raises CheckpointError for another header."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["mc2sf"])
        part = str(header.pop("part"))
        header.setdefault("fast_product", False)  # absent in files from before the field existed
        for name, value in header.items():
            if isinstance(value, list):
                header[name] = tuple(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("the header can't be read: these are not the weights of such nets") from error
    return part, NetConfig(**{field.name: header[field.name] for field in fields(NetConfig) if field.name in header})


def unpack(config: NetConfig, parts: Mapping[str, bytes], E: NDArray[np.float32]) -> Nets:
    """Return the nets made of three parts and an item table [rows, d].

    Raises CheckpointError if a part is missing, damaged or of other sizes, or E is not [rows, config.dim].
    """
    if E.ndim != 2 or E.shape[1] != config.dim:
        raise CheckpointError(f"E has shape {E.shape}, the nets need [rows, {config.dim}]")
    nets = Nets(config, len(E))
    with torch.no_grad():
        nets.encoder.E.copy_(torch.from_numpy(np.array(E, dtype=np.float32)))
    for part in PARTS:
        if part not in parts:
            raise CheckpointError(f"part {part} is missing")
        unpack_part(nets, part, parts[part])
    return nets


def unpack_part(nets: Nets, part: str, data: bytes) -> None:
    """Load `data` into one part of `nets`, in place. Raises CheckpointError and then changes nothing."""
    module = nets.get_submodule(part)
    targets = {k: v for k, v in module.state_dict().items() if k not in {_TABLE, *_NEIGHBOURS}}
    neighbours = _load(targets, nets.config, part, data, len(nets.encoder.E))
    if neighbours is not None:
        nets.fast.neighbours.replace(*neighbours)


def unpack_standalone(config: NetConfig, name: str, data: bytes, rows: int) -> Nets:
    """Return standalone nets with `rows` rows of E. Raises CheckpointError if `data` does not hold them."""
    nets = Nets(config, rows)
    _load(nets.state_dict(), config, name, data, rows)
    return nets


def _load(
    targets: Mapping[str, Tensor], config: NetConfig, part: str, data: bytes, rows: int
) -> tuple[ItemNeighbours, NDArray[np.int64]] | None:
    """Copy the weights in `data` into `targets`; return the neighbours of an E of `rows` rows, and their keys, if any.

    Raises CheckpointError and then changes nothing.
    """
    actual_part, sizes = config_of(data)
    if actual_part != part:
        raise CheckpointError(f"these are the weights of {actual_part}, not of {part}")
    if sizes != config:
        raise CheckpointError(f"sizes differ: the file says {sizes}, the nets are {config}")
    try:
        weights = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"part {part} is damaged: {error}") from error
    neighbours = _neighbours(weights, part, rows) if weights.keys() >= {_KEYS, *_FLAT} else None
    if weights.keys() != targets.keys():
        raise CheckpointError(f"part {part} has other tensors: {sorted(weights.keys() ^ targets.keys())}")
    for name, weight in weights.items():
        if weight.shape != targets[name].shape or weight.dtype != targets[name].dtype:
            raise CheckpointError(f"{part}.{name} has shape {tuple(weight.shape)}, not {tuple(targets[name].shape)}")
    with torch.no_grad():
        for name, weight in weights.items():
            targets[name].copy_(weight)
    return neighbours


def _neighbours(weights: dict[str, Tensor], part: str, rows: int) -> tuple[ItemNeighbours, NDArray[np.int64]]:
    """Take the neighbours out of `weights`; return them and their keys. Raises CheckpointError if they are damaged."""
    keys = weights.pop(_KEYS).numpy()
    try:
        neighbours = ItemNeighbours.from_flat(*(weights.pop(name).numpy() for name in _FLAT))
    except ValueError as error:
        raise CheckpointError(f"part {part}: {error}") from error
    size = len(neighbours.rows)
    if size != rows + len(keys) or len(np.unique(keys)) != len(keys) or int(neighbours.rows.max(initial=0)) >= size:
        raise CheckpointError(f"part {part}: item neighbours of {size} items, {len(keys)} of which E of {rows} lacks")
    return neighbours, keys
