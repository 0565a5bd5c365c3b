"""Self-attention, causal or not, with grouped queries, rotary positions and optional query-key normalisation.

B rows, T new positions, H query heads, K key heads, C features per head, D features per token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from treadle.model.layers.apart import Groups, attend_apart
from treadle.model.layers.attend import attend
from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.recompute import remade
from treadle.model.layers.rope import rotate


class LayerCache(Protocol):
    """One layer's memory of earlier positions of the texts that the rows are of."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, T, C), k and v (B, K, T, C) -> (B, T, H C): remember the new keys and values, then look at all up to each."""


class Attention(nn.Module):
    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, qk_norm: bool, eps: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.dropout = heads, kv_heads, head_dim, dropout
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.q_norm = RMSNorm(head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, eps) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rope: Tensor, cache: LayerCache | None = None, look: Tensor | None = None, causal: bool = True,
        apart: Groups | None = None,
    ) -> Tensor:
        """x: (B, T, D) -> (B, T, D). With a cache, that is what is looked at. ``look`` (B, 1, T or 1, T):
        True where a position may be looked at; without it, all earlier ones, and unless ``causal`` the later ones too. ``apart``:
        x (1, N, D) holds such documents, each of which looks back at itself alone."""
        asked, known, v = (layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.q_proj, self.k_proj, self.v_proj))

        def query() -> Tensor:
            return rotate(self.q_norm(asked).transpose(1, 2), rope)

        def key() -> Tensor:
            return rotate(self.k_norm(known).transpose(1, 2), rope)

        q, k, v = query(), key(), v.transpose(1, 2)  # (B, H, T, C), (B, K, T, C) twice
        again = [(q, query), (k, key)] if isinstance(self.q_norm, RMSNorm) else []  # what they are made of is kept by the norms
        if cache is not None:
            seen: Tensor = self.o_proj(cache.attend(q, k, v))
            return seen
        with remade(*again):
            parts = self._attend(q, k, v, look, causal, apart)

        def joined() -> Tensor:
            return parts[0] if apart is None else torch.cat(parts)[None]

        y = joined()
        with remade(*[(y, joined)] * (apart is not None)):
            out: Tensor = self.o_proj(y)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, look: Tensor | None, causal: bool, apart: Groups | None) -> list[Tensor]:
        """(B, T, H C), or of each group of documents (its tokens, H C)"""
        dropout = self.dropout if self.training else 0.0
        if apart is not None:
            return attend_apart(q, k, v, apart, dropout)
        y = attend(q, k, v, look, causal and look is None and q.shape[2] > 1, dropout)
        return [y.transpose(1, 2).flatten(2)]
