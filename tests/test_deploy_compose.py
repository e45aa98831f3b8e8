"""The files that put the system into containers, checked without any container: against the schemas published for them
and against what the program really has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from deploy.cli.main import app
from deploy.local.broker import await_broker, free_port
from streams.kafka import topic_admin
from streams.settings import PREFIX, Settings
from streams.topics import TOPICS
from tests.support.commands import resolve

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCESSES = {name: service for name, service in SERVICES.items() if service["image"] == "mc2sf"}
PROMETHEUS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled(text: str) -> str:
    """`text` as compose expands it if no variable with a default is set."""
    return VARIABLE.sub(lambda m: m[3] if m[2] == "-" else "given", text)


PUBLISHED = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"  # importing the package would open sockets


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


def test_the_compose_file_follows_the_published_schema() -> None:
    schema = json.loads(distribution("check_jsonschema").locate_file(PUBLISHED).read_text())
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_every_process_of_the_system_is_in_the_compose_file() -> None:
    wanted = {"topics", "coordinator", "device", "cloud", "recorder", "learner", "retrain", "replay", "gateway"}
    assert set(PROCESSES) == wanted
    assert set(SERVICES) - wanted == {"kafka", "postgres", "prometheus", "grafana"}


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_process_runs_a_command_that_the_program_has(name: str) -> None:
    resolve(typer.main.get_command(app), [filled(word) for word in PROCESSES[name]["command"]])


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_the_variables_of_a_process_make_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in PROCESSES[name]["environment"].items():
        monkeypatch.setenv(variable, filled(value))
    settings = Settings()
    assert settings.host == "0.0.0.0"  # inside the network of the containers Prometheus comes from another address
    broker = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"//{settings.brokers}" in broker
    assert settings.database.get_secret_value() == "postgresql+psycopg://mc2sf@postgres:5432/mc2sf"
    assert settings.state_dir == Path("/var/lib/mc2sf")


@contextmanager
def kafka_of_the_compose_file(home: Path, folder: Path, ports: dict[str, int]) -> Iterator[str]:
    """A Kafka node with the broker settings of the compose file, as its image makes properties of them; only hosts,
    ports and the data folder are others."""
    environment = dict(SERVICES["kafka"]["environment"])
    cluster = environment.pop("CLUSTER_ID")
    environment["KAFKA_LOG_DIRS"] = str(folder / "data")
    lines = []
    for variable, text in environment.items():
        value = re.sub(r"(?<=://)(kafka)?(?=:)|(?<=@)kafka", "127.0.0.1", text)
        value = re.sub(r"(?<=:)\d{4,5}\b", lambda m: str(ports[m[0]]), value)
        lines.append(f"{variable.removeprefix('KAFKA_').lower().replace('_', '.')}={value}\n")
    config = folder / "server.properties"
    config.write_text("".join(lines))
    tools = home / "bin"
    made = [tools / "kafka-storage.sh", "format", "--cluster-id", cluster, "--config", config]
    subprocess.run(made, check=True, capture_output=True)
    with (folder / "kafka.log").open("wb") as log:
        process = subprocess.Popen([tools / "kafka-server-start.sh", config], stdout=log, stderr=log)
    try:
        address = f"127.0.0.1:{ports['19092']}"
        await_broker(address)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_a_kafka_with_the_settings_of_the_compose_file_takes_the_topics(
    kafka_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in PROCESSES["topics"]["environment"].items():
        monkeypatch.setenv(variable, filled(value))
    ports = {port: free_port() for port in ("19092", "9092", "9093")}
    with kafka_of_the_compose_file(kafka_home, tmp_path, ports) as address:
        settings = Settings(brokers=address)
        assert len(topic_admin.create(settings)) == len(TOPICS)
        assert topic_admin.deviations(settings) == []
        topic_admin.require(settings.model_copy(update={"brokers": f"127.0.0.1:{ports['9092']}"}))  # as from the host


def test_all_processes_get_the_same_settings() -> None:
    first = PROCESSES["device"]["environment"]
    assert all(process["environment"] == first for process in PROCESSES.values())
    assert any(variable.startswith(PREFIX) for variable in first)


def test_the_gateway_is_asked_for_its_health_on_the_port_that_is_published() -> None:
    gateway = SERVICES["gateway"]
    port = gateway["command"][gateway["command"].index("--port") + 1]
    assert gateway["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}/healthz" in gateway["healthcheck"]["test"][-1]
    assert gateway["profiles"] == ["gateway"], "without tokens it can't start"


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_is_in_the_file() -> None:
    found = set()
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable:
                match = VARIABLE.fullmatch(value)
                assert match is not None, f"{variable} stands in the file"
                assert match[2] == "?", f"{variable} has a default"
                found.add(match[1])
    assert found == {"POSTGRES_PASSWORD", "GRAFANA_PASSWORD"}
    assert not [s for s in strings(COMPOSE) if re.search(r"://[^/@\s]+:[^/@\s]+@", s)]


def test_every_service_waits_for_its_dependencies_and_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[needed]["healthcheck"], f"{name} waits for the health of {needed}"
            else:
                assert SERVICES[needed]["healthcheck"] == {"disable": True}, f"{needed} ends by itself"
        if name != "topics":
            assert "test" in service["healthcheck"], name
    for name in set(PROCESSES) - {"topics"}:
        assert PROCESSES[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully", name
        assert "postgres" in PROCESSES[name]["depends_on"], name


def test_prometheus_finds_the_metrics_of_every_process() -> None:
    port = int(PROCESSES["device"]["environment"]["MC2SF_METRICS_PORT"])
    asked = {}
    for job in PROMETHEUS["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            assert (found["type"], found["port"]) == ("A", port)
            asked[job["job_name"]] = found["names"]
    assert asked == {name: [name] for name in set(PROCESSES) - {"topics"}}
    health = PROCESSES["device"]["healthcheck"]["test"][-1]
    assert f"127.0.0.1:{port}/healthz" in health


def test_files_that_are_mounted_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = filled(volume).split(":")[0]
            if source.startswith("./") and source not in ("./data", "./tokens"):
                assert (DEPLOY / source).exists(), f"{name} mounts {source}"
            elif not source.startswith("."):
                assert source in COMPOSE["volumes"], f"{name} mounts {source}"


def test_prometheus_accepts_its_files(tool: Callable[[str], str]) -> None:
    command = [tool("promtool"), "check", "config", DEPLOY / "prometheus.yml"]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_when_they_should(tool: Callable[[str], str], tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts.test.yml").read_text()
    cases = cases.replace("ALERTS", str(DEPLOY / "alerts.yml")).replace("RECORDING", str(DEPLOY / "recording.yml"))
    (tmp_path / "cases.yml").write_text(cases)
    command = [tool("promtool"), "test", "rules", tmp_path / "cases.yml"]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dockerfile_has_no_lint_and_runs_without_privileges(tool: Callable[[str], str]) -> None:
    checked = subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = (DEPLOY / "Dockerfile").read_text()
    last = text[text.rindex("FROM ") :]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["mc2sf"]' in last
