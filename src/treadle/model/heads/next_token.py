"""The next token: a score per vocabulary entry at every position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.batch import IGNORE


class NextToken(nn.Module):
    def __init__(self, vocabulary: int, width: int, tied: bool) -> None:
        """``tied``: the scores use the token embedding, which is then passed to ``forward``; else an own layer."""
        super().__init__()
        self.lm_head = None if tied else nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Tensor, embedding: nn.Module) -> Tensor:
        """(B, T, D) -> (B, T, V) logits"""
        if self.lm_head is not None:
            scores: Tensor = self.lm_head(x)
        elif isinstance(embedding, nn.Embedding):
            scores = F.linear(x, embedding.weight)
        else:
            scores = embedding.multiply(x)  # type: ignore[operator]  # an int8 embedding brings its own product
        return scores

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the positions whose target is not ``IGNORE``; logits (B, T, V), targets (B, T)."""
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE)
