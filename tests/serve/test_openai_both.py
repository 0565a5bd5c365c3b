"""OpenAI's two clients, the one that blocks and the one that is awaited, against the server: what they share, and their errors."""

from __future__ import annotations

import asyncio
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jsonschema
import openai
import pytest

from treadle.serve.engine import Engine

Serve = Callable[..., Any]
Do = Callable[[Any], Any]
TALK: Any = [{"role": "user", "content": "def f"}]
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


class Client(ABC):
    """One of the clients; ``do`` is what is asked of it, as in ``lambda client: client.models.list()``."""

    @abstractmethod
    def one(self, running: Any, do: Do, **how: Any) -> Any:
        """What is answered."""

    @abstractmethod
    def every(self, running: Any, do: Do) -> list[Any]:
        """All events of a stream."""

    @abstractmethod
    def begin(self, running: Any, do: Do) -> Any:
        """The first event of a stream that is then left."""


def settings(running: Any, how: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": f"{running.url}/v1", "api_key": "any", "max_retries": 0, **how}


class Blocking(Client):
    def one(self, running: Any, do: Do, **how: Any) -> Any:
        with openai.OpenAI(**settings(running, how)) as client:
            return do(client)

    def every(self, running: Any, do: Do) -> list[Any]:
        with openai.OpenAI(**settings(running, {})) as client:
            return list(do(client))

    def begin(self, running: Any, do: Do) -> Any:
        client = openai.OpenAI(**settings(running, {}))
        with do(client) as stream:
            return next(iter(stream))


class Awaited(Client):
    def one(self, running: Any, do: Do, **how: Any) -> Any:
        async def ask() -> Any:
            async with openai.AsyncOpenAI(**settings(running, how)) as client:
                return await do(client)

        return asyncio.run(ask())

    def every(self, running: Any, do: Do) -> list[Any]:
        async def ask() -> list[Any]:
            async with openai.AsyncOpenAI(**settings(running, {})) as client:
                return [event async for event in await do(client)]

        return asyncio.run(ask())

    def begin(self, running: Any, do: Do) -> Any:
        async def ask() -> Any:
            client = openai.AsyncOpenAI(**settings(running, {}))
            async with await do(client) as stream:
                return await anext(aiter(stream))

        return asyncio.run(ask())


@pytest.fixture(params=[Blocking, Awaited])
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param()
    return found


def test_models(client: Client, shared: Any) -> None:
    assert [model.id for model in client.one(shared, lambda c: c.models.list()).data] == ["tiny"]
    assert client.one(shared, lambda c: c.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError, match=r"there is no model 'large/one'.*'tiny'"):
        client.one(shared, lambda c: c.models.retrieve("large/one"))


def test_completions(client: Client, shared: Any) -> None:
    how: Any = {"model": "tiny", "prompt": "def f", "max_tokens": 12, "temperature": 0}
    whole = client.one(shared, lambda c: c.completions.create(**how))
    assert whole.choices[0].text == shared.complete("def f", max_tokens=12, temperature=0).json()["choices"][0]["text"]
    asked: Any = {"stream": True, "stream_options": {"include_usage": True}}
    events = client.every(shared, lambda c: c.completions.create(**how, **asked))
    assert "".join(choice.text for event in events for choice in event.choices) == whole.choices[0].text
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


def test_conversations(client: Client, shared: Any) -> None:
    how: Any = {"model": "tiny", "messages": TALK, "max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.one(shared, lambda c: c.chat.completions.create(**how)).choices[0]
    events = client.every(shared, lambda c: c.chat.completions.create(**how, stream=True))
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole.message.content
    likely = [one.logprob for event in events if event.choices[0].logprobs for one in event.choices[0].logprobs.content]
    assert likely == pytest.approx([one.logprob for one in whole.logprobs.content])
    assert len(likely) == 12


def test_functions_are_called(client: Client, shared: Any) -> None:
    how: Any = {"model": "tiny", "messages": TALK, "tools": TOOLS, "extra_body": {"structured_outputs": {"choice": [CALL]}}}
    whole = client.one(shared, lambda c: c.chat.completions.create(**how)).choices[0]
    (call,) = whole.message.tool_calls
    events = client.every(shared, lambda c: c.chat.completions.create(**how, stream=True))
    (streamed,) = [call for event in events for call in event.choices[0].delta.tool_calls or ()]
    for found in (call, streamed):
        assert (found.function.name, json.loads(found.function.arguments)) == ("add", {"a": 1})
    assert whole.finish_reason == events[-1].choices[0].finish_reason == "tool_calls"


def test_an_answer_keeps_to_a_schema(client: Client, shared: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    how: Any = {"model": "tiny", "messages": TALK, "max_tokens": 60, "seed": 1, "response_format": form}
    whole = client.one(shared, lambda c: c.chat.completions.create(**how)).choices[0].message.content
    events = client.every(shared, lambda c: c.chat.completions.create(**how, stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole
    jsonschema.validate(json.loads(whole), SCHEMA)


def test_embeddings(client: Client, alike: Any) -> None:
    found = client.one(alike, lambda c: c.embeddings.create(model="alike", input=["a small dog", "tiny hound"]))
    same = client.one(alike, lambda c: c.embeddings.create(model="alike", input="tiny hound", encoding_format="float"))
    assert found.data[1].embedding == pytest.approx(same.data[0].embedding, abs=1e-6)
    assert [math.hypot(*one.embedding) for one in found.data] == pytest.approx([1, 1], abs=1e-4)


def test_errors_are_its_own_exceptions(client: Client, serve: Serve, site: Any) -> None:
    running = serve("serve.lockout.wrong_keys=null", host="0.0.0.0")
    right = site.ledger.add_key("right", limits={"requests_per_minute": 4})
    other = site.ledger.add_key("other", ["metrics"])

    def ask(key: str, **fields: Any) -> Any:
        body: Any = {"model": "tiny", "prompt": "x", "max_tokens": 1, **fields}
        return client.one(running, lambda c: c.completions.create(**body), api_key=key)

    for key, fields, kind, status, code in (
        ("tk-wrong", {}, openai.AuthenticationError, 401, "invalid_api_key"),
        (other, {}, openai.PermissionDeniedError, 403, "scope_missing"),
        (right, {"model": "gpt-9"}, openai.NotFoundError, 404, "model_not_found"),
        (right, {"temperature": 9}, openai.BadRequestError, 400, "invalid_value"),
        (right, {"prompt": "x" * 50_000}, openai.APIStatusError, 413, "body_too_large"),
    ):
        with pytest.raises(kind) as caught:
            ask(key, **fields)
        assert (caught.value.status_code, caught.value.code) == (status, code)
    assert ask(right).choices
    with pytest.raises(openai.RateLimitError) as limited:
        ask(right)
    assert limited.value.code == "limit_reached"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 61


def test_a_full_server_is_asked_again_when_it_says(
    client: Client, serve: Serve, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine._read

    def slowly(*given: Any) -> Any:  # so that the answer is not done before the next one is asked for
        time.sleep(0.01)
        return real(*given)

    monkeypatch.setattr(Engine, "_read", slowly)
    running = serve("serve.slots=1", "serve.queue=0")
    body: Any = {"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0, "stream": True}
    with running.client.stream("POST", "/v1/completions", json=body):
        until(lambda: running.live.worker.active)
        with pytest.raises(openai.RateLimitError) as full:
            client.one(running, lambda c: c.completions.create(model="tiny", prompt="x", max_tokens=1))
        assert full.value.code == "queue_full"
    again = client.one(running, lambda c: c.completions.create(model="tiny", prompt="x", max_tokens=1), max_retries=8)
    assert again.choices


def test_a_stopping_server_is_an_internal_error(client: Client, serve: Serve) -> None:
    running = serve()
    running.live.draining = True
    with pytest.raises(openai.InternalServerError) as stopping:
        client.one(running, lambda c: c.completions.create(model="tiny", prompt="x"))
    assert stopping.value.status_code == 503


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_that_is_left_frees_its_slot(
    client: Client, serve: Serve, until: Callable[..., None], site: Any, chat: bool
) -> None:
    running = serve("serve.slots=1", "serve.queue=0")
    how: Any = {"model": "tiny", "max_tokens": 1000, "temperature": 0, "stream": True}
    if chat:
        client.begin(running, lambda c: c.chat.completions.create(messages=TALK, **how))
    else:
        client.begin(running, lambda c: c.completions.create(prompt="x", **how))
    until(lambda: not running.live.busy)
    until(lambda: site.ledger.totals()["answers"] == 1)
    assert 'treadle_answers_total{finish_reason="cancelled",key="none",version="1"} 1.0' in running.client.get("/metrics").text
    assert running.complete("x", max_tokens=1).status_code == 200


def test_a_task_that_is_cancelled_frees_its_slot(serve: Serve, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1", "serve.queue=0")

    async def ask() -> None:
        async with openai.AsyncOpenAI(**settings(running, {})) as client:
            whole = asyncio.create_task(client.completions.create(model="tiny", prompt="x", max_tokens=1000, temperature=0))
            while not running.live.busy:
                await asyncio.sleep(0.01)
            whole.cancel()
            with pytest.raises(asyncio.CancelledError):
                await whole

    asyncio.run(ask())
    until(lambda: not running.live.busy)
    assert running.complete("x", max_tokens=1).status_code == 200


def test_many_at_once_are_each_answered_as_alone(shared: Any) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(**settings(shared, {})) as client:
            asked = [client.completions.create(model="tiny", prompt=f"def f{n}", max_tokens=8, temperature=0) for n in range(10)]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    alone = [shared.complete(f"def f{n}", max_tokens=8, temperature=0).json()["choices"][0]["text"] for n in range(10)]
    assert asyncio.run(ask()) == alone


def test_a_client_that_loses_patience_frees_its_slot(client: Client, serve: Serve, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1", "serve.queue=0", "serve.max_tokens=1000")
    how: Any = {"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0}
    with pytest.raises(openai.APITimeoutError):
        client.one(running, lambda c: c.completions.create(**how), timeout=0.05)
    until(lambda: not running.live.busy)
    assert running.complete("x", max_tokens=1).status_code == 200
