"""The cloud: every user's long, delayed history and last negative memories, as a Faust worker.

In: device-uplink. Out: cloud-downlink, dead-letters. Start it with `mc2sf worker cloud` or
`faust -A streams.cloud worker`; workers of one run share the partitions. What a batch does is in `cloud_batch`.
"""

from __future__ import annotations

import functools

from streams.cloud.batch import ROLE, CloudWork
from streams.faust_runtime.app import PlatformApp, run_worker
from streams.faust_runtime.worker import Worker
from streams.kafka.partitioner import locate
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import DEVICE_UPLINK


def build(settings: Settings) -> PlatformApp:
    """The cloud's Faust app."""
    place = functools.partial(locate, partitions=settings.partitions)
    start = functools.partial(CloudWork, settings)
    return Worker(settings, ROLE, (DEVICE_UPLINK,), place, start, ReleaseReader(settings, ROLE)).app


@functools.cache
def app() -> PlatformApp:
    """Return this process's Faust app, built from the environment's settings."""
    return build(Settings())


def main() -> None:
    """Run a cloud worker on the environment's settings until it is told to stop."""
    run_worker(app())
