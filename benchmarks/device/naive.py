"""The naive device: a straightforward Faust agent that handles one event at a time.

It does the device worker's work on the same records: short histories, the exposure window, one GRU_n step per exposure,
an upload of r2 at the threshold, a write of the user's row to a Faust table per event. It does without what would
only slow it down: JSON (rows and records are the project's), autograd, a search for an item's row, RocksDB. It gives no
guarantee under crashes: Faust acknowledges and flushes by its defaults.
"""

from __future__ import annotations

from typing import Any

import faust
import numpy as np
import torch

from models.mc2sf.nets import Nets
from streams.codec import Reader, Tensor, encode
from streams.database.engine import connect
from streams.process import telemetry
from streams.records import DeviceBatch, Kind, NegativeMemory, item_key
from streams.releases.release import Release, read_release
from streams.settings import Settings
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row, encode_row
from streams.topics import DEVICE_EVENTS, DEVICE_UPLINK


class NaiveDevice:
    """The work for one event."""

    def __init__(self, settings: Settings, release: Release) -> None:
        self._settings, self._encoder = settings, release.manifest.versions.encoder
        self._nets: Nets = release.nets
        self._rows = {int(key): int(row) for key, row in zip(release.catalogue.keys, _rows(release), strict=True)}

    def apply(self, state: DeviceState, batch: DeviceBatch, i: int) -> NegativeMemory | None:
        """Apply event `i` of a record to its user's state, in place. Return the r2 to upload if it closed a window."""
        if state.seq != batch.seq + i:
            raise ValueError(f"user {batch.user!r}: seq {batch.seq + i} came where {state.seq} was expected")
        key, time, settings = item_key(batch.items[i]), batch.times[i], self._settings
        state.seq, state.time, state.encoder = state.seq + 1, time, self._encoder
        if batch.kinds[i] == Kind.CLICK:
            state.clicks = [*state.clicks, key][-settings.history_short :]
            state.uploads = [*state.uploads, key][-settings.history_long :]
            state.uploads_epoch = 0
            return None
        state.exposures = [*state.exposures, key][-2 * settings.threshold :]
        state.gru_state = self._step(state.gru_state, self._rows[key])
        state.opened = state.opened if state.open_count else time
        state.open_count += 1
        if state.open_count < settings.threshold:
            return None
        state.r2, state.gru_state = state.gru_state, b""
        state.window, state.closed_count, state.closed, state.open_count = state.window + 1, state.open_count, time, 0
        r2 = Tensor("<f4", (settings.dim,), state.r2)
        return NegativeMemory(batch.user, state.window, r2, state.encoder, state.closed_count, time)

    @torch.inference_mode()
    def _step(self, memory: bytes, row: int) -> bytes:
        """One step of GRU_n, eq. (3), from bytes of f4 [d] to bytes of f4 [d]."""
        encoder = self._nets.encoder
        start = np.frombuffer(memory or bytes(4 * self._settings.dim), dtype="<f4").copy()
        stepped: bytes = encoder.gru_n.step(encoder.E[row][None], torch.from_numpy(start)[None]).numpy().tobytes()
        return stepped


def _rows(release: Release) -> Any:
    return release.catalogue.rows(release.catalogue.keys)


def build(settings: Settings) -> faust.App:
    """The Faust app with its agent."""
    torch.set_num_threads(1)
    engine = connect(settings.database.get_secret_value())
    with engine.connect() as connection:
        device = NaiveDevice(settings, read_release(connection, settings.run, 0))
    app = faust.App(
        f"{settings.run}-naive",
        broker=f"kafka://{settings.brokers}",
        store="memory://",
        datadir=str(settings.state_dir / "naive"),
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=True,
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        broker_rebalance_timeout=8,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source, uplink = app.topic(DEVICE_EVENTS.full(settings), **raw), app.topic(DEVICE_UPLINK.full(settings), **raw)
    table = app.Table("state", key_type=bytes, value_type=bytes, partitions=settings.partitions)
    reader: Reader[DeviceBatch] = Reader(DeviceBatch)

    async def agent(stream: Any) -> None:
        async for key, value in stream.items():
            batch = reader.decode(value)
            for i in range(len(batch.items)):
                row = table.get(key)
                state = DeviceState() if row is None else decode_row(row, DeviceState)
                memory = device.apply(state, batch, i)
                if memory is not None:
                    await uplink.send(key=key, value=encode(memory))
                table[key] = encode_row(state)
                telemetry.EVENTS_APPLIED.inc()

    app.agent(source, name="naive")(agent)
    return app
