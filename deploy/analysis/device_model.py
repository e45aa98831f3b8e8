"""The device's part of a release as one ONNX graph or ExecuTorch program, for runtimes without torch."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.catalogue import FIRST_ROW
from models.data.item_neighbours import WEIGHTS, max_neighbours
from models.data.item_statistics import FEATURES
from models.layers.gru import Gru
from models.layers.mlp import PaddedVectors
from models.mc2sf import stacking
from models.mc2sf.nets import Nets

OUTPUTS = {"fast": "f4 [1, C]: logits of the device alone", "mc2sf": "f4 [1, C]: logits with the cloud's answer"}
INPUTS = {
    "clicks": "f4 [1, L_F, d]: vectors of the newest clicks, the newest last, zeros before the first",
    "clicks_mask": "bool [1, L_F]: true on clicks",
    "exposures": "f4 [1, L_F, d]: vectors of the newest exposures",
    "exposures_mask": "bool [1, L_F]: true on exposures",
    "click_rows": "i8 [1, L_F]: rows of the clicks in items.parquet, zeros before the first",
    "neighbour_rows": "i8 [L_F, N]: rows of the N neighbours of each click in items.parquet, zeros without a click",
    "neighbour_weights": f"f4 [L_F, N, {WEIGHTS}]: their weights",
    "items": "i8 [1, C]: rows of the candidates",
    "vectors": "f4 [1, C, d]: vectors of the candidates",
    "statistics": f"i8 [1, C, {len(FEATURES)}]: buckets of their item statistics",
    "r_t": "f4 [1, C, d]: the cloud's answer, zeros without one",
    "r_n": "f4 [1, C, d]",
    "f2s": "f4 [1, C]: the cloud's own scores",
}
MAX_CANDIDATES = 1000  # of an ExecuTorch program, whose memory is planned for them
_OF_CANDIDATES = ("items", "vectors", "statistics", "r_t", "r_n", "f2s")


class _PlainGru(nn.Module):
    """`Gru.encode` in plain operations, for a fixed number of steps."""

    def __init__(self, gru: Gru) -> None:
        super().__init__()
        self.gru = gru

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """See `Gru.step`."""
        return self.gru.step(x, h)

    def encode(self, x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
        """See `Gru.encode`."""
        given, real = functional.linear(x, self.gru.w_ih, self.gru.b_ih), mask.to(x.dtype)
        for t in range(x.shape[1]):
            of_r, of_z, of_n = given[:, t : t + 1].chunk(3, -1)
            r, z, n = functional.linear(h, self.gru.w_hh, self.gru.b_hh).chunk(3, -1)
            new = torch.tanh(of_n + torch.sigmoid(of_r + r) * n)
            h = h + (1 - torch.sigmoid(of_z + z)) * real[:, t : t + 1, None] * (new - h)
        return h


class DeviceModel(nn.Module):
    """Fast alone and mc2sf for the candidates of one request: takes INPUTS, returns OUTPUTS."""

    def __init__(self, nets: Nets) -> None:
        """Copy what the device needs of `nets`. Raises ValueError for nets that are not stacked, or have minGRUs."""
        super().__init__()
        gru_n, gru_p = nets.encoder.gru_n, nets.fast.gru_p
        if not nets.config.stacked or not isinstance(gru_n, Gru) or not isinstance(gru_p, Gru):
            raise ValueError("only stacked nets with GRUs can be exported")
        small = Nets(nets.config, 1)
        weights = {name: weight for name, weight in nets.encoder.state_dict().items() if name != "E"}
        small.encoder.load_state_dict(weights, strict=False)
        self.encoder, self.fast = small.encoder, copy.deepcopy(nets.fast)
        del self.fast.neighbours  # they are inputs
        self.gru_n, self.fast.gru_p = _PlainGru(small.encoder.gru_n), _PlainGru(gru_p)  # type: ignore[arg-type,assignment]

    def forward(
        self,
        clicks: Tensor,
        clicks_mask: Tensor,
        exposures: Tensor,
        exposures_mask: Tensor,
        click_rows: Tensor,
        neighbour_rows: Tensor,
        neighbour_weights: Tensor,
        items: Tensor,
        vectors: Tensor,
        statistics: Tensor,
        r_t: Tensor,
        r_n: Tensor,
        f2s: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of fast alone and of mc2sf, [1, C] each."""
        short = self.gru_n, PaddedVectors(clicks, clicks_mask), PaddedVectors(exposures, exposures_mask)
        e = self.encoder.with_statistics(vectors, statistics)
        floor, repeats = self.encoder.floor(statistics), _repeats(click_rows, items)
        fast = self.encoder.add_floor(floor, repeats, "fast", self.fast.score_fast(self.fast.from_zero(*short), e))
        s2f = self.encoder.add_floor(floor, repeats, "mc2sf", self.fast.score_s2f(*short, e, r_t, r_n))
        affinities = _affinities(neighbour_rows, neighbour_weights, items)
        return fast, stacking.weighted(self.fast.stack, (s2f, fast, f2s, *affinities))


def _repeats(clicks: Tensor, items: Tensor) -> Tensor:
    """Return `repeats` of items [1, C] in clicks [1, L], in plain operations: [1, C]."""
    same = (items[..., :, None] == clicks[..., None, :]) & (items[..., :, None] >= FIRST_ROW)
    return torch.log1p(same.to(torch.float32).sum(-1))


def _affinities(rows: Tensor, weights: Tensor, items: Tensor) -> tuple[Tensor, ...]:
    """Return `stacking.affinity` of items [1, C] from the neighbours of the clicks alone: [1, C] each."""
    decay = stacking.DECAY ** torch.arange(len(rows) - 1, -1, -1, dtype=weights.dtype)
    match = (rows.flatten()[None, :, None] == items[:, None, :]).to(weights.dtype)  # [1, clicks x neighbours, C]
    decayed = (weights * decay[:, None, None]).flatten(0, 1)
    return tuple((match * each[None, :, None]).sum(1) for each in decayed.unbind(1))


def write_onnx(nets: Nets, path: Path) -> None:
    """Write the device's model of `nets`, for any number of candidates. Raises ValueError as `DeviceModel` does."""
    import onnx  # noqa: PLC0415 - an optional dependency

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # the exporter's own
        program = torch.onnx.export(
            DeviceModel(nets).eval(),
            _example(nets),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=_shapes(None),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of this machine, most of the file
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.save(model, str(path))


def write_executorch(nets: Nets, path: Path) -> None:
    """Write the device's model of `nets` for ExecuTorch, for at most MAX_CANDIDATES candidates.

    Raises ValueError as `DeviceModel` does.
    """
    for logger in ("torchao", "torch.utils._pytree"):  # they warn of missing kernels and of torchao
        logging.getLogger(logger).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # the exporter's own
        from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415 - an optional dependency

        program = torch.export.export(DeviceModel(nets).eval(), _example(nets), dynamic_shapes=_shapes(MAX_CANDIDATES))
        path.write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)


def _example(nets: Nets) -> tuple[Tensor, ...]:
    """Return inputs for 100 candidates, in the order of INPUTS."""
    d, length = nets.config.dim, nets.config.history_short
    neighbours = max_neighbours(len(nets.encoder.E))
    return (
        torch.zeros(1, length, d),
        torch.ones(1, length, dtype=torch.bool),
        torch.zeros(1, length, d),
        torch.ones(1, length, dtype=torch.bool),
        torch.zeros(1, length, dtype=torch.int64),
        torch.zeros(length, neighbours, dtype=torch.int64),
        torch.zeros(length, neighbours, WEIGHTS),
        torch.zeros(1, 100, dtype=torch.int64),
        torch.zeros(1, 100, d),
        torch.zeros(1, 100, len(FEATURES), dtype=torch.int64),
        torch.zeros(1, 100, d),
        torch.zeros(1, 100, d),
        torch.zeros(1, 100),
    )


def _shapes(most: int | None) -> tuple[dict[int, torch.export.Dim] | None, ...]:
    """Return the dimensions that vary: the number of candidates, at most `most`."""
    several = torch.export.Dim("candidates", min=1, max=most)
    return tuple({1: several} if name in _OF_CANDIDATES else None for name in INPUTS)


def write_in_8_bits(nets: Nets, path: Path) -> None:
    """Write the device's model of `nets` with weights in 8 bits. Raises ValueError as `DeviceModel` does."""
    write_onnx(nets, path)
    quantise(path)


def quantise(path: Path) -> None:
    """Quantise the weights of a model to 8 bits, in place; activations are quantised at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - an optional dependency
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    quant_pre_process(path, path, skip_symbolic_shape=True)
    quantize_dynamic(path, path, per_channel=True, weight_type=QuantType.QInt8)
