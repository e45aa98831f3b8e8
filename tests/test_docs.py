"""The documents agree with the program: commands, links, settings, and the pages generated from the code."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
import typer
import yaml

from deploy.cli.main import app
from deploy.reference.commands import leaves
from deploy.reference.pages import generate
from deploy.reference.stream import record_classes
from deploy.report.summary import METRICS
from models.evaluation import metrics
from streams.codec import Record
from streams.settings import Settings
from streams.topics import TOPICS
from tests.support.docs import PAGES, ROOT, Command, commands, mc2sf, parse
from tests.support.report import summary

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SCHEMA = json.loads((ROOT / "docs" / "summary.schema.json").read_text())


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    part = text.partition(f"{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n?)+", part, re.MULTILINE)
    assert lines is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


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


PROGRAMS = {
    "cd",
    "curl",
    "docker",
    "export",
    "git",
    "kubectl",
    "pip",
    "torchrun",
    "apt-get",
    "prometheus",
}  # commands of others


EXECUTED = {"gateway.md"}  # test_deploy_gateway_tutorial.py runs its commands


@pytest.mark.parametrize(
    "command", [each for page in PAGES if page.name not in EXECUTED for each in commands(page)], ids=lambda c: c.text
)
def test_every_command_of_the_documents_would_be_accepted(command: Command) -> None:
    for arguments in mc2sf(command.text):
        parse(arguments)
    words = [word for word in command.text.split() if not re.match(r"[A-Z_]+=", word)]
    program = Path(words[0]).name if words else "export"
    if program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words[1]
    elif program.startswith("python") and "-m" in words:
        name = words[words.index("-m") + 1]
        assert importlib.util.find_spec(name), name
    else:
        assert mc2sf(command.text) or program in PROGRAMS


def test_commands_named_in_the_text_exist() -> None:
    names = {name.removeprefix("mc2sf "): command for name, command in leaves(typer.main.get_command(app), "mc2sf")}
    for page in PAGES:
        for span in re.findall(r"`mc2sf ([a-z][^`]*)`", page.read_text()):
            words = [word for word in span.split() if re.fullmatch(r"[a-z|-]+", word)]
            found = [name for name in names if name == " ".join(words[: len(name.split())])]
            group = any(name.startswith(f"{words[0].split('|')[0]} ") for name in names)
            assert found or (group and len(words) == 1) or "|" in span, (page.name, span)
            for option in re.findall(r"(--[a-z-]+)", span) if found else ():
                command = names[found[0]]
                options = [name for each in command.params for name in (*each.opts, *each.secondary_opts)]
                assert option in options, (page.name, span)


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", page.read_text()):
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), (page.name, target)
            if anchor and path.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_files_named_in_the_documents_exist() -> None:
    for page in PAGES:
        for path in re.findall(
            r"`((?:models|streams|replay|deploy|tests|benchmarks|docs)/[\w./-]*)`", page.read_text()
        ):
            assert (ROOT / path).exists() or path in ("deploy/data", "deploy/tokens"), (
                page.name,
                path,
            )  # made by the reader


def test_the_readme_is_short_and_its_paragraphs_are_not_full_of_numbers() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    prose = re.sub(r"```.*?```|<!--.*?-->|^\|.*$", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in prose.split("\n\n"):
        plain = re.sub(r"`[^`]*`|\[[^]]*\]\([^)]*\)", "", paragraph)
        assert len(re.findall(r"(?<![\w.@])[\d.,]*\d(?![\w@])", plain)) <= 3, paragraph


def test_commands_in_the_table_of_processes_exist() -> None:
    for row in rows(OPERATIONS, "## Without containers"):
        command = typer.main.get_command(app)
        for word in row[0].strip("`").split()[1:]:
            if isinstance(command, typer.core.TyperGroup):
                command = command.get_command(typer.Context(command), word)
                assert command is not None, row[0]
            elif word.startswith("--"):
                assert word in [option for parameter in command.params for option in parameter.opts], row[0]


def test_alerts_are_documented() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    listed = {row[0]: row[1] for row in rows(OPERATIONS, "## What to watch")}
    assert listed == {name: rule["labels"]["severity"] for name, rule in rules.items()}
    runbooks = (ROOT / "docs" / "runbooks.md").read_text()
    assert re.findall(r"^## (\w+)$", runbooks, re.MULTILINE) == list(rules)
    for name, rule in rules.items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"


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


def test_the_reference_is_what_the_code_generates() -> None:
    pages = generate()
    changed = [name for name, page in pages.items() if (ROOT / "docs" / name).read_text() != page.text]
    assert changed == [], "run: make docs"
    committed = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs" / "reference").iterdir()}
    assert committed <= set(pages)


def test_everything_in_the_reference_has_a_description() -> None:
    assert {name: page.missing for name, page in generate().items() if page.missing} == {}


def test_every_setting_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    documented = re.findall(r"^\| `MC2SF_(\w+)`", text, re.MULTILINE)
    assert sorted(documented) == sorted(name.upper() for name in Settings.model_fields)


def test_every_record_is_on_a_topic() -> None:
    on_topics = {kind for topic in TOPICS for kind in record_classes(topic)}
    assert on_topics == {kind for kind in Record.__subclasses__() if kind.__module__.startswith("streams.")}
