"""What a network over a table must beat: gradient-boosted trees (Friedman 2001) in scikit-learn's histogram form. N records.

They see the same columns, encoded by the same fields, and stop by the same validation part. A text, an image or a history is no
column of a table, so they go without; their name says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.core.progress import say, task
from treadle.data.columns import Array, Column, load_column
from treadle.data.fields.date import FEATURES
from treadle.data.schema import Schema
from treadle.data.targets.scalar import NumberTarget
from treadle.evaluate.answers import HeadScores, Outputs
from treadle.store.artifacts import Artifact

NAME = "boosted trees"
_COLUMNS = frozenset({"number", "category", "boolean", "date", "set"})
_NAMED = frozenset({"category", "boolean"})
_HEADS = frozenset({"category", "binary", "number"})
_MOST_CLASSES = 50
"""Each class has trees of its own."""
_NAMES = 254
"""Names of a category that trees tell apart, the most frequent first; the others are one."""
_TAGS = 64
"""Names of a set, likewise."""
_WIDTHS = {"date": FEATURES, "set": _TAGS}
_LOSSES = {"mse": "squared_error", "huber": "squared_error", "mae": "absolute_error", "quantile": "quantile"}
_SETTINGS: Mapping[str, Any] = {
    "learning_rate": 0.1, "max_iter": 300, "early_stopping": True, "n_iter_no_change": 10, "random_state": 0,
}


def boosted_trees(dataset: Artifact, schema: Schema, scores: Mapping[str, HeadScores]) -> dict[str, dict[str, Outputs]]:
    """Head -> the trees' name -> their answers to the same records. Nothing where no input is a column of a table; nothing but a
    note where scikit-learn is absent."""
    seen = [name for name, given in schema.model.inputs.items() if given.kind in _COLUMNS]
    heads = {name: head for name, head in scores.items() if head.kind in _HEADS and _grows(head)}
    if not seen or not heads:
        return {}
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ImportError:
        say("note: boosted trees, to compare with, need scikit-learn: pip install 'treadle[evaluate]'")
        return {}
    left = [name for name in schema.inputs if name not in seen]
    title = f"{NAME} without {', '.join(left)}" if left else NAME
    parts = {part: _features(dataset, part, schema, seen) for part in ("train", "validation", "test")}
    found: dict[str, dict[str, Outputs]] = {}
    with task("growing trees to compare with", len(heads), "heads") as work:
        for name, head in heads.items():
            kind = HistGradientBoostingRegressor if head.kind == "number" else HistGradientBoostingClassifier
            trees = kind(**_SETTINGS, **_loss(schema.targets[name]), categorical_features=_are_names(schema, seen))
            x, y = _known(dataset, "train", name, parts["train"])
            x_watched, y_watched = _known(dataset, "validation", name, parts["validation"])
            watched = {"X_val": x_watched, "y_val": y_watched} if len(y_watched) else {}
            found[name] = {title: _outputs(trees.fit(x, y, **watched), head, parts["test"])}
            work.advance(1, name)
    return found


def _grows(head: HeadScores) -> bool:
    return head.kind != "category" or head.outputs.shape[1] <= _MOST_CLASSES


def _loss(target: Any) -> dict[str, Any]:
    if not isinstance(target, NumberTarget):
        return {"class_weight": "balanced" if target.settings.balance else None}
    quantile = target.settings.quantiles[target.middle] if target.settings.loss == "quantile" else None
    return {"loss": _LOSSES[target.settings.loss]} | ({"quantile": quantile} if quantile else {})


def _features(dataset: Artifact, part: str, schema: Schema, seen: Sequence[str]) -> Array:
    """(N, F) float64, NaN where a number is missing."""
    parts = []
    for name in seen:
        column = load_column(dataset.path, part, f"inputs.{name}")
        values = _has(column) if column.starts is not None else np.asarray(column.values, np.float64)
        if schema.model.inputs[name].kind in _NAMED:
            values = np.minimum(values, _NAMES)
        parts.append(values.reshape(len(column), -1))
    return np.concatenate(parts, 1)


def _has(column: Column) -> Array:
    """(N, _TAGS): 1 for each name of a set that a record has."""
    found, lengths = np.zeros((len(column), _TAGS)), column.lengths()
    assert lengths is not None
    rows = np.repeat(np.arange(len(column)), lengths)
    ids = np.asarray(column.values)
    found[rows[ids < _TAGS], ids[ids < _TAGS]] = 1
    return found


def _are_names(schema: Schema, seen: Sequence[str]) -> list[bool]:
    """(F,): whether a feature is the number of a name, whose order means nothing."""
    kinds = [schema.model.inputs[name].kind for name in seen]
    return [kind in _NAMED for kind in kinds for _ in range(_WIDTHS.get(kind, 1))]


def _known(dataset: Artifact, part: str, head: str, features: Array) -> tuple[Array, Array]:
    """The features and right answers of the records that have one."""
    targets = np.asarray(load_column(dataset.path, part, f"heads.{head}").values)
    known = targets >= 0 if targets.dtype.kind == "i" else ~np.isnan(targets)
    return features[known], targets[known]


def _outputs(trees: Any, head: HeadScores, features: Array) -> Array:
    """As ``data/targets`` reads the head's own."""
    if head.kind == "number":
        return np.repeat(trees.predict(features)[:, None], head.outputs.shape[1], 1)
    shares = trees.predict_proba(features)
    return np.asarray(shares[:, 1] if head.kind == "binary" else shares)
