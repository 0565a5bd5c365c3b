"""What data gives and models take: the one place where they meet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100
"""Target of a position that carries no loss."""


@dataclass(frozen=True)
class Batch:
    """One step's examples. B examples of T positions."""

    inputs: dict[str, Tensor]
    """Input's name -> (B, T) int64 token ids."""
    targets: dict[str, Tensor]
    """Head's name -> (B, T) int64, ``IGNORE`` where no loss is taken."""

    @property
    def size(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def positions(self) -> int:
        """Positions read, padding included."""
        return next(iter(self.inputs.values())).numel()

    def split(self, parts: int) -> list[Batch]:
        """Equal parts along B, for gradient accumulation."""
        step = self.size // parts
        assert step * parts == self.size, f"{self.size} examples do not split into {parts}"

        def cut(tensors: dict[str, Tensor], start: int) -> dict[str, Tensor]:
            return {name: tensor[start : start + step] for name, tensor in tensors.items()}

        starts = range(0, self.size, step)
        return [Batch(cut(self.inputs, start), cut(self.targets, start)) for start in starts]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            {name: tensor.to(device) for name, tensor in self.inputs.items()},
            {name: tensor.to(device) for name, tensor in self.targets.items()},
        )
