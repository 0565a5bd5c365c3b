"""The bag of words finds what words tell, sees neighbours and which text a word stands in, and is said to be absent."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from treadle.data.columns import Column, ragged, save_column
from treadle.data.schema import Schema
from treadle.evaluate.answers import HeadScores
from treadle.evaluate.bag_of_words import NAME, bag_of_words
from treadle.spec.model import Model
from treadle.store.artifacts import Artifact

Rows = dict[str, tuple[list[list], list[float]]]


def answers(folder: Path, kind: str, rows: Rows, head: str = "binary", **more: object) -> dict:
    """The regression's answers to the test part of a dataset with these tokens and right answers."""
    settings = {"columns": ["a", "b"]} if kind == "pair" else {}
    model = Model.model_validate({"inputs": {"x": {kind: settings}, **more}, "trunk": "mlp", "heads": {"y": head}})
    for part, (texts, right) in rows.items():
        arrays = [np.array(text, np.int64) for text in texts]
        save_column(folder, part, "inputs.x", ragged(arrays, np.int64, (2,) if kind == "pair" else ()))
        save_column(folder, part, "heads.y", Column(np.array(right, np.int64 if head == "category" else np.float32)))
    count = len(rows["test"][1])
    scores = HeadScores(head, np.zeros((count, 3) if head == "category" else count), np.zeros(count), np.zeros(count))
    return bag_of_words(Artifact("dataset", folder, {}), Schema(model), {"y": scores})


def drawn(kind: str, seed: int, count: int = 200) -> tuple[list[list], list[float]]:
    """The answer is yes where 7 stands before 8, or in a pair where 7 stands in the second text."""
    random = np.random.default_rng(seed)
    texts, right = [], []
    for _ in range(count):
        yes = int(random.integers(2))
        noise = random.integers(10, 30, 4).tolist()
        if kind == "pair":
            one, two = ([*noise], [5, 7]) if yes else ([*noise, 7], [5])
            texts.append([*([token, 0] for token in one), *([token, 1] for token in two)])
        else:
            texts.append([*noise[:2], *([7, 8] if yes else [8, 7]), *noise[2:]])
        right.append(yes)
    return texts, right


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_it_sees_neighbours_and_which_text_a_word_stands_in(tmp_path: Path, kind: str) -> None:
    rows = {part: drawn(kind, seed) for seed, part in enumerate(("train", "validation", "test"))}
    given = answers(tmp_path, kind, rows)["y"][NAME]
    assert ((given >= 0.5) == np.array(rows["test"][1])).mean() > 0.95


def test_of_classes_each_has_its_share_and_records_without_an_answer_teach_nothing(tmp_path: Path) -> None:
    texts = [[10 + (number % 3)] for number in range(90)]
    right: list[float] = [number % 3 for number in range(90)]
    spoiled = [-100 if number % 2 else answer for number, answer in enumerate(right)]
    rows = {"train": (texts, spoiled), "validation": (texts, spoiled), "test": (texts[:6], right[:6])}
    given = answers(tmp_path, "text", rows, "category")["y"][NAME]
    assert given.shape == (6, 3)
    assert given.argmax(1).tolist() == right[:6]


def test_it_stays_away_where_text_is_not_all_there_is(tmp_path: Path) -> None:
    rows = {part: drawn("text", 0, 20) for part in ("train", "validation", "test")}
    assert answers(tmp_path, "text", rows, age="number") == {}


def test_its_absence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    rows = {part: drawn("text", 0, 20) for part in ("train", "validation", "test")}
    assert answers(tmp_path, "text", rows) == {}
    assert "needs scikit-learn" in "".join(capsys.readouterr())
