"""A pre-norm decoder in the layout of Qwen3 (with query-key norms) and Llama (without), under their weight names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.apart import Groups
from treadle.model.layers.attention import Attention, LayerCache
from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.recompute import recomputed, remade
from treadle.model.layers.rope import rope_table
from treadle.model.layers.swiglu import SwiGLU
from treadle.spec.shape import Shape


class Layer(nn.Module):
    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.input_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.self_attn = Attention(
            shape.width, shape.heads, shape.kv_heads, shape.head_dim, shape.qk_norm, shape.norm_eps, dropout
        )
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.mlp = SwiGLU(shape.width, shape.hidden)

    def forward(
        self, x: Tensor, rope: Tensor, cache: LayerCache | None = None, look: Tensor | None = None, causal: bool = True,
        apart: Groups | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); ``look``, ``causal`` and ``apart`` as in ``Attention``."""
        normed = self.input_layernorm(x)
        with remade((normed, lambda: self.input_layernorm(x))):
            seen = x + self._drop(self.self_attn(normed, rope, cache, look, causal, apart))
        normed = self.post_attention_layernorm(seen)
        with remade((normed, lambda: self.post_attention_layernorm(seen))):
            return seen + self._drop(self.mlp(normed))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    rope: Tensor
    recompute = False
    """Whether each layer is computed again in the backward pass, instead of keeping what it computed."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.register_buffer("rope", rope_table(shape.context, shape.head_dim, shape.rope_theta), persistent=False)

    def forward(
        self, x: Tensor, positions: Tensor | None = None, caches: Sequence[LayerCache] | None = None, apart: Groups | None = None
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D), causal. ``positions`` (B, T) where rows start elsewhere than at 0; ``apart`` as in
        ``Attention``."""
        rope = self.rope[:, : x.shape[1]] if positions is None else self.rope[:, positions][:, :, None]
        for index, layer in enumerate(self.layers):
            if self.recompute and caches is None:
                x = recomputed(partial(layer, rope=rope, apart=apart), x, self.training and self.dropout > 0)
            else:
                x = layer(x, rope, caches[index] if caches is not None else None, apart=apart)
        normed: Tensor = self.norm(x)
        return normed
