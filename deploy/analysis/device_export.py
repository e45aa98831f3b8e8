"""Export of a release for a device: its model as ONNX or for ExecuTorch, its items as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deploy.analysis.device_model import INPUTS, OUTPUTS, write_executorch, write_in_8_bits, write_onnx
from deploy.runs import FoundRun, check_new_folder, new_folder
from deploy.user_error import UserError
from models.mc2sf.nets import Nets
from streams.database import run_state
from streams.releases.release import Assembler, read_release_and_items

MODEL, PROGRAM, ITEMS, MANIFEST = "model.onnx", "model.pte", "items.parquet", "manifest.json"


def export_device(
    found: FoundRun,
    folder: Path,
    version: int | None = None,
    write_model: Callable[[Nets, Path], None] | None = None,
    *,
    eight_bits: bool = False,
    executorch: bool = False,
) -> int:
    """Write MODEL, ITEMS and MANIFEST of a release, by default the active one, to `folder`. Return its version.

    `executorch`: PROGRAM is written instead of MODEL. `eight_bits`: weights of MODEL and vectors of items are
    quantised; a vector is then `vector` times `scale`.
    Raises ReleaseError if there is no such release, UserError if it cannot be exported or the folder is not empty.
    """
    check_new_folder(folder)
    run = found.settings.run
    with found.engine.connect() as connection:
        if version is None and (version := run_state.active_release(connection, run)) is None:
            raise UserError(f"run {run} has no release yet")
        release, items = read_release_and_items(connection, run, version, Assembler())
        names = run_state.item_names(connection, run)
    if release.standalone:
        raise UserError(f"release {version} has standalone nets: only the product's own can be exported")
    with new_folder(folder):
        try:
            default = write_executorch if executorch else write_in_8_bits if eight_bits else write_onnx
            (write_model or default)(release.nets, folder / (PROGRAM if executorch else MODEL))
        except ImportError as error:
            needed, extra = ("ExecuTorch", "executorch") if executorch else ("ONNX", "onnx")
            raise UserError(f"an export for devices needs {needed}: pip install 'mc2sf[{extra}]'") from error
        except ValueError as error:
            raise UserError(f"release {version}: {error}") from error
    neighbours = release.nets.fast.neighbours.resized(len(items.keys), len(items.keys))
    table = {
        "row": pa.array(range(len(items.keys)), pa.int32()),
        "item": pa.array(items.keys, pa.int64()),
        "name": pa.array([names.get(key) for key in items.keys.tolist()], pa.string()),
        **_vectors(items.E, eight_bits=eight_bits),
        "neighbour_rows": _lists(neighbours.rows),
        "neighbour_weights": _lists(neighbours.weights.astype(np.float32).reshape(len(items.keys), -1)),
    }
    pq.write_table(pa.table(table), folder / ITEMS, compression="zstd")
    config = release.nets.config
    manifest = {"run": run, "release": version, "inputs": INPUTS, "outputs": OUTPUTS}
    manifest |= {"dim": config.dim, "history_short": config.history_short, "threshold": config.threshold}
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return version


def _vectors(E: NDArray[np.float32], *, eight_bits: bool) -> dict[str, pa.Array]:
    if not eight_bits:
        return {"vector": _lists(E)}
    scale = np.maximum(np.abs(E).max(1, keepdims=True), np.finfo(np.float32).tiny) / 127
    return {"vector": _lists(np.rint(E / scale).astype(np.int8)), "scale": pa.array(scale[:, 0].astype(np.float32))}


def _lists(rows: NDArray[np.float32] | NDArray[np.int32] | NDArray[np.int8]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).ravel()), rows.shape[1])
