"""A tag for every token of a text. B rows, T tokens, S spans, C tags as in ``data/spans``: 0 outside, 1 + 2 k begins, 2 + 2 k goes
on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal

_NEVER = -1e4  # a logit whose probability is 0 in float32


class TagsHead(nn.Module):
    """Softmax over the tags of each token, and cross-entropy."""

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__()
        self.linear = nn.Linear(form.width, layout.vocabulary)
        self.before, self.behind = (layout.options or {})["marks"]

    def outputs(self, signal: Signal) -> Tensor:
        """Logits (B, T, C). Of padding, and of the marks around a text, 'outside' alone is possible."""
        logits: Tensor = self.linear(signal.features).float()
        places = torch.arange(logits.shape[1], device=logits.device)
        lengths = places.new_full((len(logits),), len(places)) if signal.lengths is None else signal.lengths
        inside = (places >= self.before) & (places < lengths[:, None] - self.behind)
        outside = logits.new_full(logits.shape[-1:], _NEVER)
        outside[0] = 0.0
        return logits.where(inside[..., None], outside)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, T, C), rows of numbers (B, T + S, 3) as ``data/targets/tags`` has them -> nats (B,): the mean of -log p over a
        text's tokens that have a right tag, NaN where none has."""
        tags = targets[:, : outputs.shape[1], 0] - 1
        known = tags >= 0
        loss = F.cross_entropy(outputs.transpose(1, 2), tags.where(known, 0), reduction="none") * known
        counts = known.sum(1)
        return (loss.sum(1) / counts.clamp_min(1)).masked_fill(counts == 0, math.nan)

    def readable(self, outputs: Tensor) -> Tensor:
        """(B, T, 2): 1 + the tag of each token on the likeliest path, and its probability."""
        logs = outputs.log_softmax(-1)
        path = best_path(logs)
        return torch.stack([path + 1.0, logs.gather(2, path[..., None])[..., 0].exp()], -1)


def best_path(scores: Tensor) -> Tensor:
    """The tags (B, T) of the highest sum of ``scores`` (B, T, C) in which a span goes on only after it began (Viterbi 1967)."""
    begins = torch.arange(1, scores.shape[2], 2, device=scores.device)  # of each kind; what goes on stands behind
    best, came = scores[:, 0].clone(), []
    best[:, begins + 1] = -torch.inf
    for now in scores.unbind(1)[1:]:
        top, origin = best.max(1, keepdim=True)
        before = torch.stack([best[:, begins], best[:, begins + 1]])  # what a span can go on from
        on, which = before.max(0)
        best, origin = top.expand_as(now).clone(), origin.expand_as(now).clone()
        best[:, begins + 1], origin[:, begins + 1] = on, begins + which
        best = best + now
        came.append(origin)
    path = [best.argmax(1, keepdim=True)]
    for origin in reversed(came):
        path.append(origin.gather(1, path[-1]))
    return torch.cat(path[::-1], 1)
