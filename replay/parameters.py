"""Parse `name=value,...`: the parameters of a synthetic log, the faults of devices, the choice of a fit."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from replay.errors import SourceError, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


def parameters(kind: type[P], text: str) -> P:
    """Return an object of the dataclass `kind` from `name=value,...`; each name may be given once.

    Raises SourceError for an unknown name or a value of another type.
    """
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    values: dict[str, object] = {}
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
