"""Fields inside objects, named by a path such as `user.id`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa


def fields_at(fields: dict[str, object], paths: Iterable[str]) -> dict[str, object]:
    """Return the fields of an object, and those inside it that `paths` name; a field whose own name is a path wins."""
    found = {path: steps for path in paths if not _is_name(path, fields) and (steps := _steps(fields, path))}
    return fields | {path: _value(fields, steps) for path, steps in found.items()} if found else fields


def columns_at(schema: pa.Schema, paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the names on the way to each column: of every column of a schema, and of those that `paths` name."""
    top = {name: [name] for name in schema.names}
    types: dict[str, object] = {field.name: field.type for field in schema}
    inside = {path: steps for path in paths if not _is_name(path, top) and (steps := _steps(types, path))}
    return top | inside


def type_at(schema: pa.Schema, steps: list[str]) -> pa.DataType:
    """Return the type of the column that `columns_at` found."""
    kind = schema.field(steps[0]).type
    for name in steps[1:]:
        kind = kind.field(name).type
    return kind


def _is_name(path: str, names: Iterable[str]) -> bool:
    lower = path.strip().lower()
    return any(name.strip().lower() == lower for name in names)


def _steps(fields: Mapping[str, object], path: str) -> list[str]:
    """Return the names of the fields on the way to `path`, empty if there is no such field."""
    for end in (position for position, character in enumerate(path) if character == "."):
        name, rest = path[:end], path[end + 1 :]
        inner = _inside(fields.get(name))
        if further := ([rest] if rest in inner else _steps(inner, rest)):
            return [name, *further]
    return []


def _inside(value: object) -> Mapping[str, object]:
    """Return the fields of an object, or of the type of a column of objects."""
    if isinstance(value, pa.StructType):
        return {field.name: field.type for field in value}
    return value if isinstance(value, dict) else {}


def _value(fields: object, steps: list[str]) -> object:
    for name in steps:
        fields = _inside(fields)[name]
    return fields
