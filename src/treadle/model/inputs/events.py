"""Histories of items. B rows, L events, T of which are read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


class EventsInput(nn.Module):
    """A learned vector per item, and one per bucket of the time since the event before; the newest events are read."""

    def __init__(self, layout: Layout, trunk: str, width: int = 128) -> None:
        super().__init__()
        self.context = layout.length
        self.embed_items = nn.Embedding(layout.vocabulary, width)
        self.embed_gap = nn.Embedding(layout.channels, width)
        self.form = Form(0, width)

    def forward(self, events: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, L, 2): item, bucket -> (B, T, D)"""
        assert lengths is not None
        kept = lengths.clamp_max(self.context)
        at = torch.arange(int(kept.max()), device=events.device) + (lengths - kept)[:, None]  # (B, T)
        read = events.gather(1, at.clamp_max(events.shape[1] - 1)[..., None].expand(-1, -1, 2))
        return Signal(self.embed_items(read[..., 0]) + self.embed_gap(read[..., 1]), kept)


class ItemInput(nn.Module):
    """One item, such as what is offered: it has no vectors of its own, but those of the history's items."""

    def __init__(self, layout: Layout, trunk: str, width: int = 128) -> None:
        super().__init__()
        self.form = Form(1, width)

    def forward(self, ids: Tensor, lengths: Tensor | None, items: nn.Module) -> Signal:
        """(B,) -> (B, 1, D)"""
        return Signal(items(ids)[:, None])
