"""Heads that tag or embed, and what they need of the model: each misfit with its place and its cure."""

from __future__ import annotations

from typing import Any

import pytest

from treadle.spec.figures import figures_of
from treadle.spec.heads import Head
from treadle.spec.model import Model

TEXT: dict[str, Any] = {"text": {"text": {}}}
BOTH: dict[str, Any] = {"recurrent": {"directions": 2}}


def misfits(inputs: dict[str, Any], trunk: Any, head: Any) -> list[tuple[str, str]]:
    made = Model.model_validate({"inputs": inputs, "trunk": trunk, "heads": {"y": head}})
    return [(".".join(at), message) for at, message in made.misfits()]


@pytest.mark.parametrize("trunk", [BOTH, {"transformer": {"depth": 1}}, {"pretrained": {"folder": "bert"}}])
def test_tags_go_with_trunks_that_keep_positions(trunk: Any) -> None:
    assert misfits(TEXT, trunk, "tags") == []


@pytest.mark.parametrize(("inputs", "trunk", "head", "at", "said"), [
    (TEXT, "mlp", "tags", "model.heads.y", "recurrent, transformer and pretrained keep them"),
    (TEXT, {"recurrent": {}}, "tags", "model.trunk.recurrent.directions", "set directions to 2"),
    (TEXT, {"transformer": {"depth": 1, "causal": True}}, "tags", "model.trunk.transformer.causal", "leave causal out"),
    ({"age": "number"}, BOTH, "tags", "model.heads.y", "there are 0 inputs of kind text"),
    ({"a": "text", "b": "text"}, BOTH, "tags", "model.heads.y", "there are 2 inputs of kind text: say which one"),
    (TEXT, BOTH, {"tags": {"input": "note"}}, "model.heads.y", "'note' is no input of kind text"),
    ({"text": {"text": {"column": ["a", "b"]}}}, BOTH, "tags", "model.inputs.text.text.column", "name one column"),
    ({"text": {"augment": {"drop": 0.1}}}, BOTH, "tags", "model.inputs.text.text.augment.drop", "set drop to 0"),
])
def test_what_tags_do_not_go_with_is_said(inputs: Any, trunk: Any, head: Any, at: str, said: str) -> None:
    ((place, message),) = misfits(inputs, trunk, head)
    assert place == at
    assert said in message


def test_a_named_text_settles_which_one() -> None:
    assert misfits({"a": "text", "b": "text"}, BOTH, {"tags": {"input": "b"}}) == []


PAIR: dict[str, Any] = {"texts": {"pair": {"columns": ["a", "b"]}}}
GRADED: dict[str, Any] = {"embedding": {"column": "score"}}


@pytest.mark.parametrize("trunk", ["mlp", {"recurrent": {}}, {"transformer": {"depth": 1}}, {"pretrained": {"folder": "bert"}}])
def test_an_embedding_goes_with_every_trunk_that_reads_texts(trunk: Any) -> None:
    assert misfits(PAIR, trunk, GRADED) == misfits(PAIR, trunk, {"embedding": {"temperature": 0.1}}) == []


def test_what_an_embedding_does_not_go_with_is_said() -> None:
    assert misfits(TEXT, "mlp", "embedding") == [("model.heads.y", "embedding needs exactly one input of kind pair")]
    ((place, said),) = misfits(PAIR, "mlp", {"embedding": {"column": "score", "temperature": 0.1}})
    assert (place, "leave temperature out" in said) == ("model.heads.y.embedding.temperature", True)
    ((_, said),) = misfits({**PAIR, "age": "number"}, "mlp", "embedding")
    assert "no other head or input can stand beside it" in said
    two = Model.model_validate({"inputs": PAIR, "trunk": "mlp", "heads": {"y": "embedding", "z": "category"}})
    assert "no other head" in two.misfits()[0][1]
    ((_, said),) = misfits({"texts": {"pair": {"columns": ["a", "score"]}}}, "mlp", GRADED)
    assert "is an input too" in said


def test_a_correlation_is_a_figure_of_graded_answers_only() -> None:
    assert "spearman" in figures_of(Head.model_validate(GRADED))
    assert figures_of(Head.model_validate("embedding")) == ("loss", "recall@1", "recall@10")
