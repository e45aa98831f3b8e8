"""What the documents promise is what the program has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
import typer
import yaml
from pydantic import SecretStr

from deploy.cli.main import app
from deploy.report.summary import METRICS, json_schema
from models.evaluation import metrics
from streams.settings import Settings
from tests.support.report import summary

ROOT = Path(__file__).parents[1]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SCHEMA = json.loads((ROOT / "docs" / "summary.schema.json").read_text())


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    part = text.partition(f"{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n?)+", part, re.MULTILINE)
    assert lines is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def shown(value: object) -> str:
    """A default as the table of settings has it."""
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if plain is None or plain == "":
        return "none"
    if isinstance(plain, bool):
        return str(plain).lower()
    return str(plain) if isinstance(plain, int | float) else f"`{plain}`"


def test_the_table_of_settings_is_complete_and_has_the_right_defaults() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(OPERATIONS, "## Settings")}
    assert documented == {name: shown(field.default) for name, field in Settings.model_fields.items()}


def test_the_variables_of_the_compose_file_are_documented() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    asked = dict(re.findall(r"\$\{(\w+):[-?]([^}]*)\}", text))
    documented = {}
    for names, defaults, _ in rows(OPERATIONS, "## In containers"):
        values = defaults.split(", ")
        for place, name in enumerate(names.split(", ")):
            documented[name.strip("`")] = values[min(place, len(values) - 1)].strip("`")
    assert set(documented) == set(asked)
    for name, default in documented.items():
        if default != "none":
            assert Path(default).name == Path(asked[name]).name, name


def test_commands_in_the_table_of_processes_exist() -> None:
    for row in rows(OPERATIONS, "## Without containers"):
        command = typer.main.get_command(app)
        for word in row[0].strip("`").split()[1:]:
            if isinstance(command, typer.core.TyperGroup):
                assert word in command.commands, row[0]
                command = command.commands[word]
            elif word.startswith("--"):
                assert word in [option for parameter in command.params for option in parameter.opts], row[0]


def test_alerts_are_documented() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [row[0] for row in rows(OPERATIONS, "## What to watch")] == [rule["alert"] for rule in rules]


def test_the_schema_of_the_summary_is_generated_from_its_types() -> None:
    assert (ROOT / "docs" / "summary.schema.json").read_bytes() == json_schema()
    assert {"run", "online", "digest"} <= set(SCHEMA["$defs"]["Summary"]["required"])


def test_the_schema_of_the_summary_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(msgspec.to_builtins(summary()), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"run": "x"}, SCHEMA)


def test_metrics_of_the_summary_are_those_of_the_models() -> None:
    assert tuple(metrics.METRICS) == METRICS


def test_the_glossary_has_one_line_per_term_in_order_and_its_files_exist() -> None:
    for part in (ROOT / "docs" / "glossary.md").read_text().split("\n## ")[1:]:
        entries = [line for line in part.splitlines()[1:] if line]
        terms = [re.match(r"- \*\*(.+?)\*\*.*: ", line) for line in entries]
        assert all(terms), part.splitlines()[0]
        names = [term[1].lower().replace("_", "") for term in terms if term]
        assert names == sorted(names)
        for path in re.findall(r"`((?:models|streams|deploy)/[^`]*)`", part):
            assert (ROOT / path).exists(), path
