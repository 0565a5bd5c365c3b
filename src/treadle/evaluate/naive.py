"""What a network must beat: the answer that is best without looking at the record. N records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from treadle.data.columns import Column, load_column
from treadle.data.schema import Schema
from treadle.evaluate.answers import HeadScores, Outputs
from treadle.store.artifacts import Artifact


def always_the_same(dataset: Artifact, schema: Schema, scores: Mapping[str, HeadScores]) -> dict[str, dict[str, Outputs]]:
    """Head -> baseline's name -> its answers to the same records."""
    found: dict[str, dict[str, Outputs]] = {}
    for name, head in scores.items():
        outputs = _constant(head, load_column(dataset.path, "train", f"heads.{name}"))
        if outputs is not None:
            found[name] = {"always the same": outputs}
    return found


def _constant(head: HeadScores, column: Column) -> Any:
    """Class frequencies, the share of yes, the mean number, each label's share, the commonest text, each label's mean box, no
    span; for every record."""
    count, train = len(head.targets), np.asarray(column.values)
    if head.kind == "ctc":
        texts = Counter(tuple(row.tolist()) for row in np.split(train, column.starts[1:-1])) if column.starts is not None else {}
        return np.tile(np.array(max(texts, key=lambda text: (texts[text], text))), (count, 1))
    if head.kind == "boxes":
        return np.tile(_mean_boxes(column), (count, 1, 1))
    if head.kind == "category":
        shares = np.bincount(train[train >= 0], minlength=head.outputs.shape[1]) / max(1, (train >= 0).sum())
        return np.tile(shares, (count, 1))
    if head.kind == "binary":
        return np.full(count, np.nanmean(train))
    if head.kind == "tags":
        return np.ones((count, 1, 2))  # outside
    if head.kind == "number":
        return np.full((count, head.outputs.shape[1]), np.nanmean(train))
    return np.tile(train.mean(0), (count, 1)) if head.kind == "labels" else None


def _mean_boxes(column: Column) -> Outputs:
    """(C, 6): of each label the mean of its boxes, as likely as a picture shows it."""
    things = np.asarray(column.values, np.float64)
    pictures = np.repeat(np.arange(len(column)), column.lengths())  # type: ignore[arg-type]
    found = []
    for label in np.unique(things[:, 0][things[:, 0] > 0]):
        here = things[:, 0] == label
        found.append([label, len(np.unique(pictures[here])) / len(column), *things[here, 1:].mean(0)])
    return np.array(sorted(found, key=lambda row: -row[1]))
