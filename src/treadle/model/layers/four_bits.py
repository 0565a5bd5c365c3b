"""Weights held in four bits, in groups with a scale and a least value each: an eighth of float32's bytes, and a little for the
groups, to read for every generated token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KIND: torch.dtype = torch.uint4  # type: ignore[attr-defined]
"""By which the compiled decoder knows them."""
GROUP = 32
"""Columns of a group."""
_TOP = 15
_ROUNDS = 3
_ROWS = 4096  # that are quantised at once


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight (N, M) -> in four bits, two columns a byte, the even one in the lower half, (N, 16 G) uint8; scale and least (N, G)
    bf16, G groups of 32 columns, the last filled up with zeros: weight ~ least + scale * (0 to 15).

    Of each group the squared error is made small: from the group's range, the whole numbers that are nearest and then the scale and
    the least value that suit these best (a line through them by least squares), in turn.
    """
    filled = F.pad(weight.detach().float(), (0, -weight.shape[1] % GROUP))
    found = [_quantize(rows) for rows in torch.split(filled, _ROWS)]
    whole, scale, least = (torch.cat(part) for part in zip(*found, strict=True))
    return whole[:, ::2] | whole[:, 1::2] << 4, scale, least


def _quantize(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 32 G) float32 -> whole numbers (N, 32 G) uint8, scale and least (N, G) bf16."""
    x = rows.view(len(rows), -1, GROUP)
    least, high = x.aminmax(dim=2, keepdim=True)
    scale = ((high - least) / _TOP).clamp_min(1e-12)
    for _ in range(_ROUNDS):
        scale, least = _line(_nearest(x, scale, least), x, scale)
    scale, least = scale.bfloat16(), least.bfloat16()
    return _nearest(x, scale.float(), least.float()).flatten(1).to(torch.uint8), scale[..., 0], least[..., 0]


def _nearest(x: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    return ((x - least) / scale).round().clamp(0, _TOP)


def _line(whole: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and least (N, G, 1) with the smallest squared error; ``scale`` as it is where all numbers are the same."""
    mean, centre = whole.mean(2, keepdim=True), x.mean(2, keepdim=True)
    spread = (whole - mean).square().sum(2, keepdim=True)
    slope = ((whole - mean) * (x - centre)).sum(2, keepdim=True) / spread
    scale = torch.where((spread > 0) & (slope > 0), slope, scale)
    return scale, centre - scale * mean


class Int4Linear(nn.Module):
    """A linear layer of M inputs and N outputs. ``weight`` (N, 16 G) uint8, ``weight_scale`` and ``weight_least`` (N, G) bf16 as
    ``quantize_groups`` gives them, ``bias`` (N,) float32 or None."""

    weight: Tensor
    weight_scale: Tensor
    weight_least: Tensor
    bias: Tensor | None

    def __init__(self, rows: int, columns: int, bias: bool = False) -> None:
        super().__init__()
        self.columns, groups = columns, -(-columns // GROUP)
        self.register_buffer("weight", torch.zeros(rows, groups * GROUP // 2, dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.ones(rows, groups, dtype=torch.bfloat16))
        self.register_buffer("weight_least", torch.zeros(rows, groups, dtype=torch.bfloat16))
        self.register_buffer("bias", torch.zeros(rows) if bias else None)

    @classmethod
    def of(cls, layer: nn.Linear) -> Int4Linear:
        made = cls(layer.out_features, layer.in_features, layer.bias is not None)
        made.weight, made.weight_scale, made.weight_least = quantize_groups(layer.weight)
        made.bias = None if layer.bias is None else layer.bias.detach().clone()
        return made

    def groups(self) -> Tensor:
        """The whole numbers (N, G, 32) uint8."""
        return torch.stack([self.weight & 15, self.weight >> 4], 2).view(len(self.weight), -1, GROUP)

    def dequantized(self) -> Tensor:
        """(N, M) float32."""
        scale, least = self.weight_scale.float()[..., None], self.weight_least.float()[..., None]
        return (self.groups() * scale + least).flatten(1)[:, : self.columns]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantized(), self.bias)
