"""Rounding of the numbers of a result."""

from __future__ import annotations

from typing import Any


def rounded(values: Any, digits: int = 4) -> Any:
    """Return `value` with floats of `digits` significant digits, in dicts and lists as well."""
    if isinstance(values, dict):
        return {name: rounded(each, digits) for name, each in values.items()}
    if isinstance(values, list):
        return [rounded(each, digits) for each in values]
    return float(f"{values:.{digits}g}") if isinstance(values, float) else values
