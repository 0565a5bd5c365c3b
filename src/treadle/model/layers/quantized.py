"""Weights held as int8 with one scale per output row: a quarter of float32's bytes to read for every generated token. A language
model's layers may hold theirs in four bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.four_bits import Int4Linear

FEW_ROWS = 16
"""Up to this many rows the product is limited by reading the weights, and the int8 kernel is the faster one."""
_VECTOR = 32
"""Columns that the kernel reads at once, at most: with others left over it reads past the end of the matrix."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (N, M) -> int8 (N, M) and bf16 scale (N,) with weight ~ int8 * scale: symmetric, round to nearest, per row.

    The scale is rounded up to bf16 before it is used, so that the kernel's bf16 scale is exact and nothing overflows.
    """
    largest = weight.detach().float().abs().amax(dim=1).clamp_min(1e-12)
    scale = (largest / 127).bfloat16()
    scale = torch.where(scale.float() * 127 < largest, (scale.float() * (1 + 2**-7)).bfloat16(), scale)
    return torch.round(weight.float() / scale.float()[:, None]).clamp(-127, 127).to(torch.int8), scale


class Int8Rows(nn.Module):
    weight: Tensor
    weight_scale: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.few_rows = FEW_ROWS if columns % _VECTOR == 0 else 0
        self.register_buffer("weight", torch.zeros(rows, columns, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(rows, dtype=torch.bfloat16))

    def dequantized(self) -> Tensor:
        """(N, M) float32."""
        return self.weight.float() * self.weight_scale.float()[:, None]

    def multiply(self, x: Tensor) -> Tensor:
        """x (..., M) float32 -> (..., N): few rows by the int8 kernel (which reads x as bf16), many by float32."""
        rows = x.numel() // x.shape[-1]
        if rows > self.few_rows:
            return F.linear(x, self.dequantized())
        flat = x.reshape(rows, x.shape[-1]).bfloat16()
        y = torch._weight_int8pack_mm(flat, self.weight, self.weight_scale)
        return y.to(x.dtype).reshape(*x.shape[:-1], -1)


class Int8Linear(Int8Rows):
    """A linear layer. ``weight`` (N, M) int8, ``weight_scale`` (N,) bf16, ``bias`` (N,) float32 or None."""

    bias: Tensor | None

    def __init__(self, rows: int, columns: int, bias: bool = False) -> None:
        super().__init__(rows, columns)
        self.register_buffer("bias", torch.zeros(rows) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.multiply(x)
        return y if self.bias is None else y + self.bias


class Int8Embedding(Int8Rows):
    """A token embedding, which may also be the output layer. ``weight`` (V, D) int8, ``weight_scale`` (V,) bf16."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D) float32"""
        return self.weight[tokens].float() * self.weight_scale[tokens].float()[..., None]


def quantize_modules(module: nn.Module, exact: bool = False) -> int:
    """Replace every linear layer and embedding under ``module`` by its int8 twin, in place; gives how many. ``exact``: what is
    multiplied with them stays float32 for few rows as well, so that a row's result is the same in any company."""
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.Linear, nn.Embedding)):
            rows, columns = child.weight.shape
            bias = getattr(child, "bias", None)
            twin = Int8Linear(rows, columns, bias is not None) if isinstance(child, nn.Linear) else Int8Embedding(rows, columns)
            if bias is not None:
                twin.bias = bias.detach().clone()
            twin.weight, twin.weight_scale = quantize_rows(child.weight)
            twin.few_rows = 0 if exact else twin.few_rows
            setattr(module, name, twin)
            count += 1
        else:
            count += quantize_modules(child, exact)
    return count


def quantize_language(model: nn.Module, kind: str) -> None:
    """Hold the matrices of a language model as ``kind``, ``int8`` or ``int4``, in place. With int4 those around the layers, the
    embedding and the output layer, are int8: in four bits they alone would raise the loss as much as all layers together do."""
    if kind == "int4":
        for module in list(model.get_submodule("trunk.layers").modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Int4Linear.of(child))
    quantize_modules(model)
