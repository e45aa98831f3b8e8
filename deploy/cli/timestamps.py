"""Times for the terminal."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(milliseconds: int) -> str:
    """Return a time in ms since 1970 as text, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
