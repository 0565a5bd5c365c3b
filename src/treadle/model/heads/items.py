"""The item that follows in a history. B rows, T positions, D features, V items, K items asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal

_OWN = 3  # ids below are missing, unseen and rare: no answers
_SHOWN = 10


@dataclass(frozen=True)
class Looks:
    """What the histories look like to the head, and what is in them."""

    features: Tensor
    """(B, T, D), the newest event first."""
    seen: Tensor
    """(B, L) the items of the whole history."""
    items: nn.Module
    """A vector per item."""


class NextItemHead(nn.Module):
    """A score per item at each position: the product of its features with the item's vector, which the input reads items by too
    (Kang and McAuley 2018, section 3.5), and a bias per item."""

    def __init__(self, layout: Layout, form: Form, width: int = 128) -> None:
        super().__init__()
        options = layout.options or {}
        self.negatives, self.repeats = int(options["negatives"]), bool(options["repeats"])
        self.bring = nn.Identity() if form.width == width else nn.Linear(form.width, width)
        self.bias = nn.Parameter(torch.zeros(layout.vocabulary))

    def outputs(self, signal: Signal, items: nn.Module, history: Tensor) -> Looks:
        """``history`` (B, L, 2) as the input reads it."""
        x, lengths = self.bring(signal.features), signal.lengths
        assert lengths is not None
        newest = (lengths[:, None] - 1 - torch.arange(x.shape[1], device=x.device)).clamp_min(0)  # (B, T)
        return Looks(x.gather(1, newest[..., None].expand_as(x)), history[..., 0], items)

    def losses(self, outputs: Looks, targets: Tensor) -> Tensor:
        """Ids (B, K), the newest first, 0 where nothing is asked -> the mean over what is asked of -log p (nats), (B,)."""
        asked = targets[:, : outputs.features.shape[1]] > 0  # (B, K)
        right = targets[:, : asked.shape[1]][asked]
        nats = self._nats(outputs.features[:, : asked.shape[1]][asked], right, outputs.items)
        sums = nats.new_zeros(len(targets)).index_add(0, asked.nonzero()[:, 0], nats)
        counts = asked.sum(1)
        return (sums / counts.clamp_min(1)).masked_fill(counts == 0, torch.nan)

    def _nats(self, x: Tensor, right: Tensor, items: nn.Module) -> Tensor:
        """x (M, D), right (M,) -> (M,). In training with ``negatives`` the sum over all items is estimated from some, of which each
        stands for its share of all (Jean et al. 2015, section 3)."""
        if not (self.training and self.negatives):
            return F.cross_entropy(self._scores(x, items), right, reduction="none")
        count = len(self.bias) - _OWN + 1  # rare is a right answer too, where it is one
        drawn = torch.randint(_OWN - 1, len(self.bias), (self.negatives,), device=x.device)
        stands_for = math.log(count / self.negatives)
        others = x @ items(drawn).T + self.bias[drawn] + stands_for  # (M, negatives)
        own = (x * items(right)).sum(-1) + self.bias[right]
        scores = torch.cat([own[:, None], others.masked_fill(drawn == right[:, None], -torch.inf)], 1)
        return F.cross_entropy(scores.float(), torch.zeros_like(right), reduction="none")

    def _scores(self, x: Tensor, items: nn.Module) -> Tensor:
        """(M, D) -> (M, V); never missing or unseen."""
        # An int8 embedding brings its own product.
        product = F.linear(x, items.weight) if isinstance(items, nn.Embedding) else items.multiply(x)  # type: ignore[operator]
        scores = product.float() + self.bias
        return scores.index_fill(1, torch.arange(_OWN - 1, device=x.device), -torch.inf)

    def readable(self, outputs: Looks) -> Tensor:
        """(B, up to 10, 2): the likeliest items to follow the newest event, and their probabilities among those that may."""
        scores = self._scores(outputs.features[:, 0], outputs.items)
        scores[:, _OWN - 1] = -torch.inf
        if not self.repeats:
            scores = scores.scatter(1, outputs.seen, -torch.inf)
        shares, ids = scores.softmax(-1).nan_to_num(0.0).topk(min(_SHOWN, scores.shape[1] - _OWN))  # nan: everything was seen
        return torch.stack([ids.to(shares.dtype), shares], -1)
