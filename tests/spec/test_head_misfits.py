"""Heads that tag, and what they need of the model: each misfit with its place and its cure."""

from __future__ import annotations

from typing import Any

import pytest

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
