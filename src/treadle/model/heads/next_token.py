"""The next token: a score per vocabulary entry at every position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.batch import IGNORE
from treadle.model.layers.cross_entropy import cross_entropy


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

    def loss(self, x: Tensor, embedding: nn.Module, targets: Tensor, shares: Tensor) -> Tensor:
        """x (B, T, D), targets (B, T) -> the sum of ``shares`` (B, T) times the cross-entropy in nats, over the positions whose
        target is not ``IGNORE``."""
        asked = targets != IGNORE
        weight = self.lm_head.weight if self.lm_head is not None else embedding.weight
        assert isinstance(weight, Tensor)
        if bool(asked.all()):  # as in all but feedback: nothing to pick out
            return cross_entropy(x.flatten(0, -2), weight, None, targets.flatten(), shares.flatten())
        return cross_entropy(x[asked], weight, None, targets[asked], shares[asked])
