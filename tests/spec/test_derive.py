"""The one dial: what follows from depth, with a reason each; sizes as arithmetic against published models."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.spec.derive import Contradiction, derive
from treadle.spec.load import read
from treadle.spec.project import ProjectSpec
from treadle.spec.shape import Shape


def spec(trunk: dict[str, Any], train: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> ProjectSpec:
    return ProjectSpec.model_validate({
        "name": "demo", "data": {"sources": [{"files": "*", "licence": "MIT"}]},
        "model": {"inputs": {"text": text or {}}, "trunk": {"transformer": trunk}}, "train": train or {},
    })


# Parameters as published with the weights: Qwen/Qwen3-0.6B, meta-llama/Llama-3.2-1B, TinyLlama-1.1B.
QWEN3 = Shape(151_936, 32_768, 28, 1024, 16, 8, 128, 3072, qk_norm=True, tie_embeddings=True)
LLAMA = Shape(128_256, 131_072, 16, 2048, 32, 8, 64, 8192, qk_norm=False, tie_embeddings=True)
TINY = Shape(32_000, 2048, 22, 2048, 32, 4, 64, 5632, qk_norm=False, tie_embeddings=False)


@pytest.mark.parametrize(("shape", "count"), [(QWEN3, 596_049_920), (LLAMA, 1_235_814_400), (TINY, 1_100_048_384)])
def test_parameters_are_those_of_published_models(shape: Shape, count: int) -> None:
    assert shape.parameters == count


def test_flops_are_counted_matrix_by_matrix() -> None:
    shape = Shape(vocabulary=300, context=10, depth=2, width=16, heads=4, kv_heads=2, head_dim=4, hidden=24)
    t, d, v = 10, 16, 300
    products = 0
    for _ in range(shape.depth):
        products += t * d * (4 * 4) + 2 * t * d * (2 * 4) + t * (4 * 4) * d  # q, k and v, output
        products += 3 * t * d * 24  # gate, up, down
        products += 2 * 4 * 4 * t * t // 2  # scores and their sum over values, the causal half
    products += t * d * v
    assert shape.forward_flops() == 2 * products / t
    assert shape.train_flops == 6 * products / t


@given(st.integers(1, 48), st.integers(8, 4096), st.integers(1, 16))
def test_any_depth_gives_a_shape_that_holds_together(depth: int, context: int, accumulate: int) -> None:
    resolved = derive(spec({"depth": depth}, {"accumulate": accumulate}, {"context": context}))
    shape = resolved.shape
    assert shape.width == shape.heads * shape.head_dim
    assert shape.head_dim % 2 == 0
    assert shape.heads % shape.kv_heads == 0
    assert shape.hidden % 32 == 0
    assert resolved.batch % accumulate == 0
    assert resolved.budget.amount == 20 * shape.parameters
    assert math.isclose(resolved.learning_rate, 0.012 * math.sqrt(256 / shape.width), rel_tol=1e-3)
    keys = {"width", "heads", "kv_heads", "hidden", "optimizer", "learning_rate", "batch", "budget"}
    assert {d.key for d in resolved.reasons} == keys
    assert all(d.reason for d in resolved.reasons)


@given(st.integers(8, 1024).map(lambda half: 2 * half))
def test_any_even_width_is_enough(width: int) -> None:
    shape = derive(spec({"depth": 1, "width": width})).shape
    assert shape.width == width == shape.heads * shape.head_dim
    assert shape.head_dim % 2 == 0


@pytest.mark.parametrize(("optimizer", "share"), [("adamw", 1), ("muon", 2), ("sgd", 10), ("lion", 0.1)])
def test_a_rate_suits_its_optimiser_and_says_so(optimizer: str, share: float) -> None:
    resolved = derive(spec({"depth": 4}, {"optimizer": optimizer}))
    assert resolved.learning_rate == pytest.approx(0.006 * share)
    (why,) = (d.reason for d in resolved.reasons if d.key == "learning_rate")
    assert ("times as much" in why) is (share != 1)


def test_a_language_model_takes_muon_where_no_optimiser_is_given_and_others_adamw() -> None:
    assert spec({"depth": 2}).train.optimizer.kind == "muon"
    assert spec({"depth": 2}, {"batch": 4}).train.optimizer.kind == "muon"
    assert spec({"depth": 2}, {"optimizer": "adamw"}).train.optimizer.kind == "adamw"
    table = {"inputs": {"age": "number"}, "trunk": {"mlp": {}}, "heads": {"ill": "binary"}}
    sources = [{"table": "people.csv", "licence": "MIT"}]
    other = ProjectSpec.model_validate({"name": "demo", "data": {"sources": sources}, "model": table})
    assert other.train.optimizer.kind == "adamw"


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ({"optimizer": "schedule_free", "average": "ema"}, ("train", "average")),
        ({"schedule": "plateau", "validate_every": 0}, ("train", "schedule")),
    ],
)
def test_settings_that_cannot_both_hold_are_refused(train: dict[str, object], key: tuple[str, ...]) -> None:
    with pytest.raises(Contradiction) as caught:
        derive(spec({"depth": 2}, train))
    assert [where for where, _ in caught.value.findings] == [key]


def test_given_values_win_and_are_called_given() -> None:
    trunk = {"depth": 3, "width": 96, "heads": 6, "kv_heads": 3, "hidden": 100}
    resolved = derive(spec(trunk, {"batch": 5, "learning_rate": 0.1, "budget": "7 steps", "optimizer": "adamw"}))
    shape = resolved.shape
    assert (shape.depth, shape.width, shape.heads, shape.kv_heads, shape.hidden) == (3, 96, 6, 3, 100)
    assert (resolved.batch, resolved.learning_rate, str(resolved.budget)) == (5, 0.1, "7 steps")
    assert resolved.tokens_per_step == 5 * shape.context
    assert {d.reason for d in resolved.reasons} == {"given"}


def test_values_that_contradict_each_other_are_refused_together() -> None:
    with pytest.raises(Contradiction) as caught:
        derive(spec({"depth": 1, "width": 100, "heads": 3, "kv_heads": 2}, {"batch": 3, "accumulate": 2}))
    assert [".".join(location) for location, _ in caught.value.findings] == [
        "model.trunk.transformer.width", "model.trunk.transformer.kv_heads", "train.batch"
    ]
    with pytest.raises(Contradiction, match="width 65 is not an even multiple of heads 1"):
        derive(spec({"depth": 1, "width": 65}))


def test_a_model_that_vllm_serves_is_packaged_as_it_was_trained() -> None:
    text = "name: a\ndata: {sources: [{files: x, licence: MIT}]}\nmodel: {trunk: {transformer: {depth: 1}}}\n"
    assert read(text, "f.yaml").compress.quantize is None  # type: ignore[union-attr]
    assert read(text + "serve: {engine: vllm}", "f.yaml").compress.quantize == "none"  # type: ignore[union-attr]
    recurrent = text.replace("transformer: {depth: 1}", "recurrent: {}") + "serve: {engine: vllm}"
    (problem,) = read(recurrent, "f.yaml")  # type: ignore[misc]
    assert (problem.key, "trunk transformer alone" in problem.message) == ("serve.engine", True)
    table = "name: a\ndata: {sources: [{table: x, licence: MIT}]}\nserve: {engine: vllm}\n"
    records = read(table + "model: {inputs: {a: number}, trunk: {mlp: {}}, heads: {b: binary}}", "f.yaml")
    assert records.compress.quantize is None  # type: ignore[union-attr]


def test_four_bits_are_for_language_models_alone() -> None:
    text = "name: a\ndata: {sources: [{files: x, licence: MIT}]}\ncompress: {quantize: int4}\n"
    assert read(text + "model: {trunk: {transformer: {depth: 1}}}\n", "f.yaml").compress.quantize == "int4"  # type: ignore[union-attr]
    for model in ("{trunk: {recurrent: {}}}", "{inputs: {a: number}, trunk: {mlp: {}}, heads: {b: binary}}"):
        (problem,) = read(text.replace("files", "table" if "a:" in model else "files") + f"model: {model}\n", "f.yaml")  # type: ignore[misc]
        assert (problem.key, "int4 is for language models" in problem.message) == ("compress.quantize", True)


def test_a_contradiction_of_a_file_stands_where_it_is_written() -> None:
    text = "name: a\ndata: {sources: [{files: x, licence: MIT}]}\nmodel:\n  trunk:\n    transformer: {depth: 1,\n width: 65}\n"
    (problem,) = read(text, "f.yaml")  # type: ignore[misc]
    assert (problem.line, problem.column) == (6, 9)


@pytest.mark.parametrize(("model", "said"), [
    ({"trunk": {"mlp": {}}}, "boxes needs positions, which trunk mlp sums up; conv and transformer keep them"),
    ({"trunk": {"conv": {"dense": [8]}}}, "dense layers forget where things are"),
    ({"inputs": {"photo": {"image": {"augment": {"rotate": 5}}}}}, "the box of a turned thing is not known"),
    ({"inputs": {"photo": {"image": {"augment": {"mixup": 0.2}}}}}, "head boxes cannot be mixed as pictures are"),
    ({"inputs": {"photo": "image", "size": "number"}, "trunk": {"transformer": {"depth": 1}}}, "positions of the picture alone"),
    ({"inputs": {"one": "image", "two": "image"}, "trunk": {"transformer": {"depth": 1}}}, "needs exactly one input of kind image"),
])
def test_what_boxes_do_not_go_with(model: dict[str, Any], said: str) -> None:
    sound = {"inputs": {"photo": "image"}, "trunk": {"conv": {}}, "heads": {"things": "boxes"}}
    data = {"sources": [{"table": "a.csv", "licence": "MIT"}]}
    derive(ProjectSpec.model_validate({"name": "a", "data": data, "model": sound}))
    with pytest.raises(Contradiction, match=said):
        derive(ProjectSpec.model_validate({"name": "a", "data": data, "model": sound | model}))


@pytest.mark.parametrize("trunk", ["transformer", "mlp"])
def test_what_is_measured_later_is_by_rule_until_then(trunk: str) -> None:
    text = "name: t\ndata: {sources: [{files: '*.py', licence: MIT}]}\nmodel: {trunk: {transformer: {depth: 4}}}\n"
    if trunk == "mlp":
        text = text.replace("*.py", "*.csv").replace("files", "table").replace(
            "{trunk: {transformer: {depth: 4}}}", "{inputs: {a: number}, trunk: {mlp: {}}, heads: {b: binary}}"
        )
    plain, auto = read(text, "treadle.yaml"), read(text, "treadle.yaml", ["train.learning_rate=auto", "train.batch=auto"])
    assert isinstance(plain, ProjectSpec)
    assert isinstance(auto, ProjectSpec)
    by_rule, later = derive(plain), derive(auto)
    assert (later.learning_rate, later.batch) == (by_rule.learning_rate, by_rule.batch)
    reasons = {row.key: row.reason for row in later.reasons}
    assert all(reasons[key].startswith("until it is measured, before the run: ") for key in ("learning_rate", "batch"))
