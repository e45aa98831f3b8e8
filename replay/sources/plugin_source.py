"""A source that is a plugin: `module:Class` or `module:Class:PARAMETERS`; its events are checked as those of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, SourceError, shown
from replay.sources.schema import Row, batches
from replay.values.events import EventReader
from streams.plugins import plugin as plugins
from streams.plugins.laws import call
from streams.plugins.plugin import Plugin, PluginError
from streams.plugins.protocols import Event, LogSource

FIRST = 1000  # events that are read twice: they must be the same

_READER = EventReader()
_END = object()
_FIELDS = ("user", "item", "timestamp", "event", "impression")


def named(text: str) -> Plugin | None:
    """Return the plugin that a SOURCE names; None if it has another form. Raises PluginError if there is no file."""
    module, _, rest = text.partition(":")
    name = f"{module}:{rest.partition(':')[0]}"
    return plugins.named("source", name) if plugins.is_name(name) else None


class PluginSource:
    """The log of a plugin; a new object is created for each reading."""

    def __init__(self, plugin: Plugin, text: str) -> None:
        """`text` is the SOURCE. Raises PluginError if the plugin can't be loaded."""
        self._plugin = plugin
        self._parameters = text.partition(":")[2].partition(":")[2]
        self._kind = cast(Callable[[str], LogSource], plugins.load(plugin))
        if not callable(self._kind):
            raise PluginError(f"{plugin} is no class")

    def files(self) -> tuple[Path, ...]:
        """Return the files that the log is read from, the plugin's own included."""
        return self._plugin.path, *(Path(path) for path in getattr(self._new(), "files", ()))

    def rows(self, _policy: str, errors: RowErrors) -> Iterator[pa.RecordBatch]:
        """Yield the events. Bad ones go to `errors`; raises SourceError if another reading begins in another way."""
        if list(islice(self._events(), FIRST)) != list(islice(self._events(), FIRST)):
            raise SourceError(f"{self._plugin}: read twice, the first {FIRST:,} events are not the same")
        return batches(self._valid(errors))

    def _valid(self, errors: RowErrors) -> Iterator[Row]:
        for number, event in enumerate(self._events(), 1):
            try:
                if not isinstance(event, tuple) or len(event) != len(_FIELDS):
                    raise InvalidError("no (user, item, time, event, impression)", shown(event))  # noqa: TRY301
                row = _READER.row(dict(zip(_FIELDS, event, strict=True)))
            except InvalidError as error:
                errors.add(RowError(self._plugin.path, number, error.reason, error.detail, unit="event"))
                continue
            if row is not None:
                yield row

    def _events(self) -> Iterator[Event]:
        """Yield the events as they come. Raises PluginError instead of the plugin's own errors."""
        events = call(self._plugin, iter, call(self._plugin, self._new().events))
        while (event := call(self._plugin, next, events, _END)) is not _END:
            yield cast(Event, event)

    def _new(self) -> LogSource:
        source = cast(LogSource, call(self._plugin, self._kind, self._parameters))
        if not callable(getattr(source, "events", None)):
            raise PluginError(f"{self._plugin} has no method events")
        return source
