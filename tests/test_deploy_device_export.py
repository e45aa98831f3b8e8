"""The device's part of a release runs without torch, and gives the scores that the stream's scorer gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
import sqlalchemy as sa
import torch
from numpy.typing import NDArray

from deploy.analysis.device_export import ITEMS, MANIFEST, MODEL, PROGRAM, export_device
from deploy.analysis.device_model import INPUTS, OUTPUTS, DeviceModel, quantise, write_executorch, write_onnx
from deploy.runs import FoundRun
from deploy.user_error import UserError
from models.data.item_neighbours import ItemNeighbours
from models.data.item_statistics import BUCKETS
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.releases.release import ReleaseError
from streams.settings import Settings
from tests.test_streams_rescoring import a_recorded_run

ROWS, CANDIDATES = 60, 70
CONFIG = NetConfig(dim=8, history_short=4, stacked=True, floor=True)


def trained() -> Nets:
    """Nets in which every part of the score counts."""
    draw = np.random.default_rng(1)
    nets = Nets.initial(CONFIG, ROWS, 1)
    neighbours = ItemNeighbours.empty(ROWS)
    neighbours.rows[2:, :20] = draw.integers(2, ROWS, (ROWS - 2, 20))
    neighbours.weights[2:, :20] = draw.normal(size=(ROWS - 2, 20, 2))
    nets.fast.neighbours.replace(neighbours)
    with torch.no_grad():
        nets.encoder.popularity.normal_()
        nets.encoder.standing.normal_()
        nets.encoder.repeats.copy_(torch.tensor([0.4, 0.5, 0.6, 0.7]))
        nets.encoder.gains.copy_(torch.tensor([1.0, 0.9, 0.8, 0.7]))
        nets.fast.stack.copy_(torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9]))
    return nets.eval()


def request(nets: Nets, clicks: int, exposures: int, candidates: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A request as the model takes it, gathered from the table of items, and as the scorer takes it."""
    draw = np.random.default_rng(clicks)
    rows = [draw.choice(np.arange(2, ROWS), n, replace=True) for n in (clicks, exposures, candidates)]
    priors = [draw.normal(size=(candidates, CONFIG.dim)).astype(np.float16) for _ in range(2)]
    f2s = draw.normal(size=candidates).astype(np.float32)
    buckets = draw.integers(0, BUCKETS, (candidates, 3)).astype(np.uint8)
    E, neighbours = nets.encoder.E.detach().numpy(), nets.fast.neighbours
    given: dict[str, NDArray[Any]] = {}
    last = np.zeros(CONFIG.history_short, np.int64)
    for name, some in zip(("clicks", "exposures"), rows[:2], strict=True):
        padded = np.zeros(CONFIG.history_short, np.int64)
        newest = some[-CONFIG.history_short :]
        padded[len(padded) - len(newest) :] = newest
        given |= {name: E[padded][None], f"{name}_mask": (padded > 0)[None]}
        last = padded if name == "clicks" else last
    given["click_rows"] = last[None]
    given["neighbour_rows"] = neighbours.rows.numpy()[last].astype(np.int64)
    given["neighbour_weights"] = neighbours.weights.numpy()[last].astype(np.float32)
    given |= {"items": rows[2][None], "vectors": E[rows[2]][None], "statistics": buckets.astype(np.int64)[None]}
    given |= {"r_t": priors[0].astype(np.float32)[None], "r_n": priors[1].astype(np.float32)[None], "f2s": f2s[None]}
    of_scorer = {"clicks": rows[0], "exposures": rows[1], "candidates": rows[2], "r_t": priors[0], "r_n": priors[1]}
    return given, of_scorer | {"item_statistics": buckets, "f2s": f2s}


Ask = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]


def assert_scores_of_the_stream(nets: Nets, ask: Ask, tolerance: float = 1e-5) -> None:
    for clicks, exposures, candidates in ((0, 0, 1), (3, 9, CANDIDATES), (9, 2, 100)):
        given, of_scorer = request(nets, clicks, exposures, candidates)
        wanted = Scorer(nets).fast(**of_scorer)
        for name, scores in zip(OUTPUTS, ask(given), strict=True):
            np.testing.assert_allclose(scores[0], getattr(wanted, name), atol=tolerance)


def test_the_model_gives_the_scores_of_the_stream() -> None:
    nets = trained()
    model = DeviceModel(nets).eval()

    def ask(given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            return [each.numpy() for each in model(*(torch.from_numpy(given[name]) for name in INPUTS))]

    assert_scores_of_the_stream(nets, ask)


@pytest.mark.slow
def test_the_exported_model_gives_the_scores_of_the_stream_and_in_8_bits_nearly(tmp_path: Path) -> None:
    nets, path = trained(), tmp_path / MODEL
    write_onnx(nets, path)
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == list(INPUTS)
    assert (size := path.stat().st_size) < 1_000_000
    assert_scores_of_the_stream(nets, lambda given: session.run(list(OUTPUTS), given))
    quantise(path)
    small = onnxruntime.InferenceSession(path)
    assert path.stat().st_size < size
    assert_scores_of_the_stream(nets, lambda given: small.run(list(OUTPUTS), given), 0.05)
    with pytest.raises(AssertionError):
        assert_scores_of_the_stream(nets, lambda given: small.run(list(OUTPUTS), given))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # executorch's own
@pytest.mark.skipif(find_spec("executorch") is None, reason="NO EXECUTORCH: its export is not tested")
def test_the_executorch_program_gives_the_scores_of_the_stream(tmp_path: Path) -> None:
    from executorch.runtime import Runtime  # noqa: PLC0415 - an optional dependency

    nets, path = trained(), tmp_path / PROGRAM
    write_executorch(nets, path)
    assert path.stat().st_size < 1_000_000
    program = Runtime.get().load_program(path.read_bytes()).load_method("forward")

    def ask(given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return [each.numpy() for each in program.execute([torch.from_numpy(given[name]) for name in INPUTS])]

    assert_scores_of_the_stream(nets, ask)


def test_the_table_of_items_has_names_vectors_and_neighbours(
    engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    a_recorded_run(engine, settings)
    found = FoundRun(settings, engine, None, "synthetic")
    nets: list[Nets] = []
    version = export_device(found, tmp_path / "out", 2, write_model=lambda given, _: nets.append(given))
    items = pl.read_parquet(tmp_path / "out" / ITEMS)
    assert np.array_equal(np.stack(items["vector"].to_list()), nets[0].encoder.E.detach().numpy())
    assert items["name"].null_count() < len(items)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["release"], manifest["inputs"]) == (version, INPUTS)
    export_device(found, tmp_path / "small", 2, write_model=lambda *_: None, eight_bits=True)
    small = pl.read_parquet(tmp_path / "small" / ITEMS)
    vectors = np.stack(small["vector"].to_list()) * small["scale"].to_numpy()[:, None]
    np.testing.assert_allclose(vectors, nets[0].encoder.E.detach().numpy(), atol=small["scale"].max() / 2 + 1e-7)
    assert small["vector"].dtype.inner == pl.Int8
    with pytest.raises(UserError, match="not an empty folder"):
        export_device(found, tmp_path / "out")
    with pytest.raises(ReleaseError, match="no release 99"):
        export_device(found, tmp_path / "other", 99)

    def fail(_nets: Nets, _path: Path) -> None:
        raise ImportError

    for executorch, missing in ((False, "needs ONNX"), (True, "needs ExecuTorch")):
        with pytest.raises(UserError, match=missing):
            export_device(found, tmp_path / "other" / "new", 2, write_model=fail, executorch=executorch)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out", "small"]
