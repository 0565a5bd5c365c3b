"""What data gives and models take: the one place where they meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Target of a position that carries no loss."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One step's examples. B examples; T positions where an input is a sequence."""

    inputs: Tensors
    """Input's name -> (B, ...): ids int64 (B, T), numbers float32 (B,) with NaN where missing, images uint8 (B, H, W, C) and so on,
    as the input's ``Layout`` says."""
    targets: Tensors
    """Head's name -> (B, ...): int64, ``IGNORE`` where no loss is taken, or float32, NaN where no loss is taken."""
    lengths: Tensors = field(default_factory=dict)
    """Name of an input or head whose examples differ in length -> (B,) int64; what stands behind is padding."""
    places: Tensors = field(default_factory=dict)
    """Name of an input whose examples hold several documents, none of which may look at another -> (B, T) int64: the place of each
    position in its document. At each 0 a document begins, as it does at the beginning of each example."""

    @property
    def size(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def positions(self) -> int:
        """Positions read, padding included."""
        return next(iter(self.inputs.values())).numel()

    @property
    def infinite(self) -> bool:
        """Whether a number in it is infinite."""
        return any(bool(tensor.isinf().any()) for part in (self.inputs, self.targets) for tensor in part.values())

    def split(self, parts: int) -> list[Batch]:
        """Equal parts along B, for gradient accumulation."""
        if parts == 1:
            return [self]
        step = self.size // parts
        assert step * parts == self.size, f"{self.size} examples do not split into {parts}"
        return [self._map(lambda tensor, at=start: tensor[at : at + step]) for start in range(0, self.size, step)]

    def to(self, device: torch.device) -> Batch:
        if next(iter(self.inputs.values())).device == device:
            return self
        return self._map(lambda tensor: tensor.to(device))

    def take(self, order: Tensor) -> Batch:
        """The examples of ``order`` (B,), in that order."""
        return self._map(lambda tensor: tensor[order])

    @property
    def parts(self) -> tuple[Tensors, ...]:
        """All that it holds."""
        return self.inputs, self.targets, self.lengths, self.places

    def _map(self, change: Any) -> Batch:
        return Batch(*({name: change(tensor) for name, tensor in part.items()} for part in self.parts))


def join(first: Batch, second: Batch) -> Batch:
    """``second``'s examples behind ``first``'s; shorter sequences are filled up, as their lengths say."""
    pairs = zip(first.parts, second.parts, strict=True)
    return Batch(*({name: _stack(one[name], two[name]) for name in one} for one, two in pairs))


def _stack(one: Tensor, two: Tensor) -> Tensor:
    if one.dim() > 1 and one.shape[1] != two.shape[1]:
        longest = max(one.shape[1], two.shape[1])
        one, two = (F.pad(t, (0, 0) * (t.dim() - 2) + (0, longest - t.shape[1])) for t in (one, two))
    return torch.cat([one, two])
