"""The Kubernetes manifests and the systemd unit: valid by the published schemas, and true to what the program has."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from deploy.cli.main import app
from streams.settings import PREFIX, Settings
from tests.support.commands import resolve

DEPLOY = Path(__file__).parents[1] / "deploy"
KUSTOMIZATION = yaml.safe_load((DEPLOY / "k8s" / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [
    document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((DEPLOY / "k8s" / name).read_text())
]
PODS = {o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in OBJECTS if "template" in o.get("spec", {})}
LITERALS = dict(line.split("=", 1) for line in KUSTOMIZATION["configMapGenerator"][0]["literals"])


def test_every_manifest_is_in_the_kustomization() -> None:
    files = {path.name for path in (DEPLOY / "k8s").iterdir()} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_a_manifest_follows_the_published_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_every_process_but_the_replay_has_a_pod() -> None:
    assert set(PODS) == {"topics", "coordinator", "device", "cloud", "recorder", "learner", "retrain", "gateway"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_a_command_with_settings_that_the_program_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = PODS[name]["containers"]
    resolve(typer.main.get_command(app), container["args"])
    for variable, value in (LITERALS | {v["name"]: v["value"] for v in container.get("env", [])}).items():
        if variable not in ("MC2SF_KAFKA_CA", "MC2SF_KAFKA_SECURITY"):  # need a file and a secret of the cluster
            monkeypatch.setenv(variable, value)
        assert variable.removeprefix(PREFIX).lower() in Settings.model_fields
    settings = Settings()
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(settings.state_dir), str(Path(LITERALS["MC2SF_KAFKA_CA"]).parent)} <= mounts
    assert PODS[name]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    if name == "gateway":
        port = int(container["args"][container["args"].index("--port") + 1])
        assert container["ports"] == [
            {"name": "http", "containerPort": port},
            {"name": "metrics", "containerPort": settings.metrics_port},
        ]
        assert str(Path(container["args"][container["args"].index("--tokens") + 1]).parent) in mounts
    elif name != "topics":
        assert [port["containerPort"] for port in container["ports"]] == [settings.metrics_port]
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        if name != "topics":
            named = "http" if name == "gateway" else "metrics"
            assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": named}


def test_volumes_are_those_that_are_mounted() -> None:
    for o in (o for o in OBJECTS if "template" in o.get("spec", {})):
        claims = [claim["metadata"]["name"] for claim in o["spec"].get("volumeClaimTemplates", [])]
        pod = o["spec"]["template"]["spec"]
        volumes = [volume["name"] for volume in pod["volumes"]] + claims
        assert sorted(volumes) == sorted(mount["name"] for mount in pod["containers"][0]["volumeMounts"])


def test_services_and_budgets_select_the_pods_of_their_name() -> None:
    for o in OBJECTS:
        if o["kind"] in ("Service", "PodDisruptionBudget", "StatefulSet", "Deployment"):
            selector = o["spec"]["selector"]
            role = o["metadata"]["name"].removesuffix("-metrics")
            assert selector.get("matchLabels", selector) == {"app": "mc2sf", "role": role}
    for name, (container,) in ((name, pod["containers"]) for name, pod in PODS.items() if name != "topics"):
        services = [o["spec"] for o in OBJECTS if o["kind"] == "Service" and o["spec"]["selector"]["role"] == name]
        assert [(port["name"], port["port"]) for spec in services for port in spec["ports"]] == [
            (port["name"], port["containerPort"]) for port in container["ports"]
        ]
        metrics = [spec for spec in services if spec["ports"][0]["name"] == "metrics"]
        assert [spec["clusterIP"] for spec in metrics] == ["None"], "DNS names every replica"


def test_only_the_ingress_controller_reaches_the_gateway_and_only_its_port() -> None:
    policies = {o["metadata"]["name"]: o["spec"] for o in OBJECTS if o["kind"] == "NetworkPolicy"}
    assert policies["mc2sf"]["podSelector"] == {}, "every pod"
    assert policies["gateway"]["podSelector"]["matchLabels"].items() <= {"app": "mc2sf", "role": "gateway"}.items()
    (rule,) = policies["gateway"]["ingress"]
    (container,) = PODS["gateway"]["containers"]
    assert [port["port"] for port in rule["ports"]] == [container["ports"][0]["containerPort"]]
    (ingress,) = (o["spec"] for o in OBJECTS if o["kind"] == "Ingress")
    assert ingress["tls"]
    backend = ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "gateway", "port": {"name": container["ports"][0]["name"]}}


def test_the_systemd_unit_runs_the_program_with_settings_that_it_has() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "mc2sf@.service")
    service = unit["Service"]
    assert service["ExecStart"].endswith("/mc2sf $COMMAND")
    assert service["Restart"] == "on-failure"
    for assignment in service["Environment"].split():
        assert assignment.partition("=")[0].removeprefix(PREFIX).lower() in Settings.model_fields
