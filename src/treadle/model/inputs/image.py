"""A picture as its pixels, or as squares of them. B pictures of H x W pixels and C channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


class ImageInput(nn.Module):
    """Pixels with mean 0 and deviation 1 per channel over the train part. A transformer reads squares of them, each brought to
    ``width`` features and marked with a learned vector for its place (Dosovitskiy et al. 2021, section 3.1)."""

    scale: Tensor
    centre: Tensor

    def __init__(self, layout: Layout, trunk: str, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / torch.tensor(layout.deviation), persistent=False)
        self.register_buffer("centre", torch.tensor(layout.mean) / torch.tensor(layout.deviation), persistent=False)
        grid = (layout.height, layout.width)
        self.patch = layout.patch if trunk == "transformer" else 0
        if self.patch:
            grid = (layout.height // self.patch, layout.width // self.patch)
            self.bring = nn.Linear(self.patch**2 * layout.channels, width)
            self.place = nn.Parameter(torch.randn(grid[0] * grid[1], width) * 0.02)
        self.grid = grid
        self.form = Form(grid[0] * grid[1], width if self.patch else layout.channels, grid)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, H, W, C), 0 to 255 -> (B, T, D)"""
        pixels = (values * self.scale).sub_(self.centre)
        if not self.patch:
            return Signal(pixels.flatten(1, 2))
        (high, wide), side = self.grid, self.patch
        squares = pixels.reshape(len(pixels), high, side, wide, side, -1).transpose(2, 3)  # (B, H', W', side, side, C)
        return Signal(self.bring(squares.reshape(len(pixels), high * wide, -1)) + self.place)
