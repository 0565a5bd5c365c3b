"""A network's answers to held-out records: figures per head with 95% intervals, for each kind of head. N records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from treadle.data.table import Table
from treadle.data.targets.scalar import UNSEEN, NumberTarget
from treadle.evaluate.detection import detection_figures
from treadle.evaluate.embeddings import embedding_figures, main_figure
from treadle.evaluate.items import item_figures, missed_gain
from treadle.evaluate.metrics import Figure, Floats, interval, ratio, share
from treadle.evaluate.tags import span_f1, tag_figures
from treadle.evaluate.transcripts import transcript_figures
from treadle.model.network import Network

ROWS = 256

Outputs = npt.NDArray[Any]


@dataclass(frozen=True)
class HeadScores:
    """One head on N records: what it gave, what was right, and how far off it was."""

    kind: str
    outputs: Any
    """(N, ...) as ``data/targets`` reads them."""
    targets: Outputs
    losses: Floats
    """(N,), NaN where a record has no answer, or one that training never saw."""

    @property
    def unseen(self) -> npt.NDArray[np.bool_]:
        """(N,) which right answers training never saw: whatever was said is wrong."""
        named = self.kind in ("category", "binary")
        return np.asarray(self.targets == UNSEEN if named else np.zeros(len(self.losses)), np.bool_)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(N,) which records have a right answer."""
        if self.kind == "tags":  # one may hold nothing but spans of a label that training never saw
            return np.asarray((self.targets[..., 0] != 0).any(1), np.bool_)
        return ~np.isnan(self.losses) | self.unseen


@torch.inference_mode()
def score_records(network: Network, table: Table, done: Callable[[int], None] = lambda rows: None) -> dict[str, HeadScores]:
    """Every record of ``table`` in order, in float32."""
    network.eval()
    found: dict[str, tuple[list[Any], list[Any], list[Any]]] = {name: ([], [], []) for name in network.heads}
    for first in range(0, table.records, ROWS):
        batch = table.at(np.arange(first, min(first + ROWS, table.records)))
        outputs = network(batch)
        losses, readable = network.losses(outputs, batch), network.readable(outputs)
        for name, (given, right, off) in found.items():
            given.append(readable[name].float().numpy())
            right.append(batch.targets[name].numpy())
            off.append(losses[name].double().numpy())
        done(batch.size)
    kinds = {name: layout.kind for name, layout in network.layouts["heads"].items()}
    return {name: HeadScores(kinds[name], *(_joined(part) for part in parts)) for name, parts in found.items()}


def _joined(parts: list[Outputs]) -> Outputs:
    """Batches one behind the other; shorter rows are filled up with 0."""
    longest = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)
    around = [[(0, 0), (0, longest - part.shape[1]), *[(0, 0)] * (part.ndim - 2)] if part.ndim > 1 else [(0, 0)] for part in parts]
    return np.concatenate([np.pad(part, width) for part, width in zip(parts, around, strict=True)])


def head_figures(scores: HeadScores, target: Any, drawn: Floats) -> dict[str, Figure]:
    """The figures of one head over the records that have an answer, the loss over those whose answer training saw; ``drawn``
    (resamples, N) are bootstrap counts."""
    known, drawn = _known(scores, drawn)
    off = scores.losses[known]
    seen = ~np.isnan(off)
    losses = {"loss": ratio(np.where(seen, off, 0.0), seen.astype(np.float64), drawn[(drawn @ seen) > 0])}
    return losses | METRICS[scores.kind](scores.outputs[known], scores.targets[known], target, drawn)


def _known(scores: HeadScores, drawn: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Which records have an answer, and the resamples that draw one of them."""
    known = scores.known
    drawn = drawn[:, known]
    return known, drawn[drawn.any(1)]


def stand(ours: HeadScores, theirs: HeadScores, target: Any, drawn: Floats) -> dict[str, Any] | None:
    """``ours`` minus ``theirs`` on the same records, in the figure that ranks this kind of head, with its paired 95% interval; None
    where no figure does. ``verdict``: better or worse only where the interval leaves 0 out."""
    if ours.kind not in RANKED:
        return None
    name, figure = RANKED[ours.kind]
    name = name or ("spearman" if target.graded else "recall@10")
    known, drawn = _known(ours, drawn)
    weights = np.concatenate([np.ones((1, known.sum())), drawn])
    ours_is, theirs_is = (figure(s.outputs[known], s.targets[known], target, weights) for s in (ours, theirs))
    change = ours_is - theirs_is
    found = interval(change[0], change[1:])
    lower = name == "rmse"
    wins, loses = (found.high < 0, found.low > 0) if lower else (found.low > 0, found.high < 0)
    return {"figure": name, **found.as_dict(), "verdict": "better" if wins else "worse" if loses else "even"}


def _from_mean(errors: Callable[..., Floats], finish: Callable[[Floats], Floats]) -> Callable[..., Floats]:
    """The figure that ``finish`` makes of the mean of ``errors``, how far off each record is (N,)."""

    def figure(outputs: Outputs, targets: Outputs, target: Any, weights: Floats) -> Floats:
        return finish(weights @ errors(outputs, targets, target) / weights.sum(1))

    return figure


def _wrong_class(outputs: Outputs, targets: Outputs, target: Any) -> Floats:
    return np.asarray(outputs.argmax(1) != targets, np.float64)


def _wrong_labels(outputs: Outputs, targets: Outputs, target: Any) -> Floats:
    wrong = ((outputs >= 0.5) != (targets > 0.5)) | (targets == UNSEEN)
    return np.asarray(wrong.reshape(len(wrong), -1).any(1), np.float64)


def _squared(outputs: Outputs, targets: Outputs, target: NumberTarget) -> Floats:
    found: Floats = (target.numbers(outputs[:, _answer(outputs, target)]) - target.numbers(targets)) ** 2
    return found


def _answer(outputs: Outputs, target: NumberTarget) -> int:
    """Which of the predicted numbers is the answer."""
    return target.middle if outputs.shape[1] > 1 else 0


def _right(share: Floats) -> Floats:
    return 1 - share


RANKED: Mapping[str, tuple[str, Callable[..., Floats]]] = {
    "category": ("accuracy", _from_mean(_wrong_class, _right)), "binary": ("accuracy", _from_mean(_wrong_labels, _right)),
    "labels": ("accuracy", _from_mean(_wrong_labels, _right)), "number": ("rmse", _from_mean(_squared, np.sqrt)),
    "next_item": ("ndcg@10", _from_mean(missed_gain, _right)), "tags": ("f1", span_f1), "embedding": ("", main_figure),
}
"""Kind of head -> (figure, or nothing where that depends on the head; its value (R,) under each row of weights (R, N) from outputs,
targets, target and those)."""
POOLED = frozenset({"category", "binary", "labels", "number"})
"""Kinds whose outputs are kept, so that the folds of a cross-validation can be looked at together."""


def _classes(outputs: Outputs, targets: Outputs, target: Any, drawn: Floats) -> dict[str, Figure]:
    return _confusion(outputs.argmax(1), targets.astype(np.int64), outputs.shape[1], drawn)


def _confusion(given: npt.NDArray[np.int64], right: npt.NDArray[np.int64], classes: int, drawn: Floats) -> dict[str, Figure]:
    """accuracy, and precision, recall and F1 as the mean over the classes that occur (macro); those that training never saw count
    as one, of which nothing is found."""
    if (right == UNSEEN).any():
        right, classes = np.where(right == UNSEEN, classes, right), classes + 1
    cells = given * classes + right  # (N,)
    weights = np.concatenate([np.ones((1, len(cells))), drawn])
    table = np.stack([np.bincount(cells, row, classes * classes) for row in weights]).reshape(-1, classes, classes)
    hit = np.diagonal(table, axis1=1, axis2=2)
    predicted, actual = table.sum(2), table.sum(1)
    occurs = (predicted + actual) > 0
    precision, recall = hit / np.maximum(predicted, 1e-12), hit / np.maximum(actual, 1e-12)
    f1 = 2 * hit / np.maximum(predicted + actual, 1e-12)

    def mean(values: Floats) -> Floats:
        found: Floats = (values * occurs).sum(1) / occurs.sum(1)
        return found

    values = {"accuracy": hit.sum(1) / table.sum((1, 2)), "precision": mean(precision), "recall": mean(recall), "f1": mean(f1)}
    return {name: interval(value[0], value[1:]) for name, value in values.items()}


def _binary(outputs: Outputs, targets: Outputs, target: Any, drawn: Floats) -> dict[str, Figure]:
    """accuracy; precision, recall and F1 of the positive value; auc, the area under the receiver's curve."""
    yes, right = outputs >= 0.5, targets > 0.5
    weights = np.concatenate([np.ones((1, len(yes))), drawn])
    both, said, are = (weights @ part.astype(np.float64) for part in (yes & right, yes, right))
    values = {
        "accuracy": weights @ ((yes == right) & (targets != UNSEEN)) / weights.sum(1), "precision": both / np.maximum(said, 1e-12),
        "recall": both / np.maximum(are, 1e-12), "f1": 2 * both / np.maximum(said + are, 1e-12),
        "auc": _auc(outputs, right, weights[:201] * (targets != UNSEEN)),
    }
    return {name: interval(value[0], value[1:]) for name, value in values.items()}


def _auc(outputs: Outputs, right: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Share of (yes, no) pairs in which the yes was given the higher probability, ties counting half; one per row of weights."""
    order = np.argsort(outputs, kind="stable")
    _, group = np.unique(outputs[order], return_inverse=True)
    last = np.append(np.flatnonzero(np.diff(group)), len(group) - 1)
    w, y = weights[:, order], right[order].astype(np.float64)
    yes, no = np.cumsum(w * y, 1)[:, last], np.cumsum(w * (1 - y), 1)[:, last]
    yes_here, no_before = np.diff(yes, axis=1, prepend=0.0), np.concatenate([np.zeros((len(w), 1)), no[:, :-1]], 1)
    no_here = np.diff(no, axis=1, prepend=0.0)
    pairs = yes[:, -1] * no[:, -1]
    found: Floats = (yes_here * (no_before + 0.5 * no_here)).sum(1) / np.maximum(pairs, 1e-12)
    return np.where(pairs > 0, found, np.nan)


def _number(outputs: Outputs, targets: Outputs, target: NumberTarget, drawn: Floats) -> dict[str, Figure]:
    """mse, rmse and mae in the unit of the data, and r2, which is NaN where all right answers are the same."""
    given, right = target.numbers(outputs[:, _answer(outputs, target)]), target.numbers(targets)
    weights = np.concatenate([np.ones((1, len(right))), drawn])
    total = weights.sum(1)
    mse = weights @ (given - right) ** 2 / total
    around = right - right.mean()  # the squares of large numbers would leave no digits for their spread
    spread = weights @ around**2 / total - (weights @ around / total) ** 2
    rounding = (8 * np.finfo(np.float64).eps * np.abs(right).max(initial=0)) ** 2
    values = {
        "mse": mse, "rmse": np.sqrt(mse), "mae": weights @ np.abs(given - right) / total,
        "r2": 1 - mse / np.where(spread > rounding, spread, np.nan),
    }
    return {name: interval(value[0], value[1:]) for name, value in values.items()}


def _labels(outputs: Outputs, targets: Outputs, target: Any, drawn: Floats) -> dict[str, Figure]:
    """accuracy: share of records whose labels are all right; precision, recall and F1 over all labels together (micro)."""
    said, right = outputs >= 0.5, targets > 0.5
    both, given, are = ((part.sum(1)).astype(np.float64) for part in (said & right, said, right))
    return {
        "accuracy": ratio((said == right).all(1).astype(np.float64), np.ones(len(said)), drawn),
        "precision": share(both, given, drawn), "recall": share(both, are, drawn), "f1": share(2 * both, given + are, drawn),
    }


METRICS: Mapping[str, Callable[..., dict[str, Figure]]] = {
    "category": _classes, "binary": _binary, "number": _number, "labels": _labels,
    "ctc": transcript_figures, "tags": tag_figures,
    "next_item": item_figures,
    "boxes": detection_figures, "embedding": embedding_figures,
}
