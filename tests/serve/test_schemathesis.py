"""Requests that schemathesis makes up from the document, right ones and wrong ones, over a real socket: each is answered as the
document says, none breaks the server, and none that is wrong is taken."""

from __future__ import annotations

import itertools
import random
import shutil
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
from sites import Running, Site, running

from treadle.core.project import load_project
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.model.network import make_network, save_network
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection,
]
EXAMPLES = 40  # right ones of each route, and as many wrong ones
SYSTEMATIC = 400  # of each route at most: each field left out, null, of another type, at and beyond its bounds
CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]}}}
QUIET = list(hypothesis.HealthCheck)
WORDS = [
    "/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/feedback", "/healthz", "/readyz", "/metrics", "/openapi.json",
]
BRIEF = ("serve.max_tokens=4", "serve.slots=8", "serve.limits.feedback_per_minute=null")
SPEC = """\
name: shop
data: {sources: [{table: shop.csv, licence: CC0-1.0}]}
model:
  inputs:
    price: {number: {scale: log}}
    colour: category
    sold: boolean
    day: date
    words: set
    past: {events: {context: 4}}
    note: {tokenizer: {words: 60}, context: 8}
  trunk: {transformer: {depth: 1, width: 32, heads: 2}}
  heads: {kind: category, weight: number, parts: labels, returned: binary}
serve: {limits: {feedback_per_minute: null}}
"""


@pytest.fixture(scope="module")
def words(template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a language model whose answers are short."""
    source, ids = template
    folder = tmp_path_factory.mktemp("words") / "project"
    shutil.copytree(source, folder)
    project = load_project(folder)
    ledger = Ledger(project.store)
    ledger.promote(ids[0], "test")
    with running(Site(project, Store(project.store), ledger, ids), BRIEF, "127.0.0.1") as server:
        yield server
    ledger.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a model of records with every kind of input that is no file, as it was drawn."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "treadle.yaml").write_text(SPEC)
    project = load_project(folder)
    schema, draw = Schema(project.spec.model), random.Random(0)
    schema.fit([Record(str(n), schema.parse(row(draw)), "made up", "CC0-1.0", str(n)) for n in range(60)])
    store, ledger = Store(project.store), Ledger(project.store)
    id = store.identify("package", [], {}, 1)
    with store.create(id, parents=[], config={}, version=1, seed=0) as package:
        save_network(make_network(project.spec.model, schema.layouts, 0), package.path)
        schema.save(package.path)
    ledger.promote(id, "test")
    with running(Site(project, store, ledger, (id, id, id)), (), "127.0.0.1") as server:
        yield server
    ledger.close()


def row(draw: random.Random) -> dict[str, Any]:
    some = lambda *names: draw.sample(names, draw.randint(1, len(names)))  # noqa: E731
    return {
        "price": draw.uniform(1, 1000), "colour": draw.choice(["red", "blue"]), "sold": draw.random() < 0.5,
        "day": f"2026-01-{draw.randint(10, 28)}", "words": some("new", "old", "rare"), "past": some("a", "b", "c", "d"),
        "note": draw.choice(["as new", "worn"]), "kind": draw.choice(["hat", "coat"]), "weight": draw.gauss(5, 1),
        "parts": some("zip", "button"), "returned": draw.choice(["yes", "no"]),
    }


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
