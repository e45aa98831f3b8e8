"""Quix Streams counting the events of each user in its state, with a changelog; no histories, no nets.

Less work than the device's: the cost of a maintained streaming library for Python with minimal state.
"""

from __future__ import annotations

from quixstreams import Application, State

from streams.codec import Reader
from streams.process import telemetry
from streams.records import DeviceBatch
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS


def build(settings: Settings) -> Application:
    """The application with its one dataframe."""
    app = Application(
        broker_address=settings.brokers,
        consumer_group=f"{settings.run}-quix",
        auto_offset_reset="earliest",
        commit_interval=1.0,  # as often as the Faust workers
        state_dir=settings.state_dir / "quix",
        loglevel="WARNING",
    )
    reader: Reader[DeviceBatch] = Reader(DeviceBatch)

    def count(value: bytes, state: State) -> int:
        events = len(reader.decode(value).items)
        total: int = state.get("events", 0) + events
        state.set("events", total)
        telemetry.EVENTS_APPLIED.inc(events)
        return total

    source = app.topic(DEVICE_EVENTS.full(settings), key_deserializer="bytes", value_deserializer="bytes")
    app.dataframe(source).apply(count, stateful=True)
    return app
