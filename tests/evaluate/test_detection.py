"""Average precision against a slow reference, as COCO's own tool has it, and against pictures that are told twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.data.columns import ragged
from treadle.evaluate.answers import HeadScores
from treadle.evaluate.detection import OVERLAPS, average_precision, detection_figures, iou, match
from treadle.evaluate.metrics import weights
from treadle.evaluate.naive import _constant

TARGET = SimpleNamespace(settings=SimpleNamespace(threshold=0.5))


def slow_iou(one: Any, two: Any) -> float:
    (a, b, c, d), (e, f, g, h) = ([x - w / 2, y - v / 2, x + w / 2, y + v / 2] for x, y, w, v in (one, two))
    both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return both / ((c - a) * (d - b) + (g - e) * (h - f) - both)


def slow_precision(outputs: Any, targets: Any, label: int, least: float) -> float:
    """Of one label at one overlap: every recall apart, in plain loops."""
    found = [(row[1], number, row[2:]) for number, rows in enumerate(outputs) for row in rows if row[0] == label]
    things = [[row[1:] for row in rows if row[0] == label] for rows in targets]
    total, taken, right = sum(map(len, things)), set(), []
    for _, number, box in sorted(found, key=lambda row: -row[0]):
        free = [(slow_iou(box, thing), place) for place, thing in enumerate(things[number]) if (number, place) not in taken]
        best = max(free, default=(0.0, 0))
        right.append(best[0] >= least)
        taken |= {(number, best[1])} if right[-1] else set()
    points = [(sum(right[: n + 1]) / total, sum(right[: n + 1]) / (n + 1)) for n in range(len(right))]
    return float(np.mean([max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]))


def made_up(seed: int, pictures: int = 12, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """What was found is what is there, moved a little, missed, told twice, or called by another name."""
    rng = np.random.default_rng(seed)
    outputs, targets = np.zeros((pictures, 6, 6)), np.zeros((pictures, 4, 5))
    for number in range(pictures):
        for place in range(rng.integers(0, 5)):
            box = rng.uniform([0.3, 0.3, 0.1, 0.1], [0.7, 0.7, 0.4, 0.4])
            targets[number, place] = [rng.integers(1, labels + 1), *box]
        for place in range(6):
            near = targets[number, rng.integers(0, 4)]
            box = near[1:] if near[0] else rng.uniform([0.3, 0.3, 0.1, 0.1], [0.7, 0.7, 0.4, 0.4])
            label = near[0] if near[0] and rng.random() < 0.8 else rng.integers(1, labels + 1)
            outputs[number, place] = [label, rng.random(), *(box + rng.normal(0, 0.02, 4)).clip(0.02)]
    return outputs, targets


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_the_figures_are_those_of_the_slow_reference(seed: int):
    outputs, targets = made_up(seed)
    found = detection_figures(outputs, targets, TARGET, weights(len(outputs), 100, 0))
    labels = [label for label in (1, 2, 3) if (targets[..., 0] == label).any()]
    slow = np.array([[slow_precision(outputs, targets, label, least) for least in OVERLAPS] for label in labels])
    # A recall that is met but for rounding counts in one of them alone.
    assert found["map50"].value == pytest.approx(slow[:, 0].mean(), abs=0.011 / len(labels))
    assert found["map"].value == pytest.approx(slow.mean(), abs=0.011)
    assert all(figure.low <= figure.high for figure in found.values())


def test_an_example_by_hand():
    box = [0.5, 0.5, 0.2, 0.2]
    targets = np.array([[[1, *box], [1, 0.2, 0.2, 0.2, 0.2]], [[1, *box], [0] * 5], [[0] * 5] * 2], np.float64)
    outputs = np.zeros((3, 2, 6))
    outputs[0] = [[1, 0.9, *box], [1, 0.8, *box]]  # right, and the same thing again
    outputs[1, 0] = [1, 0.7, *box]
    outputs[2, 0] = [1, 0.4, *box]  # nothing is there, and the answer does not hold it
    found = detection_figures(outputs, targets, TARGET, weights(3, 100, 0))
    # Precision 1 up to a recall of 1/3, 2/3 up to 2/3, and nothing beyond.
    assert found["map50"].value == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    assert found["precision"].value == pytest.approx(2 / 3)
    assert found["recall"].value == pytest.approx(2 / 3)


def test_all_right_all_wrong_and_nothing():
    targets = made_up(0)[1]
    right = np.concatenate([targets[..., :1], np.full((*targets.shape[:2], 1), 0.9), targets[..., 1:]], 2)
    drawn = weights(len(targets), 100, 0)
    assert {name: figure.value for name, figure in detection_figures(right, targets, TARGET, drawn).items()} == pytest.approx(
        {"map50": 1, "map": 1, "precision": 1, "recall": 1})
    wrong = right.copy()
    wrong[..., 0] = (wrong[..., 0] % 3 + 1) * (wrong[..., 0] > 0)
    assert all(f.value == 0 for f in detection_figures(wrong, targets, TARGET, drawn).values())
    for outputs, things in ((right * 0, targets), (right, targets * 0), (right * 0, targets * 0)):
        assert all(f.value == 0 for f in detection_figures(outputs, things, TARGET, drawn).values())


def test_an_interval_draws_whole_pictures():
    outputs, targets = made_up(3)
    drawn = weights(len(outputs), 40, 1)
    rows = [(np.repeat(outputs, row.astype(int), 0), np.repeat(targets, row.astype(int), 0)) for row in drawn]
    values = [detection_figures(*row, TARGET, np.ones((1, len(outputs))))["map50"].value for row in rows]
    figure = detection_figures(outputs, targets, TARGET, drawn)["map50"]
    assert [figure.low, figure.high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-9)


def test_overlaps_and_matches():
    boxes = np.random.default_rng(0).uniform(0.05, 0.9, (20, 4))
    np.testing.assert_allclose(iou(boxes[:8], boxes[8:]), [[slow_iou(a, b) for b in boxes[8:]] for a in boxes[:8]])
    assert match(np.array([[0.6, 0.9], [0.8, 0.95], [0.4, 0.1]]), 0.5).tolist() == [True, True, False]
    assert match(np.zeros((2, 0)), 0.5).tolist() == [False, False]


def test_a_label_that_no_picture_shows_has_no_figure():
    none = np.zeros(0)
    drawn = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = average_precision(none, none.astype(int), np.zeros((0, 10), bool), np.array([0.0, 2.0]), drawn)
    assert np.isnan(found[0]).all()
    assert (found[1] == 0).all()


def test_the_naive_answer_is_the_mean_box_of_each_label():
    rows = [np.array([[2, 0.2, 0.2, 0.1, 0.1], [2, 0.4, 0.2, 0.3, 0.1]]), np.zeros((0, 5)), np.array([[1, 0.5, 0.5, 0.5, 0.5]]),
            np.array([[2, 0.3, 0.2, 0.2, 0.1], [-1, 0.9, 0.9, 0.1, 0.1]])]
    head = HeadScores("boxes", np.zeros((3, 4, 6)), np.zeros((3, 1, 5)), np.zeros(3))
    found = _constant(head, ragged(rows, np.float32, (5,)))
    assert found.shape == (3, 2, 6)
    np.testing.assert_allclose(found[1], [[2, 0.5, 0.3, 0.2, 0.2, 0.1], [1, 0.25, 0.5, 0.5, 0.5, 0.5]], rtol=1e-6)
