"""Figures of answers against scikit-learn's, resampled ones against its weighted ones, and how two models stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.data.targets.scalar import LabelsTarget, NumberTarget
from treadle.evaluate.answers import HeadScores, _auc, head_figures, stand
from treadle.evaluate.metrics import weights
from treadle.spec.heads import Labels, Quantity

sk = pytest.importorskip("sklearn.metrics")
N = 400


def scored(kind: str, outputs: Any, targets: Any) -> HeadScores:
    return HeadScores(kind, outputs, targets, np.zeros(len(targets)))


def values(scores: HeadScores, target: Any = None) -> dict[str, float]:
    drawn = weights(len(scores.targets), 200, 0)
    found = head_figures(scores, target, drawn)
    for name, figure in found.items():
        assert figure.low <= figure.value <= figure.high or name == "r2", name
    return {name: figure.value for name, figure in found.items()}


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 60))
def test_classes(seed: int, classes: int, count: int):
    source = np.random.default_rng(seed)
    outputs, right = source.dirichlet(np.ones(classes), count), source.integers(0, classes, count)
    said = outputs.argmax(1)
    found = values(scored("category", outputs, right))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(right, said))
    for name, of in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert found[name] == pytest.approx(of(right, said, average="macro", zero_division=0)), name


def test_no_variance_is_no_share_of_it():
    """Where users gave the same answer to each record, r2 cannot be said."""
    target = number_target([1.0, 2.0, 7.0])
    figures = head_figures(scored("number", np.ones((9, 1)), np.full(9, 5.3)), target, weights(9, 50, 0))
    assert np.isnan(figures["r2"].value)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 8))
def test_yes_or_no(seed: int, count: int, levels: int):
    """Few levels give many ties, which count half in the area under the curve."""
    source = np.random.default_rng(seed)
    outputs = np.round(source.random(count) * levels) / levels
    right = (source.random(count) < 0.4).astype(np.float32)
    right[:2] = 0, 1
    found = {name: f.value for name, f in head_figures(scored("binary", outputs, right), None, np.ones((1, count))).items()}
    said = outputs >= 0.5
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(right, said))
    for name, of in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert found[name] == pytest.approx(of(right, said, zero_division=0)), name
    assert found["auc"] == pytest.approx(sk.roc_auc_score(right, outputs))


@given(st.integers(0, 2**32 - 1))
def test_the_area_under_the_curve_takes_weights(seed: int):
    source = np.random.default_rng(seed)
    outputs, right = np.round(source.random(50), 1), source.random(50) < 0.5
    right[:2] = False, True
    drawn = source.integers(0, 4, (5, 50)).astype(np.float64)
    drawn[:, :2] = 1
    expected = [sk.roc_auc_score(right, outputs, sample_weight=row) for row in drawn]
    assert _auc(outputs, right, drawn) == pytest.approx(np.array(expected))


def number_target(values: Any, **settings: Any) -> NumberTarget:
    target = NumberTarget("price", Quantity.model_validate(settings), ("price",))
    target.fit(list(values))
    return target


@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_numbers_in_the_unit_of_the_data(offset: float):
    """With an offset of a point in time as well, whose square leaves no digits for the spread."""
    source = np.random.default_rng(1)
    plain = offset + 10 * source.standard_normal(N)
    target = number_target(plain)
    right = target.encode(list(plain)).values.astype(np.float64)
    outputs = (right + 0.3 * source.standard_normal(N))[:, None]
    given, known = target.numbers(outputs[:, 0]), target.numbers(right)
    found = values(scored("number", outputs, right), target)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(known, given), rel=1e-6)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(known, given), rel=1e-6)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(known, given), rel=1e-6)
    assert found["r2"] == pytest.approx(sk.r2_score(known, given), rel=1e-6)


def test_of_quantiles_the_middle_one_is_the_answer():
    target = number_target([0.0, 10.0, 20.0], loss="quantile", quantiles=[0.2, 0.45, 0.9])
    right = target.encode([5.0, 15.0]).values
    outputs = np.stack([right - 9, right, right + 9], 1)
    assert values(scored("number", outputs, right), target)["mae"] == pytest.approx(0, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40))
def test_labels(seed: int, labels: int, count: int):
    source = np.random.default_rng(seed)
    outputs, right = source.random((count, labels)), (source.random((count, labels)) < 0.4).astype(np.float32)
    target = LabelsTarget("tags", Labels(), ("tags",))
    found = values(scored("labels", outputs, right), target)
    said, known = (outputs >= 0.5).astype(int), right.astype(int)
    assert found["accuracy"] == pytest.approx((said == known).all(1).mean())
    # scikit-learn takes one column as plain yes and no, whose micro mean would count the noes as well
    said, known = (np.hstack([part, np.zeros_like(part)]) if labels == 1 else part for part in (said, known))
    for name, of in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert found[name] == pytest.approx(of(known, said, average="micro", zero_division=0)), name


def test_records_without_an_answer_do_not_count():
    outputs, right = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]), np.array([0, 1, -100])
    scores = HeadScores("category", outputs, right, np.array([0.1, 0.2, np.nan]))
    figures = head_figures(scores, None, weights(3, 1000, 0))
    assert figures["accuracy"].value == 1.0
    assert figures["loss"].value == pytest.approx(0.15)
    assert 0.0999 < figures["loss"].low <= figures["loss"].high < 0.2001  # a resample may draw none of the two that count


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Of 300 samples of one population, some 95% of the intervals hold its accuracy of 0.7."""
    source, held = np.random.default_rng(0), 0
    for sample in range(300):
        right = source.integers(0, 2, 200)
        said = np.where(source.random(200) < 0.7, right, 1 - right)
        figure = head_figures(scored("category", np.eye(2)[said], right), None, weights(200, 300, sample))["accuracy"]
        held += figure.low <= 0.7 <= figure.high
    assert 0.91 <= held / 300 <= 0.98


def test_two_models_are_told_apart_only_where_they_are():
    """Pairing tells apart what the two intervals alone would not."""
    source = np.random.default_rng(2)
    right = source.integers(0, 2, 2000)
    ours = np.where(source.random(2000) < 0.80, right, 1 - right)
    theirs = np.where(source.random(2000) < 0.97, ours, 1 - right)  # the same, but for a few that are wrong
    one, two = (scored("category", np.eye(2)[said], right) for said in (ours, theirs))
    drawn = weights(2000, 500, 0)
    better, worse, even = stand(one, two, None, drawn), stand(two, one, None, drawn), stand(one, one, None, drawn)
    assert better is not None
    assert worse is not None
    assert even is not None
    assert (better["verdict"], worse["verdict"], even["verdict"]) == ("better", "worse", "even")
    assert better["value"] == pytest.approx((ours == right).mean() - (theirs == right).mean())
    apart = [head_figures(scores, None, drawn)["accuracy"] for scores in (one, two)]
    assert apart[0].low < apart[1].high


def test_of_numbers_the_lower_error_stands_better():
    target = number_target(np.arange(100.0))
    right = target.encode(list(np.arange(100.0))).values.astype(np.float64)
    near, far = (scored("number", (right + off * np.where(np.arange(100) % 3, 1, -1))[:, None], right) for off in (0.1, 0.5))
    found = stand(near, far, target, weights(100, 200, 0))
    assert found is not None
    assert (found["figure"], found["verdict"]) == ("rmse", "better")
    assert found["value"] == pytest.approx(-0.4 * target.deviation, rel=1e-5)
    assert stand(scored("ctc", right, right), scored("ctc", right, right), target, weights(100, 2, 0)) is None
