"""The gated feed-forward block."""

from __future__ import annotations

from typing import Any

import torch
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
        product: Tensor = _Product.apply(gate, up)  # type: ignore[no-untyped-call]
        with remade((product, lambda: _product(gate, up))):
            y: Tensor = self.down_proj(product)
        return y


class _Product(torch.autograd.Function):
    """silu(gate) * up, of which no more than the two is kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _product(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), F.silu(gate).mul_(grads[0])


def _product(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate).mul_(up)
