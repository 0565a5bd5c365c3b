"""Rules that look at a parameter as a matrix: Muon and Adafactor. Kernels of a convolution are rows of (out, in x places)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.optim.optimizer import State

ROUNDS = ((8.3837, -24.7659, 18.3571), (4.0434, -3.0114, 0.5695), (3.5056, -2.6267, 0.5257), (2.4901, -1.8343, 0.4368))
"""Coefficients of odd quintics, each that of the least largest error for what the one before leaves (Amsel et al. 2025, theorem
3.1): together they carry singular values from 0.003 to 1 to between 0.80 and 1.20."""
_STACKED = 2**24
"""Numbers of alike matrices that are made orthogonal at once: many small ones take little longer than one."""


@dataclass(frozen=True)
class Muon:
    """The running mean of the gradient, made orthogonal (Jordan et al. 2024), scaled so that a step changes a weight about as much
    as one of AdamW, whose rates and decay therefore suit it (Liu et al. 2025, equation 4). For hidden matrices."""

    momentum: float = 0.95
    nesterov: bool = True

    def begin(self, p: Tensor) -> State:
        return {"momentum": torch.zeros_like(p)}

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        means = [state["momentum"] for state in states]
        torch._foreach_lerp_(means, grads, 1 - self.momentum)
        ways = torch._foreach_lerp(grads, means, self.momentum) if self.nesterov else means
        torch._foreach_mul_(params, 1 - lr * decay)
        for alike in _alike(ways):
            stack = orthogonal(torch.stack([_wide(ways[place]) for place in alike]))
            for place, found in zip(alike, stack.unbind(), strict=True):
                p = params[place]
                tall = len(p) > p.numel() // len(p)
                p.add_((found.mT if tall else found).reshape(p.shape), alpha=-lr * 0.2 * math.sqrt(found.shape[1]))


def _wide(x: Tensor) -> Tensor:
    """As a matrix that is no higher than wide."""
    flat = x.flatten(1)
    return flat.mT if len(flat) > flat.shape[1] else flat


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Places of tensors that are of one shape as wide matrices, no more of them together than ``_STACKED`` allows."""
    found: dict[torch.Size, list[list[int]]] = {}
    for place, tensor in enumerate(tensors):
        lists = found.setdefault(_wide(tensor).shape, [[]])
        if lists[-1] and (len(lists[-1]) + 1) * tensor.numel() > _STACKED:
            lists.append([])
        lists[-1].append(place)
    return [places for lists in found.values() for places in lists]


def orthogonal(x: Tensor) -> Tensor:
    """(..., A, B) -> about U V^T of its singular value decomposition: values from 0.003 of the norm on become 0.8 to 1.2.

    The rounds are polynomials of the matrix's products with itself, which are small where it is long: there they alone are carried
    from round to round, and meet the matrix at the end.
    """
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    long = y.shape[-1] >= 2 * y.shape[-2]
    products, whole = y @ y.mT, None
    for number, coefficients in enumerate(ROUNDS):
        way = _polynomial(products, *coefficients)
        last = number + 1 == len(ROUNDS)
        if long:
            whole = way if whole is None else way @ whole
            products = products if last else way @ products @ way
        else:
            y = way @ y
            products = products if last else y @ y.mT
    found: Tensor = y if whole is None else whole @ y
    return found.mT if tall else found


def _polynomial(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """(..., A, A) -> a I + b X + c X X"""
    found = b * x + c * (x @ x)
    found.diagonal(dim1=-2, dim2=-1).add_(a)
    return found


@dataclass(frozen=True)
class Adafactor:
    """Adam without the mean of gradients, and with that of their squares kept as one number per row and column; rates are relative
    to each parameter's own size, and no step is larger than ``clip`` of it (Shazeer and Stern 2018, algorithms 4 and 5)."""

    decay: float = 0.8
    clip: float = 1.0

    def begin(self, p: Tensor) -> State:
        state = {"step": torch.zeros(())}
        if p.dim() < 2:
            return state | {"square": torch.zeros_like(p)}
        flat = p.flatten(1)
        return state | {"row": flat.new_zeros(len(flat), 1), "column": flat.new_zeros(1, flat.shape[1])}

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        for p, g, state in zip(params, grads, states, strict=True):
            state["step"] += 1
            step = float(state["step"])
            part = step ** -self.decay
            size = lr * max(1e-3, _rms(p))
            p.mul_(1 - lr * decay)
            squares = g.flatten(1).square() if g.dim() >= 2 else g.square()
            if g.dim() >= 2:
                row, column = state["row"], state["column"]
                row.lerp_(squares.mean(1, keepdim=True), part)
                column.lerp_(squares.mean(0, keepdim=True), part)
                mean = (row @ column).div_(row.mean().clamp_(min=1e-30))
            else:
                mean = state["square"].lerp_(squares, part).clone()
            way = mean.clamp_(min=1e-30).rsqrt_().view_as(g).mul_(g)
            p.add_(way, alpha=-size / max(1.0, _rms(way) / self.clip))


def _rms(x: Tensor) -> float:
    return float(x.norm()) / math.sqrt(x.numel())
