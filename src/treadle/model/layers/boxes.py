"""Boxes as cx, cy, width, height in shares of a picture: how far they are from each other, and where in it places are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BASE = 20.0
"""Of the wave lengths of places: from 1 to 1/20 of the picture (Liu et al. 2022, section 4.2)."""


def generalized_iou(one: Tensor, two: Tensor) -> Tensor:
    """(..., 4), (..., 4) -> (...), -1 to 1: intersection over union, less the empty share of the least box around both
    (Rezatofighi et al. 2019, algorithm 1)."""
    low = torch.maximum(one[..., :2] - one[..., 2:] / 2, two[..., :2] - two[..., 2:] / 2)
    high = torch.minimum(one[..., :2] + one[..., 2:] / 2, two[..., :2] + two[..., 2:] / 2)
    least = torch.minimum(one[..., :2] - one[..., 2:] / 2, two[..., :2] - two[..., 2:] / 2)
    most = torch.maximum(one[..., :2] + one[..., 2:] / 2, two[..., :2] + two[..., 2:] / 2)
    both = (high - low).clamp_min(0).prod(-1)
    union = one[..., 2:].prod(-1) + two[..., 2:].prod(-1) - both
    around = (most - least).prod(-1)
    return both / union.clamp_min(1e-9) - (around - union) / around.clamp_min(1e-9)


def waves(points: Tensor, width: int) -> Tensor:
    """Points (..., 2), x and y from 0 to 1 -> (..., width): sines and cosines, half of them of each (Carion et al. 2020, appendix
    A.4). ``width`` is a multiple of 4."""
    count = width // 4
    steps = 2 * math.pi * _BASE ** (torch.arange(count, device=points.device) / count)
    angles = points[..., None] * steps  # (..., 2, width / 4)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def cells(high: int, wide: int) -> Tensor:
    """(high x wide, 2): x and y of the middles of a grid's cells, row by row."""
    y, x = torch.meshgrid((torch.arange(high) + 0.5) / high, (torch.arange(wide) + 0.5) / wide, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)
