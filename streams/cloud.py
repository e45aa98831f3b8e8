"""The cloud: every user's long, delayed history and last negative memories, as a Faust worker.

In: device-uplink. Out: cloud-downlink, dead-letters. Start it with `mc2sf worker cloud` or
`faust -A streams.cloud worker`; workers of one run share the partitions. What a batch does is in `cloud_batch`.
"""

from __future__ import annotations

import functools
from typing import Any

from streams.cloud_batch import ROLE, CloudWork
from streams.faust_platform import PlatformApp, run_worker
from streams.partitions import locate
from streams.releases import ReleaseReader
from streams.settings import Settings
from streams.topics import DEVICE_UPLINK
from streams.worker import Worker


def build(settings: Settings) -> PlatformApp:
    """The cloud's Faust app."""
    place = functools.partial(locate, partitions=settings.partitions)
    start = functools.partial(CloudWork, settings)
    return Worker(settings, ROLE, (DEVICE_UPLINK,), place, start, ReleaseReader(settings, ROLE)).app


@functools.cache
def _app() -> PlatformApp:
    return build(Settings())


def __getattr__(name: str) -> Any:
    """`app`, for `faust -A streams.cloud`: made of the environment's settings when it is asked for."""
    if name == "app":
        return _app()
    raise AttributeError(name)


def main() -> None:
    """Run a cloud worker on the environment's settings until it is told to stop."""
    run_worker(_app())
