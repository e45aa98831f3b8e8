"""A plugin as `module:Name`: found in the current folder, identified by the SHA-256 of its file, and loaded from there.

A name is only ever looked up as a file below the current folder: it never reaches Python's import path. The bytes that
were hashed are the bytes that are executed.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

Kind = Literal["source", "exposures", "candidates", "metric", "variant"]

_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_RECORDED = re.compile(rf"(source|exposures|candidates|metric|variant)={_NAME.pattern}@([0-9a-f]{{64}})", re.ASCII)


class PluginError(ValueError):
    """A plugin can't be found, was changed, or breaks a law of its kind. The message is shown as it is."""


class Plugin(NamedTuple):
    """A plugin by its name, and the code that it had when the run began."""

    kind: Kind
    module: str
    name: str
    sha256: str  # of its file, in hex

    @property
    def setting(self) -> str:
        """The plugin as it is written in the setting `plugins`."""
        return f"{self.kind}={self.module}:{self.name}@{self.sha256}"

    def __str__(self) -> str:
        """Return the plugin as it is named in messages."""
        return f"{self.kind} {self.module}:{self.name}"

    @property
    def path(self) -> Path:
        """Its file, below the current folder."""
        return Path.cwd().joinpath(*self.module.split(".")).with_suffix(".py")


def is_name(text: str) -> bool:
    """Return True if `text` has the form `module:Name`."""
    return _NAME.fullmatch(text) is not None


def named(kind: Kind, text: str) -> Plugin:
    """Return the plugin that a user named as `module:Name`. Raises PluginError."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise PluginError(f"{text!r} names no {kind}: write module:Name, for module.py in the current folder")
    plugin = Plugin(kind, match[1], match[2], "")
    return plugin._replace(sha256=hashlib.sha256(_read(plugin)).hexdigest())


def recorded(text: str) -> list[Plugin]:
    """Return the plugins of the setting `plugins`. Raises PluginError if it is damaged."""
    matches = [_RECORDED.fullmatch(word) for word in text.split()]
    if None in matches:
        raise PluginError(f"plugins {text!r}: KIND=MODULE:NAME@SHA256, separated by blanks, is needed")
    return [Plugin(match[1], match[2], match[3], match[4]) for match in matches if match]  # type: ignore[arg-type]


def load(plugin: Plugin) -> object:
    """Return the function or class that a plugin names. Raises PluginError, also if its file was changed."""
    module = _executed(plugin)
    try:
        return getattr(module, plugin.name)
    except AttributeError:
        raise PluginError(f"{plugin.path} has no {plugin.name}") from None


def check(plugin: Plugin) -> None:
    """Raise PluginError if the plugin's file is missing or was changed."""
    _unchanged(plugin)


def _unchanged(plugin: Plugin) -> bytes:
    """Return the code of the plugin. Raises PluginError if it is not the one that the run began with."""
    code = _read(plugin)
    if (sha256 := hashlib.sha256(code).hexdigest()) != plugin.sha256:
        raise PluginError(
            f"{plugin.path} was changed: the run began with code of SHA-256 {plugin.sha256[:12]}..., "
            f"and now it is {sha256[:12]}...: put the old file back, or begin a new run"
        )
    return code


@functools.cache
def _executed(plugin: Plugin) -> ModuleType:
    code = _unchanged(plugin)
    module = ModuleType(f"mc2sf_plugin_{plugin.sha256[:16]}")
    module.__file__ = str(plugin.path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(code, plugin.path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user named it
    except Exception as error:
        raise PluginError(f"{plugin.path} can't be loaded: {type(error).__name__}: {error}") from error
    return module


def _read(plugin: Plugin) -> bytes:
    try:
        return plugin.path.read_bytes()
    except OSError as error:
        text = f"{plugin.module}:{plugin.name}"
        raise PluginError(
            f"{text!r}: {plugin.path}: {error.strerror}: plugins are files in the current folder"
        ) from error
