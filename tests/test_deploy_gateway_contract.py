"""The gateway keeps its own OpenAPI document: whatever is sent, the answer is one that it describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.gateway.api.openapi import document
from streams.settings import Settings
from tests.test_deploy_gateway import World

DOCUMENT: Any = document()
OPERATIONS = [(path, method) for path, found in DOCUMENT["paths"].items() for method in found if path != "/healthz"]
TEXT = st.text(max_size=12) | st.sampled_from(["ada", "\0", "a" * 300, "%", "../x", "\u2028"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(TEXT, some, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("contract")
    made = World(Settings(run="contract", partitions=2), folder)
    made.limits_off()
    with made.client:
        yield made


def test_the_document_is_served_and_its_examples_are_accepted(world: World) -> None:
    served = world.client.get("/v1/openapi.json").json()
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
            answer = send(world, path, method, {"user": "ada", "model": "m"}, example)
            assert answer.status_code < 300, answer.text
    assert bodies == 4


def validate(schema: Any, value: Any) -> None:
    jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)


def send(world: World, path: str, method: str, names: dict[str, str], body: Any, query: str = "") -> Any:
    from urllib.parse import quote  # noqa: PLC0415

    url = re.sub(r"{(\w+)}", lambda found: quote(names.get(found[1], "x"), safe=""), path)
    sent = {"json": body} if method == "post" and not isinstance(body, bytes) else {}
    sent |= {"content": body} if isinstance(body, bytes) and method == "post" else {}
    return world.client.request(method.upper(), url + query, headers=world.headers("root"), **sent)


@st.composite
def wrong_bodies(draw: Any, example: Any) -> Any:
    """Return an example with one value, anywhere, replaced, dropped or added; or anything."""
    if not isinstance(example, dict | list) or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    if isinstance(example, list):
        return [draw(wrong_bodies(each)) if i == 0 else each for i, each in enumerate(example)]
    name = draw(st.sampled_from(sorted(example)) | TEXT)
    return example | {name: draw(wrong_bodies(example[name])) if name in example else draw(VALUES)}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(OPERATIONS), st.data())
def test_no_request_is_answered_otherwise_than_the_document_says(world: World, operation: Any, data: Any) -> None:
    path, method = operation
    described = DOCUMENT["paths"][path][method]
    content = described.get("requestBody", {}).get("content", {})
    body: Any = None
    for each in content.values():
        body = data.draw(wrong_bodies(each["example"]) | st.binary(max_size=20))
    names = {name: data.draw(TEXT.filter(bool)) for name in re.findall(r"{(\w+)}", path)}
    query = data.draw(st.sampled_from(["", "?k=3", "?k=0", "?k=x", "?k=" + "9" * 30, "?x[]=%ff"]))
    try:
        answer = send(world, path, method, names, body, query)
    except (ValueError, UnicodeError):  # a client can't send it: NaN, or half a character
        return
    assert str(answer.status_code) in described["responses"], answer.text
    content_type, schema = next(iter(described["responses"][str(answer.status_code)]["content"].items()))
    assert answer.headers["content-type"] == content_type
    validate(schema["schema"], answer.json())
