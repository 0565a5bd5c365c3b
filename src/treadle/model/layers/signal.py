"""What flows from inputs through the trunk to the heads: a sequence of features. B rows, T positions, D features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signal:
    """``features`` (B, T, D); ``lengths`` (B,) where rows differ in length; ``pooled`` (B, D) where the trunk sums rows up."""

    features: Tensor
    lengths: Tensor | None = None
    pooled: Tensor | None = None

    def mask(self) -> Tensor | None:
        """(B, T), True where a position is no padding; None: all are."""
        if self.lengths is None:
            return None
        return torch.arange(self.features.shape[1], device=self.features.device) < self.lengths[:, None]

    def mean(self) -> Tensor:
        """(B, D): each row summed up, by the trunk itself or as the mean over its positions."""
        if self.pooled is not None:
            return self.pooled
        mask = self.mask()
        if mask is None:
            return self.features[:, 0] if self.features.shape[1] == 1 else self.features.mean(1)
        counts = mask.sum(1, keepdim=True).clamp_min(1)
        return (self.features * mask[..., None]).sum(1) / counts


@dataclass(frozen=True)
class Form:
    """What a ``Signal`` looks like: ``length`` positions (0: varies) of ``width`` features; ``grid`` (H, W) where the positions
    are those of a picture, row by row."""

    length: int
    width: int
    grid: tuple[int, int] | None = None
