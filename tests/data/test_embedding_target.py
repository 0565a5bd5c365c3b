"""Two texts that are read apart, how much they are alike, and what a cosine says in the data's unit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.core.errors import UserError
from treadle.data.fields.base import BadValue
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.targets.embedding import EmbeddingTarget
from treadle.spec.model import Model

ROWS: list[dict[str, Any]] = [
    {"a": "one two", "b": "two three", "score": "1"}, {"a": "one", "b": "three", "score": 5},
    {"a": "one", "b": "two three", "score": 2},
]


def schema(column: str | None = "score", pair: dict[str, Any] | None = None, rows: Any = ROWS, folder: Path = Path()) -> Schema:
    made = Schema(Model.model_validate({
        "inputs": {"texts": {"pair": {"columns": ["a", "b"], "context": 8, "tokenizer": {"words": 20}} | (pair or {})}},
        "trunk": {"recurrent": {}}, "heads": {"alike": {"embedding": {"column": column} if column else {}}},
    }))
    plain = [made.parse(row) for row in rows]
    made.fit([Record(str(n), fields, "", "MIT", str(n)) for n, fields in enumerate(plain)], folder)
    return made


def target(made: Schema) -> EmbeddingTarget:
    found = made.targets["alike"]
    assert isinstance(found, EmbeddingTarget)
    return found


def test_answers_lie_between_the_least_and_the_most_of_the_train_part_and_equal_texts_have_equal_numbers() -> None:
    made = schema()
    values = made.encode_targets([made.parse(row) for row in [*ROWS, {"a": "x", "b": "y", "score": 9}]])["alike"].values
    assert values[:, 0].tolist() == [0.0, 1.0, 0.25, 2.0]
    assert values[1, 1] == values[2, 1] != values[0, 1]
    assert values[0, 2] == values[2, 2] != values[1, 2]
    unknown = made.encode_targets([{"a": "x", "b": "y", "score": None}])["alike"].values
    assert math.isnan(unknown[0, 0])
    assert (values[:, 1:] == values[:, 1:].astype(np.int64)).all()
    alone = schema(None)
    assert alone.encode_targets([alone.parse(ROWS[0])])["alike"].values[0, 0] == 1.0
    assert (target(made).graded, target(alone).graded) == (True, False)


def test_each_text_is_read_as_one_that_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\none\ntwo\nthree")
    made = schema(pair={"tokenizer": {"file": "vocab.txt"}, "context": 8}, folder=tmp_path)
    long = made.parse({"a": "one two", "b": "three " * 20, "score": 1})
    assert made.encode_inputs([long])["texts"].values.tolist() == [
        *([id, 0] for id in (2, 5, 6, 3)), *([id, 1] for id in (2, *[7] * 6, 3)),
    ]
    assert made.inputs["texts"].layout.length == 8
    beside = Schema(Model.model_validate({
        "inputs": {"texts": {"pair": {"columns": ["a", "b"], "context": 8}}}, "trunk": {"recurrent": {}},
        "heads": {"y": "category"},
    }))
    assert not beside.inputs["texts"].apart  # type: ignore[attr-defined]


def test_a_pair_without_one_of_its_texts_teaches_nothing_but_may_be_asked() -> None:
    made = schema()
    with pytest.raises(BadValue) as raised:
        made.parse({"a": "one", "b": " ", "score": 1})
    assert (raised.value.reason, raised.value.detail) == ("no text", "alike: b")
    vectors = np.array([[[0.6, 0.8], [0.0, 1.0]]])
    (answer,) = target(made).answers(vectors)
    for one, two, said in (("x", "y", 0.8), ("x", None, [0.6, 0.8]), ("", "y", [0.0, 1.0]), (None, None, None)):
        plain = made.parse({"a": one, "b": two}, answers=False)
        assert target(made).about(answer, plain)["answer"] == said


def test_a_right_cosine_is_a_number_in_the_datas_unit() -> None:
    made = schema()
    assert target(made).answered({}, 0.5) == {"score": 3.0} == target(made).answered({}, "0.5")
    for wrong in (1.5, "much", [0.1, 0.2], None):
        with pytest.raises(BadValue):
            target(made).answered({}, wrong)
    with pytest.raises(BadValue, match="learns from pairs that belong together"):
        target(schema(None)).answered({}, 0.5)


def test_numbers_that_are_all_the_same_are_told() -> None:
    with pytest.raises(UserError, match="holds 1 different numbers"):
        schema(rows=[ROWS[0], ROWS[0]])


def test_it_is_restored_from_its_state() -> None:
    made, again = target(schema()), target(schema(rows=[ROWS[1], ROWS[2]]))
    assert again.low == 2.0
    again.restore(made.state())
    assert (again.low, again.high, again.layout) == (made.low, made.high, made.layout)
