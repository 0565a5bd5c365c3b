"""Attention proper: what each position gets from those that it may look at.

B rows, H query heads, K key heads, T queries, L keys, C features per head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_FEW = 512
"""Keys up to which the weights of all of them are worth their memory."""


def attend(q: Tensor, k: Tensor, v: Tensor, look: Tensor | None = None, causal: bool = False, dropout: float = 0.0) -> Tensor:
    """q (B, H, T, C), k and v (B, K, L, C) -> (B, H, T, C). ``look``, which broadcasts to (B, H, T, L): True where a position may
    be looked at; ``causal``: no later one. ``dropout``: the share of weights that is left out.

    torch's own attention, except where its way back is many times slower than the products that it is made of: in bf16 on a
    processor (docs/experiments.md). There they are computed one by one, with scores in float32.
    """
    shared = q.shape[1] != k.shape[1]
    slow = q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= _FEW and not dropout
    if not (slow and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=look, is_causal=causal, enable_gqa=shared, dropout_p=dropout)
    if shared:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    if causal:
        look = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Products.apply(q, k, v, look)  # type: ignore[no-untyped-call]
    return found


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, look: Tensor | None) -> Tensor:
        scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
        if look is not None:
            scores.masked_fill_(~look, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).to(q.dtype)
        if look is not None and not (some := look.any(-1, keepdim=True)).all():
            weights = weights * some  # a position that may look at none gets nothing
        ctx.save_for_backward(q, k, v, weights)
        found: Tensor = weights @ v
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, weights = ctx.saved_tensors
        (g,) = grads
        back = torch.ops.aten._softmax_backward_data(g @ v.transpose(-1, -2), weights, -1, weights.dtype)
        scale = q.shape[-1] ** -0.5
        return (back @ k).mul_(scale), (back.transpose(-1, -2) @ q).mul_(scale), weights.transpose(-1, -2) @ g, None
