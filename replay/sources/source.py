"""Parse a SOURCE of the command line: `synthetic:users=100`, `ml-1m:DIR`, `log:FILE` and so on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa

from replay.errors import RowErrors, SourceError
from replay.parameters import parameters
from replay.sources.ebnerd import ebnerd, files
from replay.sources.exposure_log import exposure_log
from replay.sources.log_map import GENERIC, LogMap
from replay.sources.metarank import metarank
from replay.sources.movielens import movielens
from replay.sources.plugin_source import PluginSource, named
from replay.sources.presets import Preset, presets
from replay.sources.steam import steam
from replay.sources.synthetic.users import Synthetic
from replay.sources.text.containers import STDIN, Parts, parts
from streams.plugins.plugin import Plugin, PluginError
from streams.settings import Exposures

FORMS = (
    "synthetic[:users=1000,items=200,...], ml-1m:DIR, ml-100k:DIR, steam:FILE, ebnerd:DIR, alipay:FILE, log:FILE, "
    "or a scheme that `mc2sf data formats` lists"
)
PLUGIN = "module:Class[:PARAMETERS] for a file module.py in the current folder"

ReadRows = Callable[[Exposures, RowErrors], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Source:
    """A log that can be read any number of times (but for `once`), with the same result: batches of `schema.ROWS`."""

    text: str  # as the user wrote it
    policies: tuple[Exposures, ...]  # with which it can be read, the default first
    files: tuple[Path, ...]
    reader: ReadRows
    epoch: str | None = None  # default epoch, as `impression_groups.epoch_ends` reads it
    takes: Literal["", "DIR", "FILE"] = ""  # kind of the text after the colon; "": parameters
    plugin: Plugin | None = None
    log_map: LogMap | None = None  # how the log is written, if a map says it
    once: bool = False  # True if it can be read once only, and is never the same again

    @property
    def scheme(self) -> str:
        """The text before the colon."""
        return self.text.partition(":")[0]

    @property
    def name(self) -> str:
        """A name for files of results: the scheme, with the name of the file or the parameters."""
        rest = self.text.partition(":")[2]
        words = {"": rest, "DIR": "", "FILE": Path(rest).name.partition(".")[0]}[self.takes]
        return "-".join(filter(None, [self.scheme, *re.split(r"[^A-Za-z0-9.]+", words)]))

    @property
    def public(self) -> str:
        """The text without paths of this machine."""
        if self.plugin is not None:
            return f"{self.plugin.module}:{self.plugin.name}"
        return f"{self.scheme}:{self.takes}" if self.takes else self.text

    def read(self, policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the order of the source. Raises SourceError if `policy` does not fit, or for bad input."""
        as_read: Exposures = "simulated" if policy == "plugin" else policy  # both add exposures
        if as_read not in self.policies:
            chosen = "added by a plugin" if policy == "plugin" else repr(policy)
            raise SourceError(f"{self.text}: exposures can't be {chosen} here, but {' or '.join(self.policies)}")
        try:
            yield from self.reader(as_read, errors)
        except OSError as error:
            raise _os_error(self.text, error) from error

    def file_stamps(self) -> list[tuple[str, int, int]]:
        """Return path, size in bytes and time of change in ns of each file. Raises SourceError."""
        try:
            stats = [(str(path), path.stat()) for path in self.files if path.exists()]
        except OSError as error:
            raise _os_error(self.text, error) from error
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def parse(text: str, log_map: LogMap | None = None) -> Source:
    """Return the source that `text` names, written as `log_map` says. Raises SourceError; no file is opened yet."""
    scheme, _, rest = text.partition(":")
    if log_map is not None and scheme != "log":
        raise SourceError(f"{text}: only log: takes a map (--map, --columns and so on), others are read as they are")
    try:
        if log_map is not None:
            return _log(text, rest, log_map)
        if scheme in _SCHEMES:
            return _SCHEMES[scheme](text, rest)
        if (preset := presets().get(scheme)) is not None and preset.map is not None:
            return _preset(preset, preset.map, text, rest)
        if (plugin := named(text)) is not None:
            source = PluginSource(plugin, text)
            return Source(text, ("logged", "simulated"), source.files(), source.rows, plugin=plugin)
    except PluginError as error:
        raise SourceError(f"{text!r} is no source: write one of {FORMS}; or {PLUGIN}, but {error}") from error
    except OSError as error:
        raise _os_error(text, error) from error
    raise SourceError(f"{text!r} is no source: write one of {FORMS}; or {PLUGIN}")


def _os_error(text: str, error: OSError) -> SourceError:
    """Return the error of the operating system for a file: no permission, a name too long, a failing disk."""
    return SourceError(f"{error.filename or text}: {error.strerror or error}")


def _synthetic(text: str, rest: str) -> Source:
    synthetic = parameters(Synthetic, rest)
    return Source(text, ("logged",), (), lambda _policy, _errors: synthetic.batches())


def _movielens(file: str, separator: str, text: str, rest: str) -> Source:
    path = _path(text, rest) / file
    return Source(text, ("rated", "simulated", "logged"), (path,), partial(movielens, path, separator), takes="DIR")


def _ebnerd(text: str, rest: str) -> Source:
    folder = _path(text, rest)
    return Source(text, ("logged",), files(folder), partial(ebnerd, folder), takes="DIR")


def _file(
    read: Callable[[Path, Exposures, RowErrors], Iterator[pa.RecordBatch]],
    policies: tuple[Exposures, ...],
    text: str,
    rest: str,
) -> Source:
    path = _path(text, rest)
    return Source(text, policies, (path,), partial(read, path), takes="FILE")


def _log(text: str, rest: str, log_map: LogMap = GENERIC) -> Source:
    path = STDIN if rest == "-" else _path(text, rest)
    if not path.exists() and set(rest) & set("*?["):
        raise SourceError(f"{rest}: no such file; a path has no wildcards: read the folder with --parts 'PATTERN'")
    once = path == STDIN or path.is_fifo()
    if log_map.parts and path.exists() and not path.is_dir():
        raise SourceError(f"{rest} is no folder: --parts chooses the files of a folder")
    found = parts(path, log_map.parts) if path.is_dir() else Parts((path,))
    rated = log_map.decides == "rating"
    return Source(
        text,
        ("rated", "simulated", "logged") if rated else ("logged", "simulated"),
        () if once else found.files,
        partial(exposure_log, found, log_map),
        takes="FILE",
        log_map=None if log_map == GENERIC else log_map,
        once=once,
    )


def _metarank(text: str, rest: str) -> Source:
    found = parts(_path(text, rest))
    return Source(text, ("logged",), found.files, partial(metarank, found), takes="FILE")


def _preset(preset: Preset, log_map: LogMap, text: str, rest: str) -> Source:
    path = _path(text, rest)
    if preset.file and path.is_dir():
        path /= preset.file
    found = parts(path, log_map.parts) if path.is_dir() else Parts((path,))
    return Source(
        text,
        preset.policies,
        () if path.is_fifo() else found.files,
        partial(exposure_log, found, log_map),
        takes="DIR" if preset.file else "FILE",
        once=path.is_fifo(),
    )


def _path(text: str, rest: str) -> Path:
    if not rest or "\0" in rest:
        raise SourceError(f"{text!r} names no file: write {text.partition(':')[0]}:PATH")
    if re.match(r"[a-z][a-z0-9]+://", rest):
        raise SourceError(f"{rest} is an address: download the file, and read it")
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:  # no user of that name
        raise SourceError(f"{rest}: {error}") from error


_SCHEMES: dict[str, Callable[[str, str], Source]] = {
    "synthetic": _synthetic,
    "ml-1m": partial(_movielens, "ratings.dat", "::"),
    "ml-100k": partial(_movielens, "u.data", "\t"),
    "steam": partial(_file, steam, ("simulated", "logged")),
    "ebnerd": _ebnerd,
    "metarank": _metarank,
    "alipay": _log,
    "log": _log,
}
