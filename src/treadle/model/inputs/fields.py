"""Columns of a table as features: numbers, names, dates, sets. B rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


def embedding_width(vocabulary: int) -> int:
    """Features for a vector per name: grows with the fourth root of their number, about."""
    return int(min(64, max(2, round(1.6 * vocabulary**0.56))))


class NumberInput(nn.Module):
    """(value, missing); or in pieces: for each, how far the value has gone through it (Gorishniy et al. 2022, eq. 1)."""

    low: Tensor
    size: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, layout: Layout, trunk: str) -> None:
        super().__init__()
        edges = torch.tensor(layout.edges or (0.0, 1.0), dtype=torch.float32)
        pieces = len(edges) - 1
        least, most = torch.zeros(pieces), torch.ones(pieces)
        least[0], most[-1] = -torch.inf, torch.inf  # the outer pieces go on, so that no two values look alike
        for name, buffer in (("low", edges[:-1]), ("size", edges.diff()), ("least", least), ("most", most)):
            self.register_buffer(name, buffer, persistent=False)
        self.form = Form(1, pieces + 1)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B,) float32, NaN where missing -> (B, 1, D)"""
        missing = values.isnan()[:, None]
        through = ((values[:, None] - self.low) / self.size).clamp(self.least, self.most)
        return Signal(torch.cat([through.masked_fill(missing, 0.0), missing.to(values.dtype)], 1)[:, None])


class NameInput(nn.Module):
    """A learned vector per name: of a category, or yes, no and missing."""

    def __init__(self, layout: Layout, trunk: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(layout.vocabulary, embedding_width(layout.vocabulary))
        self.form = Form(1, self.embedding.embedding_dim)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B,) -> (B, 1, D)"""
        return Signal(self.embedding(ids)[:, None])


class SetInput(nn.Module):
    """The mean of the vectors of a record's names."""

    def __init__(self, layout: Layout, trunk: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(layout.vocabulary, embedding_width(layout.vocabulary))
        self.form = Form(1, self.embedding.embedding_dim)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, K), ``lengths`` (B,) -> (B, 1, D)"""
        return Signal(Signal(self.embedding(ids), lengths).mean()[:, None])


class VectorInput(nn.Module):
    """Features that are ready, such as those of a date."""

    def __init__(self, layout: Layout, trunk: str) -> None:
        super().__init__()
        self.form = Form(1, layout.channels)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, D) -> (B, 1, D)"""
        return Signal(values[:, None])
