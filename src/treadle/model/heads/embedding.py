"""A vector for each of two texts. B pairs, D features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


class EmbeddingHead(nn.Module):
    """What the trunk sums a text up as, at length 1. It learns nothing of its own."""

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__()
        options = layout.options or {}
        self.temperature, self.graded = float(options["temperature"]), bool(options["graded"])

    def outputs(self, signal: Signal) -> Tensor:
        """Of 2 B texts, the first ones of all pairs before the second ones: (B, 2, D)."""
        first, second = F.normalize(signal.mean().float(), dim=-1).chunk(2)
        return torch.stack([first, second], 1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Vectors (B, 2, D), and targets (B, 3): how much they are alike, and a number for each text -> (B,). With a graded
        answer the squared difference of the cosine from it (Reimers and Gurevych 2019, section 3). Else nats: -log p of the other
        half among all of the batch, the mean of both directions (van den Oord et al. 2018, equation 4); what equals a text or its
        other half is not among them, since it would be right too."""
        first, second = outputs.unbind(1)
        if self.graded:
            return ((first * second).sum(1) - targets[:, 0].to(first.dtype)).square()
        alike = (targets[:, None, 1:] == targets[None, :, 1:]).any(2)
        alike.fill_diagonal_(False)
        scores = (first @ second.T / self.temperature).masked_fill(alike, -torch.inf)
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own, reduction="none") + F.cross_entropy(scores.T, own, reduction="none")) / 2

    def readable(self, outputs: Tensor) -> Tensor:
        """(B, 2, D) as they are."""
        return outputs
