"""The OpenAPI 3.1 document of the gateway, made from its endpoints and the structs of their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from deploy.gateway.api.bodies import ErrorAnswer, Name
from deploy.gateway.api.endpoints import ENDPOINTS, EVENTS, FEEDBACK, Endpoint

Json = dict[str, object]

_REF = "#/components/schemas/{name}"
_PATH = re.compile(r"{(\w+)}")
REFUSALS = {
    400: "the body is not JSON",
    401: "no valid token",
    403: "the token lacks the scope, or is restricted to another user",
    404: "not found",
    408: "the body arrived too slowly",
    413: "the body is too large",
    415: "the body is compressed",
    422: "a field is wrong",
    429: "too many requests: see Retry-After",
    503: "broker or workers do not answer: see Retry-After",
}


def document() -> Json:
    """Return the document."""
    kinds = [each.answer for each in ENDPOINTS] + [each.body for each in ENDPOINTS if each.body]
    _, components = msgspec.json.schema_components([*kinds, ErrorAnswer], ref_template=_REF)
    paths: dict[str, Json] = {}
    for each in ENDPOINTS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mc2sf gateway",
            "version": "1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint) -> Json:
    summary, _, rest = endpoint.doc.partition("\n\n")
    operation: Json = {
        "summary": summary.removesuffix("."),
        "description": rest or summary,
        "operationId": f"{endpoint.method.lower()}{_PATH.sub('', endpoint.path).replace('/', '_').rstrip('_')}",
        "parameters": _parameters(endpoint),
        "security": [{"token": []}] if endpoint.scope else [],
        "responses": {str(endpoint.status): _content("done", endpoint.answer)}
        | {str(status): _content(words, ErrorAnswer) for status, words in REFUSALS.items()},
    }
    if endpoint.body is not None:
        schema: Json = {"$ref": _REF.format(name=endpoint.body.__name__)}
        if endpoint is FEEDBACK:
            schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
        body: Json = {"schema": schema, "example": msgspec.to_builtins(endpoint.example)}
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    return operation


def _parameters(endpoint: Endpoint) -> Sequence[Json]:
    name = msgspec.json.schema(Name)
    found: list[Json] = [
        {"name": each, "in": "path", "required": True, "schema": name} for each in _PATH.findall(endpoint.path)
    ]
    found += [
        {"name": each, "in": "query", "schema": msgspec.json.schema(kind)} for each, kind in endpoint.query.items()
    ]
    if endpoint is EVENTS:
        found.append({"name": "Idempotency-Key", "in": "header", "schema": name})
    return found


def _content(words: str, kind: type[msgspec.Struct]) -> Json:
    schema = {"$ref": _REF.format(name=kind.__name__)}
    return {"description": words, "content": {"application/json": {"schema": schema}}}
