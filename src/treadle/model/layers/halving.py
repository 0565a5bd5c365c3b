"""The largest of each 2 x 2 pixels, and ReLU: what stands between two stages of convolutions.

B pictures, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.compiled import kernels_for
from treadle.core.native import Kernels


class HalvedRelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), rounded down: torch's values and gradients, bit for bit, in training on one thread
        by a compiled kernel that takes each number once."""
        last = x.is_contiguous(memory_format=torch.channels_last)
        run = kernels_for(x, x.dtype) if x.requires_grad and last else None
        if run is None:
            return F.relu(F.max_pool2d(x, 2))
        found: Tensor = _HalvedRelu.apply(x, run)  # type: ignore[no-untyped-call]
        return found


class _HalvedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Kernels) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)  # as they lie in memory
        B, H, W, C = pixels.shape
        y = x.new_empty(B, H // 2, W // 2, C)
        which = torch.empty(y.shape, dtype=torch.uint8)
        run("halve_relu", x.dtype, B, H, W, C, pixels, y, which)
        ctx.save_for_backward(which)
        ctx.run, ctx.shape = run, (B, H, W, C)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (which,) = ctx.saved_tensors
        dy = grads[0].permute(0, 2, 3, 1).contiguous()
        dx = dy.new_empty(ctx.shape)
        ctx.run("halve_relu_back", dy.dtype, *ctx.shape, dy, which, dx)
        return dx.permute(0, 3, 1, 2), None
