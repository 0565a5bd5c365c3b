"""Means of weights over steps, for use in place of the last weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from treadle.spec.schedules import Average, Ema


class WeightAverage:
    """Of parameters, and of what batch norms have counted, so that both fit together."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]], settings: Average) -> None:
        self.settings, self.kind = settings.settings, settings.kind
        self.live = {name: tensor.detach() for name, tensor in tensors if tensor.is_floating_point()}
        self.means = {name: tensor.clone() for name, tensor in self.live.items()}
        self.count = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Take in the weights after a step; ``progress``: the share of the run that is done with it."""
        count = float(self.count)
        if isinstance(self.settings, Ema):
            share = 1.0 - min(self.settings.decay, (1.0 + count) / (10.0 + count))
            self.count += 1
        elif progress <= 1.0 - self.settings.last:
            share = 1.0
        else:
            share = 1.0 / (count + 1.0)
            self.count += 1
        torch._foreach_lerp_(list(self.means.values()), list(self.live.values()), share)

    def final(self) -> list[tuple[Tensor, Tensor]]:
        """What is trained, and its mean."""
        return [(tensor, self.means[name]) for name, tensor in self.live.items()]

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on but the settings."""
        kept = f"average.{self.kind}"
        return {f"{kept}.{name}": tensor for name, tensor in self.means.items()} | {kept: self.count}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``tensors`` once gave."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
