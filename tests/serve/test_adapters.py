"""Adapters over the API: each request is answered by the one that it names, beside others, and the ledger says by which."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from treadle.core.errors import ArtifactError
from treadle.data.shards import END_ID
from treadle.model.generate import generate
from treadle.model.hub import load_model
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor

Serve = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("each_way")
SCALE = 2.0


def write(folder: Path, shape: Any, seed: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """An adapter of the queries and of the MLP's last matrix, strong enough to change what is written."""
    torch.manual_seed(seed)
    sizes = {"self_attn.q_proj": (shape.heads * shape.head_dim, shape.width), "mlp.down_proj": (shape.width, shape.hidden)}
    tensors = {}
    for layer in range(shape.depth):
        for name, (rows, columns) in sizes.items():
            start = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{start}.lora_A.weight"] = torch.randn(rank, columns) * 0.5
            tensors[f"{start}.lora_B.weight"] = torch.randn(rows, rank) * 0.5
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": SCALE * rank}))
    return tensors


def merged(site: Any, tensors: dict[str, torch.Tensor]) -> Any:
    model = load_model(site.folder(site.packages[0]))
    for key, a in tensors.items():
        if "lora_A" in key:
            name = key.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight")
            with torch.no_grad():
                model.trunk.get_submodule(name).weight += SCALE * tensors[key.replace("lora_A", "lora_B")] @ a
    return model


def post(running: Any, model: str, prompt: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": 0, **fields}
    return httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)


def test_each_request_is_answered_by_the_adapter_that_it_names(serve: Serve, site: Any) -> None:
    shape = site.project.resolved.shape
    made = {name: write(site.project.folder / "adapters" / name, shape, seed) for seed, name in enumerate(("polite", "legal"))}
    running = serve("serve.adapters={polite: adapters/polite, legal: adapters/legal}", "serve.slots=3")
    prompts = ("def f(", "import os", "class A")
    models = {"tiny": load_model(site.folder(site.packages[0]))} | {name: merged(site, tensors) for name, tensors in made.items()}
    tokenizer = running.live.worker.tokenizer
    expected = {}
    for name, model in models.items():
        for prompt in prompts:
            tokens = [END_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids]
            text = tokenizer.decode(list(generate(model, tokens, 40)), skip_special_tokens=False)
            expected[name, prompt] = text.rstrip("\ufffd")  # of an answer half a character at its end is left out
    assert len({expected[name, prompts[0]] for name in models}) == 3
    with ThreadPoolExecutor(9) as pool:
        found = {key: pool.submit(post, running, *key) for key in expected for _ in range(2)}
        answers = {key: one.result().json() for key, one in found.items()}
    assert {key: answer["choices"][0]["text"].rstrip("\ufffd") for key, answer in answers.items()} == expected
    assert all(answer["model"] == key[0] for key, answer in answers.items())
    told = {key[0]: site.ledger.answer(answer["id"])["settings"].get("adapter") for key, answer in answers.items()}
    listed = running.client.get("/v1/models").json()["data"]
    assert [(one["id"], one.get("parent")) for one in listed] == [("tiny", None), ("polite", "tiny"), ("legal", "tiny")]
    assert told == {"tiny": None, **{one["id"]: {"name": one["id"], "sha256": one["sha256"]} for one in listed[1:]}}
    document = running.client.get("/openapi.json").json()["components"]["schemas"]
    assert document["CompletionRequest"]["properties"]["model"]["enum"] == ["tiny", "polite", "legal"]
    assert list(document["CompletionRequest"]["properties"])[:2] == ["model", "prompt"]
    refused = post(running, "rude", "x")
    assert refused.status_code == 404
    assert "'tiny', 'polite', 'legal'" in refused.json()["error"]["message"]


def test_a_new_version_has_them_too_and_one_that_does_not_fit_is_not_loaded(
    serve: Serve, site: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.serve.live.LOOK", 0.05)
    folder = site.project.folder / "polite"
    write(folder, site.project.resolved.shape, 0)
    running = serve("serve.adapters={polite: polite}")
    before = post(running, "polite", "def f(").json()
    site.ledger.promote(site.packages[1], "better")
    until(lambda: running.live.version.number == 2)
    after = post(running, "polite", "def f(").json()
    assert (before["version"], after["version"]) == (1, 2)
    assert before["choices"][0]["text"] != after["choices"][0]["text"]
    (folder / "adapter_config.json").unlink()
    site.ledger.rollback("worse")
    until(lambda: running.client.get("/readyz").json()["failed"])
    assert "cannot read the adapter 'polite'" in running.client.get("/readyz").json()["failed"]["message"]
    assert post(running, "polite", "def f(").json()["choices"][0]["text"] == after["choices"][0]["text"]


def test_without_its_folder_the_server_does_not_start(site: Any) -> None:
    settings = site.project.spec.serve.model_copy(update={"adapters": {"polite": "polite"}})
    with pytest.raises(ArtifactError, match="cannot read the adapter 'polite'"):
        LiveModel(site.store, site.ledger, settings, Monitor(), site.project.folder)
