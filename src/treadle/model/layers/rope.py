"""Rotary position embedding (Su et al. 2021), in the half-rotated layout that Llama and Qwen weights use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rope_table(context: int, head_dim: int, theta: float) -> Tensor:
    """(2, context, head_dim) float32: cosines, and sines with the sign of the rotation, of position x theta^(-2i/head_dim)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(context, dtype=torch.float32), frequency)
    sine = angle.sin()
    return torch.stack([angle.cos().repeat(1, 2), torch.cat([-sine, sine], dim=-1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x (B, H, T, head_dim) by ``table`` (2, T, head_dim), or (2, B, 1, T, head_dim) where rows differ in position."""
    cosine, sine = table.to(x.dtype).unbind(0)
    found: Tensor = _Rotation.apply(x, cosine, sine)  # type: ignore[no-untyped-call]
    return found


class _Rotation(torch.autograd.Function):
    """The way back of a rotation is the rotation by the opposite angles: three operations, where those of its parts are eight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cosine, sine = ctx.saved_tensors
        return _turn(grads[0], cosine, sine, -1.0), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, way: float) -> Tensor:
    half = x.shape[-1] // 2
    return (x * cosine).addcmul_(torch.cat([x[..., half:], x[..., :half]], dim=-1), sine, value=way)
