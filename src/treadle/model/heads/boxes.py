"""Things in a picture: a set of boxes with labels, predicted at once. B rows, T positions, D features, Q queries, C labels.

As in DETR (Carion et al. 2020) learned queries look at the picture, each finds one thing or none, and in training the things of a
picture are assigned to the queries at the least cost in all. Each query has a place in the picture from which it looks, and its box
is told from there, with which far fewer passes over the data are needed (Wang et al. 2022, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.model.layers.assignment import assign
from treadle.model.layers.attend import attend
from treadle.model.layers.boxes import cells, generalized_iou, waves
from treadle.model.layers.signal import Form, Signal

_NOTHING = 0.1
"""Weight of queries that should find nothing, of which there are many more (section 4)."""
_DISTANCE, _OVERLAP = 5.0, 2.0
"""Weights of the distance and of the overlap of boxes (appendix A.4)."""
_PER_HEAD = 32


@dataclass(frozen=True)
class Found:
    """What the queries found, after each layer in training, else after the last alone (L layers)."""

    logits: Tensor
    """(L, B, Q, 1 + C); 0 is nothing."""
    boxes: Tensor
    """(L, B, Q, 4): cx, cy, width, height, 0 to 1."""


class Look(nn.Module):
    """Attention of queries (B, Q, D) to keys and values (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _PER_HEAD
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, Q, D)"""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        out: Tensor = self.o_proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return out


class Decoder(nn.Module):
    """The queries look at each other, then at the picture; norms come first, as in the trunks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.among, self.across = Look(width), Look(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, place: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (B, Q, D), the queries' places (Q, D), the picture (B, T, D) with and without its places -> (B, Q, D)"""
        y = self.norms[0](x)
        x = x + self.among(y + place, y + place, y)
        x = x + self.across(self.norms[1](x) + place, keys, values)
        found: Tensor = x + self.dense(self.norms[2](x))
        return found


class BoxesHead(nn.Module):
    """``queries`` of ``width`` features in ``depth`` layers, a linear layer for the label and three for the box."""

    grid: Tensor

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__()
        options = layout.options or {}
        width, count = int(options["width"]), int(options["queries"])
        if form.grid is None:
            raise UserError("boxes needs a picture's positions", cure="use the trunk conv without dense layers, or transformer")
        self.bring = nn.Sequential(nn.Linear(form.width, width), nn.LayerNorm(width))
        self.register_buffer("grid", waves(cells(*form.grid), width), persistent=False)  # (T, D)
        self.content = nn.Parameter(torch.randn(count, width) * 0.02)
        self.anchors = nn.Parameter(_spread(count).logit())  # (Q, 2)
        self.place = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Decoder(width) for _ in range(int(options["depth"])))
        self.norm = nn.LayerNorm(width)
        self.label = nn.Linear(width, 1 + layout.vocabulary)
        last = nn.Linear(width, 4)
        with torch.no_grad():  # at first each query's box is a small one about its own place
            last.weight.zero_()
            last.bias.copy_(torch.tensor([0.0, 0.0, -1.5, -1.5]))
        self.box = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)

    def outputs(self, signal: Signal) -> Found:
        """(B, T, D) -> what each query found."""
        values = self.bring(signal.features)
        keys, place = values + self.grid, self.place(waves(self.anchors.sigmoid(), self.grid.shape[-1]))
        x, found = self.content.repeat(len(values), 1, 1), []
        for layer in self.layers:
            x = layer(x, place, keys, values)
            found.append(x)
        seen = self.norm(torch.stack(found if self.training else found[-1:]))
        told = self.box(seen).float()
        boxes = torch.cat([told[..., :2] + self.anchors.float(), told[..., 2:]], -1).sigmoid()
        return Found(self.label(seen).float(), boxes)

    def losses(self, outputs: Found, targets: Tensor) -> Tensor:
        """Right answers (B, things, 5), class and box -> (B,), the mean over the layers of: -log p of the right label over the
        queries (nats, nothing weighted), and over the picture's things the distance and the missing overlap of the boxes."""
        known = ~targets[:, 0, 0].isnan()
        targets = targets.nan_to_num(0.0)
        layers = [self._losses(logits, boxes, targets) for logits, boxes in zip(outputs.logits, outputs.boxes, strict=True)]
        return torch.stack(layers).mean(0).masked_fill(~known, torch.nan)

    def _losses(self, logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
        rows, queries, things = self._matched(logits, boxes, targets)
        right = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)  # (B, Q)
        right[rows, queries] = targets[rows, things, 0].long()
        weight = torch.where(right > 0, 1.0, _NOTHING)
        nats = F.cross_entropy(logits.transpose(1, 2), right, reduction="none")
        labels = (nats * weight).sum(1) / weight.sum(1)
        given, wanted = boxes[rows, queries], targets[rows, things, 1:]
        off = _DISTANCE * (given - wanted).abs().sum(-1) + _OVERLAP * (1 - generalized_iou(given, wanted))
        total = off.new_zeros(len(targets)).index_add(0, rows, off)
        return labels + total / torch.bincount(rows, minlength=len(targets)).clamp_min(1)

    @torch.no_grad()
    def _matched(self, logits: Tensor, boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, query and thing of each pair (section 3.1): every thing that has a known label gets a query of its own."""
        count = targets.shape[1]
        shares = logits.softmax(-1).gather(2, targets[:, None, :, 0].long().clamp_min(0).expand(-1, logits.shape[1], -1))
        given, wanted = boxes[:, :, None], targets[:, None, :, 1:]
        cost = _DISTANCE * (given - wanted).abs().sum(-1) - _OVERLAP * generalized_iou(given, wanted) - shares  # (B, Q, things)
        costs, there = cost.transpose(1, 2).tolist(), (targets[..., 0] > 0).tolist()
        pairs = []
        for row in range(len(targets)):
            things = [thing for thing in range(count) if there[row][thing]][: logits.shape[1]]
            pairs += [(row, query, thing) for thing, query in zip(things, assign([costs[row][t] for t in things]), strict=True)]
        found = torch.tensor(pairs, dtype=torch.int64, device=logits.device).reshape(-1, 3)
        return found[:, 0], found[:, 1], found[:, 2]

    def readable(self, outputs: Found) -> Tensor:
        """(B, Q, 6): the likeliest label of each query, 1 to C, its probability, and the box; the likeliest first."""
        logits = outputs.logits[-1].clone()
        logits[..., 0] -= math.log(_NOTHING)  # nothing had a small weight in training, and so was found too unlikely
        shares, labels = logits.softmax(-1)[..., 1:].max(-1)
        found = torch.cat([(labels + 1).float()[..., None], shares[..., None], outputs.boxes[-1]], -1)
        order = shares.argsort(dim=1, descending=True, stable=True)
        return found.gather(1, order[..., None].expand_as(found))


def _spread(count: int) -> Tensor:
    """(count, 2): points spread evenly over the picture: the first of a low-discrepancy sequence (Roberts 2018)."""
    ratio = 1.32471795724474602596  # the real root of x^3 = x + 1
    numbers = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    points = (0.5 + numbers * torch.tensor([1 / ratio, 1 / ratio**2], dtype=torch.float64)) % 1
    return points.clamp(0.02, 0.98).float()
