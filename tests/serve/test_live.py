"""A running server follows the ledger without dropping a request, and survives a version that does not open."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sites import Crowd

from treadle.core.errors import ArtifactError, UserError
from treadle.data.shards import END_ID
from treadle.model.generate import generate
from treadle.model.hub import load_model
from treadle.serve import live as module
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)


def test_promote_and_roll_back_under_constant_requests(
    serve: Callable[..., Any], site: Any, until: Callable[..., None]
) -> None:
    running = serve("serve.queue=64")
    with Crowd(running.url, 60) as crowd:
        until(lambda: crowd.answered(1, 12))
        site.ledger.promote(site.packages[1], "better")
        until(lambda: crowd.answered(2, 12))
        crowd.forget()
        site.ledger.rollback("worse")
        until(lambda: crowd.answered(1, 12))
    assert crowd.failures == []
    # Which version an answer names is the one whose weights wrote it, and the ledger says the same.
    texts = {version: Counter(text for given, _, text in crowd.results if given == version and text) for version in (1, 2)}
    assert all(len(found) == 1 for found in texts.values())
    assert set(texts[1]) != set(texts[2])
    for version, id, _ in crowd.results:
        row = site.ledger.answer(id)
        assert (row["version"], row["package"]) == (version, site.packages[version - 1])
    until(lambda: not running.live._retired)
    assert running.client.get("/readyz").json()["version"] == 1
    assert 'treadle_swaps_total{outcome="done"} 2.0' in running.client.get("/metrics").text


def test_an_answer_under_way_is_finished_by_the_version_that_began_it(
    serve: Callable[..., Any], site: Any, until: Callable[..., None]
) -> None:
    running = serve()
    weights = weakref.ref(running.live.worker.model)
    body = {"model": "tiny", "prompt": "def f", "max_tokens": 600, "temperature": 0, "stream": True}
    with running.client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        site.ledger.promote(site.packages[1], "better")
        until(lambda: running.live.version.number == 2)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert all('"version":1' in line for line in rest[:-1])
    assert httpx.get(f"{running.url}/v1/models").json()["data"][0]["version"] == 2
    until(lambda: weights() is None)  # the memory is given back


def test_a_damaged_version_is_not_served_and_is_told(
    serve: Callable[..., Any], site: Any, until: Callable[..., None]
) -> None:
    running = serve()
    site.ledger.promote(site.packages[2], "damaged")
    until(lambda: running.live.failed)
    ready = running.client.get("/readyz")
    assert (ready.status_code, ready.json()["version"]) == (200, 1)
    assert ready.json()["failed"]["version"] == 2
    assert "sha256" in ready.json()["failed"]["message"]
    text = running.client.get("/metrics").text
    assert "treadle_swap_failed 1.0" in text
    assert running.complete("x", max_tokens=1).json()["version"] == 1
    site.ledger.promote(site.packages[1], "whole")
    until(lambda: running.live.version.number == 3)
    until(lambda: running.client.get("/readyz").json()["failed"] is None)


def test_a_version_that_was_mended_is_taken_up(
    serve: Callable[..., Any], site: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.1)
    running = serve()
    file = site.folder(site.packages[1]) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    site.ledger.promote(site.packages[1], "cut short")
    until(lambda: running.live.failed)
    file.write_bytes(whole)
    until(lambda: running.live.version.number == 2)
    assert running.live.failed is None


def test_a_ledger_that_fails_for_a_while_stops_nothing(
    serve: Callable[..., Any], site: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve()
    real, failed = site.ledger.live, []

    def broken() -> None:
        failed.append(1)
        raise OSError("disk I/O error")

    monkeypatch.setattr(site.ledger, "live", broken)
    until(lambda: failed)
    assert running.complete("x", max_tokens=1).status_code == 200
    monkeypatch.setattr(site.ledger, "live", real)
    site.ledger.promote(site.packages[1], "better")
    until(lambda: running.live.version.number == 2)


def test_nothing_live_or_a_damaged_version_does_not_start(site: Any, tmp_path: Any) -> None:
    empty = type(site.ledger)(tmp_path / "empty")
    with pytest.raises(UserError, match="treadle run"):
        LiveModel(site.store, empty, site.project.spec.serve, Monitor())
    site.ledger.promote(site.packages[2], "damaged")
    with pytest.raises(ArtifactError, match="sha256"):
        LiveModel(site.store, site.ledger, site.project.spec.serve, Monitor())


def test_a_served_model_is_in_memory_once(serve: Callable[..., Any], site: Any) -> None:
    model = load_model(site.folder(site.packages[0]))
    running = serve()
    worker = running.live.worker
    if not worker._memory.has_weights:
        pytest.skip("there is no compiler: torch computes with the model's own weights")
    assert {given.device.type for given in (*worker.model.parameters(), *worker.model.buffers())} == {"meta"}
    tokens = [END_ID, *worker.tokenizer.encode("def f", add_special_tokens=False).ids]
    expected = worker.tokenizer.decode(list(generate(model, tokens, 40)), skip_special_tokens=False)
    assert running.complete("def f", max_tokens=40, temperature=0).json()["choices"][0]["text"] == expected


def test_a_version_that_was_left_is_freed_though_garbage_is_settled(
    serve: Callable[..., Any], site: Any, until: Callable[..., None]
) -> None:
    running = serve()
    worker = running.live.worker
    worker.circle = worker  # only a collection finds it
    gone = weakref.ref(worker)
    module.settle()
    assert gc.get_freeze_count() > 100_000
    del worker
    site.ledger.promote(site.packages[1], "better")
    until(lambda: gone() is None)
    until(lambda: gc.get_freeze_count() > 100_000)
    gc.unfreeze()
