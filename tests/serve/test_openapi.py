"""The document of the API: valid by the standard's own validator, and true of what every route answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest
from every_input import png, wave
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from treadle.data.schema import FIELDS, TARGETS
from treadle.serve import failures, openapi, shapes
from treadle.serve.api import make_app
from treadle.serve.monitor import Monitor
from treadle.serve.openapi import STATUSES

Serve = Callable[..., Any]
TALK = [{"role": "user", "content": "def f"}]


def document_of(running: Any, **headers: str) -> dict[str, Any]:
    response = running.client.get("/openapi.json", headers=headers)
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    OpenAPIV31SpecValidator(found).validate()
    return found


def closed(part: Any) -> Any:
    """The schema with nothing allowed in any object but what is described."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if isinstance(part, dict):
        found = {key: closed(value) for key, value in part.items()}
        return found | {"additionalProperties": False} if "properties" in part and "additionalProperties" not in part else found
    return part


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """That ``value`` is as ``schema`` says, and holds nothing that it does not say."""
    whole = {**closed(schema), "components": closed(document["components"])}
    jsonschema.Draft202012Validator(whole).validate(value)


def check_response(document: dict[str, Any], response: httpx.Response) -> None:
    """That the document has this response: its status, its kind and all of its content."""
    operation = document["paths"][response.request.url.path][response.request.method.lower()]
    said = operation["responses"][str(response.status_code)]
    if "$ref" in said:
        said = document["components"]["responses"][said["$ref"].rpartition("/")[2]]
    kind = response.headers["content-type"].partition(";")[0]
    for name in said.get("headers", {}):
        assert name in response.headers, name
    schema = said["content"][kind]["schema"]
    if kind == "application/json":
        check(document, schema, response.json())


def ask(running: Any, path: str, body: dict[str, Any], status: int = 200) -> httpx.Response:
    """Post ``body``; what is answered must be in the document, and so must what was asked, if it was right."""
    response: httpx.Response = running.client.post(path, json=body, timeout=60)
    assert response.status_code == status, response.text
    document = document_of(running)
    check_response(document, response)
    if status == 200:
        check(document, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"], body)
    return response


def test_every_route_of_the_server_stands_in_it(shared: Any) -> None:
    document = document_of(shared)
    made = make_app(shared.site.project, shared.site.ledger, shared.live, Monitor(), "127.0.0.1").routes.routes
    routes = {(route.path_format, method.lower()) for route in made if isinstance(route, Route) for method in route.methods or ()}
    described = {(path, method) for path, operations in document["paths"].items() for method in operations}
    pages = {path for path, _ in routes if path in ("/", "/docs") or path.startswith("/page/")}
    assert described == {(path, method) for path, method in routes if path not in pages and method != "head"}
    assert document["info"] == {**document["info"], "title": "tiny", "version": "1"}
    for path, operations in document["paths"].items():
        for method in ("get", "post"):
            status = shared.client.request(method, path, json={} if method == "post" else None).status_code
            assert (status == 405) == (method not in operations), (method, path)
    assert set(STATUSES) == set(failures._CODES) | {422}
    assert {int(status) for status in document["components"]["responses"]} == set(STATUSES)


def test_the_routes_that_only_read(shared: Any, sky: Any) -> None:
    for running in (shared, sky):
        document = document_of(running)
        for path in ("/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            check_response(document, running.client.get(path))


@pytest.mark.parametrize(
    "how", [{}, {"n": 2, "seed": 1}, {"logprobs": 2}, {"truncate_prompt_tokens": -1}, {"stop": "e", "store": True}], ids=str
)
def test_completions(shared: Any, how: dict[str, Any]) -> None:
    ask(shared, "/v1/completions", {"model": "tiny", "prompt": "def f", "max_tokens": 4, **how})


@pytest.mark.parametrize("how", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"tools": [{"type": "function"}]}], ids=str)
def test_conversations(shared: Any, how: dict[str, Any]) -> None:
    ask(shared, "/v1/chat/completions", {"model": "tiny", "messages": TALK, "max_tokens": 4, **how})


def test_a_conversation_that_calls_a_function(shared: Any) -> None:
    call = {"choice": ['<tool_call>{"name": "f", "arguments": {}}</tool_call>']}
    body = {"model": "tiny", "messages": TALK, "tools": [{"type": "function"}], "structured_outputs": call}
    found = ask(shared, "/v1/chat/completions", body).json()["choices"][0]
    assert found["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("path", "event", "body"),
    [
        ("/v1/completions", "CompletionChunk", {"prompt": "def f", "logprobs": 1, "n": 2}),
        ("/v1/chat/completions", "ChatChunk", {"messages": TALK, "logprobs": True, "top_logprobs": 1}),
        ("/v1/chat/completions", "ChatChunk", {"messages": TALK, "tools": [{"type": "function"}], "structured_outputs": {
            "choice": ['<tool_call>{"name": "f", "arguments": {}}</tool_call>']}}),
    ],
)
def test_streams(shared: Any, path: str, event: str, body: dict[str, Any]) -> None:
    asked = {"model": "tiny", "max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}, **body}
    response = ask(shared, path, asked)
    *lines, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    assert len(lines) > 1
    document = document_of(shared)
    for line in lines:
        check(document, {"$ref": f"#/components/schemas/{event}"}, json.loads(line.removeprefix("data: ")))


def test_records_their_columns_and_their_heads(sky: Any) -> None:
    document = document_of(sky)
    record = document["components"]["schemas"]["Record"]
    columns = {"pressure", "sky", "place", "dry", "day", "note", "photo", "sound"}
    assert set(record["required"]) == columns
    assert set(record["properties"]) == columns | {"rain", "millimetres", "cloud"}
    assert sorted(record["properties"]["sky"]["examples"]) == ["black", "blue", "grey"]
    assert "Kind category" in record["properties"]["sky"]["description"]
    assert set(document["components"]["schemas"]["Heads"]["required"]) == {"rain", "millimetres", "cloud"}
    row = {"pressure": 1000, "sky": "grey", "place": None, "dry": True, "day": "2026-01-31", "note": "clouds",
           "photo": base64.b64encode(png(9)).decode(), "sound": base64.b64encode(wave(440)).decode()}
    asked = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for body in ({"inputs": row, "store": True}, {"inputs": [row, row], "model": "sky"}):
        check(document, asked, body)
        ask(sky, "/v1/predict", body)
    for wrong in ({**row, "more": 1}, {**row, "sky": ["grey"]}, {key: row[key] for key in row if key != "day"}):
        with pytest.raises(jsonschema.ValidationError):
            check(document, asked, {"inputs": wrong})
        ask(sky, "/v1/predict", {"inputs": wrong}, 422)


def test_every_kind_of_input_and_head_has_its_words() -> None:
    assert set(openapi._KINDS) == set(FIELDS)
    assert set(shapes._ANSWERS) == set(TARGETS)


def test_spans_and_cosines(names: Any, alike: Any) -> None:
    (column,) = document_of(names)["components"]["schemas"]["Record"]["required"]
    ask(names, "/v1/predict", {"inputs": {column: "Ada went to Rome with Ben"}})
    for pair in ({"one": "a small dog", "two": "tiny hound"}, {"one": "a", "two": None}, {"one": None, "two": None}):
        ask(alike, "/v1/predict", {"inputs": pair})
    for form in ("float", "base64"):
        ask(alike, "/v1/embeddings", {"model": "alike", "input": ["a", "b"], "encoding_format": form})


def test_feedback(shared: Any) -> None:
    id = shared.complete("x", max_tokens=1, store=True).json()["id"]
    ask(shared, "/v1/feedback", {"answer_id": id, "rating": "down", "edited": "mail a@example.com"})
    plain = shared.complete("x", max_tokens=1).json()["id"]
    ask(shared, "/v1/feedback", {"answer_id": plain, "edited": "x"}, 409)


def test_refusals(shared: Any) -> None:
    for path, body, status in (
        ("/v1/completions", {"model": "tiny"}, 400), ("/v1/completions", {"model": "other", "prompt": "x"}, 404),
        ("/v1/predict", {"inputs": {}}, 404), ("/v1/embeddings", {"model": "tiny", "input": "x"}, 404),
        ("/v1/feedback", {"answer_id": "none", "rating": "up"}, 404),
        ("/v1/completions", {"model": "x" * 40_000, "prompt": "x"}, 413),
    ):
        ask(shared, path, body, status)
    document = document_of(shared)
    for headers, status in (({"content-type": "text/plain"}, 415), ({"host": "evil.example.com"}, 421)):
        response = shared.client.post("/v1/completions", content=b"{}", headers={"content-type": "application/json", **headers})
        assert response.status_code == status
        check_response(document, response)
    shared.live.draining = True
    try:
        ask(shared, "/v1/completions", {"model": "tiny", "prompt": "x"}, 503)
        response = shared.client.get("/readyz")
        assert response.status_code == 503
        check_response(document, response)
    finally:
        shared.live.draining = False


def test_beyond_loopback_it_needs_a_key_and_says_so(serve: Serve, site: Any) -> None:
    key = {"authorization": f"Bearer {site.ledger.add_key('a', ['answer'])}"}
    running = serve("serve.limits.requests_per_minute=1", "serve.lockout.wrong_keys=2", host="0.0.0.0")
    assert running.client.get("/openapi.json").status_code == 401
    document = document_of(running, **key)
    assert document["components"]["securitySchemes"]["key"] | {"description": ""} == {
        "type": "http", "scheme": "bearer", "description": ""}
    needs = {path: [need for op in ops.values() for need in op["security"]] for path, ops in document["paths"].items()}
    assert needs["/v1/completions"] == [{"key": ["answer"]}]
    assert (needs["/v1/feedback"], needs["/metrics"]) == ([{"key": ["feedback"]}], [{"key": ["metrics"]}])
    assert needs["/healthz"] == needs["/readyz"] == []
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    responses = [running.client.get("/metrics", headers=key), running.client.get("/v1/models")]
    responses += [running.client.post("/v1/completions", json=body, headers=key) for _ in range(2)]
    wrong = {"authorization": "Bearer tk-wrong"}
    responses += [running.client.get("/v1/models", headers=wrong) for _ in range(3)]
    assert [response.status_code for response in responses] == [403, 401, 200, 429, 401, 401, 429]
    for response in responses:
        check_response(document, response)


def test_on_loopback_a_key_is_a_choice(shared: Any) -> None:
    document = document_of(shared)
    assert document["paths"]["/v1/models"]["get"]["security"] == [{}, {"key": ["answer"]}]


def test_it_says_what_this_server_allows(serve: Serve) -> None:
    document = document_of(serve("serve.max_tokens=77"))
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert fields["max_tokens"]["anyOf"][0]["maximum"] == fields["max_completion_tokens"]["anyOf"][0]["maximum"] == 77
    assert fields["model"]["enum"] == ["tiny"]
