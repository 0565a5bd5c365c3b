"""Conversations, several answers, likelihoods, forms and calls of functions, by OpenAI's own client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from treadle.data.tokenizer import load_tokenizer

TALK: Any = [{"role": "system", "content": "short"}, {"role": "user", "content": [{"type": "text", "text": "def f"}]}]
PLAIN = "system: short\nuser: def f\nassistant: "
SCHEMA = {
    "type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["ok", "n"], "additionalProperties": False,
}
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def client(shared: Any) -> Iterator[openai.OpenAI]:
    key = shared.site.ledger.add_key("chat")
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def ids(shared: Any, text: str) -> list[int]:
    found: list[int] = load_tokenizer(shared.site.folder(shared.site.packages[0]) / "tokenizer.json").encode(text).ids
    return found


def test_a_chat_is_the_completion_of_its_template(client: openai.OpenAI, shared: Any) -> None:
    chat = client.chat.completions.create(model="tiny", messages=TALK, max_tokens=20, temperature=0, store=True)
    same: Any = ids(shared, PLAIN)
    plain = client.completions.create(model="tiny", prompt=same, max_tokens=20, temperature=0)
    assert chat.choices[0].message.content == plain.choices[0].text
    assert (chat.object, chat.choices[0].message.role, chat.choices[0].finish_reason) == ("chat.completion", "assistant", "length")
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len(same)
    row = shared.site.ledger.answer(chat.id)
    assert (row["prompt"], row["text"]) == (PLAIN, plain.choices[0].text)


def test_a_streamed_chat(client: openai.OpenAI) -> None:
    how: Any = {"model": "tiny", "messages": TALK, "max_tokens": 30, "temperature": 0}
    whole = client.chat.completions.create(**how)
    chunks = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole.choices[0].message.content
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_several_answers_are_those_of_the_next_seeds(client: openai.OpenAI, shared: Any) -> None:
    how: Any = {"model": "tiny", "prompt": "def f", "max_tokens": 15, "temperature": 1.2}
    three = client.completions.create(**how, seed=5, n=3)
    alone = [client.completions.create(**how, seed=seed).choices[0].text for seed in (5, 6, 7)]
    assert [choice.text for choice in three.choices] == alone
    assert len(set(alone)) > 1
    assert three.usage is not None
    assert three.usage.completion_tokens == sum(shared.site.ledger.answer(choice.id)["answer_tokens"] for choice in three.choices)
    pieces = ["", "", ""]
    for chunk in client.completions.create(**how, seed=5, n=3, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == alone
    texts: Any = ["def f", "import"]
    both = client.completions.create(**(how | {"prompt": texts, "temperature": 0}), n=2)
    one = [client.completions.create(**(how | {"prompt": text, "temperature": 0})).choices[0].text for text in texts]
    assert [choice.text for choice in both.choices] == [one[0], one[0], one[1], one[1]]


def test_how_likely_tokens_were(client: openai.OpenAI) -> None:
    how: Any = {"model": "tiny", "max_tokens": 12, "temperature": 0}
    found = client.completions.create(prompt="def f", logprobs=3, **how).choices[0]
    told = found.logprobs
    assert told is not None
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == 12
    assert "".join(told.tokens) == found.text
    for token, value, top, offset in zip(told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True):
        assert found.text[offset:].startswith(token)
        assert len(top) <= 3
        assert max(top.values()) == pytest.approx(value)  # the likeliest was taken
        assert sum(math.exp(each) for each in top.values()) <= 1 + 1e-9
    chat = client.chat.completions.create(messages=TALK, logprobs=True, top_logprobs=2, **how).choices[0]
    assert chat.logprobs is not None
    assert chat.logprobs.content is not None
    assert bytes(byte for one in chat.logprobs.content for byte in one.bytes or ()).decode() == chat.message.content
    assert all(len(one.top_logprobs) == 2 for one in chat.logprobs.content)
    streamed = [
        one for chunk in client.chat.completions.create(messages=TALK, logprobs=True, top_logprobs=2, stream=True, **how)
        for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content or ()
    ]
    assert streamed == chat.logprobs.content


def test_penalties_and_bias_change_what_is_written(client: openai.OpenAI, shared: Any) -> None:
    how: Any = {"model": "tiny", "prompt": "def f", "max_tokens": 30, "temperature": 0}
    plain = client.completions.create(**how, logprobs=0).choices[0]
    assert plain.logprobs is not None
    for more in ({"frequency_penalty": 2.0}, {"extra_body": {"repetition_penalty": 5.0}}):
        assert client.completions.create(**how, **more).choices[0].text != plain.text
    first = ids(shared, plain.text)[0]
    assert not client.completions.create(**how, logit_bias={str(first): -100}).choices[0].text.startswith(plain.logprobs.tokens[0])
    forced = ids(shared, "=")[0]
    assert client.completions.create(**how, logit_bias={str(forced): 100}).choices[0].text == "=" * 30
    hot = how | {"temperature": 2}
    by = [client.completions.create(**hot, extra_body=more).choices[0].text for more in ({"top_k": 1}, {"min_p": 1.0})]
    assert by == [plain.text, plain.text]
    bias = {str(ids(shared, text)[0]): amount for text, amount in (("=", 100), ("(", 99))}
    once = client.completions.create(**how, logit_bias=bias, presence_penalty=2.0).choices[0].text
    assert once[:2] == "=("


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_is_held_to_a_schema(client: openai.OpenAI, temperature: float) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    found = client.chat.completions.create(
        model="tiny", messages=TALK, max_tokens=200, temperature=temperature, response_format=form, seed=1, n=3
    )
    for choice in found.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)


def test_an_answer_is_held_to_choices_and_expressions(client: openai.OpenAI) -> None:
    how: Any = {"model": "tiny", "prompt": "def f", "max_tokens": 40}
    choice = client.completions.create(**how, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}).choices[0]
    assert (choice.text in ("yes", "no"), choice.finish_reason) == (True, "stop")
    date = client.completions.create(**how, extra_body={"structured_outputs": {"regex": "20[0-9]{2}-[01][0-9]"}}).choices[0]
    assert (len(date.text), date.text[:2], date.text[4], date.finish_reason) == (7, "20", "-", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_function(client: openai.OpenAI, stream: bool) -> None:
    how: Any = {"model": "tiny", "messages": TALK, "max_tokens": 200, "extra_body": {"structured_outputs": {"choice": [CALL]}}}
    if stream:
        deltas = [choice for chunk in client.chat.completions.create(**how, tools=TOOLS, stream=True) for choice in chunk.choices]
        calls, reason = [call for choice in deltas for call in choice.delta.tool_calls or ()], deltas[-1].finish_reason
    else:
        found = client.chat.completions.create(**how, tools=TOOLS).choices[0]
        calls, reason = found.message.tool_calls or [], found.finish_reason
        assert found.message.content is None
    (call,) = calls
    assert (call.function.name, json.loads(call.function.arguments), reason) == ("add", {"a": 1}, "tool_calls")
    plain = client.chat.completions.create(**how, tools=TOOLS, tool_choice="none").choices[0]
    assert (plain.message.content, plain.message.tool_calls) == (CALL, None)
    again: Any = [*TALK, {"role": "assistant", "tool_calls": [call.model_dump(exclude={"index"})]},
                  {"role": "tool", "tool_call_id": call.id, "content": "2"}]
    assert client.chat.completions.create(model="tiny", messages=again, max_tokens=3).choices[0].message.content is not None


def test_what_a_prompt_shares_with_an_earlier_one_is_told(client: openai.OpenAI) -> None:
    text = "import json\n" * 30
    first, second = (client.completions.create(model="tiny", prompt=text + end, max_tokens=2) for end in ("a", "b"))
    for found in (first, second):
        assert found.usage is not None
        assert found.usage.prompt_tokens_details is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) > 0.5 * second.usage.prompt_tokens


def test_what_cannot_be_is_said(client: openai.OpenAI, alike: Any) -> None:
    wrong: Any = [
        ({"top_logprobs": 2}, None), ({"max_tokens": 2, "max_completion_tokens": 2}, None),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"extra_body": {"repetition_penalty": 1e-40}}, "repetition_penalty"), ({"tool_choice": "required"}, "tool_choice"),
    ]
    for more, field in wrong:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="tiny", messages=TALK, **more)
        assert bad.value.param == field
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=[])
    told = alike.client.post("/v1/chat/completions", json={"model": alike.site.project.spec.name, "messages": TALK})
    assert told.status_code == 404


def test_a_form_that_grows_too_large_fails_alone(client: openai.OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    how: Any = {"model": "tiny", "prompt": "def f", "temperature": 0}
    with client.completions.create(**how, max_tokens=900, stream=True) as stream:
        pieces = iter(stream)
        next(pieces)
        with pytest.raises(openai.InternalServerError):
            client.completions.create(**how, max_tokens=5, extra_body={"structured_outputs": {"regex": "a{1000000}"}})
        assert [choice.finish_reason for chunk in pieces for choice in chunk.choices][-1] == "length"
    assert "the answer's form failed" in caplog.text
    assert "a{1000000}" not in caplog.text
