"""The gated feed-forward block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.recompute import remade


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        gate, up = self.gate_proj(x), self.up_proj(x)
        opened = F.silu(gate)
        with remade(opened, lambda: F.silu(gate)):
            product = opened * up
        with remade(product, lambda: F.silu(gate) * up):
            y: Tensor = self.down_proj(product)
        return y
