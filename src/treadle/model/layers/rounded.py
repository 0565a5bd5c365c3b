"""Matrices in the numbers that a GPU multiplies: bf16, where that is exact or nearly so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.four_bits import Int4Linear
from treadle.model.layers.quantized import Int8Embedding, Int8Rows


class Rounded(nn.Module):
    """``weight`` (N, M) in ``kind``, and where it is whole numbers, a ``scale`` (N,) float32 for each row."""

    weight: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, kind: torch.dtype, scale: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(kind))
        self.register_buffer("scale", None if scale is None else scale.float())

    def multiply(self, x: Tensor) -> Tensor:
        """x (..., M) float32 -> (..., N) float32"""
        y = F.linear(x.to(self.weight.dtype), self.weight).float()
        return y if self.scale is None else y * self.scale


class RoundedLinear(Rounded):
    """A linear layer without a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x)


class RoundedEmbedding(Rounded):
    """A token embedding, which may also be the output layer."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D) float32"""
        found = self.weight[tokens].float()
        return found if self.scale is None else found * self.scale[tokens][..., None]


def is_exact(weight: Tensor, kind: torch.dtype) -> bool:
    """Whether ``kind`` holds all its numbers as they are."""
    return bool((weight.detach().to(kind).float() == weight.detach().float()).all())


def round_modules(module: nn.Module, kind: torch.dtype) -> None:
    """Replace every matrix under ``module`` by its twin in ``kind``, in place: those that are exact in it, those of int8, whose
    whole numbers are, and those of int4, rounded, by which they change far less than they did when they became int4. Others
    stay, and so do layers with a bias."""
    for name, child in list(module.named_children()):
        twin = RoundedEmbedding if isinstance(child, (nn.Embedding, Int8Embedding)) else RoundedLinear
        if getattr(child, "bias", None) is not None:
            continue
        if isinstance(child, Int8Rows):
            setattr(module, name, twin(child.weight, kind, child.weight_scale))
        elif isinstance(child, Int4Linear):
            setattr(module, name, twin(child.dequantized(), kind))
        elif isinstance(child, (nn.Linear, nn.Embedding)):
            if is_exact(child.weight, kind):
                setattr(module, name, twin(child.weight, kind))
        else:
            round_modules(child, kind)
