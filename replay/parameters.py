"""`name=value,...` as users write it: the parameters of a synthetic log, the faults of a fleet, the choice of a fit."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from replay.errors import SourceError, shown

P = TypeVar("P")


def parameters(kind: type[P], text: str) -> P:
    """An object of the dataclass `kind` from `name=value,...`, each name at most once.

    Raises SourceError for anything it has no field for.
    """
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]  # P is a dataclass: the callers' business
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in names:
            raise SourceError(f"unknown parameter {shown(name)}: there are {', '.join(names)}")
        if name in values:
            raise SourceError(f"parameter {name!r} is given twice")
        try:
            values[name] = hints[name](value)
        except ValueError as error:
            raise SourceError(f"{name}={shown(value)}: {hints[name].__name__} expected") from error
    return kind(**values)
