"""Figures of spans against a word-by-word count in the manner of CoNLL's, and what each word alone says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.data.columns import ragged, save_column
from treadle.data.schema import Schema
from treadle.data.spans import spans_of
from treadle.evaluate.answers import HeadScores, head_figures, stand
from treadle.evaluate.metrics import weights
from treadle.evaluate.naive import always_the_same
from treadle.evaluate.tags import words_alone
from treadle.spec.model import Model
from treadle.store.artifacts import Artifact

Tags = list[int]


def encoded(right: list[Tags], lost: int = 0) -> np.ndarray:
    """Rows as the target has them: a token is two characters. ``lost`` spans of the first text are ones that no tokens make."""
    rows = []
    for number, tags in enumerate(right):
        places = np.array([(3 * place, 3 * place + 2) for place in range(len(tags))])
        spans = [(-1 - kind, start, end) for (start, end, kind), _ in spans_of(tags, places)]
        spans += [(-1, 1000 + n, 1001 + n) for n in range(lost if number == 0 else 0)]
        rows.append(np.concatenate([np.column_stack([np.array(tags) + 1, places]), np.array(spans).reshape(-1, 3)]))
    found, _ = ragged(rows, np.int64, (3,)).rows(np.arange(len(rows)))
    return found


def given_(tags: list[Tags]) -> np.ndarray:
    """Outputs as the head gives them."""
    longest = max(map(len, tags))
    return np.array([[[tag + 1, 0.5] for tag in row] + [[0, 0]] * (longest - len(row)) for row in tags], np.float64)


def chunks(tags: Tags) -> set[tuple[int, int, int]]:
    """Where a chunk ends and where one starts, word by word, as conlleval walks through a file (Tjong Kim Sang and De Meulder
    2003)."""
    names = [("O", -1) if not tag else ("B" if tag % 2 else "I", (tag - 1) // 2) for tag in tags]
    found, start = set(), None
    for place, (mark, kind) in enumerate([*names, ("O", -1)]):
        before, kind_before = names[place - 1] if place else ("O", -1)
        if before != "O" and (mark in "BO" or kind != kind_before):
            found.add((start, place, kind_before))
        if mark != "O" and (mark == "B" or before == "O" or kind != kind_before):
            start = place
    return found


texts = st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(0, 10_000)), min_size=1, max_size=5)


@given(texts, st.integers(0, 2))
def test_precision_recall_and_f1_are_those_of_conll(drawn: list[tuple[Tags, int]], lost: int) -> None:
    right = [tags for tags, _ in drawn]
    said = [np.random.default_rng(seed).permutation(tags).tolist() if seed % 3 else tags for tags, seed in drawn]
    scores = HeadScores("tags", given_(said), encoded(right, lost), np.ones(len(right)))
    found = head_figures(scores, None, weights(len(right), 10, 0))
    hits = sum(len(chunks(a) & chunks(b)) for a, b in zip(said, right, strict=True))
    spoken, there = sum(len(chunks(tags)) for tags in said), sum(len(chunks(tags)) for tags in right) + lost
    precision, recall = hits / spoken if spoken else 0.0, hits / there if there else 0.0
    assert found["precision"].value == pytest.approx(precision)
    assert found["recall"].value == pytest.approx(recall)
    assert found["f1"].value == pytest.approx(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    equal = [a == b for one, two in zip(said, right, strict=True) for a, b in zip(one, two, strict=True)]
    assert found["token_accuracy"].value == pytest.approx(np.mean(equal))
    assert set(found) == {"loss", "token_accuracy", "precision", "recall", "f1"}


def test_a_text_of_nothing_but_unseen_labels_is_missed_and_one_without_an_answer_is_not_asked() -> None:
    right = np.concatenate([encoded([[1, 2]]), np.array([[[0, 0, 2], [-3, 0, 2], [0, 0, 0]], [[0, 0, 2], [0, 0, 0], [0, 0, 0]]])])
    said = given_([[1, 2], [1], [1]])
    found = head_figures(HeadScores("tags", said, right, np.array([1.0, np.nan, np.nan])), None, weights(3, 10, 0))
    assert found["recall"].value == found["precision"].value == 0.5
    assert found["loss"].value == found["token_accuracy"].value == 1.0


def test_how_it_stands_against_another_on_the_same_texts() -> None:
    right = [[1, 2, 0, 3], [0, 0, 1]] * 30
    good = HeadScores("tags", given_(right), encoded(right), np.ones(60))
    half = HeadScores("tags", given_([[1, 2, 0, 0], [0, 0, 1]] * 30), good.targets, good.losses)
    found = stand(good, half, None, weights(60, 200, 0))
    assert found is not None
    assert (found["figure"], found["verdict"]) == ("f1", "better")
    assert found["value"] == pytest.approx(1 - 2 * 60 / (60 + 90))


def test_each_word_alone_says_what_it_mostly_was_and_a_span_never_goes_on_with_nothing(tmp_path: Path) -> None:
    parts = {
        "train": ([[5, 6, 7], [5, 6, 8], [6, 7], [9]], [[1, 2, 0], [1, 2, 0], [2, 0], [3]]),
        "test": ([[7, 5, 6, 9], [6], [20, 7]], [[0, 1, 2, 3], [1], [0, 0]]),
    }
    for part, (words, tags) in parts.items():
        save_column(tmp_path, part, "inputs.text", ragged([np.array(row) for row in words], np.int64))
        rows = [np.column_stack([np.array(row) + 1, np.zeros((len(row), 2), np.int64)]) for row in tags]
        rows = [np.concatenate([row, [[-1, 0, 0]]]) for row in rows]
        save_column(tmp_path, part, "heads.spans", ragged(rows, np.int64, (3,)))
    schema = Schema(Model.model_validate({
        "inputs": {"text": {"tokenizer": {"words": 30}}}, "trunk": {"recurrent": {"directions": 2}}, "heads": {"spans": "tags"},
    }))
    schema.inputs["text"].tokenizer = type("Stub", (), {  # type: ignore[attr-defined]
        "get_vocab_size": lambda self: 30, "num_special_tokens_to_add": lambda self, pair: 0,
    })()
    schema.targets["spans"].labels = ["A", "B"]  # type: ignore[attr-defined]
    scores = {"spans": HeadScores("tags", np.zeros((3, 4, 2)), encoded(parts["test"][1]), np.ones(3))}
    dataset = Artifact("dataset", tmp_path, {})
    alone = words_alone(dataset, schema, scores)["spans"]["each word alone"][..., 0] - 1
    assert alone[0].tolist() == [0, 1, 2, 3]
    assert alone[1, 0] in (0, 1)  # what mostly went on cannot begin by going on
    assert alone[2, 1] == 0
    nothing = always_the_same(dataset, schema, scores)["spans"]["always the same"]
    found = head_figures(HeadScores("tags", nothing, scores["spans"].targets, np.ones(3)), None, weights(3, 10, 0))
    assert (found["f1"].value, found["token_accuracy"].value) == (0.0, pytest.approx(3 / 7))
