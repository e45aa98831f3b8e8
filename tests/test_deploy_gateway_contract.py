"""The gateway keeps its own OpenAPI document: whatever is sent, the answer is one that it describes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from deploy.gateway.api.openapi import document
from streams.settings import Settings
from tests.test_deploy_gateway import GatewayHarness

DOCUMENT: Any = document()
PROBES = ("/healthz", "/readyz")
OPERATIONS = [(path, method) for path, found in DOCUMENT["paths"].items() for method in found if path not in PROBES]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHarness]:
    folder: Path = tmp_path_factory.mktemp("contract")
    made = GatewayHarness(Settings(run="contract", partitions=2), folder)
    made.limits_off()
    with made.client:
        yield made
    asgi.shutdown_lifespans()


def test_the_document_is_served_and_its_examples_are_accepted(harness: GatewayHarness) -> None:
    served = harness.client.get("/v1/openapi.json").json()
    assert served == DOCUMENT
    assert served["openapi"] == "3.1.0"
    bodies = 0
    for path, method in OPERATIONS:
        content = served["paths"][path][method].get("requestBody", {}).get("content", {})
        for body in content.values():
            bodies += 1
            validate(body["schema"], body["example"])
            example = body["example"]
            if path == "/v1/users/{user}/events":
                example = {"events": example["events"][1:]}  # the first one names a ranking
            url = re.sub(r"{(\w+)}", "ada", path)
            answer = harness.client.request(method.upper(), url, headers=harness.headers("root"), json=example)
            assert answer.status_code < 300, answer.text
    assert bodies == 4


def validate(schema: Any, value: Any) -> None:
    jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)


@pytest.mark.slow
def test_no_request_is_answered_otherwise_than_the_document_says(harness: GatewayHarness) -> None:
    """Schemathesis sends what the document allows and what it forbids: no 5xx, and answers as described."""
    fuzzed = schemathesis.openapi.from_asgi("/v1/openapi.json", harness.app)
    answered: Counter[int] = Counter()

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    def fuzz(case: schemathesis.Case) -> None:
        answer = case.call(headers=harness.headers("root"))
        answered[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=[positive_data_acceptance, negative_data_rejection])

    for mode in GenerationMode:
        for operation in fuzzed.get_all_operations():
            if operation.ok().path not in PROBES or mode != GenerationMode.NEGATIVE:  # nothing in them can be wrong
                given(operation.ok().as_strategy(generation_mode=mode))(fuzz)()
    assert {200, 202, 400, 401, 404, 422} <= answered.keys()
