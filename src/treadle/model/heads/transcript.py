"""A text without known alignment: connectionist temporal classification (Graves et al. 2006). B rows, T frames, C characters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal

BLANK = 0
_NEVER = -1e4  # a logit whose probability is 0 in float32, without the infinities that gradients cannot pass


class TranscriptHead(nn.Module):
    """A character or the blank, id 0, at each frame."""

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__()
        self.linear = nn.Linear(form.width, layout.vocabulary)

    def outputs(self, signal: Signal) -> Tensor:
        """(B, T, C) logits. Behind a row's end the blank alone is possible, which leaves its loss as it is."""
        logits: Tensor = self.linear(signal.features).float()
        mask = signal.mask()
        if mask is None:
            return logits
        behind = logits.new_full(logits.shape[-1:], _NEVER)
        behind[BLANK] = 0.0
        return logits.where(mask[..., None], behind)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, T, C), ids (B, L) filled up with 0 -> nats (B,): -log p of the text, NaN where it needs more frames than there
        are: one per character, and one between two that are alike."""
        lengths = (targets > 0).sum(1)
        frames = (outputs[..., 1] > _NEVER).sum(1)
        between = ((targets[:, 1:] == targets[:, :-1]) & (targets[:, 1:] > 0)).sum(1)
        # The library computes on the processor what it cannot on a GPU for rows of such lengths; float32 as all losses.
        logs = outputs.log_softmax(-1).transpose(0, 1)  # (T, B, C)
        every = torch.full_like(lengths, outputs.shape[1])
        found = F.ctc_loss(logs, targets.clamp_min(0), every, lengths, BLANK, "none", zero_infinity=True)
        return found.masked_fill(lengths + between > frames, torch.nan)

    def readable(self, outputs: Tensor) -> Tensor:
        """(B, T) ids of the likeliest path, repetitions and blanks taken out (section 3.2), filled up with 0."""
        path = outputs.argmax(-1)
        kept = path != BLANK
        kept[:, 1:] &= path[:, 1:] != path[:, :-1]
        order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
        return path.where(kept, BLANK).gather(1, order)
