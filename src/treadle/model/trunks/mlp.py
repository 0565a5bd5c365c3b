"""Dense layers over all inputs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from treadle.model.layers.activation import ACTIVATIONS
from treadle.model.layers.signal import Form, Signal, single
from treadle.spec.trunks import Mlp


class Dense(nn.Module):
    """Product, norm, activation, dropout; with ``residual`` the input is added where widths agree."""

    def __init__(self, before: int, after: int, settings: Mlp) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        norms: dict[str, nn.Module] = {"none": nn.Identity()}
        if settings.norm != "none":
            norms[settings.norm] = nn.BatchNorm1d(after) if settings.norm == "batch" else nn.LayerNorm(after)
        self.norm = norms[settings.norm]
        self.activation = ACTIVATIONS[settings.activation]()
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.residual = settings.residual and before == after
        stages = (self.norm, self.activation, self.dropout)
        self.then = tuple(module for module in stages if not isinstance(module, nn.Identity))  # whose calls take time

    def forward(self, x: Tensor) -> Tensor:
        """(B, before) -> (B, after)"""
        y: Tensor = self.linear(x)
        for module in self.then:
            y = module(y)
        return x + y if self.residual else y


class MlpTrunk(nn.Module):
    """Inputs of a fixed length are laid flat, of others the mean over the positions is taken; all stand side by side."""

    def __init__(self, settings: Mlp, forms: Sequence[Form]) -> None:
        super().__init__()
        self.flat = [form.length > 0 for form in forms]
        widths = [sum(form.width * (form.length or 1) for form in forms), *settings.widths]
        self.layers = nn.Sequential(*(Dense(a, b, settings) for a, b in pairwise(widths)))
        self.form = Form(1, widths[-1])

    def forward(self, parts: Sequence[Signal]) -> Signal:
        """Signals of all inputs -> (B, 1, D)"""
        flat = [part.features.flatten(1) if flat else part.mean() for part, flat in zip(parts, self.flat, strict=True)]
        return single(self.layers(torch.cat(flat, 1) if len(flat) > 1 else flat[0]))
