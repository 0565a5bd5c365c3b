"""Convolutions over a picture: plain blocks, or a residual net. B rows, C channels, H x W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from treadle.core.errors import UserError
from treadle.model.layers.activation import ACTIVATIONS
from treadle.model.layers.halving import HalvedRelu
from treadle.model.layers.signal import Form, Signal, single
from treadle.spec.trunks import Conv

_RISING = ("sigmoid", "tanh")


class Plain(nn.Sequential):
    """Convolution, norm, activation; with ``halve`` also a pooling of the largest of each 2 x 2 pixels, before an activation that
    never falls, which gives the same as after it for a quarter of the work."""

    def __init__(self, before: int, after: int, settings: Conv, halve: bool) -> None:
        pad = settings.kernel // 2 if settings.pad else 0
        norm = settings.norm == "batch"
        layers: list[nn.Module] = [nn.Conv2d(before, after, settings.kernel, padding=pad, bias=not norm)]
        if norm:
            layers.append(nn.BatchNorm2d(after))
        last: list[nn.Module] = [ACTIVATIONS[settings.activation]()]
        if halve and settings.activation == "relu":
            last = [HalvedRelu()]
        elif halve:
            last.insert(0 if settings.activation in _RISING else 1, nn.MaxPool2d(2))
        super().__init__(*layers, *last)


class Point(nn.Conv2d):
    """A convolution of one pixel; with ``stride`` 2, of every other one, taken beforehand: torch's own strided one ends the process
    in its backward pass for some numbers of channels, where channels come last (torch 2.13 on a CPU)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, 1, bias=False)
        self.every = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride), rounded up"""
        return super().forward(x[:, :, :: self.every, :: self.every])


class Residual(nn.Module):
    """Two convolutions with batch norm, around which the input is added (He et al. 2016, figure 2); ``stride`` 2 halves it."""

    def __init__(self, before: int, after: int, settings: Conv, stride: int) -> None:
        super().__init__()
        kernel, pad = settings.kernel, settings.kernel // 2
        first = Point(before, after, stride) if kernel == 1 else nn.Conv2d(before, after, kernel, stride, pad, bias=False)
        self.first = nn.Sequential(first, nn.BatchNorm2d(after))
        self.second = nn.Sequential(nn.Conv2d(after, after, kernel, 1, pad, bias=False), nn.BatchNorm2d(after))
        self.around: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.around = nn.Sequential(Point(before, after, stride), nn.BatchNorm2d(after))
        self.activation = ACTIVATIONS[settings.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)"""
        y: Tensor = self.activation(self.second(self.activation(self.first(x))) + self.around(x))
        return y


class ConvTrunk(nn.Module):
    """Stages of convolutions; a picture is halved between stages. A sequence without a grid is read as a picture of one channel,
    positions by features."""

    def __init__(self, settings: Conv, forms: Sequence[Form]) -> None:
        super().__init__()
        (form,) = forms
        self.grid = form.grid
        channels = form.width if form.grid else 1
        high, wide = form.grid or (form.length, form.width)
        stages: list[nn.Module] = []
        for number, width in enumerate(settings.channels):
            for block in range(settings.blocks):
                if settings.residual:
                    stride = 2 if number and not block else 1
                    stages.append(Residual(channels, width, settings, stride))
                    high, wide = -(-high // stride), -(-wide // stride)
                else:
                    halve = block + 1 == settings.blocks and number + 1 < len(settings.channels)
                    stages.append(Plain(channels, width, settings, halve))
                    lost, parts = 0 if settings.pad else settings.kernel - 1, 2 if halve else 1
                    high, wide = (high - lost) // parts, (wide - lost) // parts
                channels = width
            if form.length and min(high, wide) < 1:
                cure = "name fewer stages in model.trunk.conv.channels, or a larger picture"
                raise UserError(f"stage {number + 1} of the convolutions is left with no pixel", cure=cure)
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.dense: nn.Sequential | None = None
        if settings.dense:
            assert form.length, "dense layers need pictures of one size"
            widths = [channels * high * wide, *settings.dense]
            activation = ACTIVATIONS[settings.activation]
            self.dense = nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), activation())))
            channels = widths[-1]
        grid = (high, wide) if self.dense is None and form.grid else None
        self.form = Form(1 if self.dense is not None else high * wide if grid else 0, channels, grid)

    def forward(self, parts: Sequence[Signal]) -> Signal:
        """One signal -> (B, H x W, C), or (B, 1, C) behind dense layers"""
        (part,) = parts
        y = self.stages(self._picture(part.features))
        if self.dense is not None:
            return single(self.dense(self.dropout(y.flatten(1))))
        pooled = self.dropout(y.mean((2, 3)))
        return Signal(y.flatten(2).transpose(1, 2), None, pooled)

    def _picture(self, features: Tensor) -> Tensor:
        """(B, T, D) -> (B, C, H, W)"""
        if self.grid is None:
            return features[:, None]
        high, wide = self.grid
        picture = features.reshape(len(features), high, wide, features.shape[-1])
        return picture.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
