"""GET /openapi.json: every route with what it takes, gives and refuses, and the columns of the model that is live (OpenAPI 3.1)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse

from treadle.core.project import Project
from treadle.data.schema import Schema
from treadle.serve.access import is_loopback, scope_of
from treadle.serve.live import LiveModel
from treadle.serve.predictions import described
from treadle.serve.predictor import Predictor
from treadle.serve.routes import Routes
from treadle.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, FeedbackRequest, PredictRequest
from treadle.serve.shapes import Json, ref, responses
from treadle.serve.writer import Writer

STATUSES = {
    400: "Not JSON; a field is missing, unknown, of the wrong type or out of range; a prompt over the context.",
    401: "No key where one is demanded, or one that is not known, was revoked or has expired.",
    403: "The key lacks the scope that the route needs.",
    404: "There is no such model, answer or route.",
    405: "The route has no such method.",
    408: "Headers or body did not come within `serve.timeouts`; the connection is closed.",
    409: "Edited text for an answer whose own text was not kept.",
    413: "The body is over `serve.max_body`.",
    415: "The body's Content-Type is not `application/json`.",
    421: "The Host header does not name this machine, and the server answers to it only.",
    422: "A column is missing, unknown, or holds a value that cannot be read.",
    429: "All slots are taken, a limit of the key is reached, feedback comes too fast, or wrong keys came from this address; "
         "`Retry-After` says when to ask again.",
    500: "The model or the ledger failed; the server's log says how.",
    503: "The server is stopping.",
    504: "The answer was not done within `serve.deadline` or the request's own `timeout`.",
}
"""What else than success is answered, with the body ``Error``."""

_OPEN = (408, 421, 500)
_KEYED = (401, 403, 408, 421, 429, 500)
_POST = (400, 401, 403, 408, 413, 415, 421, 429, 500)
_ASK = (*_POST, 404, 503, 504)


@dataclass(frozen=True)
class Route:
    """One route: what it is for, the models of its request and of its responses, and the statuses that refuse."""

    path: str
    what: str
    gives: str | None
    """The schema of its response; None: plain text."""
    refuses: tuple[int, ...]
    takes: str | None = None
    streams: str | None = None
    """The schema of an event, where it can stream."""
    example: Json = field(default_factory=dict)
    """Of a request."""

    @property
    def method(self) -> str:
        return "post" if self.takes else "get"

    @property
    def open(self) -> bool:
        return self.refuses == _OPEN


_TALK = [{"role": "user", "content": "Say hello."}]
ROUTES = (
    Route("/v1/models", "The model that answers, and what it reads", "Models", _KEYED),
    Route("/v1/models/{model}", "One of the models that are listed", "Model", (*_KEYED, 404)),
    Route("/v1/completions", "Continue a text", "Completion", _ASK, "CompletionRequest", "CompletionChunk",
          {"model": "", "prompt": "Once upon a time", "max_tokens": 16}),
    Route("/v1/chat/completions", "Go on with a conversation", "Chat", _ASK, "ChatRequest", "ChatChunk",
          {"model": "", "messages": _TALK, "max_tokens": 16}),
    Route("/v1/predict", "Answer about records", "Predictions", (*_ASK, 422), "PredictRequest"),
    Route("/v1/embeddings", "Vectors of texts", "Embeddings", (*_ASK, 422), "EmbeddingRequest",
          example={"model": "", "input": ["a text", "another"]}),
    Route("/v1/feedback", "Say what an answer was worth", "Feedback", (*_POST, 404, 409), "FeedbackRequest",
          example={"answer_id": "cmpl-0", "rating": "up"}),
    Route("/healthz", "Whether the process runs", "Health", _OPEN),
    Route("/readyz", "Whether it takes requests", "Ready", _OPEN),
    Route("/metrics", "Figures in Prometheus' text format", None, _KEYED),
    Route("/v1/status", "How the server does: load, latency, versions, keys, cost, drift, alerts", "Status", _KEYED),
    Route("/openapi.json", "This document", "Document", _KEYED),
)


def add_openapi(routes: Routes, project: Project, live: LiveModel, host: str) -> None:
    """Add ``/openapi.json``, which describes the version that is live."""
    keyed = not is_loopback(host)

    async def openapi(_: Request) -> JSONResponse:
        settings = project.spec.serve
        return JSONResponse(document(project.spec.name, live.worker, settings.max_tokens, keyed))

    routes.get("/openapi.json", openapi)


def document(name: str, worker: Writer | Predictor, max_tokens: int, keyed: bool) -> Json:
    """The document of the model ``name``; ``keyed``: every route but the health routes demands a key."""
    schema = None if isinstance(worker, Writer) else worker.schema
    adapters = list(worker.adapters) if isinstance(worker, Writer) else []
    schemas = {**_requests(name, adapters, max_tokens), **responses(schema), "Document": {"type": "object"}}
    predicts = schemas["PredictRequest"]
    examples = {route.path: route.example | ({"model": name} if "model" in route.example else {}) for route in ROUTES}
    if schema is not None:
        schemas["Record"], example = _record(schema, described(worker)["inputs"])
        records = {"type": "array", "items": ref("Record"), "minItems": 1, "maxItems": 1000}
        predicts["properties"]["inputs"] |= {"anyOf": [ref("Record"), records]}
        examples["/v1/predict"] = {"inputs": example} if example else {}
    text = "Requests and responses are OpenAI's where OpenAI has them. Errors have one shape, with the cure in the message."
    return {
        "openapi": "3.1.0", "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {"title": name, "version": str(worker.version.number), "description": text},
        "servers": [{"url": "/"}],
        "paths": {route.path: {route.method: _operation(route, examples[route.path], keyed)} for route in ROUTES},
        "components": {
            "schemas": schemas,
            "responses": {str(status): _refusal(status) for status in STATUSES},
            "securitySchemes": {"key": {
                "type": "http", "scheme": "bearer", "description": "A key of `treadle key add NAME`, with the scope that is named."
            }},
        },
    }


def _operation(route: Route, example: Json, keyed: bool) -> Json:
    found: Json = {"operationId": re.sub(r"\W+", "_", route.path).strip("_"), "summary": route.what}
    names = re.findall(r"\{(\w+)\}", route.path)
    if names:
        found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if not route.open:
        found["security"] = [{"key": [scope_of(route.path)]}] if keyed else [{}, {"key": [scope_of(route.path)]}]
    else:
        found["security"] = []
    if route.takes:
        content: Json = {"schema": ref(route.takes)} | ({"example": example} if example else {})
        found["requestBody"] = {"required": True, "content": {"application/json": content}}
    kind = "text/plain" if route.gives is None else "application/json"
    good: Json = {"description": route.what, "content": {kind: {"schema": ref(route.gives) if route.gives else {"type": "string"}}}}
    if route.takes and route.path != "/v1/feedback":
        good["headers"] = {"x-treadle-version": {"description": "Which version answered.", "schema": {"type": "string"}}}
    if route.streams:
        text = f"Where `stream` is true: lines `data: OBJECT` with a {route.streams} each, closed by `data: [DONE]`."
        value = {"anyOf": [ref(route.streams), ref("Error")]}
        data = {"anyOf": [{"const": "[DONE]"}, {"type": "string", "contentMediaType": "application/json", "contentSchema": value}]}
        event = {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}
        good["content"]["text/event-stream"] = {"schema": {"description": text, "anyOf": [{"type": "string"}, event]}}
        good["description"] += f". {text}"
    found["responses"] = {"200": good} | {str(s): {"$ref": f"#/components/responses/{s}"} for s in sorted(route.refuses)}
    if route.path == "/readyz":
        found["responses"]["503"] = {"description": STATUSES[503], "content": {"application/json": {"schema": ref("Ready")}}}
    return found


def _refusal(status: int) -> Json:
    found: Json = {"description": STATUSES[status], "content": {"application/json": {"schema": ref("Error")}}}
    if status in (429, 503):
        found["headers"] = {"retry-after": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    return found


# -- requests ---------------------------------------------------------------------------------------------------------


def _requests(name: str, adapters: list[str], max_tokens: int) -> dict[str, Json]:
    """Name -> schema of every request, with what this server allows, and what is needed first."""
    found = copy.deepcopy(_models())
    for request in found.values():
        fields = request.get("properties", {})
        if "model" in fields:
            fields["model"] = {"description": fields["model"]["description"], "enum": [name, *adapters], "type": "string"}
        for length in fields.keys() & {"max_tokens", "max_completion_tokens"}:
            whole = fields[length]["anyOf"][0]
            whole.pop("exclusiveMaximum")
            whole["maximum"] = max_tokens
        needed = request.get("required", [])
        request["properties"] = {key: fields[key] for key in sorted(fields, key=lambda key: key not in needed)}
    found["PredictRequest"]["properties"]["model"]["type"] = ["string", "null"]
    found["PredictRequest"]["properties"]["model"]["enum"].append(None)
    return found


@cache
def _models() -> dict[str, Json]:
    models = (CompletionRequest, ChatRequest, PredictRequest, EmbeddingRequest, FeedbackRequest)
    _, found = models_json_schema([(model, "validation") for model in models], ref_template="#/components/schemas/{model}")
    plain: dict[str, Json] = _plain(found["$defs"])
    return plain


def _plain(part: Any) -> Any:
    """Without the titles and null defaults that pydantic makes up; our double backquotes as Markdown has them."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if isinstance(part, Mapping):
        return {
            key: value.replace("``", "`") if key == "description" and isinstance(value, str) else _plain(value)
            for key, value in part.items()
            if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
        }
    return part


_FILE = {"anyOf": [
    {"type": "string"},
    {"type": "object", "properties": {"bytes": {"type": "string"}, "path": {"type": ["string", "null"]}}, "required": ["bytes"]},
]}
_PLAIN = ["string", "number", "boolean", "null"]
_ITEM = {"type": ["string", "number", "boolean"]}
_EVENT = {"anyOf": [_ITEM, {"type": "object", "properties": {"item": _ITEM, "time": {"type": _PLAIN}}, "required": ["item"]}]}
_KINDS: dict[str, tuple[str, Json, Any]] = {
    "number": ("A number, or text that reads as one; null where it is missing.", {"type": _PLAIN}, 0),
    "category": ("A name, of which any that was not in the training data is taken as rare; null where it is missing.",
                 {"type": _PLAIN}, "a name"),
    "item": ("A name; null where it is missing.", {"type": _PLAIN}, "a name"),
    "boolean": ("True or false, or a word for it such as `yes`; null where it is missing.", {"type": _PLAIN}, True),
    "date": ("A date or a moment, as people write them, or seconds since 1970; null where it is missing.",
             {"type": _PLAIN}, "2026-01-31"),
    "text": ("A text; null where there is none.", {"type": _PLAIN}, "a text"),
    "pair": ("A text; null where there is none.", {"type": _PLAIN}, "a text"),
    "set": ("A list of names, or a text that separates them.",
            {"anyOf": [{"type": "array", "items": {"type": _PLAIN}}, {"type": _PLAIN}]}, ["a name"]),
    "events": ("A list of items or of {item, time}, or its JSON text.",
               {"anyOf": [{"type": "array", "items": _EVENT}, {"type": ["string", "null"]}]}, ["an item"]),
    "image": ("A picture in base64.", _FILE, None),
    "audio": ("A recording in base64.", _FILE, None),
}
"""Kind of an input -> meaning, schema and an example of a column."""


def _record(schema: Schema, inputs: list[dict[str, Any]]) -> tuple[Json, Json]:
    """What a record looks like, and an example; empty where a file belongs to it."""
    columns, example, whole = {}, {}, True
    for given in inputs:
        meaning, shape, usual = _KINDS[given["kind"]]
        names = given["choices"]
        columns[given["column"]] = {**shape, "description": f"Kind {given['kind']}. {meaning}"}
        if names:
            columns[given["column"]]["examples"] = names
        first = names[0] if names else usual
        example[given["column"]] = [first] if given["kind"] == "set" and names else first
        whole = whole and usual is not None
    for column in sorted(schema.answers - columns.keys()):
        columns[column] = {"description": "A right answer: it is taken, and not read."}
    required = [given["column"] for given in inputs]
    found = {"type": "object", "properties": columns, "required": required, "additionalProperties": False}
    return found, example if whole else {}
