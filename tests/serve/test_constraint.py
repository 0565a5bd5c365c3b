"""Answers held to a form, by any scores."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.errors import RequestError
from treadle.data.shards import END_ID
from treadle.data.tokenizer import train_tokenizer
from treadle.serve.constraint import Form, Forms

TOKENIZER = train_tokenizer(['{"name": "Ada", "age": 36, "tags": ["a", "b"]}, true, false, null, yes, no, 2026-11-28 '] * 3, 300)
SIZE = TOKENIZER.get_vocab_size()
FORMS = Forms(TOKENIZER, SIZE, [END_ID])
SCHEMA = {
    "type": "object", "properties": {
        "name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ü"]}, "maxItems": 3},
    }, "required": ["name", "age"], "additionalProperties": False,
}


def written(form: Form, seed: int, most: int = 400) -> str | None:
    """What random scores write; None where they are not done in time."""
    source, constraint, tokens = torch.Generator().manual_seed(seed), FORMS.begin(form), []
    while not constraint.complete and len(tokens) < most:
        scores = constraint.limited(torch.randn(SIZE, generator=source))
        token = int(scores.argmax())
        assert scores[token] > -torch.inf
        if token == END_ID:
            return TOKENIZER.decode(tokens, skip_special_tokens=False)
        constraint.push(token)
        tokens.append(token)
    return TOKENIZER.decode(tokens, skip_special_tokens=False) if constraint.complete else None


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_any_scores_write_what_the_schema_allows(seed: int):
    text = written(Form.of("json_schema", SCHEMA), seed)
    if text is not None:
        jsonschema.validate(json.loads(text), SCHEMA)


@given(st.integers(0, 2**31 - 1))
def test_any_scores_write_what_the_expression_matches(seed: int):
    text = written(Form.of("regex", r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])( [a-zé]{1,5})?"), seed)
    assert text is not None
    assert re.fullmatch(r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])( [a-zé]{1,5})?", text)


def test_one_of_the_choices_is_written():
    choices = ["yes", "no", "yes, but", "naïve 🙂"]
    found = {written(Form.of("choice", choices), seed) for seed in range(60)}
    assert found == set(choices)


@pytest.mark.parametrize(("kind", "value"), [
    ("json_schema", {"type": "nonsense"}), ("json_schema", {"$ref": "http://elsewhere.example/x"}), ("regex", "(unclosed"),
])
def test_what_is_no_form_is_said(kind: str, value: object):
    with pytest.raises(RequestError, match="cannot be held to this"):
        FORMS.begin(Form.of(kind, value))  # type: ignore[arg-type]


def test_the_same_scores_write_the_same_with_other_answers_between():
    seeds = random.Random(0).sample(range(1000), 3)
    form = Form.of("json_schema", SCHEMA)
    assert [written(form, seed) for seed in seeds] == [written(form, seed) for seed in seeds[::-1]][::-1]
