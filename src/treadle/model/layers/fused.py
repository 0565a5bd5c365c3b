"""A transformer's layer with its way back written out: what stands between its matrix products takes one pass each, in C.

N tokens of D features, H query heads, K key heads, C features per head, F hidden features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treadle.model.layers.fused_attention import fused_attend, fused_attend_back
from treadle.model.layers.fusion import Fusion


def fused_layer(x: Tensor, common: Fusion, *weights: Tensor | None) -> Tensor:
    """x (B, T, D) float32 -> (B, T, D). ``weights``: of the norm before attention, queries, keys, values, output, the norms of
    queries and keys (or None), the norm before the feed-forward block, gate, up, down."""
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Layer.apply(x, common, *weights)  # type: ignore[no-untyped-call]
    return found


def fused_norm(x: Tensor, common: Fusion, weight: Tensor) -> Tensor:
    """x (B, T, D) float32 -> its root-mean-square norm (B, T, D), as products take it."""
    found: Tensor = _Norm.apply(x, common, weight)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, common: Fusion, weight: Tensor) -> Tensor:
        x = given.flatten(0, -2).contiguous()
        normed, scale = common.empty(*x.shape), torch.empty(len(x))
        common.run("norm", common.kind, *x.shape, x, None, weight, common.shape.norm_eps, None, normed, scale)
        ctx.save_for_backward(x, weight, scale)
        ctx.common = common
        return normed.view(given.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad, dx, d_weight = grads[0].reshape(x.shape).contiguous(), torch.zeros_like(x), torch.zeros_like(weight)
        ctx.common.run("norm_back", ctx.common.kind, *x.shape, grad, x, weight, scale, dx, d_weight, None)
        return dx.view(grads[0].shape), None, d_weight


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, common: Fusion, *weights: Tensor) -> Tensor:
        before, q_proj, k_proj, v_proj, o_proj, q_norm, k_norm, after, gate, up, down = weights
        run, kind, eps = common.run, common.kind, common.shape.norm_eps
        x = given.flatten(0, -2).contiguous()
        N, D = x.shape
        F = len(gate)
        normed, scale = common.empty(N, D), torch.empty(N)
        run("norm", kind, N, D, x, None, before, eps, None, normed, scale)
        qkv_w, o_w, both_w, down_w = _joined(kind, q_proj, k_proj, v_proj), o_proj.to(kind), _joined(kind, gate, up), down.to(kind)
        qkv = normed @ qkv_w.t()
        attended, kept = fused_attend(common, qkv, q_norm, k_norm)
        middle, normed, scale2 = torch.empty_like(x), common.empty(N, D), torch.empty(N)
        run("norm", kind, N, D, x, attended @ o_w.t(), after, eps, middle, normed, scale2)
        both, product = normed @ both_w.t(), common.empty(N, F)
        run("swiglu", kind, N, F, both, product)
        ctx.save_for_backward(
            x, scale, qkv, attended, middle, scale2, both, qkv_w, o_w, both_w, down_w, before, q_norm, k_norm, after, *kept
        )
        ctx.common = common
        return torch.add(middle, product @ down_w.t()).view(given.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, scale, qkv, attended, middle, scale2, both, qkv_w, o_w, both_w, down_w, before, q_norm, k_norm, after, *kept = (
            ctx.saved_tensors
        )
        common: Fusion = ctx.common
        run, kind, (H, K, C) = common.run, common.kind, common.heads
        N, D = x.shape
        F = both.shape[1] // 2
        dx = grads[0].reshape(N, D).clone(memory_format=torch.contiguous_format)
        low = dx.to(kind)
        product = low @ down_w  # its gradient, until it is the product again
        dboth, normed = torch.empty_like(both), common.empty(N, D)
        run("swiglu_back", kind, N, F, product, both, dboth)
        run("norm_again", kind, N, D, middle, after, scale2, normed)
        d_down, d_both, d_after = (low.t() @ product).float(), (dboth.t() @ normed).float(), torch.zeros_like(after)
        low = common.empty(N, D)
        run("norm_back", kind, N, D, dboth @ both_w, middle, after, scale2, dx, d_after, low)
        d_output = (low.t() @ attended).float()
        dqkv, d_q_norm, d_k_norm = fused_attend_back(common, low @ o_w, attended, qkv, q_norm, k_norm, kept)
        run("norm_again", kind, N, D, x, before, scale, normed)
        d_qkv, d_before = (dqkv.t() @ normed).float(), torch.zeros_like(before)
        run("norm_back", kind, N, D, dqkv @ qkv_w, x, before, scale, dx, d_before, None)
        attention = (d_before, *_split(d_qkv, H * C, K * C, K * C), d_output, d_q_norm, d_k_norm)
        return dx.view(grads[0].shape), None, *attention, d_after, *_split(d_both, F, F), d_down


def _joined(kind: torch.dtype, *weights: Tensor) -> Tensor:
    """One matrix of several that have the same input."""
    return torch.cat([weight.to(kind) for weight in weights])


def _split(joined: Tensor, *rows: int) -> tuple[Tensor, ...]:
    return torch.split(joined, list(rows))
