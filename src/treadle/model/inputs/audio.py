"""Recordings as normalised log-mel frames. B rows, T frames, M mel bands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


class AudioInput(nn.Module):
    """A sequence of frames; to convolutions a picture, time by bands, filled up with each band's mean to the longest recording that
    is read."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, layout: Layout, trunk: str) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(layout.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(layout.deviation, dtype=torch.float32), persistent=False)
        self.form = Form(layout.length if trunk == "conv" else 0, layout.channels)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Signal:
        """(B, T, M), ``lengths`` (B,) -> (B, T, M) in deviations from the mean of the train part"""
        signal = Signal((frames.float() - self.mean) / self.deviation, lengths)
        if not self.form.length:
            return signal
        mask = signal.mask()
        known = signal.features if mask is None else signal.features.masked_fill(~mask[..., None], 0.0)
        return Signal(F.pad(known, (0, 0, 0, self.form.length - known.shape[1])))
