"""Self-attention, causal or not, with grouped queries, rotary positions and optional query-key normalisation.

B rows, T new positions, L positions held, H query heads, K key heads, C features per head, D features per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.rope import rotate


@dataclass
class LayerCache:
    """Where this call's rows stand in one layer's memory of earlier positions."""

    keys: Tensor  # (B, K, L, C): a view of the rows that take part, L positions after this call
    values: Tensor  # (B, K, L, C)
    write: tuple[Tensor, Tensor]  # (B, 1) row and (B, T) position indices at which the new keys and values go
    mask: Tensor | None  # (B, 1, T, L) boolean, True where a query may look; None: plain causal over T = L


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
        self, x: Tensor, rope: Tensor, cache: LayerCache | None = None, look: Tensor | None = None, causal: bool = True
    ) -> Tensor:
        """x: (B, T, D) -> (B, T, D). With a cache the new keys and values are written into it first. ``look`` (B, 1, T or 1, T):
        True where a position may be looked at; without it, all earlier ones, and unless ``causal`` the later ones too."""
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, self.heads, self.head_dim)).transpose(1, 2)  # (B, H, T, C)
        k = self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, self.head_dim)).transpose(1, 2)  # (B, K, T, C)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, rope), rotate(k, rope)
        mask = look
        if cache is not None:
            rows, positions = cache.write
            cache.keys[rows, :, positions] = k.transpose(1, 2)
            cache.values[rows, :, positions] = v.transpose(1, 2)
            k, v, mask = cache.keys, cache.values, cache.mask
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None and T > 1, enable_gqa=self.heads != self.kv_heads,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))
        return out
