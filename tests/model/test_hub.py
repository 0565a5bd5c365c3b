"""A saved model opens in the public library with equal outputs; damaged folders are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tiny import SHAPE
from treadle.core.errors import ArtifactError
from treadle.data.tokenizer import encode_all, train_tokenizer
from treadle.model.generate import generate
from treadle.model.hub import load_model, load_shape, save_model
from treadle.model.layers.four_bits import Int4Linear
from treadle.model.layers.quantized import Int8Linear, quantize_language
from treadle.model.model import make_model
from treadle.spec.shape import Shape

SIZES = [
    Shape(vocabulary=300, context=32, depth=1, width=32, heads=2, kv_heads=1, head_dim=16, hidden=64),
    Shape(vocabulary=1000, context=64, depth=3, width=96, heads=6, kv_heads=2, head_dim=16, hidden=256, rope_theta=500.0),
    Shape(vocabulary=4096, context=128, depth=4, width=256, heads=4, kv_heads=4, head_dim=64, hidden=704, norm_eps=1e-5),
]


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("qk_norm", [True, False], ids=["qwen3", "llama"])
@pytest.mark.parametrize("size", range(3))
def test_transformers_gives_the_same_logits(tmp_path: Path, size: int, qk_norm: bool, tie: bool):
    shape = replace(SIZES[size], qk_norm=qk_norm, tie_embeddings=tie)
    model = make_model(shape, seed=size).eval()
    with torch.no_grad():  # gains of one would hide a gain that is not applied
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.2)
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, shape.vocabulary, (2, shape.context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (theirs(tokens).logits - model.logits(tokens)).abs().max() < 1e-4
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    answer = theirs.generate(tokens[:1, :5], max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    assert answer[0, 5:].tolist() == list(generate(model, tokens[0, :5].tolist(), 8))


def test_their_tokenizer_gives_the_same_ids(tmp_path: Path):
    texts = ["def add(a, b):\n    return a + b\n" * 5, "x = 'é 世界 😀'\n\tprint(x)\n" * 5]
    tokenizer = train_tokenizer(texts, 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    save_model(make_model(SHAPE, 0), tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text, ids in zip(texts, encode_all(tokenizer, texts), strict=True):
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token == "<|endoftext|>"


def test_weights_of_others_load(tmp_path: Path):
    config = LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=40, tie_word_embeddings=False,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    tokens = torch.randint(0, 99, (2, 40))
    with torch.no_grad():
        assert (theirs(tokens).logits - ours.logits(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize(("kind", "layer"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_quantised_weights_come_back_as_they_were_saved(tmp_path: Path, kind: str, layer: type):
    model = make_model(SHAPE, 0).eval()
    quantize_language(model, kind)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    tokens = torch.randint(0, 300, (1, 9))
    assert torch.equal(model.logits(tokens), loaded.logits(tokens))
    assert isinstance(loaded.trunk.layers[0].mlp.up_proj, layer)
    assert load_shape(tmp_path)[1] == kind


def _saved(folder: Path) -> Path:
    save_model(make_model(SHAPE, 0), folder)
    return folder


def test_damaged_folders_are_refused(tmp_path: Path):
    file = _saved(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ArtifactError, match="cannot read the model"):
        load_model(tmp_path)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"missing \['model.embed_tokens"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot read the model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vocab_size": 301}, "other sizes"), ({"num_hidden_layers": 3}, "do not fit"), ({"model_type": "gpt2"}, "'gpt2' model")],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str):
    config = _saved(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        load_model(tmp_path)
