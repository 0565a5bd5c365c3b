"""Adapters: the scores of a model with B A added to its matrices, for the texts that ask for it and no others."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from treadle.core.errors import ArtifactError, UserError
from treadle.model.adapter import CONFIG, PRODUCTS, WEIGHTS, Adapter
from treadle.model.decoder import compiled_decoder
from treadle.model.layers.quantized import quantize_language
from treadle.model.memory import Part
from treadle.model.model import LanguageModel, make_model
from treadle.model.paged import Paged
from treadle.model.torch_decoder import TorchDecoder
from treadle.spec.shape import Shape

SHAPE = Shape(vocabulary=40, context=100, depth=2, width=32, heads=4, kv_heads=2, head_dim=16, hidden=48)
ALL = tuple(member for members in PRODUCTS for member in members)
pytestmark = pytest.mark.usefixtures("each_way")
CONFIGURED = {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "bias": "none", "target_modules": list(ALL)}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make_model(SHAPE, 0).eval()


def matrix(model: LanguageModel, layer: int, member: str) -> Any:
    part: Any = model.trunk.layers[layer]
    return getattr(part.self_attn if member in ("q_proj", "k_proj", "v_proj", "o_proj") else part.mlp, member)


def write(
    folder: Path, model: LanguageModel, seed: int, members: tuple[str, ...] = ALL, rank: int = 4, size: float = 0.1,
    layers: tuple[int, ...] = (0, 1), **config: Any,
) -> dict[str, Tensor]:
    """An adapter of random matrices as PEFT writes it."""
    torch.manual_seed(seed)
    tensors = {}
    for layer in layers:
        for member in members:
            rows, columns = matrix(model, layer, member).weight.shape
            group = "self_attn" if member in ALL[:4] else "mlp"
            start = f"base_model.model.model.layers.{layer}.{group}.{member}"
            tensors[f"{start}.lora_A.weight"] = torch.randn(rank, columns) * size
            tensors[f"{start}.lora_B.weight"] = torch.randn(rows, rank) * size
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(CONFIGURED | config))
    return tensors


def merged(model: LanguageModel, tensors: dict[str, Tensor], scale: float) -> LanguageModel:
    """The model with B A in its matrices."""
    found = copy.deepcopy(model)
    for key, a in tensors.items():
        if key.endswith("lora_A.weight"):
            parts = key.split(".")
            weight = matrix(found, int(parts[4]), parts[6]).weight
            b = tensors[key.replace("lora_A", "lora_B")]
            with torch.no_grad():
                weight += (scale * b.double() @ a.double()).float()
    return found


def memory(model: LanguageModel, adapters: list[Adapter], threads: int = 1, slots: int = 3) -> Paged:
    decoder = compiled_decoder(model, threads, adapters)
    return Paged(decoder or TorchDecoder(copy.deepcopy(model), torch.device("cpu"), adapters), slots)


def scores(held: Paged, model: LanguageModel, tokens: list[int], adapter: int, slot: int = 0) -> Tensor:
    known = held.admit(slot, tokens, len(tokens), adapter)
    assert known is not None
    found = held.read_parts(model, [Part(slot, tokens[known:], len(tokens) - known)])
    held.release(slot)
    return found


def text(seed: int, length: int = 30) -> list[int]:
    return random.Random(seed).choices(range(40), k=length)


def expected(model: LanguageModel, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        return model.scores(model.hidden(torch.tensor([tokens])))[0]


@pytest.mark.parametrize("members", [ALL, ("q_proj", "v_proj"), ("k_proj",), ("o_proj", "down_proj"), ("up_proj",)], ids="+".join)
@pytest.mark.parametrize("rslora", [False, True])
def test_scores_are_those_of_a_model_with_the_adapter_in_its_matrices(
    model: LanguageModel, tmp_path: Path, members: tuple[str, ...], rslora: bool
) -> None:
    tensors = write(tmp_path, model, 1, members, rank=3, use_rslora=rslora)
    adapter = Adapter.load(tmp_path, "polite", SHAPE)
    held = memory(model, [adapter])
    found = scores(held, model, text(0), 0)
    other = expected(merged(model, tensors, 12 / (math.sqrt(3) if rslora else 3)), text(0))
    torch.testing.assert_close(found, other, rtol=0, atol=2e-5)
    assert (found - expected(model, text(0))).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_what_is_added_to_rounded_weights_is_the_same(tmp_path: Path, model: LanguageModel, kind: str) -> None:
    base = copy.deepcopy(model)
    for given in base.parameters():
        given.data = given.data.bfloat16().float()
    tensors = write(tmp_path, base, 2, size=0.3)
    plain, more = expected(base, text(3)), expected(merged(base, tensors, 3.0), text(3))
    if kind in ("int8", "int4"):
        quantize_language(base, kind)
    held = memory(base, [Adapter.load(tmp_path, "polite", SHAPE)])
    own = {"bf16": torch.bfloat16, "int8": torch.int8}[kind]
    assert held.decoder.kind == (own if held.decoder.has_weights else torch.float32)
    error = (scores(held, base, text(3), 0) - more).abs().max()
    assert error < 0.1 * (more - plain).abs().max()
    assert (scores(held, base, text(3), -1) - plain).abs().max() < 0.1 * (more - plain).abs().max()


@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
def test_each_text_has_its_own_adapter_whatever_is_read_beside_it(model: LanguageModel, tmp_path: Path, kind: str) -> None:
    base = copy.deepcopy(model)
    if kind in ("int8", "int4"):
        quantize_language(base, kind)
    for name, rank in (("a", 2), ("b", 7)):
        write(tmp_path / name, model, rank, rank=rank)
    adapters = [Adapter.load(tmp_path / name, name, SHAPE) for name in "ab"]
    texts = [(text(1), 0), (text(1), 1), (text(1), -1)]
    alone = [scores(memory(base, adapters), base, tokens, adapter) for tokens, adapter in texts]
    assert not torch.equal(alone[0], alone[1])
    for threads in (1, 2, 3):
        held = memory(base, adapters, threads)
        for slot, (tokens, adapter) in enumerate(texts):
            assert held.admit(slot, tokens, 40, adapter) == 0
        first = held.read_parts(base, [Part(slot, tokens[: 9 + slot], 9 + slot) for slot, (tokens, _) in enumerate(texts)])
        rest = held.read_parts(base, [Part(slot, tokens[9 + slot :], 21 - slot) for slot, (tokens, _) in enumerate(texts)])
        found = [torch.cat(parts) for parts in zip(first.split([9, 10, 11]), rest.split([21, 20, 19]), strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_pages_are_shared_only_with_texts_of_the_same_adapter(model: LanguageModel, tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, model, ord(name))
    held = memory(model, [Adapter.load(tmp_path / name, name, SHAPE) for name in "ab"])
    tokens = text(5, 50)
    known = []
    for adapter in (0, 1, -1, 0, -1, 1):
        known.append(held.admit(0, tokens, 60, adapter))
        held.read_parts(model, [Part(0, tokens[known[-1] :])])
        held.release(0)
    assert known == [0, 0, 0, 48, 48, 48]


def test_what_cannot_be_added_is_the_users_error(model: LanguageModel, tmp_path: Path) -> None:
    def refused(match: str, kind: type[Exception] = UserError) -> None:
        with pytest.raises(kind, match=match):
            Adapter.load(tmp_path, "polite", SHAPE)

    refused("cannot read the adapter 'polite'", ArtifactError)
    tensors = write(tmp_path, model, 0)
    for key, value in (("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("peft_type", "IA3")):
        (tmp_path / CONFIG).write_text(json.dumps(CONFIGURED | {key: value}))
        refused(key)
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGURED))
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    for changed, match in (
        (tensors | {key.replace("layers.1", "layers.7"): tensors[key].clone()}, "has a layer 7, and the model has 2"),
        (tensors | {"base_model.model.lm_head.lora_A.weight": tensors[key].clone()}, "changes base_model.model.lm_head"),
        (tensors | {key: tensors[key][:, :-1].contiguous()}, "for up_proj of layer 1"),
        ({name: tensor for name, tensor in tensors.items() if name != key}, "for up_proj of layer 1"),
        ({}, "changes nothing"),
    ):
        save_file(changed, tmp_path / WEIGHTS)
        refused(match)
    (tmp_path / WEIGHTS).write_bytes(b"damaged")
    refused("cannot read", ArtifactError)
