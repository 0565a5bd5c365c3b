"""How well vectors tell which texts are alike, and what their words alone tell. N pairs, D features, R rows of weights."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from treadle.core.progress import say
from treadle.data.columns import Array, load_column
from treadle.data.schema import Schema
from treadle.evaluate.metrics import Figure, Floats, interval, share
from treadle.store.artifacts import Artifact

BELONG = 0.75
"""How much two texts with a graded answer must be alike, of the train part's least to its most, to be looked for in each other."""
_ROWS = 256
_RESAMPLES = 100  # whose ranks are made at once


@dataclass(frozen=True)
class SparsePairs:
    """Vectors that hold mostly zeros, (N, V) twice, in the place of (N, 2, D)."""

    first: Any
    second: Any

    def __getitem__(self, rows: Any) -> SparsePairs:
        return SparsePairs(self.first[rows], self.second[rows])


Vectors = Array | SparsePairs


def embedding_figures(outputs: Vectors, targets: Array, target: Any, drawn: Floats) -> dict[str, Figure]:
    """spearman, of graded answers only: the rank correlation of the cosine with them (ties have their mean rank). recall@1,
    recall@10: of the pairs that belong together, the share whose second text is the nearest of all second texts to the first, or
    among the ten nearest."""
    found = {}
    if target.graded:
        values = spearman(cosines(outputs), targets[:, 0], np.concatenate([np.ones((1, len(targets))), drawn]))
        found["spearman"] = interval(values[0], values[1:])
    asked, ranks = targets[:, 0] >= BELONG, ranked(outputs, targets)
    for most in (1, 10):
        found[f"recall@{most}"] = share((asked & (ranks <= most)).astype(np.float64), asked.astype(np.float64), drawn)
    return found


def main_figure(outputs: Vectors, targets: Array, target: Any, weights: Floats) -> Floats:
    """spearman (R,) of graded answers, else recall@10, under each row of weights (R, N)."""
    if target.graded:
        return spearman(cosines(outputs), targets[:, 0], weights)
    hits: Floats = weights @ (ranked(outputs, targets) <= 10) / weights.sum(1)
    return hits


def _both(outputs: Vectors) -> tuple[Any, Any]:
    return (outputs.first, outputs.second) if isinstance(outputs, SparsePairs) else (outputs[:, 0], outputs[:, 1])


def cosines(outputs: Vectors) -> Floats:
    """(N,); the vectors have length 1, or are nothing."""
    first, second = _both(outputs)
    return np.asarray((first * second).sum(1), np.float64).ravel()


def spearman(one: Floats, two: Floats, weights: Floats) -> Floats:
    """The correlation (R,) of the ranks of ``one`` and ``two`` (N,), each record drawn as often as ``weights`` (R, N) say; 0 where
    one of them is the same everywhere."""
    found = []
    for first in range(0, len(weights), _RESAMPLES):
        some = weights[first : first + _RESAMPLES]
        total = some.sum(1, keepdims=True)
        a, b = (ranks - (some * ranks).sum(1, keepdims=True) / total for ranks in (_ranks(one, some), _ranks(two, some)))
        spread = np.sqrt((some * a * a).sum(1) * (some * b * b).sum(1))
        found.append(np.where(spread > 1e-9, (some * a * b).sum(1) / np.maximum(spread, 1e-9), 0.0))
    return np.concatenate(found)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(R, N): the mean rank of each value among all that are drawn."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    total = np.add.reduceat(weights[:, order], starts, axis=1)  # (R, groups)
    found: Floats = (np.cumsum(total, 1) - total + (total + 1) / 2)[:, group]
    return found


def ranked(outputs: Vectors, targets: Array) -> Array:
    """The place (N,) of each pair's second text among all different second texts of the part, by their cosines with the first; what
    is as near stands before it. Other right answers to the same first text are left out."""
    first, second = _both(outputs)
    _, places, own = np.unique(targets[:, 2], return_index=True, return_inverse=True)
    candidates, found = second[places], np.empty(len(targets), np.int64)
    belongs: dict[float, set[int]] = defaultdict(set)
    for text, at, alike in zip(targets[:, 1].tolist(), own.tolist(), targets[:, 0].tolist(), strict=True):
        if alike >= BELONG:
            belongs[text].add(at)
    for begin in range(0, len(targets), _ROWS):
        near = first[begin : begin + _ROWS] @ candidates.T
        near = np.array(near.toarray() if hasattr(near, "toarray") else near, np.float64)
        rows = np.arange(len(near))
        mine = near[rows, own[begin : begin + _ROWS]]
        for row, text in enumerate(targets[begin : begin + _ROWS, 1].tolist()):
            near[row, list(belongs[text])] = -np.inf
        near[rows, own[begin : begin + _ROWS]] = mine
        found[begin : begin + _ROWS] = (near >= mine[:, None]).sum(1)
    return found


def word_vectors(dataset: Artifact, schema: Schema, scores: Mapping[str, Any]) -> dict[str, dict[str, SparsePairs]]:
    """Head -> TF-IDF of the texts' tokens (Manning et al. 2008, 6.2; the logarithm of 1 + their counts), learned on the train part.
    Nothing but a note where scipy is absent."""
    heads = [name for name, head in scores.items() if head.kind == "embedding"]
    if not heads:
        return {}
    try:
        from scipy.sparse import csr_array
    except ImportError:
        say("note: words alone, to compare with, need scipy: pip install 'treadle[evaluate]'")
        return {}
    ((input, field),) = schema.inputs.items()
    marks = field.marks  # type: ignore[attr-defined]
    train, test = (_texts(dataset, part, input, marks) for part in ("train", "test"))
    known = [set(text.tolist()) for text in train]
    documents = Counter(token for text in known for token in text)
    size = int(max((int(text.max(initial=0)) for text in (*train, *test)), default=0)) + 1
    weight = np.log((1 + len(known)) / (1 + np.array([documents[token] for token in range(size)]))) + 1
    rows, columns, values = [], [], []
    for number, text in enumerate(test):
        tokens, counts = np.unique(text, return_counts=True)
        value = (1 + np.log(counts)) * weight[tokens]
        rows.append(np.full(len(tokens), number))
        columns.append(tokens)
        values.append(value / np.sqrt((value**2).sum()))
    where = np.concatenate(rows), np.concatenate(columns)
    matrix = csr_array((np.concatenate(values), where), shape=(len(test), size))
    half = len(test) // 2
    return {name: {"words alone": SparsePairs(matrix[:half], matrix[half:])} for name in heads}


def _texts(dataset: Artifact, part: str, input: str, marks: tuple[int, int]) -> list[Array]:
    """The tokens of all first texts, then of all second ones, without marks."""
    column = load_column(dataset.path, part, f"inputs.{input}")
    assert column.starts is not None
    pairs = np.split(np.asarray(column.values), column.starts[1:-1])
    texts = (pair[pair[:, 1] == which, 0] for which in (0, 1) for pair in pairs)
    return [text[marks[0] : len(text) - marks[1]] for text in texts]
