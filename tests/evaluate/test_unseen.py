"""A right answer that training never saw is one that the model gets wrong: users will meet it too."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from treadle.core.project import load_project
from treadle.data.targets.scalar import IGNORE, UNSEEN
from treadle.evaluate.answers import HeadScores, head_figures, stand
from treadle.evaluate.metrics import weights
from treadle.evaluate.records import evaluate_records
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.show import scorecard
from treadle.store.artifacts import Store
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

CLASSES = np.array([0, 1, 2, UNSEEN, 1, UNSEEN, IGNORE, 0])
GIVEN = np.array([0, 1, 1, 1, 2, 0, 2, 0])


def scores(kind: str, outputs: np.ndarray, targets: np.ndarray) -> HeadScores:
    return HeadScores(kind, outputs, targets, np.where(targets >= 0, 0.5, np.nan))


def test_classes_beside_scikit_learn():
    found = head_figures(scores("category", np.eye(3)[GIVEN], CLASSES), None, weights(8, 200, 0))
    known = CLASSES != IGNORE
    right, said = np.where(CLASSES == UNSEEN, 3, CLASSES)[known], GIVEN[known]
    assert found["accuracy"].value == pytest.approx(accuracy_score(right, said)) == 3 / 7
    for name, of in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name].value == pytest.approx(of(right, said, average="macro", zero_division=0)), name
    assert found["loss"].value == pytest.approx(0.5)


def test_yes_or_no_beside_scikit_learn():
    targets = np.array([1, 0, 1, UNSEEN, UNSEEN, np.nan, 0], np.float32)
    outputs = np.array([0.9, 0.2, 0.4, 0.8, 0.1, 0.9, 0.3], np.float32)
    found = head_figures(scores("binary", outputs, targets), None, weights(7, 200, 0))
    assert found["accuracy"].value == pytest.approx(3 / 6)
    assert found["precision"].value == pytest.approx(1 / 2)
    assert found["recall"].value == pytest.approx(1 / 2)
    seen = [0, 1, 2, 6]
    assert found["auc"].value == pytest.approx(roc_auc_score(targets[seen], outputs[seen]))


def test_two_models_that_meet_it_are_both_wrong():
    same = scores("category", np.eye(3)[GIVEN], CLASSES)
    perfect = scores("category", np.eye(3)[np.maximum(CLASSES, 0)], CLASSES)
    against = stand(perfect, same, None, weights(8, 200, 0))
    assert against is not None
    assert against["value"] == pytest.approx(2 / 7)  # of seven answers the perfect one gets five right


def test_the_scorecard_says_how_many_there_were(tmp_path: Path):
    (tmp_path / "treadle.yaml").write_text("""
name: fruit
data:
  sources:
    - {table: train.csv, licence: CC0-1.0, part: train}
    - {table: test.csv, licence: CC0-1.0, part: test}
  split: {validation: 20%}
model: {inputs: {size: number}, trunk: {mlp: {width: 8, depth: 1}}, heads: {fruit: category}}
train: {budget: 30 epochs, batch: 8, learning_rate: 0.02, threads: 1, precision: float32}
evaluate: {resamples: 100}
""")
    for part, count in (("train", 60), ("test", 40)):
        with (tmp_path / f"{part}.csv").open("w", newline="") as stream:
            out = csv.writer(stream)
            out.writerow(["size", "fruit"])
            for n in range(count):
                fruit = "melon" if part == "test" and n % 4 == 0 else ("plum", "apple")[n % 2]
                out.writerow([{"plum": 1, "apple": 3, "melon": 9}[fruit] + n / 1000, fruit])
    project = load_project(tmp_path)
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    model = train_model(project, store, dataset, first_round(project, dataset))
    card = evaluate_records(project, store, model, dataset).counts
    head = card["heads"]["fruit"]
    assert (head["unseen"], head["unanswered"]) == (10, 0)
    assert head["metrics"]["accuracy"]["value"] == pytest.approx(0.75)
    assert head["baselines"]["always the same"]["accuracy"]["value"] == pytest.approx(0.25)
    assert "10 whose answer training never saw, counted as wrong" in "\n".join(scorecard(card))
