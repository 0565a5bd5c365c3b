"""Root-mean-square normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.recompute import remade


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or x.dtype != self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()  # what F.rms_norm does, to the bit
        normed = x * scale
        with remade((normed, lambda: x * scale)):
            return normed * self.weight
