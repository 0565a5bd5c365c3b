"""OpenAI's own client against the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest


@pytest.fixture(scope="module")
def client(shared: Any) -> Iterator[openai.OpenAI]:
    key = shared.site.ledger.add_key("openai")
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_completion(client: openai.OpenAI, shared: Any) -> None:
    answer = client.completions.create(
        model="tiny", prompt="def f", max_tokens=10, temperature=0, extra_body={"store": True, "truncate_prompt_tokens": -1}
    )
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (10, "length")
    assert shared.site.ledger.answer(answer.id)["text"] is not None


def test_a_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="def f", max_tokens=40, temperature=0)
    stream = client.completions.create(
        model="tiny", prompt="def f", max_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_a_stream_that_is_left_frees_its_slot(client: openai.OpenAI, shared: Any, until: Callable[..., None]) -> None:
    with client.completions.create(model="tiny", prompt="x", max_tokens=1000, temperature=0, stream=True) as stream:
        next(iter(stream))
    until(lambda: not shared.live.busy)


def test_its_exceptions(client: openai.OpenAI, shared: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="tiny", prompt="x", max_tokens=-1)
    assert (bad.value.param, bad.value.type) == ("max_tokens", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="tk-wrong").models.list()
    with pytest.raises(openai.APIStatusError) as long:
        client.completions.create(model="tiny", prompt="x" * 50_000)
    assert long.value.status_code == 413
