"""Text as tokens: a learned vector per token."""

from __future__ import annotations

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
