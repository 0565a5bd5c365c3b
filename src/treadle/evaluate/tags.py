"""How well spans are found, and what each word alone would say. N records, T tokens, S spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from treadle.data.columns import Array, Column, load_column
from treadle.data.schema import Schema
from treadle.data.spans import spans_of
from treadle.evaluate.metrics import Figure, Floats, share
from treadle.model.heads.tags import best_path
from treadle.store.artifacts import Artifact

_ROWS = 256


def tag_figures(outputs: Array, targets: Array, target: Any, drawn: Floats) -> dict[str, Figure]:
    """precision, recall and f1 of whole spans: one is right if its first and last character and its label are (Tjong Kim Sang and
    De Meulder 2003), and one that no tokens can make is missed. token_accuracy: share of tokens whose tag is right. ``outputs``
    (N, T, 2), ``targets`` (N, T + S, 3)."""
    both, said, are = counted(outputs, targets)
    tokens = targets[..., 0] > 0
    given = np.ones(tokens.shape)  # what no answer covers is outside
    given[:, : outputs.shape[1]] = outputs[:, : tokens.shape[1], 0]
    right = (tokens & (given == targets[..., 0])).sum(1).astype(np.float64)
    return {
        "token_accuracy": share(right, tokens.sum(1).astype(np.float64), drawn), "precision": share(both, said, drawn),
        "recall": share(both, are, drawn), "f1": share(2 * both, said + are, drawn),
    }


def span_f1(outputs: Array, targets: Array, target: Any, weights: Floats) -> Floats:
    """f1 (R,) under each row of weights (R, N)."""
    both, said, are = counted(outputs, targets)
    found: Floats = 2 * (weights @ both) / np.maximum(weights @ (said + are), 1e-12)
    return found


def counted(outputs: Array, targets: Array) -> tuple[Floats, Floats, Floats]:
    """Of each record (N,) the spans that are said and there, that are said, and that are there."""
    found = np.zeros((3, len(targets)))
    for number, (given, right) in enumerate(zip(outputs[..., 0], targets, strict=True)):
        length = int(np.argmax(right[:, 0] < 0)) if (right[:, 0] < 0).any() else len(right)
        said = {span for span, _ in spans_of((given[:length].astype(np.int64) - 1).tolist(), right[:length, 1:])}
        are = {(int(start), int(end), int(-1 - kind)) for kind, start, end in right[right[:, 0] < 0]}
        found[:, number] = len(said & are), len(said), len(are)
    return found[0], found[1], found[2]


def words_alone(dataset: Artifact, schema: Schema, scores: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """Head -> what the tags that each token had in the train part say (N, T, 2), whatever stands around it, under the rule that a
    span goes on only after it began. Of tokens never seen, all tags' shares."""
    found: dict[str, dict[str, Array]] = {}
    for name, head in scores.items():
        if head.kind != "tags":
            continue
        layout, text = schema.layouts["heads"][name], schema.targets[name].text  # type: ignore[attr-defined]
        ids, tags = _train(dataset, text.name, name)
        counts = np.zeros((text.layout.vocabulary, layout.vocabulary))
        np.add.at(counts, (ids[tags >= 0], tags[tags >= 0]), 1)
        overall = counts.sum(0) / max(1.0, counts.sum())
        shares = np.log((counts + 0.01 * overall) / (counts.sum(1, keepdims=True) + 0.01) + 1e-12)
        found[name] = {"each word alone": _paths(load_column(dataset.path, "test", f"inputs.{text.name}"), shares)}
    return found


def _paths(texts: Column, logs: Floats) -> Array:
    """The likeliest tags (N, T, 2) of texts under the log-probabilities (V, C) of their tokens' tags."""
    lengths = texts.lengths()
    assert lengths is not None
    found = np.ones((len(texts), int(lengths.max(initial=1)), 2))
    for first in range(0, len(texts), _ROWS):
        rows, own = texts.rows(np.arange(first, min(first + _ROWS, len(texts)), dtype=np.int64))
        assert own is not None
        scores = logs[rows]
        path = best_path(torch.from_numpy(scores)).numpy()
        shares = np.exp(np.take_along_axis(scores, path[..., None], 2))[..., 0]
        inside = np.arange(rows.shape[1]) < own[:, None]
        part = found[first : first + len(rows), : rows.shape[1]]
        part[inside] = np.stack([path + 1.0, shares], -1)[inside]
    return found


def _train(dataset: Artifact, input: str, head: str) -> tuple[Array, Array]:
    """Every token of the train part, and its tag, -1 where none is known."""
    texts, rows = load_column(dataset.path, "train", f"inputs.{input}"), load_column(dataset.path, "train", f"heads.{head}")
    assert texts.starts is not None
    assert rows.starts is not None
    lengths = np.diff(texts.starts)
    at = np.repeat(rows.starts[:-1] - texts.starts[:-1], lengths) + np.arange(len(texts.values))
    return np.asarray(texts.values), np.asarray(rows.values[at, 0]) - 1
