"""Text as tokens: a learned vector per token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


class TextInput(nn.Module):
    """Of a language model."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, D)"""
        embedded: Tensor = self.embed_tokens(tokens)
        return embedded


class TokensInput(nn.Module):
    """Of any other model; ``width`` features per token."""

    def __init__(self, layout: Layout, trunk: str, width: int = 128) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(layout.vocabulary, width)
        self.form = Form(0, width)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, T) token ids -> (B, T, D)"""
        return Signal(self.embed_tokens(tokens), lengths)


def texts_apart(pairs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, 2): token id, and 0 or 1 for which text -> the tokens (2 B, T') of all first texts, then of all second ones, filled up
    with 0, and their lengths (2 B,). The first text's tokens stand before the second's."""
    places = torch.arange(pairs.shape[1], device=pairs.device)
    second = ((pairs[..., 1] == 1) & (places < lengths[:, None])).sum(1)
    first = lengths - second
    counts = torch.cat([first, second])
    places = places[: int(counts.max())]
    at = torch.cat([places.expand(len(pairs), -1), first[:, None] + places]).clamp_max(pairs.shape[1] - 1)
    tokens = torch.cat([pairs[..., 0], pairs[..., 0]]).gather(1, at)
    return tokens * (places < counts[:, None]), counts


class PairInput(nn.Module):
    """Two texts one behind the other: a vector per token, and one for which text it stands in."""

    def __init__(self, layout: Layout, trunk: str, width: int = 128) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(layout.vocabulary, width)
        self.embed_text = nn.Embedding(2, width)
        self.form = Form(0, width, pair=True)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, T, 2): token id, and 0 or 1 -> (B, T, D)"""
        second = tokens[..., 1]
        return Signal(self.embed_tokens(tokens[..., 0]) + self.embed_text(second), lengths, second=second == 1)
