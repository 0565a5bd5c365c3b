"""The API: completions, streaming, feedback, errors in OpenAI's shape, and what the ledger keeps."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from treadle.serve import answers, failures
from treadle.serve.api import longest_body
from treadle.serve.schema import ChatRequest, CompletionRequest, FeedbackRequest
from treadle.spec.project import ProjectSpec

Serve = Callable[..., Any]
BAD = [
    ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 10**400}, "max_tokens"),
    ({"max_tokens": 1001}, "max_tokens"), ({"max_tokens": "16"}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"), ({"max_tokens": [1]}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"), ({"temperature": 2.1}, "temperature"), ({"temperature": "hot"}, "temperature"),
    ({"temperature": float("nan")}, "temperature"), ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"top_p": float("nan")}, "top_p"),
    ({"seed": 2**63}, "seed"), ({"seed": 0.5}, "seed"), ({"stop": ["a"] * 5}, "stop"), ({"stop": ""}, "stop[0]"),
    ({"stop": ["a", "x" * 257]}, "stop[1]"), ({"stop": [1]}, "stop[0]"), ({"stream": "yes"}, "stream"), ({"store": 1}, "store"),
    ({"n": 0}, "n"), ({"n": 33}, "n"), ({"best_of": 3}, None), ({"echo": True}, "echo"), ({"logprobs": 21}, "logprobs"),
    ({"presence_penalty": 2.5}, "presence_penalty"), ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"), ({"top_k": -2}, "top_k"), ({"min_p": 1.5}, "min_p"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"), ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"), ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ({"structured_outputs": {"json": {"type": "none"}}}, "structured_outputs"),
    ({"truncate_prompt_tokens": 10**30}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"), ({"truncate_prompt_tokens": 0}, None),
    ({"truncate_prompt_tokens": 5000, "prompt": "x " * 5000}, "truncate_prompt_tokens"),
    ({"prompt": []}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": [1, 99999]}, "prompt"), ({"prompt": [-1]}, "prompt"),
    ({"prompt": ["a"] * 33}, "prompt"), ({"model": 3}, "model"),
    ({"temprature": 1}, "temprature"), ({"suffix": "x"}, "suffix"), ({"stream_options": {"include_usage": True}}, None),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"), ({"user": 5}, "user"),
]


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: ")
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    return error


def test_models_names_the_project_and_its_version(serve: Serve) -> None:
    running = serve()
    body = running.client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["version"], model["context"]) == ("tiny", "model", 1, 1024)
    assert model["package"] == running.site.packages[0]


def test_a_completion_and_its_row_without_consent(serve: Serve) -> None:
    running = serve()
    response = running.complete("def f", max_tokens=12, temperature=0, stop=["\x00\x01"], user="u1")
    body = response.json()
    assert (response.status_code, response.headers["x-treadle-version"]) == (200, "1")
    assert (body["object"], body["model"], body["version"], body["stored"]) == ("text_completion", "tiny", 1, False)
    assert (body["choices"][0]["finish_reason"], body["choices"][0]["logprobs"]) == ("length", None)
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["total_tokens"] == 12 + body["usage"]["prompt_tokens"]
    row = running.site.ledger.answer(body["id"])
    assert (row["prompt"], row["text"], row["stored"], row["finish_reason"]) == (None, None, False, "length")
    assert (row["version"], row["package"], row["answer_tokens"]) == (1, running.site.packages[0], 12)
    assert row["prompt_tokens"] == body["usage"]["prompt_tokens"]
    assert "stop" not in row["settings"]
    assert "u1" not in json.dumps(dict(row["settings"]))


def test_sixteen_tokens_and_a_drawn_seed_by_default(serve: Serve) -> None:
    running = serve()
    first = running.complete("x").json()
    assert first["usage"]["completion_tokens"] <= 16
    seed = running.site.ledger.answer(first["id"])["settings"]["seed"]
    assert running.complete("x", seed=seed).json()["choices"] == first["choices"]
    neutral = {"n": 1, "best_of": 1, "echo": False, "logprobs": None, "presence_penalty": 0, "frequency_penalty": 0.0, "stop": None}
    assert running.complete("x", seed=seed, **neutral, temperature=None, max_tokens=None).json()["choices"] == first["choices"]


def test_a_stream_is_the_whole_answer_in_pieces(serve: Serve) -> None:
    running = serve()
    whole = running.complete("def f", max_tokens=30, temperature=0).json()
    counted = {"include_usage": True, "continuous_usage_stats": True}
    for options, usage in ((None, False), ({"include_usage": True}, True), (counted, True)):
        body = {"model": "tiny", "prompt": "def f", "max_tokens": 30, "temperature": 0, "stream": True, "stream_options": options}
        with running.client.stream("POST", "/v1/completions", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-treadle-version"] == "1"
            *chunks, done = events(response)
        assert done == "[DONE]"
        if usage:
            last = chunks.pop()
            assert (last["choices"], last["usage"]) == ([], whole["usage"])
        assert all(("usage" in chunk) == usage for chunk in chunks)
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert len(chunks) > 5
        if options is counted:
            tokens = [chunk["usage"]["completion_tokens"] for chunk in chunks]
            assert tokens == sorted(set(tokens))
            assert tokens[-1] == 30
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == ["length"]
        assert running.site.ledger.answer(chunks[0]["id"])["answer_tokens"] == 30


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[json.dumps(fields)[:40] for fields, _ in BAD])
def test_a_field_that_cannot_be_is_named(shared: Any, fields: dict[str, Any], param: str | None) -> None:
    content = json.dumps({"model": "tiny", "prompt": "x", **fields})
    response = shared.client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert next(iter(fields)) in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b'{"model": "tiny"}', b"\xff\xfe", b'{"prompt": "\\ud800", "model": "tiny"}', b"[" * 9000],
)
def test_a_body_that_cannot_be_read_is_400(shared: Any, content: bytes) -> None:
    response = shared.client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error_of(response)


def test_all_fields_at_fault_are_told_at_once(shared: Any) -> None:
    message = error_of(shared.complete("x", max_tokens=-1, temperature=9, nonsense=1))["message"]
    assert all(name in message for name in ("max_tokens", "temperature", "nonsense"))


def test_an_unknown_model_route_or_method(shared: Any) -> None:
    response = shared.client.post("/v1/completions", json={"model": "gpt-9", "prompt": "x"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert "tiny" in error_of(response)["message"]
    for method, path, status in (("GET", "/v1/none", 404), ("GET", "/v1/completions", 405), ("GET", "/page/../api.py", 404)):
        response = shared.client.request(method, path)
        assert response.status_code == status
        error_of(response)


def test_a_prompt_over_the_context(shared: Any) -> None:
    prompt = "import re\n" * 400
    response = shared.complete(prompt)
    assert (response.status_code, error_of(response)["param"]) == (400, "prompt")
    assert "1024" in error_of(response)["message"]
    assert "truncate_prompt_tokens" in error_of(response)["message"]
    usage = shared.complete(prompt, max_tokens=24, temperature=0, truncate_prompt_tokens=-1).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (1000, 24)
    assert usage["truncated_prompt_tokens"] > 0
    assert "truncated_prompt_tokens" not in shared.complete("x", max_tokens=1).json()["usage"]


def test_a_photograph_is_let_in_where_it_is_asked_for() -> None:
    def longest(input: object, **serve: object) -> int:
        model = {"inputs": {"a": input}, "trunk": {"transformer": {"depth": 1}}, "heads": {"b": "binary"}}
        data = {"sources": [{"table": "a.csv", "licence": "MIT"}]}
        return longest_body(ProjectSpec.model_validate({"name": "a", "data": data, "model": model, "serve": serve}))

    assert [longest(kind) for kind in ("number", "image", "audio", {"text": {}})] == [1_000_000, 20_000_000, 20_000_000, 1_000_000]
    assert longest("image", max_body="2 MB") == 2_000_000


def test_a_body_over_the_limit_is_413_with_and_without_its_length(shared: Any) -> None:
    big = json.dumps({"model": "tiny", "prompt": "x" * 30_000}).encode()
    headers = {"content-type": "application/json"}
    for content in (big, iter([big[:15_000], big[15_000:]]), b" " * 200_000, iter([b" " * 65_536] * 4)):
        response = shared.client.post("/v1/completions", content=content, headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert shared.complete("x", max_tokens=1).status_code == 200


def test_consent_keeps_the_text_redacted_also_across_the_seam(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()
    prompt = 'to = "alice@example.com"\n'
    body = running.complete(prompt, max_tokens=8, temperature=0, store=True, stop=["bob@example.com"]).json()
    row = running.site.ledger.answer(body["id"])
    assert body["stored"] is True
    assert (row["prompt"], row["text"]) == ('to = "<EMAIL>"\n', body["choices"][0]["text"])
    assert row["settings"]["stop"] == ["<EMAIL>"]
    assert answers.redact_pair('to = "bob@', 'example.com"\n')[:2] == ('to = "', '<EMAIL>"\n')
    assert answers.redact_pair("to = 1", "2 <b>")[:2] == ("to = 1", "2 <b>")
    assert answers.redact_pair("\0", "\0")[:2] == ("�", "�")


@pytest.mark.parametrize(
    ("policy", "asked", "kept"), [("never", True, False), ("always", None, True), ("consent", None, False), ("consent", True, True)]
)
def test_the_policy_decides_whose_text_is_kept(serve: Serve, policy: str, asked: bool | None, kept: bool) -> None:
    running = serve(f"serve.store={policy}")
    body = running.complete("secret plan", max_tokens=2, store=asked).json()
    row = running.site.ledger.answer(body["id"])
    assert (body["stored"], row["stored"], row["prompt"]) == (kept, kept, "secret plan" if kept else None)
    response = running.client.post("/v1/feedback", json={"answer_id": body["id"], "edited": "better"})
    assert response.status_code == (200 if kept else 409)


def test_feedback_is_filed_redacted_and_replaces_what_was_said(serve: Serve) -> None:
    running = serve()
    id = running.complete("def f", max_tokens=2, store=True).json()["id"]
    send = lambda **fields: running.client.post("/v1/feedback", json={"answer_id": id, **fields})  # noqa: E731
    assert send(rating="up").json()["rating"] == "up"
    body = send(rating="down", edited="mail alice@example.com").json()
    assert (body["edited"], body["redacted"]) == ("mail <EMAIL>", {"EMAIL": 1})
    assert send(rating=None).status_code == 200
    rows = [(row["answer"], row["rating"], row["edited"]) for row in running.site.ledger.all_feedback()]
    assert rows == [(id, "up", None), (id, "down", "mail <EMAIL>"), (id, None, None)]
    text = running.client.get("/metrics").text
    assert 'treadle_feedback_total{kind="edited"} 1.0' in text


def test_feedback_that_cannot_be(shared: Any) -> None:
    id = shared.complete("def f", max_tokens=2).json()["id"]
    cases = [
        ({"answer_id": "cmpl-none", "rating": "up"}, 404, "answer_id"), ({"answer_id": id, "edited": "x"}, 409, "edited"),
        ({"answer_id": id, "rating": "meh"}, 400, "rating"), ({"answer_id": id}, 400, None), ({"rating": "up"}, 400, "answer_id"),
        ({"answer_id": id, "rating": "up", "stars": 5}, 400, "stars"), ({"answer_id": id, "edited": 3}, 400, "edited"),
    ]
    for body, status, param in cases:
        response = shared.client.post("/v1/feedback", json=body)
        assert (response.status_code, error_of(response)["param"]) == (status, param), body
    assert '"store": true' in error_of(shared.client.post("/v1/feedback", json=cases[1][0]))["message"]
    assert shared.site.ledger.all_feedback() == []


def test_a_client_that_goes_away_frees_its_slot_and_the_answer_is_filed(serve: Serve, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1")
    for stream in (True, False):
        body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as connection:
            lines = ("POST /v1/completions HTTP/1.1", "host: localhost", "content-type: application/json", "content-length: %d")
            connection.sendall("\r\n".join(lines).encode() % len(body) + b"\r\n\r\n" + body)
            if stream:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            until(lambda: running.live.busy)
        until(lambda: not running.live.busy)
    until(lambda: running.site.ledger.totals()["answers"] == 2)
    assert 'treadle_answers_total{finish_reason="cancelled",key="none",version="1"} 2.0' in running.client.get("/metrics").text
    assert running.complete("x", max_tokens=1).status_code == 200


def test_a_full_queue_is_429_with_retry_after(serve: Serve, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1", "serve.queue=0")
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0, "stream": True}
    with running.client.stream("POST", "/v1/completions", json=body):
        until(lambda: running.live.worker.active)
        response = httpx.post(f"{running.url}/v1/completions", json={"model": "tiny", "prompt": "x"})
    assert (response.status_code, error_of(response)["type"]) == (429, "rate_limit_error")
    assert int(response.headers["retry-after"]) >= 1


def test_a_failing_model_is_500_and_the_stream_says_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()

    def broken(*_: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("treadle.serve.engine.Engine._read", broken)
    response = running.complete("x")
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
    body = {"model": "tiny", "prompt": "x", "stream": True, "max_tokens": 50}
    response = running.client.post("/v1/completions", json=body)
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")  # there was no piece as yet
    monkeypatch.undo()
    with running.client.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        monkeypatch.setattr("treadle.serve.engine.Engine._read", broken)
        *_, last = [json.loads(line.removeprefix("data: ")) for line in (first, *lines) if line]
    assert last["error"]["type"] == "server_error"
    assert running.site.ledger.totals()["answers"] == 3


def test_an_answer_is_given_though_the_ledger_cannot_take_it(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(running.site.ledger, "record_answers", full)
    assert running.complete("x", max_tokens=2).status_code == 200
    assert "treadle_unrecorded_answers_total 1.0" in running.client.get("/metrics").text


def test_health_readiness_and_figures(serve: Serve) -> None:
    running = serve()
    running.complete("x", max_tokens=3)
    running.client.get("/made/up/path")
    assert running.client.get("/healthz").json() == {"status": "ok"}
    assert running.client.get("/readyz").json() == {"status": "ready", "version": 1, "failed": None, "stalled": None}
    text = running.client.get("/metrics").text
    for line in (
        'treadle_requests_total{key="none",route="/v1/completions",status="200",version="1"} 1.0',
        'treadle_requests_total{key="none",route="other",status="404",version="none"} 1.0',
        'treadle_tokens_total{direction="answer",key="none",version="1"} 3.0',
        'treadle_first_token_seconds_count{key="none",version="1"} 1.0',
        'treadle_answer_seconds_count{key="none",version="1"} 1.0',
        "treadle_active_slots 0.0", "treadle_queue_length 0.0", "treadle_live_version 1.0", "treadle_swap_failed 0.0",
    ):
        assert line in text
    assert "made/up" not in text


def test_a_draining_server_is_not_ready_and_takes_nothing_new(serve: Serve) -> None:
    running = serve()
    running.live.draining = True
    assert (running.client.get("/readyz").status_code, running.client.get("/healthz").status_code) == (503, 200)
    response = running.complete("x")
    assert (response.status_code, "retry-after" in response.headers) == (503, True)


def test_the_docs_name_every_field_status_and_figure(shared: Any) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    for name in (*CompletionRequest.model_fields, *ChatRequest.model_fields, *FeedbackRequest.model_fields):
        assert f"`{name}`" in docs or f'"{name}"' in docs, name
    for status in failures._CODES:
        assert str(status) in docs, status
    for family in shared.monitor.registry.collect():
        assert f"`{family.name}" in docs, family.name
