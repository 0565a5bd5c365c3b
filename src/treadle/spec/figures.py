"""Which figures each kind of head is measured by. Imports no torch."""

from __future__ import annotations

from treadle.spec.heads import Head

_CLASSES = ("loss", "accuracy", "precision", "recall", "f1")
FIGURES: dict[str, tuple[str, ...]] = {
    "next_token": ("loss", "perplexity", "bits_per_byte", "accuracy"), "masked_token": ("loss", "perplexity", "accuracy"),
    "category": _CLASSES, "labels": _CLASSES, "binary": (*_CLASSES, "auc"), "number": ("loss", "mse", "rmse", "mae", "r2"),
    "embedding": ("loss", "spearman", "recall@1", "recall@10"),
    "tags": ("loss", "token_accuracy", "precision", "recall", "f1"),
    "ctc": ("loss", "character_error", "word_error"), "next_item": ("loss", "hit@10", "ndcg@10"),
    "boxes": ("loss", "map50", "map", "precision", "recall"),
}
"""Kind of head -> names of its figures, as ``evaluate.gate`` takes them."""
LOWER = ("loss", "perplexity", "bits_per_byte", "mse", "rmse", "mae", "character_error", "word_error")
"""Those of which less is better."""


def figures_of(head: Head) -> tuple[str, ...]:
    """Those of this head."""
    ungraded = head.embedding is not None and head.embedding.column is None
    return tuple(figure for figure in FIGURES[head.kind] if not (ungraded and figure == "spearman"))
