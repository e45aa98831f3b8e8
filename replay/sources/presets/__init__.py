"""Public logs as they come: a TOML file each says where it is published, what it holds, and how it is read."""

from __future__ import annotations

import functools
from importlib.resources import files

import msgspec

from replay.sources.log_map import LogMap
from streams.settings import Exposures


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A public log. The name of its file is the scheme by which it is read."""

    title: str
    """Name of the log and of its file, and its events."""
    publisher: str
    address: str
    file: str = ""
    """Name of the file in the folder that is downloaded; empty: files have several names."""
    exposures: bool = False
    """True if the log says what was shown and not clicked."""
    ratings: bool = False
    """True if its events are ratings; a map with a column of ratings says so, too."""
    map: LogMap | None = None
    """None: a module reads the log."""

    @property
    def rated(self) -> bool:
        """True if ratings decide what is a click."""
        return self.ratings or (self.map is not None and self.map.event is None and self.map.decides == "rating")

    @property
    def policies(self) -> tuple[Exposures, ...]:
        """Exposure policies with which the log can be read, the default first."""
        if self.rated:
            return ("rated", "simulated", "logged")
        return ("logged", "simulated") if self.exposures else ("simulated", "logged")


@functools.cache
def presets() -> dict[str, Preset]:
    """Return the presets by scheme, sorted."""
    found = (path for path in files(__name__).iterdir() if path.name.endswith(".toml"))
    return {
        path.name.removesuffix(".toml"): msgspec.toml.decode(path.read_bytes(), type=Preset)
        for path in sorted(found, key=lambda path: path.name)
    }


def map_text(scheme: str) -> str:
    """Return the map of a preset as TOML; empty if a module reads the log."""
    return files(__name__).joinpath(f"{scheme}.toml").read_text().partition("[map]\n")[2]
