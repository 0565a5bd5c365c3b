"""What responses look like, as JSON Schema (2020-12): OpenAI's objects with our own fields beside them."""

from __future__ import annotations

from typing import Any

from treadle.data.schema import Schema

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
WHOLE: Json = {"type": "integer"}
YES: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def a(meaning: str, shape: Json) -> Json:
    """``shape`` with what it means."""
    return {**shape, "description": meaning}


def maybe(shape: Json) -> Json:
    """``shape``, or null."""
    return {"anyOf": [shape, {"type": "null"}]}


def several(shape: Json) -> Json:
    return {"type": "array", "items": shape}


def by_name(shape: Json) -> Json:
    return {"type": "object", "additionalProperties": shape}


def one(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


def thing(fields: dict[str, Json], optional: dict[str, Json] | None = None) -> Json:
    """An object with ``fields``, and at times with those that are ``optional``."""
    return {"type": "object", "properties": {**fields, **(optional or {})}, "required": list(fields)}


def _usage() -> Json:
    details = thing({"cached_tokens": a("Tokens of the prompts that an earlier answer had read.", COUNT)})
    own = {"truncated_prompt_tokens": a("Left out at the beginning; where `truncate_prompt_tokens` was sent.", COUNT)}
    counts = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), COUNT)
    return thing({**counts, "prompt_tokens_details": details}, own)


def _reply(kind: str, choice: str) -> Json:
    """A whole answer, or an event of a stream."""
    return thing({
        "id": a("By which feedback finds the answer.", TEXT), "object": {"const": kind}, "created": a("Unix seconds.", WHOLE),
        "model": TEXT, "choices": several(ref(choice)), "version": a("Which version answered.", WHOLE),
        "stored": a("Whether the text is kept.", YES),
    }, {"usage": maybe(ref("Usage"))})


_REASON = a("`stop`: an end mark or a stop string; `length`: a limit; `tool_calls`: functions are asked for.",
            maybe(one("stop", "length", "tool_calls")))
_OWN_ID = {"id": a("Of this answer, where there are several.", TEXT)}


def _choices() -> dict[str, Json]:
    token = {"token": TEXT, "logprob": NUMBER, "bytes": several(WHOLE)}
    each = thing({**token, "top_logprobs": several(thing(token))})
    likely = maybe(thing({"content": several(each)}))
    function = thing({"name": TEXT, "arguments": a("JSON.", TEXT)})
    call = thing({"id": TEXT, "type": {"const": "function"}, "function": function}, {"index": a("In a stream.", COUNT)})
    message = thing({"role": {"const": "assistant"}, "content": maybe(TEXT), "refusal": {"type": "null"}},
                    {"tool_calls": several(call)})
    delta = thing({}, {"role": {"const": "assistant"}, "content": TEXT, "tool_calls": several(call)})
    parts = {
        "tokens": several(TEXT), "token_logprobs": several(NUMBER), "top_logprobs": several(by_name(NUMBER)),
        "text_offset": several(COUNT),
    }
    return {
        "CompletionChoice": thing(
            {"index": COUNT, "text": TEXT, "logprobs": maybe(thing(parts)), "finish_reason": _REASON}, _OWN_ID),
        "ChatChoice": thing({"index": COUNT, "message": message, "logprobs": likely, "finish_reason": _REASON}, _OWN_ID),
        "ChatChunkChoice": thing({"index": COUNT, "delta": delta, "logprobs": likely, "finish_reason": _REASON}, _OWN_ID),
    }


def _inputs() -> dict[str, Json]:
    column = thing({"column": TEXT, "input": TEXT, "kind": TEXT, "choices": several(TEXT)})
    head = thing({"name": TEXT, "kind": TEXT, "choices": several(TEXT)}, {"column": TEXT, "graded": YES})
    facts = {
        "id": a("The project's name.", TEXT), "object": {"const": "model"}, "created": a("Live since (Unix seconds).", WHOLE),
        "owned_by": TEXT, "version": WHOLE, "package": TEXT,
    }
    adapter = {"parent": a("Of an adapter the model that it belongs to.", TEXT), "sha256": a("Of its weights.", TEXT)}
    language = thing(
        {**facts, "kind": {"const": "language"}, "context": a("Tokens of prompt and answer together.", COUNT)}, adapter)
    records = thing({**facts, "kind": {"const": "records"}, "inputs": several(column), "heads": several(head)})
    return {"Model": {"anyOf": [language, records]}, "Models": thing({"object": {"const": "list"}, "data": several(ref("Model"))})}


def _status() -> Json:
    seconds = maybe(thing({"p50": NUMBER, "p90": NUMBER, "p99": NUMBER, "count": COUNT}))
    counts = thing(dict.fromkeys(("ok", "client_errors", "server_errors", "refused"), COUNT))
    version = thing({
        "version": WHOLE, "package": TEXT, "role": TEXT, "share": SHARE, "requests": COUNT, "tokens": COUNT, "total": seconds,
        "feedback": thing({"up": COUNT, "down": COUNT, "edited": COUNT}),
    })
    drift = thing({"what": one("input", "output"), "name": TEXT, "statistic": TEXT, "value": NUMBER, "count": COUNT,
                   "level": one("none", "some", "much")})
    load = dict.fromkeys(("active", "waiting", "slots", "queue"), COUNT)
    return thing({
        "at": TEXT, "uptime": a("Seconds.", NUMBER), "model": TEXT, "version": WHOLE, "draining": YES, "stalled": maybe(TEXT),
        "load": thing({**load, "requests_per_minute": NUMBER, "tokens_per_minute": NUMBER}),
        "latency": a("Seconds, of the last five minutes.", by_name(seconds)), "requests": counts, "versions": several(version),
        "keys": several(thing({"key": TEXT, "requests": COUNT, "tokens": COUNT, "predictions": COUNT, "money": NUMBER})),
        "cost": thing({"currency": TEXT, "per_1000_requests": maybe(NUMBER), "how": TEXT}),
        "feedback": thing({"answers": COUNT, "feedback": COUNT, "rate": NUMBER}),
        "cache": maybe(thing({"hits": COUNT, "asked": COUNT})), "drift": several(drift),
        "alerts": several(thing({"at": TEXT, "name": TEXT, "message": TEXT, "over": YES})),
    })


def responses(schema: Schema | None) -> dict[str, Json]:
    """Name -> what a response with it looks like; ``schema`` is that of a model of records."""
    error = thing({"message": a("What is wrong, and the cure.", TEXT), "type": TEXT, "param": a("The field at fault.", maybe(TEXT)),
                   "code": TEXT})
    failed = thing({"version": WHOLE, "package": TEXT, "message": TEXT})
    vector = {"anyOf": [several(NUMBER), a("Little-endian float32 in base64.", TEXT)]}
    filed = a("By which feedback finds it; empty where it could not be filed.", TEXT)
    return {
        "Error": thing({"error": error}), **_inputs(), "Usage": _usage(), **_choices(),
        "Completion": _reply("text_completion", "CompletionChoice"),
        "CompletionChunk": _reply("text_completion", "CompletionChoice"),
        "Chat": _reply("chat.completion", "ChatChoice"), "ChatChunk": _reply("chat.completion.chunk", "ChatChunkChoice"),
        "Heads": thing({name: _ANSWERS[head.kind] for name, head in schema.model.heads.items()}) if schema else by_name({}),
        "Prediction": thing({"id": filed, "heads": ref("Heads")}),
        "Predictions": thing({"object": {"const": "predictions"}, "model": TEXT, "version": WHOLE, "stored": YES,
                              "predictions": several(ref("Prediction"))}),
        "Embedding": thing({"object": {"const": "embedding"}, "index": COUNT, "embedding": vector, "id": filed}),
        "Embeddings": thing({
            "object": {"const": "list"}, "data": several(ref("Embedding")), "model": TEXT,
            "usage": thing({"prompt_tokens": COUNT, "total_tokens": COUNT}), "version": WHOLE, "stored": YES,
        }),
        "Feedback": thing({
            "object": {"const": "feedback"}, "answer_id": TEXT, "rating": maybe(one("up", "down")),
            "edited": a("As it is kept.", maybe(TEXT)), "redacted": a("What was replaced in it, by kind.", by_name(COUNT)),
        }),
        "Status": _status(),
        "Health": thing({"status": {"const": "ok"}}),
        "Ready": thing({
            "status": one("ready", "draining", "stalled"), "version": WHOLE,
            "stalled": a("Why no answer can begin, and what is done about it.", maybe(TEXT)),
            "failed": a("The version that should be live and cannot be loaded.", maybe(failed)),
        }),
    }


_SPAN = {"start": COUNT, "end": COUNT, "label": TEXT, "text": TEXT, "probability": SHARE}
_BOX = {"box": {**several(NUMBER), "minItems": 4, "maxItems": 4}, "label": TEXT, "probability": SHARE}
_SHARES = {"probabilities": a("The likeliest ones.", by_name(SHARE))}
_ANSWERS: dict[str, Json] = {
    "category": thing({"answer": TEXT, **_SHARES}), "binary": thing({"answer": TEXT, **_SHARES}),
    "labels": thing({"answer": several(TEXT), **_SHARES}), "next_item": thing({"answer": maybe(TEXT), **_SHARES}),
    "number": thing({"answer": NUMBER}, {"quantiles": by_name(NUMBER)}),
    "tags": thing({"answer": several(thing(_SPAN))}, {"read": a("Characters that were read, where the text is longer.", COUNT)}),
    "boxes": thing({"answer": several(thing(_BOX))}), "ctc": thing({"answer": TEXT}),
    "embedding": thing({"answer": a("The cosine of both texts; of one alone its vector.",
                                    {"anyOf": [NUMBER, several(NUMBER), {"type": "null"}]})}),
}
"""Kind of a head -> what it answers."""
