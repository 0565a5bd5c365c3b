"""What a network over texts must beat: logistic regression on TF-IDF of tokens and neighbours (Manning et al. 2008, 6.2).

It sees the same tokens that the network reads, whatever tokenizer made them; of a pair, which text a token stands in. N records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from treadle.core.progress import say, task
from treadle.data.columns import Array, load_column
from treadle.data.schema import Schema
from treadle.evaluate.answers import HeadScores, Outputs
from treadle.store.artifacts import Artifact

NAME = "bag of words"
_HEADS = frozenset({"category", "binary"})
_STRENGTHS = (1.0, 10.0)
"""C of the regression; the one with more right answers in the validation part is taken."""

Rows = list[Array]
"""Per record its tokens (T,), or of a pair (T, 2)."""


def bag_of_words(dataset: Artifact, schema: Schema, scores: Mapping[str, HeadScores]) -> dict[str, dict[str, Outputs]]:
    """Head -> the regression's name -> its answers to the same records. Nothing unless one text or pair is the only input; nothing
    but a note where scikit-learn is absent."""
    inputs = {name: given.kind for name, given in schema.model.inputs.items()}
    heads = {name: head for name, head in scores.items() if head.kind in _HEADS}
    if len(inputs) != 1 or not set(inputs.values()) <= {"text", "pair"} or not heads:
        return {}
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        say("note: a bag of words, to compare with, needs scikit-learn: pip install 'treadle[evaluate]'")
        return {}
    (input,) = inputs
    vectorizer = TfidfVectorizer(analyzer=_pieces, sublinear_tf=True)
    texts = {part: _rows(dataset, part, input) for part in ("train", "validation", "test")}
    found: dict[str, dict[str, Outputs]] = {}
    with task("counting words to compare with", len(heads), "heads") as work:
        seen = {"train": vectorizer.fit_transform(texts["train"])}
        seen |= {part: vectorizer.transform(texts[part]) for part in ("validation", "test")}
        for name, head in heads.items():
            shares = _fitted(dataset, name, schema.targets[name].settings.balance, seen).predict_proba(seen["test"])
            found[name] = {NAME: np.asarray(shares[:, 1] if head.kind == "binary" else shares)}
            work.advance(1, name)
    return found


def _fitted(dataset: Artifact, head: str, balance: bool, seen: Mapping[str, Any]) -> Any:
    """The regression on the train part that is best on the validation part."""
    from sklearn.linear_model import LogisticRegression

    x, y = _known(dataset, "train", head, seen)
    watched, right = _known(dataset, "validation", head, seen)
    weight = "balanced" if balance else None
    made = [LogisticRegression(C=c, max_iter=1000, class_weight=weight).fit(x, y) for c in _STRENGTHS]
    return max(made, key=lambda model: float(model.score(watched, right)) if len(right) else 0.0)


def _known(dataset: Artifact, part: str, head: str, seen: Mapping[str, Any]) -> tuple[Any, Array]:
    """The features and right answers of the records that have one."""
    targets = np.asarray(load_column(dataset.path, part, f"heads.{head}").values)
    known = targets >= 0 if targets.dtype.kind == "i" else ~np.isnan(targets)
    return seen[part][known], targets[known]


def _rows(dataset: Artifact, part: str, input: str) -> Rows:
    column = load_column(dataset.path, part, f"inputs.{input}")
    assert column.starts is not None
    return np.split(np.asarray(column.values), column.starts[1:-1])


def _pieces(row: Array) -> Iterator[tuple[int, ...]]:
    """A text's tokens, and each two that are neighbours; of a pair, each with which text it stands in."""
    tokens = row[:, 0] + (row[:, 1] << 32) if row.ndim == 2 else row
    listed = tokens.tolist()
    yield from ((token,) for token in listed)
    yield from pairwise(listed)
