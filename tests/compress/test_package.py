"""A package that drifted from its model is not written. Its drift is real: weights that int8 rows cannot hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tiny import write_project
from treadle.compress.stage import compress_model
from treadle.core.errors import GateRefused
from treadle.core.project import load_project
from treadle.data.tokenizer import load_tokenizer
from treadle.evaluate.stage import evaluate_model
from treadle.model.hub import load_model, save_model
from treadle.model.template import ChatTemplate
from treadle.model.text import end_tokens
from treadle.plan.counting import disk_bytes
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Artifact, Store
from treadle.train.rounds import first_round
from treadle.train.stage import train_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    project = write_project(tmp_path_factory.mktemp("compress"), "train.budget=200 steps")
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    return project, store, dataset, train_model(project, store, dataset, first_round(project, dataset))


def with_outliers(store: Store, model: Artifact, name: str = "model-outliers") -> Artifact:
    """The same function in other weights: one feature is scaled down by each norm and up again by the matrices that read it, so
    that each row of those holds one very large weight."""
    network = load_model(model.path)
    with torch.no_grad():
        for layer in network.trunk.layers:
            pairs = ((layer.input_layernorm, (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)),)
            pairs += ((layer.post_attention_layernorm, (layer.mlp.gate_proj, layer.mlp.up_proj)),)
            for norm, matrices in pairs:
                norm.weight[3] /= 1e5
                for matrix in matrices:
                    matrix.weight[:, 3] *= 1e5
    with store.create(name, parents=model.parents, config={}, version=1, seed=0) as draft:
        save_model(network, draft.path)
        shutil.copy(model.path / "tokenizer.json", draft.path)
    return store.open(name)


def test_what_int8_cannot_hold_is_refused_and_nothing_is_written(trained: tuple):
    project, store, dataset, model = trained
    broken = with_outliers(store, model)
    cards = [evaluate_model(project, store, m, dataset) for m in (model, broken)]
    same = [card.counts["metrics"]["bits_per_byte"]["value"] for card in cards]
    assert same[0] == pytest.approx(same[1], rel=1e-4)
    package = compress_model(project, store, model, cards[0], dataset)
    assert abs(package.counts["drift"]) < 0.01
    strict = load_project(project.folder, ["compress.max_drift=0.1%"])
    with pytest.raises(GateRefused, match=r"int8 weights raise the bits per byte from .* more than 0.10%") as caught:
        compress_model(strict, store, broken, cards[1], dataset)
    kept = compress_model(strict, store, model, cards[0], dataset)
    assert "compress.quantize: none" in caught.value.cure
    assert {path.name for path in (store.root / "artifacts" / "package").iterdir()} == {package.path.name, kept.path.name}
    assert not list((store.root / "tmp").glob("package*"))


def test_the_figures_are_those_of_the_files(trained: tuple, tmp_path: Path):
    project, store, dataset, model = trained
    card = evaluate_model(project, store, model, dataset)
    counts = compress_model(project, store, model, card, dataset).counts
    assert counts["original"]["bytes"] == (model.path / "model.safetensors").stat().st_size
    assert counts["package"]["bytes"] < 0.35 * counts["original"]["bytes"]
    assert counts["original"]["tokens_per_second"] > 0
    assert counts["drift"] == pytest.approx(counts["package"]["bits_per_byte"] / counts["original"]["bits_per_byte"] - 1)


def test_in_four_bits_it_is_smaller_still_and_its_drift_is_measured(trained: tuple):
    project, store, dataset, model = trained
    card = evaluate_model(project, store, model, dataset)
    found = {}
    for kind in ("int8", "int4"):
        made = load_project(project.folder, [f"compress.quantize={kind}", "compress.max_drift=20%"])
        package = compress_model(made, store, model, card, dataset)
        found[kind] = package.counts
        assert package.counts["quantize"] == kind
        predicted = disk_bytes(made.resolved.language, 0, 0, 2, kind)["package"]
        assert 0 < package.counts["package"]["bytes"] - predicted < 6000  # names and shapes of what is in the file
    assert found["int4"]["package"]["bytes"] < 0.9 * found["int8"]["package"]["bytes"]
    assert 0 < abs(found["int4"]["drift"]) < 0.05
    broken = with_outliers(store, model, "model-outliers-4")
    strict = load_project(project.folder, ["compress.quantize=int4", "compress.max_drift=0.1%"])
    with pytest.raises(GateRefused, match="int4 weights raise the bits per byte"):
        compress_model(strict, store, broken, evaluate_model(project, store, broken, dataset), dataset)


def test_the_template_of_conversations_and_the_ends_of_texts_travel(trained: tuple):
    project, store, dataset, model = trained
    talk = {"bos_token": "<|endoftext|>", "chat_template": "{% for m in messages %}{{ bos_token ~ m.content }}{% endfor %}!"}
    with store.create("model-talks", parents=model.parents, config={}, version=1, seed=0) as draft:
        save_model(load_model(model.path), draft.path, end=5)
        shutil.copy(model.path / "tokenizer.json", draft.path)
        (draft.path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
        (draft.path / "tokenizer_config.json").write_text(json.dumps(talk))
        (draft.path / "chat_template.jinja").write_text(talk["chat_template"] + "?")
    talks = store.open("model-talks")
    package = compress_model(project, store, talks, evaluate_model(project, store, talks, dataset), dataset)
    tokenizer = load_tokenizer(package.path / "tokenizer.json")
    template = ChatTemplate.load(package.path, tokenizer)
    assert template is not None
    written = template.tokens([{"role": "user", "content": "def"}])
    assert tokenizer.decode(written, skip_special_tokens=False) == "<|endoftext|>def!?"
    assert end_tokens(package.path) == [5, 7]
