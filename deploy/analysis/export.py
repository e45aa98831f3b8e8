"""Export of a run: every table as a Parquet file that can be read without this project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.analysis.opened_run import Run
from deploy.runs import check_new_folder, new_folder
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row

_STATES: dict[str, type[msgspec.Struct]] = {"device": DeviceState, "cloud": CloudState}


def export(run: Run, folder: Path, progress: Callable[[str, int], None] = lambda _table, _rows: None) -> int:
    """Write each table of `run` to `folder`/TABLE.parquet, and return the number of rows.

    Columns are those of `Run.arrow`; states of users are JSON objects. `progress` gets a table and its number of rows.
    Raises UserError if the folder is not empty.
    """
    check_new_folder(folder)
    total = 0
    with new_folder(folder):
        for name in run.tables:
            table = run.arrow(name)
            if name == "user_snapshots":
                table = with_states(table)
            meanings = {"meaning": msgspec.json.encode(run.meanings(name))}
            unfinished = folder / f"{name}.parquet.part"
            pq.write_table(table.replace_schema_metadata(meanings), unfinished, compression="zstd")
            unfinished.rename(folder / f"{name}.parquet")
            total += table.num_rows
            progress(name, table.num_rows)
    return total


def with_states(snapshots: pa.Table) -> pa.Table:
    """Return the table `user_snapshots` with its states as JSON: item keys and GRU states as lists of numbers."""
    pairs = zip(snapshots["side"].to_pylist(), snapshots["state"].to_pylist(), strict=True)
    states = [msgspec.json.encode(_plain(decode_row(state, _STATES[side]))).decode() for side, state in pairs]
    at = snapshots.schema.get_field_index("state")
    return snapshots.set_column(at, "state", pa.array(states, pa.string()))


def _plain(value: object) -> object:
    """Return structs as dicts by field, GRU states (f4 bytes) as lists."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return np.frombuffer(value, "<f4").tolist()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
