"""A pre-norm decoder in the layout of Qwen3 (with query-key norms) and Llama (without), under their weight names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.apart import Groups
from treadle.model.layers.attention import Attention, LayerCache
from treadle.model.layers.fused import fused_layer, fused_norm
from treadle.model.layers.fusion import Fusion, fusion
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

    @property
    def plain(self) -> bool:
        """Whether its matrices are what they were made as, and not what takes their place, such as int8 weights."""
        a, m = self.self_attn, self.mlp
        layers = (a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj)
        return all(type(layer) is nn.Linear for layer in layers)

    def fused(self, x: Tensor, common: Fusion) -> Tensor:
        """The same, causal and without dropout, for training on one thread."""
        attention, mlp = self.self_attn, self.mlp
        norms = (attention.q_norm.weight, attention.k_norm.weight) if common.shape.qk_norm else (None, None)
        return fused_layer(
            x, common, self.input_layernorm.weight, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight,
            attention.o_proj.weight, *norms, self.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight,
            mlp.down_proj.weight,
        )

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    rope: Tensor
    recompute = False
    """Whether each layer is computed again in the backward pass, instead of keeping what it computed."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.register_buffer("rope", rope_table(shape.context, shape.head_dim, shape.rope_theta), persistent=False)

    def forward(
        self, x: Tensor, positions: Tensor | None = None, caches: Sequence[LayerCache] | None = None, apart: Groups | None = None
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D), causal. ``positions`` (B, T) where rows start elsewhere than at 0; ``apart`` as in
        ``Attention``."""
        random = self.training and self.dropout > 0
        able = caches is None and not random and all(cast(Layer, layer).plain for layer in self.layers)
        common = fusion(x, self.shape, self.rope, positions, apart) if able else None
        rope = self.rope[:, : x.shape[1]] if positions is None or common else self.rope[:, positions][:, :, None]
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            if caches is not None:
                x = layer(x, rope, caches[index])
                continue
            run = partial(layer.fused, common=common) if common else partial(layer, rope=rope, apart=apart)
            x = recomputed(run, x, random) if self.recompute else run(x)
        normed: Tensor = fused_norm(x, common, self.norm.weight) if common else self.norm(x)
        return normed
