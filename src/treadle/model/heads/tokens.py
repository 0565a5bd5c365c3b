"""A token at every position: the one that follows, or the one that was hidden. B rows, T positions, V tokens."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.batch import IGNORE
from treadle.core.layout import Layout
from treadle.model.layers.cross_entropy import cross_entropy, row_shares
from treadle.model.layers.signal import Form, Signal


class TokenHead(nn.Module):
    """Softmax over the vocabulary, and cross-entropy."""

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__()
        self.linear = nn.Linear(form.width, layout.vocabulary)

    def outputs(self, signal: Signal) -> Tensor:
        """Logits (B, T, V)."""
        out: Tensor = self.linear(signal.features)
        return out.float()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, T, V), tokens (B, T) -> nats (B,): the mean over a row's positions that have a target, NaN where none has."""
        loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none").view_as(targets)
        counts = (targets != IGNORE).sum(1)
        return (loss.sum(1) / counts.clamp_min(1)).masked_fill(counts == 0, math.nan)

    def loss_of(self, signal: Signal, targets: Tensor) -> Tensor:
        """The mean of ``losses`` over the rows that have a target, with scores of the positions that have one alone: of hidden
        tokens these are few, and the product with the vocabulary is most of a small net's work."""
        asked = targets != IGNORE
        shares = row_shares(asked)[asked]
        return cross_entropy(signal.features[asked], self.linear.weight, self.linear.bias, targets[asked], shares)

    def readable(self, outputs: Tensor) -> Tensor:
        """The likeliest token of each position (B, T)."""
        return outputs.argmax(-1)
