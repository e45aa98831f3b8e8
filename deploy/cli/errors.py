"""Errors that a user can fix, as a sentence and an exit code. Imported when there is an error to explain."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from confluent_kafka import KafkaException
from pydantic import ValidationError

from deploy.local.child_process import ChildError
from deploy.runs import RunFailed
from deploy.user_error import UserError
from replay.errors import SourceError, shown
from replay.send.progress import ReplayError
from streams.database.engine import DatabaseUrlError
from streams.kafka.topic_admin import TopicsError
from streams.plugins.plugin import PluginError
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.recorder.redelivery import ResendError
from streams.releases.candidates import CandidateError
from streams.releases.release import ReleaseError
from streams.settings import SettingsError

_OF_USER = (
    *(CandidateError, ChildError, DatabaseUrlError, PluginError, ReleaseError, ReplayError, ResendError, SourceError),
    *(SettingsError, TopicsError, UserError),
)
_UNOPENED = "unable to open database file"  # of SQLite, which writes its log beside the file


class Explained(NamedTuple):
    """An error for the user: what failed, the sentence about it, and the exit code."""

    subject: str
    sentence: str
    code: int = 2


def explain(error: Exception) -> Explained | None:
    """Return a sentence about an error that a user can fix; None for any other, which deserves its traceback."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return Explained("settings", f"{field + ': ' if field else ''}{first['msg']}")
    if isinstance(error, RunFailed):
        return Explained("the run failed", str(error), 1)
    if isinstance(error, _OF_USER):
        return Explained("error", str(error))
    if isinstance(error, KafkaException):
        return Explained("broker", error.args[0].str())
    damaged = type(error) is sa.exc.DatabaseError  # not of a subclass: SQLite's "file is not a database", "malformed"
    if damaged or isinstance(error, DATABASE_UNAVAILABLE):
        return Explained("database", _of_database(error))
    return _of_file(error)


def _of_file(error: Exception) -> Explained | None:
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":  # as Python reads such names
        return Explained("error", f"{shown(error.object)} is not UTF-8: rename the file or folder")
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return Explained("error", f"{error.filename}: {error.strerror}")
    return None


def _of_database(error: Exception) -> str:
    """Return what is wrong with which database, in one line."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    reason = " ".join(str(cause or error).split())
    if reason == _UNOPENED:
        reason += ": the file and its folder must be writable, also to read a run; copy a read-only folder elsewhere"
    return " ".join([*dict.fromkeys(getattr(error, "__notes__", ())), reason])
