"""Vectors of texts, by OpenAI's own client."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest

TEXTS = ["a small dog", "tiny hound", "a small dog"]


@pytest.fixture(scope="module")
def client(alike: Any) -> Iterator[openai.OpenAI]:
    key = alike.site.ledger.add_key("embeddings")
    with openai.OpenAI(base_url=f"{alike.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_vectors_are_those_of_the_model(client: openai.OpenAI, alike: Any) -> None:
    found = client.embeddings.create(model="alike", input=TEXTS, encoding_format="float")
    vectors = [one.embedding for one in found.data]
    assert [one.index for one in found.data] == [0, 1, 2]
    assert vectors[0] == vectors[2]
    assert math.hypot(*vectors[1]) == pytest.approx(1, abs=1e-4)
    rows = [{"one": "a small dog", "two": "tiny hound"}, {"one": None, "two": "tiny hound"}]
    told = alike.client.post("/v1/predict", json={"inputs": rows}).json()["predictions"]
    cosine, alone = (one["heads"]["alike"]["answer"] for one in told)
    assert sum(a * b for a, b in zip(vectors[0], vectors[1], strict=True)) == pytest.approx(cosine, abs=1e-4)
    assert vectors[1] == pytest.approx(alone, abs=1e-5)
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(len(text.split()) for text in TEXTS)


def test_a_text_alone_and_in_base64(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model="alike", input="tiny hound", encoding_format="float").data[0].embedding
    asked = client.embeddings.create(model="alike", input="tiny hound", dimensions=len(plain))  # base64, which the client reads
    assert asked.data[0].embedding == pytest.approx(plain, abs=1e-6)
    raw = client.embeddings.with_raw_response.create(model="alike", input="tiny hound", encoding_format="base64")
    coded = raw.http_response.json()["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(plain)}f", base64.b64decode(coded))) == pytest.approx(plain, abs=1e-6)
    assert raw.headers["x-treadle-version"] == "1"


def test_each_vector_is_filed(client: openai.OpenAI, alike: Any) -> None:
    for one in client.embeddings.create(model="alike", input=TEXTS).data:
        row = alike.site.ledger.answer(one.model_extra["id"])
        assert (row["prompt"], row["finish_reason"], row["version"]) == (None, "stop", 1)


@pytest.mark.parametrize(("more", "field"), [
    ({"input": ""}, "input"), ({"input": ["a", " "]}, "input[1]"), ({"input": []}, "input"), ({"input": [1, 2]}, "input"),
    ({"input": ["a", "dog " * 9]}, "input[1]"), ({"dimensions": 3}, "dimensions"), ({"encoding_format": "int8"}, "encoding_format"),
])
def test_what_cannot_be_is_said(client: openai.OpenAI, more: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(**({"model": "alike", "input": "a"} | more))
    assert bad.value.param == field


def test_other_models_give_none(shared: Any, sky: Any) -> None:
    for server, cure in ((shared, "/v1/completions"), (sky, "/v1/predict")):
        told = server.client.post("/v1/embeddings", json={"model": server.site.project.spec.name, "input": "a"})
        assert told.status_code == 404
        assert cure in told.json()["error"]["message"]
