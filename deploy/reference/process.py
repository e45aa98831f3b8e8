"""Pages of the metrics that processes serve and of the settings that they read."""

from __future__ import annotations

import inspect
from collections.abc import Container
from pathlib import Path
from typing import get_args, get_origin

from annotated_types import Ge, Gt, Le, MultipleOf
from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from deploy.reference.markdown import Page, code, prose, sentence
from streams.process import telemetry
from streams.settings import PREFIX, Settings


def metrics() -> Page:
    """Return the page of metrics."""
    page = Page.titled(
        "Metrics",
        "Prometheus metrics on `http://MC2SF_HOST:MC2SF_METRICS_PORT/metrics` of each process; a process has those of"
        "\nits own work. " + prose(telemetry),
    )
    page.section("All metrics")
    rows = []
    for value in vars(telemetry).values():
        if isinstance(value, Counter | Gauge | Histogram):
            (family,) = value.describe()
            suffix = "_total" if isinstance(value, Counter) else ""
            labels = ", ".join(code(label) for label in value._labelnames)  # noqa: SLF001 - there is no public name
            rows.append((code(family.name + suffix), family.type, labels, sentence(family.documentation)))
    page.table(("metric", "type", "labels", "meaning"), sorted(rows))
    return page


def settings() -> Page:
    """Return the page of settings."""
    page = Page.titled(
        "Settings",
        "Environment variables, read by every process; the options of `mc2sf run` set them for its processes.\n"
        f"Unknown variables with the prefix `{PREFIX}` are refused. All processes of a run need the same values\n"
        "of those that decide results: when it starts, each process compares them with its run in the table `runs`.",
    )
    decisive = Settings().semantic()
    for group in reversed(Settings.__mro__):
        names = [name for name in inspect.get_annotations(group) if name in Settings.model_fields]
        if names:
            page.section(group.__name__.removesuffix("Settings"), (inspect.getdoc(group) or "").partition("\n\n")[0])
            page.table(
                ("variable", "type", "default", "decides results", "meaning"), (_row(n, decisive) for n in names)
            )
    return page


def _row(name: str, decisive: Container[str]) -> tuple[str, str, str, str, str]:
    field = Settings.model_fields[name]
    decides = "yes" if name in decisive else ""
    meaning = sentence(field.description or "")
    return code(PREFIX + name.upper()), _type(field), _default(field.default), decides, meaning


def _type(field: FieldInfo) -> str:
    """Return type and bounds of a setting in words."""
    kind = field.annotation
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
    kinds = [each for each in get_args(kind) if each is not type(None)] if get_origin(kind) else [kind]
    names: dict[object, str] = {
        str: "text",
        SecretStr: "text",
        Path: "path",
        bool: "true or false",
        int: "integer",
        float: "number",
    }
    name = " or ".join(code(choice) for choice in choices) or names[kinds[0]]
    return ", ".join([name, *(bound for each in field.metadata if (bound := _bound(each)))])


def _bound(constraint: object) -> str:
    match constraint:
        case Ge(ge=value):
            return f">= {value}"
        case Gt(gt=value):
            return f"> {value}"
        case Le(le=value):
            return f"<= {value}"
        case MultipleOf(multiple_of=value):
            return f"multiple of {value}"
    return ""


def _default(value: object) -> str:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if plain is None or plain == "":
        return "none"
    return code(str(plain).lower() if isinstance(plain, bool) else plain)
