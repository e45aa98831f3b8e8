"""The device: every user's short histories, windows and requests, as a Faust worker.

In: device-events and cloud-downlink, read by one agent, so that a user's row has one writer. Out: device-uplink,
outcomes, fast-examples, dead-letters. Start it with `mc2sf worker device` or `faust -A streams.device worker`; workers
of one run share the partitions. What a batch does is in `device_batch`, how it becomes durable in `worker`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from streams.device.batch import ROLE, DeviceWork
from streams.device.index import DeviceIndex
from streams.faust_runtime.app import PlatformApp, run_worker
from streams.faust_runtime.worker import Worker
from streams.kafka.message import Message
from streams.kafka.partitioner import locate
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import CLOUD_DOWNLINK, DEVICE_EVENTS

_EXPIRY_S = 1.0  # how often overdue requests are looked for where nothing else happens


class Device:
    """Begins the device's batches; keeps the index of its rows, made again when they were assigned anew."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index, self._assigned = DeviceIndex(settings.partitions), -1

    def __call__(
        self, received: Sequence[Message], rows: Mapping[bytes, bytes], assigned: int, wall: int
    ) -> DeviceWork:
        """Return a batch's work."""
        if assigned != self._assigned:
            self._index, self._assigned = DeviceIndex.of(rows, self._settings.partitions), assigned
        return DeviceWork(self._settings, received, rows, self._index, wall)


def build(settings: Settings) -> PlatformApp:
    """The device's Faust app."""
    place = functools.partial(locate, partitions=settings.partitions)
    reader = ReleaseReader(settings, ROLE)
    worker = Worker(settings, ROLE, (DEVICE_EVENTS, CLOUD_DOWNLINK), place, Device(settings), reader)
    if not settings.lockstep:
        worker.app.timer(interval=_EXPIRY_S)(worker.idle)

    return worker.app


@functools.cache
def app() -> PlatformApp:
    """Return this process's Faust app, built from the environment's settings."""
    return build(Settings())


def main() -> None:
    """Run a device worker on the environment's settings until it is told to stop."""
    run_worker(app())
