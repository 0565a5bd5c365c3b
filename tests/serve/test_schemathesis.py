"""Requests that schemathesis makes up from the document, right ones and wrong ones, over a real socket: each is answered as the
document says, none breaks the server, and none that is wrong is taken."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from shops import row, shop_site
from sites import Running, copied, running

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection,
]
EXAMPLES = 40  # right ones of each route, and as many wrong ones
SYSTEMATIC = 400  # of each route at most: each field left out, null, of another type, at and beyond its bounds
CONFIG = {"checks": {
    "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 504]},  # 504: of a request that gives its answer next to no time
    "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]},
}}
QUIET = list(hypothesis.HealthCheck)
WORDS = [
    "/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/feedback", "/healthz", "/readyz", "/metrics", "/openapi.json",
]
BRIEF = ("serve.max_tokens=4", "serve.slots=8", "serve.limits.feedback_per_minute=null")


@pytest.fixture(scope="module")
def words(template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a language model whose answers are short."""
    with copied(template, tmp_path_factory.mktemp("words") / "project") as site, running(site, BRIEF, "127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with shop_site(tmp_path_factory.mktemp("shop")) as site, running(site, (), "127.0.0.1") as server:
        yield server


def tried(server: Running, path: str, answer: str | None = None) -> set[int]:
    """Try the route with what is right, about this ``answer`` where it is feedback, and with what is wrong. The statuses."""
    document = server.client.get("/openapi.json").json()
    api = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(CONFIG))
    (method,) = document["paths"][path]
    operation, seen = api[path][method], set[int]()

    def check(case: Any) -> None:
        if answer and case.meta.generation.mode.is_positive:
            case.body["answer_id"] = answer
        response = case.call(base_url=server.url, timeout=60)
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    for mode in GenerationMode:
        if mode.is_negative and method == "get":
            continue  # it takes nothing that could be wrong
        repeatable: Any = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": QUIET}
        test = hypothesis.given(case=operation.as_strategy(generation_mode=mode))(check)
        hypothesis.settings(max_examples=EXAMPLES, **repeatable)(test)()
    cases = api.iter_coverage_cases(operation, generation_modes=list(GenerationMode), generation_config=api.config.generation)
    for case in itertools.islice(cases, SYSTEMATIC):
        check(case)
    assert server.client.get("/healthz").status_code == 200
    return seen


@pytest.mark.parametrize("path", WORDS)
def test_a_language_model(words: Running, path: str) -> None:
    id = words.complete("x", max_tokens=1, store=True).json()["id"]
    assert 200 in tried(words, path, id if path == "/v1/feedback" else None)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/predict", "/v1/feedback", "/openapi.json"])
def test_a_model_of_records(shop: Running, path: str) -> None:
    asked = {"inputs": row(random.Random(1)), "store": True}
    id = shop.client.post("/v1/predict", json=asked).json()["predictions"][0]["id"]
    assert 200 in tried(shop, path, id if path == "/v1/feedback" else None)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"])
def test_what_a_model_of_records_does_not_do(shop: Running, path: str) -> None:
    assert tried(shop, path) <= {400, 404, 405, 415}


def test_pictures_and_recordings(sky: Running) -> None:
    assert 422 in tried(sky, "/v1/predict")


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/embeddings"])
def test_a_model_of_vectors(alike: Running, path: str) -> None:
    assert 200 in tried(alike, path)
