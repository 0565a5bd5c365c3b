"""Text as tokens: a learned vector per token."""

from __future__ import annotations

from torch import Tensor, nn


class TextInput(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, D)"""
        embedded: Tensor = self.embed_tokens(tokens)
        return embedded
