"""Figures of vectors against scipy, scikit-learn and plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from treadle.data.columns import ragged, save_column
from treadle.data.schema import Schema
from treadle.data.targets.embedding import EmbeddingTarget
from treadle.evaluate.answers import HeadScores, head_figures, stand
from treadle.evaluate.embeddings import SparsePairs, cosines, ranked, spearman, word_vectors
from treadle.evaluate.metrics import weights
from treadle.spec.model import Model
from treadle.store.artifacts import Artifact


def target(graded: bool) -> EmbeddingTarget:
    schema = Schema(Model.model_validate({
        "inputs": {"texts": {"pair": {"columns": ["a", "b"], "tokenizer": {"words": 40}}}}, "trunk": "mlp",
        "heads": {"alike": {"embedding": {"column": "score"} if graded else {}}},
    }))
    found = schema.targets["alike"]
    assert isinstance(found, EmbeddingTarget)
    return found


def drawn_pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1, and targets in which some texts come again."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, 2, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    numbers = draw.integers(0, count * 2 // 3, (count, 2))
    for place, number in enumerate(numbers[:, 1]):  # equal texts have equal vectors
        vectors[place, 1] = vectors[np.flatnonzero(numbers[:, 1] == number)[0], 1]
    return vectors, np.column_stack([draw.integers(0, 5, count) / 4, numbers]).astype(np.float64)


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_on_every_resample(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    vectors, targets = drawn_pairs(40, seed)
    drawn = weights(40, 150, seed)
    one = cosines(vectors)
    found = spearman(one, targets[:, 0], drawn)
    for row in (0, 1, 120, 149):
        again = np.repeat(np.arange(40), drawn[row].astype(int))
        assert found[row] == pytest.approx(stats.spearmanr(one[again], targets[again, 0]).statistic)
    assert spearman(one, np.ones(40), drawn[:2]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_the_place_of_the_other_half_is_that_of_a_plain_count(seed: int) -> None:
    vectors, targets = drawn_pairs(300, seed)
    found = ranked(vectors, targets)
    for row in range(0, 300, 7):
        own, place = vectors[row, 0] @ vectors[row, 1], 1
        right = {targets[n, 2] for n in range(300) if targets[n, 1] == targets[row, 1] and targets[n, 0] >= 0.75}
        for number in set(targets[:, 2]) - right - {targets[row, 2]}:
            other = vectors[np.flatnonzero(targets[:, 2] == number)[0], 1]
            place += bool(vectors[row, 0] @ other >= own - 1e-12)
        assert found[row] == place


def test_figures_of_graded_pairs_and_of_pairs_that_belong_together() -> None:
    vectors = np.eye(20)[:, None].repeat(2, 1)
    targets = np.column_stack([np.arange(20) / 19, np.arange(20), np.arange(100, 120)])
    vectors[:5, 1] = vectors[1:6, 0]  # those five are far from their other half
    graded = head_figures(HeadScores("embedding", vectors, targets, np.ones(20)), target(True), weights(20, 50, 0))
    assert set(graded) == {"loss", "spearman", "recall@1", "recall@10"}
    assert graded["recall@1"].value == 1.0  # of those that belong together none is far
    assert graded["spearman"].value == pytest.approx(0.75, abs=0.01)
    targets[:, 0] = 1.0
    together = head_figures(HeadScores("embedding", vectors, targets, np.ones(20)), target(False), weights(20, 50, 0))
    assert set(together) == {"loss", "recall@1", "recall@10"}
    assert together["recall@1"].value == 0.7  # five are far, and one is as near to a text of theirs as to its own
    same = np.ones((20, 2, 1))
    nothing = head_figures(HeadScores("embedding", same, targets, np.ones(20)), target(False), weights(20, 50, 0))
    assert (nothing["recall@1"].value, nothing["recall@10"].value) == (0.0, 0.0)  # what cannot tell texts apart finds none


def test_how_vectors_stand_against_others_on_the_same_pairs() -> None:
    vectors, targets = drawn_pairs(60, 1)
    good = np.stack([np.stack([np.ones(60), np.zeros(60)], 1), np.stack([targets[:, 0], np.sqrt(1 - targets[:, 0] ** 2)], 1)], 1)
    ours, theirs = (HeadScores("embedding", outputs, targets, np.ones(60)) for outputs in (good, vectors))
    for graded, figure in ((True, "spearman"), (False, "recall@10")):
        found = stand(ours, theirs, target(graded), weights(60, 100, 0))
        assert found is not None
        assert found["figure"] == figure
        assert (found["verdict"] == "better") is graded


def test_words_alone_are_scikit_learns_tf_idf(tmp_path: Path) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    draw = np.random.default_rng(0)
    made: dict[str, list[tuple[list[int], list[int]]]] = {
        part: [tuple(draw.integers(2, 30, draw.integers(1, 9)).tolist() for _ in range(2)) for _ in range(25)]  # type: ignore[misc]
        for part in ("train", "test")
    }
    for part, rows in made.items():
        arrays = [np.array([*([t, 0] for t in one), *([t, 1] for t in two)]) for one, two in rows]
        save_column(tmp_path, part, "inputs.texts", ragged(arrays, np.int64, (2,)))
    alike = target(True)
    scores = {"alike": HeadScores("embedding", np.zeros((25, 2, 3)), np.zeros((25, 3)), np.ones(25))}
    schema = type("Fitted", (), {"inputs": {"texts": alike.pair}})()
    found = word_vectors(Artifact("dataset", tmp_path, {}), schema, scores)["alike"]["words alone"]
    assert isinstance(found, SparsePairs)
    reference = text.TfidfVectorizer(analyzer=list, sublinear_tf=True)
    reference.fit([row for which in (0, 1) for row in (pair[which] for pair in made["train"])])
    one, two = (reference.transform([pair[which] for pair in made["test"]]) for which in (0, 1))
    wanted = np.asarray(one.multiply(two).sum(1)).ravel()
    seen = set(reference.vocabulary_)
    known = np.array([all(token in seen for token in [*a, *b]) for a, b in made["test"]])
    assert known.sum() > 15
    assert cosines(found)[known] == pytest.approx(wanted[known])
    dense = np.stack([found.first.toarray(), found.second.toarray()], 1)
    targets = np.column_stack([np.ones(25), np.arange(25), np.arange(25)])
    assert ranked(found, targets).tolist() == ranked(dense, targets).tolist()
