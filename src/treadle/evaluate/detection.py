"""How well things in pictures were found: average precision as COCO measures it. N pictures, Q found, L things, D found in all.

The things that count are those that the model sees: a picture's edges that ``fit: cover`` cuts off are not asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from treadle.evaluate.metrics import Figure, Floats, interval, ratio

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_RESAMPLES = 200
"""Of which an interval of average precision is made."""
_AT_ONCE = 4_000_000
"""Numbers in memory at a time."""


def detection_figures(outputs: npt.NDArray[Any], targets: npt.NDArray[Any], target: Any, drawn: Floats) -> dict[str, Figure]:
    """map50, map: the mean over labels of the average precision where boxes overlap by half, and its mean over overlaps of 0.5 to
    0.95 (Lin et al. 2014). precision, recall: at half overlap, over all things together, of what the answers hold."""
    weights = np.concatenate([np.ones((1, len(outputs))), drawn[:_RESAMPLES]])
    tables = [average_precision(*found, weights) for found in _labels(outputs, targets)]  # of each label (R, 10), NaN: no things
    shown = [~np.isnan(table[:, :1]) for table in tables]  # by a resample that drew none of its pictures, a label is not
    counts = np.sum(shown, axis=0) if tables else np.zeros((len(weights), 1))
    mean = np.sum([np.nan_to_num(table) for table in tables], axis=0) / np.maximum(counts, 1) + np.zeros((1, len(OVERLAPS)))
    mean = mean[(counts[:, 0] > 0) | (np.arange(len(mean)) == 0)]
    right, given, there = _answered(outputs, targets, target.settings.threshold)
    return {
        "map50": _spread(mean[:, 0]), "map": _spread(mean.mean(1)),
        "precision": _share(right, given, drawn), "recall": _share(right, there, drawn),
    }


def _spread(values: Floats) -> Figure:
    """The first of ``values`` with the interval of the others."""
    return interval(values[0], values[1:] if len(values) > 1 else values)


def _share(top: Floats, bottom: Floats, drawn: Floats) -> Figure:
    drawn = drawn[drawn @ bottom > 0]
    return ratio(top, bottom, drawn) if len(drawn) else Figure(0.0, 0.0, 0.0)


def iou(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> Floats:
    """Boxes (n, 4), (m, 4) of cx, cy, width, height -> intersection over union (n, m)."""
    one, two = one[:, None].astype(np.float64), two[None].astype(np.float64)
    low = np.maximum(one[..., :2] - one[..., 2:] / 2, two[..., :2] - two[..., 2:] / 2)
    high = np.minimum(one[..., :2] + one[..., 2:] / 2, two[..., :2] + two[..., 2:] / 2)
    both = np.clip(high - low, 0, None).prod(-1)
    found: Floats = both / np.maximum(one[..., 2:].prod(-1) + two[..., 2:].prod(-1) - both, 1e-12)
    return found


def match(overlaps: Floats, least: float) -> npt.NDArray[np.bool_]:
    """Which of the found (n), the likeliest first, are right: each takes the thing (m) of the largest overlap that none before it
    took, if that is ``least`` at least."""
    free, right = np.ones(overlaps.shape[1], bool), np.zeros(len(overlaps), bool)
    for number, row in enumerate(overlaps):
        open_ = np.where(free, row, -1.0)
        if open_.size and open_.max() >= least:
            right[number] = True
            free[open_.argmax()] = False
    return right


def _labels(
    outputs: npt.NDArray[Any], targets: npt.NDArray[Any]
) -> Iterator[tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.bool_], Floats]]:
    """Of each label that a picture shows: probability (D,), picture (D,), whether it is right at each overlap (D, 10), and how many
    things each picture shows (N,)."""
    for label in np.unique(targets[..., 0][targets[..., 0] != 0]):
        there = targets[..., 0] == label
        shares: list[Any] = []
        pictures: list[Any] = []
        rights: list[Any] = []
        for number in np.flatnonzero((outputs[..., 0] == label).any(1)):
            mine = outputs[number][outputs[number][:, 0] == label]
            mine = mine[np.argsort(-mine[:, 1], kind="stable")]
            overlaps = iou(mine[:, 2:], targets[number][there[number]][:, 1:])
            shares.append(mine[:, 1])
            pictures.append(np.full(len(mine), number))
            rights.append(np.stack([match(overlaps, least) for least in OVERLAPS], 1))
        none = np.zeros(0)
        yield (
            np.concatenate(shares or [none]), np.concatenate(pictures or [none]).astype(np.int64),
            np.concatenate(rights or [np.zeros((0, len(OVERLAPS)), bool)]), there.sum(1).astype(np.float64),
        )


def average_precision(
    shares: Floats, pictures: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], there: Floats, weights: Floats
) -> Floats:
    """Of one label: the mean, over 101 recalls, of the best precision at that recall or more; for each row of ``weights`` (R, N),
    how often a picture counts, and each overlap (R, 10). NaN where no picture that counts shows the label."""
    order = np.argsort(-shares, kind="stable")
    right, pictures, things = right[order], pictures[order], weights @ there
    found = np.full((len(weights), right.shape[1]), np.nan)
    step = max(1, _AT_ONCE // max(1, len(order)))
    for first in range(0, len(weights), step):
        rows = first + np.flatnonzero(things[first : first + step] > 0)
        counts = weights[rows][:, pictures]
        every = np.maximum(np.cumsum(counts, 1), 1e-12)
        for column in range(right.shape[1]):
            hits = np.cumsum(counts * right[:, column], 1)
            best = np.maximum.accumulate((hits / every)[:, ::-1], axis=1)[:, ::-1]
            for row, reached, precision in zip(rows, hits, best, strict=True):
                at = np.searchsorted(reached / things[row], RECALLS)
                found[row, column] = np.append(precision, 0.0)[at].mean()
    return found


def _answered(outputs: npt.NDArray[Any], targets: npt.NDArray[Any], threshold: float) -> tuple[Floats, Floats, Floats]:
    """Per picture: how many of the answers are right at half overlap, how many there are, how many things there are."""
    right = np.zeros(len(outputs))
    for number, (found, things) in enumerate(zip(outputs, targets, strict=True)):
        said = found[found[:, 1] >= threshold]
        for label in np.unique(said[:, 0]):
            mine = said[said[:, 0] == label]
            mine = mine[np.argsort(-mine[:, 1], kind="stable")]
            right[number] += match(iou(mine[:, 2:], things[things[:, 0] == label][:, 1:]), OVERLAPS[0]).sum()
    said = (outputs[..., 1] >= threshold) & (outputs[..., 0] != 0)
    return right, said.sum(1).astype(np.float64), (targets[..., 0] != 0).sum(1).astype(np.float64)
