"""Rotary position embedding (Su et al. 2021), in the half-rotated layout that Llama and Qwen weights use."""

from __future__ import annotations

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
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sine
