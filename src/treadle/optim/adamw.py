"""AdamW over named parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def make_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, betas: tuple[float, float], weight_decay: float,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) on matrices; none on gains and biases, whose size is not
    a matter of capacity. The fused kernel updates all weights in one pass over memory."""
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, eps=eps, fused=True)
