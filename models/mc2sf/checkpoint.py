"""Nets as bytes: one safetensors file a part, the sizes in its metadata; never pickle.

E is not in the encoder's file: it travels row by row, so that only changed rows are published. Nets that belong to one
form alone ("apart") are one file with all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.mc2sf.nets import PARTS, NetConfig, Nets

_TABLE = "E"
# fields that are named only where they are used: files from before are as now
_LATER = ("history_layers", "min_gru", "symlog_priors")


class CheckpointError(ValueError):
    """Bytes that aren't the weights asked for: damaged, of another part, or of other sizes."""


def pack(nets: Nets) -> dict[str, bytes]:
    """The bytes of each part. The same weights give the same bytes."""
    return {part: pack_part(nets, part) for part in PARTS}


def pack_part(nets: Nets, part: str) -> bytes:
    """The bytes of one part, without E."""
    weights = {name: weight for name, weight in nets.get_submodule(part).state_dict().items() if name != _TABLE}
    return _saved(weights, part, nets.config)


def pack_standalone(nets: Nets, form: str) -> bytes:
    """The bytes of nets that score one form of a release, E included."""
    return _saved(nets.state_dict(), form, nets.config)


def _saved(weights: Mapping[str, Tensor], part: str, config: NetConfig) -> bytes:
    # one key of metadata: with several, their order in the file is arbitrary
    sizes = asdict(config)
    for name in _LATER:
        if sizes[name] == getattr(NetConfig, name):
            del sizes[name]
    note = json.dumps({"part": part, **sizes}, sort_keys=True)
    return save({name: weight.contiguous() for name, weight in weights.items()}, metadata={"mc2sf": note})


def config_of(data: bytes) -> tuple[str, NetConfig]:
    """Which part `data` holds, and the sizes of its nets."""
    try:
        length = int.from_bytes(data[:8], "little")
        note: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["mc2sf"])
        part = note.pop("part")
        known = {field.name for field in fields(NetConfig)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in note.items() if k in known}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError("no weights of these nets: the header can't be read") from error
    return part, NetConfig(**{"fast_product": False} | values)  # weights from before there was one don't name it


def unpack(config: NetConfig, parts: Mapping[str, bytes], E: NDArray[np.float32]) -> Nets:
    """The nets of three parts and an item table [rows, d].

    Raises CheckpointError where a part is missing, damaged, of other sizes, or E is not [rows, config.dim].
    """
    if E.ndim != 2 or E.shape[1] != config.dim:
        raise CheckpointError(f"E has shape {E.shape}, the nets want [rows, {config.dim}]")
    nets = Nets(config, len(E))
    with torch.no_grad():
        nets.encoder.E.copy_(torch.from_numpy(np.array(E, dtype=np.float32)))
    for part in PARTS:
        if part not in parts:
            raise CheckpointError(f"part {part} is missing")
        unpack_part(nets, part, parts[part])
    return nets


def unpack_part(nets: Nets, part: str, data: bytes) -> None:
    """Load `data` into one part of `nets`, in place. Raises CheckpointError; then nothing has changed."""
    wanted = {k: v for k, v in nets.get_submodule(part).state_dict().items() if k != _TABLE}
    _load(wanted, nets.config, part, data)


def unpack_standalone(config: NetConfig, form: str, data: bytes, rows: int) -> Nets:
    """The nets of one form, with `rows` rows of E. Raises CheckpointError where `data` holds no such nets."""
    nets = Nets(config, rows)
    _load(nets.state_dict(), config, form, data)
    return nets


def _load(wanted: Mapping[str, Tensor], config: NetConfig, part: str, data: bytes) -> None:
    """Copy the weights in `data` into those that are wanted. Raises CheckpointError; then nothing has changed."""
    named, sizes = config_of(data)
    if named != part:
        raise CheckpointError(f"these are the weights of {named}, not of {part}")
    if sizes != config:
        raise CheckpointError(f"sizes differ: the file says {sizes}, the nets are {config}")
    try:
        weights = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"part {part} is damaged: {error}") from error
    if weights.keys() != wanted.keys():
        raise CheckpointError(f"part {part} has other tensors: {sorted(weights.keys() ^ wanted.keys())}")
    for name, weight in weights.items():
        if weight.shape != wanted[name].shape or weight.dtype != wanted[name].dtype:
            raise CheckpointError(f"{part}.{name} is {tuple(weight.shape)}, wanted {tuple(wanted[name].shape)}")
    with torch.no_grad():
        for name, weight in weights.items():
            wanted[name].copy_(weight)
