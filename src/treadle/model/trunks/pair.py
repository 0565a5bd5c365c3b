"""A recurrent net over two texts that are read apart and compared. B rows, T positions, D features, W behind the net.

After Parikh et al. (2016) and Chen et al. (2017, ESIM): one net reads both texts; each position of one looks for its likes in the
other; what it has and what it found there are compared; the comparisons are summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.signal import Form, Signal
from treadle.model.trunks.recurrent import make_net, run_net
from treadle.spec.trunks import Recurrent

SHARPNESS = 10.0
"""What cosines are multiplied by at first: from the first step on a word finds its equal in the other text, if there is one."""


class PairTrunk(nn.Module):
    """The two texts of one pair -> one vector per row."""

    def __init__(self, settings: Recurrent, form: Form) -> None:
        super().__init__()
        width, wide = settings.embedding, settings.width * settings.directions
        self.bring = nn.Identity() if form.width == width else nn.Linear(form.width, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.net = make_net(settings, width)
        self.compare = nn.Linear(4 * (width + wide), wide)
        self.join = nn.Linear(8 * wide, wide)
        self.form = Form(1, wide)

    def forward(self, parts: Sequence[Signal]) -> Signal:
        """One signal (B, T, D) -> (B, 1, W)"""
        (part,) = parts
        x = self.bring(part.features)
        x = x * self.dropout(torch.ones_like(x[:, :1]))  # one mask for all positions, so that equal words stay equal
        (one, seen_one), (two, seen_two) = split_pair(x, part)
        one, two = (self._read(x, seen) for x, seen in ((one, seen_one), (two, seen_two)))  # (B, T1, D + W), (B, T2, D + W)
        alike = self.sharpness * F.normalize(one, dim=-1) @ F.normalize(two, dim=-1).transpose(1, 2)  # (B, T1, T2)
        for_one = _softmax(alike, seen_two[:, None], 2) @ two
        for_two = _softmax(alike, seen_one[:, :, None], 1).transpose(1, 2) @ one
        sums = [self._compared(a, b, seen) for a, b, seen in ((one, for_one, seen_one), (two, for_two, seen_two))]
        joined = torch.relu(self.join(self.dropout(_beside(*sums))))
        return Signal(self.dropout(joined)[:, None])

    def _read(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D + W): each token's own vector stays beside what the net makes of it."""
        return torch.cat([x, self.dropout(run_net(self.net, x, seen.sum(1)))], -1)

    def _compared(self, own: Tensor, found: Tensor, seen: Tensor) -> Tensor:
        """(B, T, D + W) twice -> (B, 2 W): the mean and the largest value of each feature over the positions."""
        each = torch.relu(self.compare(self.dropout(_beside(own, found)))) * seen[..., None]
        return torch.cat([each.sum(1) / seen.sum(1, keepdim=True), each.amax(1)], -1)


def split_pair(x: Tensor, part: Signal) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """x (B, T, D) with the first text's positions before the second's -> for each text (B, own T, D), and what is no padding
    (B, own T). A text has one position at least."""
    assert part.second is not None
    known = part.mask()
    both = torch.ones_like(part.second) if known is None else known
    found = []
    for own in (both & ~part.second, both & part.second):
        counts = own.sum(1).clamp_min(1)
        first = own.to(torch.uint8).argmax(1)
        places = torch.arange(int(counts.max()), device=x.device)
        at = (first[:, None] + places).clamp_max(x.shape[1] - 1)
        found.append((x.gather(1, at[..., None].expand(-1, -1, x.shape[2])), places < counts[:, None]))
    return found[0], found[1]


def _beside(a: Tensor, b: Tensor) -> Tensor:
    """(..., D) twice -> (..., 4 D): both, how far apart they are, and what they share (Mou et al. 2016, section 3.2)."""
    return torch.cat([a, b, (a - b).abs(), a * b], -1)


def _softmax(scores: Tensor, seen: Tensor, dim: int) -> Tensor:
    return scores.masked_fill(~seen, float("-inf")).softmax(dim)
