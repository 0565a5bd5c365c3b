"""What flows from inputs through the trunk to the heads: a sequence of features. B rows, T positions, D features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signal:
    """``features`` (B, T, D); ``lengths`` (B,) where rows differ in length; ``pooled`` (B, D) where the trunk sums rows up;
    ``second`` (B, T) of a pair: True where a position stands in its second text."""

    features: Tensor
    lengths: Tensor | None = None
    pooled: Tensor | None = None
    second: Tensor | None = None

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


def single(features: Tensor) -> Signal:
    """Rows (B, D) as sequences of one position."""
    return Signal(features[:, None], None, features)


def join_signals(parts: Sequence[Signal]) -> Signal:
    """The positions of all ``parts``, of one width, one part behind the other. Padding goes to the end of each row: in between it
    would move what follows, by as much as the longest row of the batch."""
    if len(parts) == 1:
        return Signal(parts[0].features, parts[0].lengths)
    x = torch.cat([part.features for part in parts], 1)
    if all(part.lengths is None for part in parts):
        return Signal(x)
    masks = [part.mask() for part in parts]
    known = torch.cat(
        [part.features.new_ones(part.features.shape[:2], dtype=torch.bool) if mask is None else mask
         for mask, part in zip(masks, parts, strict=True)], 1,
    )
    order = (~known).to(torch.uint8).argsort(dim=1, stable=True)
    return Signal(x.gather(1, order[..., None].expand_as(x)), known.sum(1))


def part_of(signal: Signal, parts: Sequence[Signal], index: int) -> Signal:
    """Of what a trunk made of the positions of all ``parts``, those of one."""
    part = parts[index]
    if len(parts) == 1:
        return Signal(signal.features, part.lengths)
    first = torch.zeros(len(signal.features), dtype=torch.long, device=signal.features.device)
    for before in parts[:index]:
        first = first + (before.features.shape[1] if before.lengths is None else before.lengths)
    at = first[:, None] + torch.arange(part.features.shape[1], device=first.device)
    at = at.clamp_max(signal.features.shape[1] - 1)[..., None]
    return Signal(signal.features.gather(1, at.expand(-1, -1, signal.features.shape[2])), part.lengths)


@dataclass(frozen=True)
class Form:
    """What a ``Signal`` looks like: ``length`` positions (0: varies) of ``width`` features; ``grid`` (H, W) where the positions
    are those of a picture, row by row; ``pair`` where they are those of two texts."""

    length: int
    width: int
    grid: tuple[int, int] | None = None
    pair: bool = False
